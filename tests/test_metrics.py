"""What inlier.metrics promises. References: MVTec's own code (golden), scikit-learn, a slow AUPRO in plain steps."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors import safe_open
from sklearn import metrics as sklearn

from inlier import metrics
from inlier.metrics import ImageMetrics, PixelHistogram, PixelMetrics, bootstrap_interval, image_metrics, pixel_metrics

NAMES = ("auroc", "ap", "f1_max", "aupro")
SQUARE = np.pad(np.ones((2, 2), bool), 3)  # a mask (8, 8)


# --- Golden: scikit-learn and MVTec's PRO code on 14 maps ----------------------------------------------------------

with safe_open(Path(__file__).parent / "golden" / "metrics.safetensors", "np") as file:
    EXACT = json.loads(file.metadata()["golden"])["exact"]
    GOLDEN = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
MAPS = {
    "float": GOLDEN["in.float.maps"],
    "ties": np.round(GOLDEN["in.float.maps"], 1),
    "constant": np.full_like(GOLDEN["in.float.maps"], 0.25),
    "inverted": -GOLDEN["in.float.maps"],
}


@pytest.mark.parametrize("case", MAPS)
def test_golden_image_metrics(case):
    found = image_metrics(MAPS[case].max((1, 2)), GOLDEN["in.labels"])
    for name in ("auroc", "ap", "f1_max", "f1_threshold"):
        assert getattr(found, name) == pytest.approx(EXACT[case][f"image.{name}"], rel=0, abs=1e-12)


@pytest.mark.parametrize("case", MAPS)
@pytest.mark.parametrize("limit", [0.05, 0.3, 1])
def test_golden_pixel_metrics(case, limit):
    found = pixel_metrics(MAPS[case], GOLDEN["in.masks"], limit)
    for name in ("auroc", "ap", "f1_max", "f1_threshold"):
        assert getattr(found, name) == pytest.approx(EXACT[case][f"pixel.{name}"], rel=0, abs=1e-12)
    # MVTec's code keeps the FPR in float32
    assert found.aupro == pytest.approx(EXACT[case][f"aupro_{limit}"], rel=0, abs=1e-7)


def test_golden_components():
    counts = [np.sum(metrics._pixels(mask * 1.0, mask, "")[1]) for mask in GOLDEN["in.masks"]]
    np.testing.assert_allclose(counts, GOLDEN["out.components"], rtol=1e-12)


# --- Image metrics equal scikit-learn ------------------------------------------------------------------------------


@st.composite
def scored(draw, most=60):
    """(scores, labels) with both classes; from all different to heavy ties, float32 or float64."""
    labels = draw(hnp.arrays(bool, st.integers(2, most)).filter(lambda y: 0 < y.sum() < len(y)))
    values = draw(
        st.sampled_from([st.integers(-2, 2).map(float), st.floats(-1e6, 1e6, width=32), st.sampled_from([0.0, -0.0])])
    )
    return draw(hnp.arrays(draw(st.sampled_from([np.float32, np.float64])), len(labels), elements=values)), labels


@settings(deadline=None)
@given(scored())
def test_image_metrics_equal_scikit_learn(case):
    scores, labels = case
    found = image_metrics(scores, labels)
    precision, recall, thresholds = sklearn.precision_recall_curve(labels, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-300)
    assert found.auroc == pytest.approx(sklearn.roc_auc_score(labels, scores), abs=1e-12)
    assert found.ap == pytest.approx(sklearn.average_precision_score(labels, scores), abs=1e-12)
    assert found.f1_max == pytest.approx(f1.max(), abs=1e-12)
    # prediction = score >= threshold reaches it, and no lower score does
    reached = [t for t in thresholds if sklearn.f1_score(labels, scores >= t) >= f1.max() - 1e-12]
    assert found.f1_threshold == min(reached)
    assert not found.reason


def test_of_equal_f1_the_lowest_threshold_counts():
    found = image_metrics([4.0, 3.0, 2.0, 1.0], [1, 0, 0, 1])  # 2 * 1 / (2 + 1) at 4, 2 * 2 / (2 + 4) at 1
    assert (found.f1_max, found.f1_threshold) == (2 / 3, 1.0)


@settings(deadline=None)
@given(scored())
def test_roc_curve_equals_scikit_learn(case):
    for ours, theirs in zip(
        metrics.roc_curve(*case), sklearn.roc_curve(case[1], case[0], drop_intermediate=False), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)


@settings(deadline=None)
@given(scored())
def test_only_the_order_of_scores_counts(case):
    scores, labels = case
    found, halved, mirrored = (image_metrics(s, labels) for s in (scores, scores.astype(float) / 2 - 7, -scores))
    if len(np.unique(scores)) == len(np.unique(scores.astype(float) / 2 - 7)):  # tiny differences may vanish
        assert (found.auroc, found.ap, found.f1_max) == (halved.auroc, halved.ap, halved.f1_max)
    assert found.auroc + mirrored.auroc == pytest.approx(1)  # worse than chance stays worse than chance


def test_large_counts_lose_nothing():
    """Counts beyond 2**24, where float32 stops counting: as weights, each step standing for many equal scores."""
    good, defect = np.array([3, 10**9 + 1, 7]), np.array([2**24 + 1, 5, 2**30])
    _, fp, tp = metrics._curve(np.array([3.0, 2.0, 1.0]), good, defect)
    assert fp.tolist() == [3, 10**9 + 4, 10**9 + 11]
    assert tp.tolist() == [2**24 + 1, 2**24 + 6, 2**24 + 6 + 2**30]
    labels, weights = np.repeat([False, True], 3), np.concatenate([good, defect])
    scores = np.tile([3.0, 2.0, 1.0], 2)
    auroc, ap, _ = metrics._values(fp, tp)
    assert auroc == pytest.approx(sklearn.roc_auc_score(labels, scores, sample_weight=weights), abs=1e-14)
    assert ap == pytest.approx(sklearn.average_precision_score(labels, scores, sample_weight=weights), abs=1e-14)


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        ([0.0, np.nan], [0, 1], "1 of 2 are NaN"),
        ([0.0, np.inf], [0, 1], "infinite"),
        ([0.0, 1.0], [0, 2], "0 and 1 only"),
        ([0.0, 1.0], [0, 1, 1], "same"),
        ([[0.0, 1.0]], [[0, 1]], "same"),
    ],
)
def test_bad_image_input_is_refused(scores, labels, message):
    for function in (image_metrics, metrics.roc_curve, bootstrap_interval):
        with pytest.raises(ValueError, match=message):
            function(scores, labels)


# --- One class: no number at all -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        ([0, 0], "^no defect picture among"),
        ([1, 1], "^no good picture among"),
        ([], "^no defect picture and no good picture"),
    ],
)
def test_one_class_of_images_gives_a_reason(labels, reason):
    found = image_metrics(np.arange(len(labels)), labels)
    assert found == ImageMetrics(reason=found.reason)
    for function in (metrics.roc_curve, bootstrap_interval):
        with pytest.raises(ValueError, match=reason):
            function(np.arange(len(labels)), labels)


def streamed(maps, masks, bits=20, limit=0.3):
    histogram = PixelHistogram(bits, limit)
    for one, mask in zip(maps, masks, strict=True):
        histogram.update(one, mask)
    return histogram


@pytest.mark.parametrize(
    ("maps", "masks", "reason"),
    [
        (np.zeros((2, 3, 3)), np.zeros((2, 3, 3), bool), "no defect pixel"),
        (np.zeros((2, 3, 3)), np.ones((2, 3, 3), bool), "no good pixel"),
        ([np.where(SQUARE, np.nan, 0)], [SQUARE], "no defect pixel"),  # the only defect was not inspected
        ([], [], "no defect pixel and no good pixel"),
    ],
)
def test_one_class_of_pixels_gives_a_reason(maps, masks, reason):
    found = pixel_metrics(maps, masks)
    assert found == PixelMetrics(reason=found.reason)
    assert found.reason.startswith(reason)
    histogram = streamed(maps, masks)
    assert histogram.compute() == found
    assert histogram.error_bounds == {}


# --- Pixel metrics -------------------------------------------------------------------------------------------------


def components(mask):
    """8-connected components by flooding: a list of lists of pixels."""
    left, parts = set(map(tuple, np.argwhere(mask).tolist())), []
    while left:
        todo, part = [left.pop()], []
        while todo:
            y, x = todo.pop()
            part.append((y, x))
            near = {(y + i, x + j) for i in (-1, 0, 1) for j in (-1, 0, 1)} & left
            left -= near
            todo += near
        parts.append(part)
    return parts


def slow_aupro(maps, masks, limit):
    """The definition, threshold by threshold."""
    parts = [[one[p] for p in part if not np.isnan(one[p])] for one, m in zip(maps, masks) for part in components(m)]
    parts = [np.array(part) for part in parts if part]
    good = np.concatenate([one[~m & ~np.isnan(one)] for one, m in zip(maps, masks)])
    every = np.concatenate([good, *parts])
    points = [(0.0, 0.0)]
    points += [
        (np.mean(good >= t), np.mean([np.mean(p >= t) for p in parts])) for t in sorted(set(every), reverse=True)
    ]
    area = 0.0
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if x0 < x1 and x0 < limit:
            end = min(x1, limit)
            at_end = y0 + (y1 - y0) * (end - x0) / (x1 - x0)
            area += (end - x0) * (y0 + at_end) / 2
    return area / limit


@st.composite
def mapped(draw, values=None, missing=True):
    """(maps, masks): one to three of different sizes with both classes, ties, pixels not inspected."""
    shapes = draw(st.lists(st.tuples(st.integers(1, 7), st.integers(1, 7)), min_size=1, max_size=3))
    values = draw(st.sampled_from([st.integers(-2, 2), st.floats(-9, 9, width=32)])) if values is None else values
    values = st.one_of(*[values] * 9, st.just(np.nan)) if missing and draw(st.booleans()) else values
    maps = [draw(hnp.arrays(np.float32, shape, elements=values)) for shape in shapes]
    masks = [draw(hnp.arrays(bool, shape)) for shape in shapes]
    seen = np.concatenate([mask[~np.isnan(one)] for one, mask in zip(maps, masks)])
    if seen.all() or not seen.any():  # rarely: put both classes in
        maps.append(np.float32([[0, 1, 2]]))
        masks.append(np.array([[True, False, True]]))
    return maps, masks


@settings(deadline=None)
@given(mapped(), st.sampled_from([0.05, 0.3, 0.5, 1]))
def test_aupro_equals_the_slow_definition(case, limit):
    assert pixel_metrics(*case, limit).aupro == pytest.approx(slow_aupro(*case, limit), abs=1e-12)


@settings(deadline=None)
@given(mapped())
def test_pixels_that_were_not_inspected_count_nowhere(case):
    maps, masks = case
    found = pixel_metrics(maps, masks)
    seen = [~np.isnan(one) for one in maps]
    scores, labels = (np.concatenate([a[s] for a, s in zip(arrays, seen)]) for arrays in case)
    flat = image_metrics(scores, labels)
    assert (found.auroc, found.ap, found.f1_max, found.f1_threshold) == pytest.approx(
        (flat.auroc, flat.ap, flat.f1_max, flat.f1_threshold), abs=1e-12
    )


def test_squares_that_touch_at_a_corner_are_one_component():
    mask = np.zeros((6, 12), bool)
    mask[0:2, 0:2] = mask[2:4, 2:4] = True  # 8 pixels, one component
    mask[0, 8] = True  # 1 pixel, another
    scores = np.zeros((6, 12), np.float32)
    scores[0:2, 0:2] = 1  # half of the first is found before any false alarm: PRO = (1/2 + 0) / 2, not (1 + 0 + 0) / 3
    good = (~mask).sum() * 0.3
    expected = 0.25 + (1 - 0.25) * good / (~mask).sum() / 2  # then all the rest at once: a line to (1, 1)
    assert pixel_metrics(scores[None], mask[None]).aupro == pytest.approx(expected)


def test_a_component_split_by_missing_pixels_stays_one():
    mask = np.ones((1, 5), bool)
    scores = np.float32([[1, 1, np.nan, 0, 0]])
    good = np.zeros((1, 5), np.float32)
    other = np.zeros((1, 5), bool)
    assert pixel_metrics([scores, good], [mask, other]).aupro == pytest.approx(0.5 + 0.5 * 0.3 / 2)


def test_every_component_weighs_the_same():
    mask = np.zeros((10, 10), bool)
    mask[:5, :5] = mask[9, 9] = True
    scores = np.where(mask, 1.0, 0.0)
    scores[9, 9] = -1.0  # the small one is missed until the very end
    found = pixel_metrics([scores], [mask])
    assert found.aupro == pytest.approx(0.5)
    assert found.auroc == pytest.approx(25 / 26)


def test_stacks_and_lists_are_the_same():
    maps, masks = MAPS["float"], GOLDEN["in.masks"].astype(bool)
    assert pixel_metrics(maps, masks) == pixel_metrics(list(maps), [m.tolist() for m in masks])
    assert pixel_metrics(maps.astype(np.float64), masks) == pixel_metrics(maps, masks)


@pytest.mark.parametrize(
    ("maps", "masks", "limit", "message"),
    [
        (np.full((1, 8, 8), np.inf), SQUARE[None], 0.3, "map 0 holds infinite"),
        (np.zeros((1, 8, 8)), SQUARE[None] * 255, 0.3, "mask > 0"),
        (np.zeros((1, 4, 4)), SQUARE[None], 0.3, r"shape \(4, 4\)"),
        (np.zeros((1, 1, 8, 8)), SQUARE[None, None], 0.3, r"\(H, W\)"),
        (np.zeros((2, 8, 8)), SQUARE[None], 0.3, "2 maps but 1 masks"),
        (np.zeros((1, 8, 8)), SQUARE[None], 0, "fpr_limit"),
        (np.zeros((1, 8, 8)), SQUARE[None], 30, "fpr_limit"),
    ],
)
def test_bad_pixel_input_is_refused(maps, masks, limit, message):
    with pytest.raises(ValueError, match=message):
        pixel_metrics(maps, masks, limit)


# --- Streaming -----------------------------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(mapped(), st.sampled_from([9, 10, 11, 13, 16, 20]), st.sampled_from([0.05, 0.3, 1]))
def test_streaming_error_bounds_hold(case, bits, limit):
    histogram = streamed(*case, bits, limit)
    exact, value, bounds = pixel_metrics(*case, limit), histogram.compute(), histogram.error_bounds
    for name in NAMES:
        assert abs(getattr(value, name) - getattr(exact, name)) <= bounds[name] + 1e-12


@settings(deadline=None)
@given(mapped(missing=False), st.sampled_from([9, 11, 20]))
def test_streamed_f1_is_reached_at_its_threshold(case, bits):
    value = streamed(*case, bits).compute()
    scores, defect = (np.concatenate([a.ravel() for a in arrays]) for arrays in case)
    assert sklearn.f1_score(defect, scores >= np.float32(value.f1_threshold)) == pytest.approx(value.f1_max)


def test_streaming_bounds_in_float64_and_their_size():
    """Scores that float32 cannot tell apart are merged too; the bounds know."""
    rng = np.random.default_rng(0)
    maps, masks = 1 + rng.random((8, 32, 32)) * 1e-7, rng.random((8, 32, 32)) < 0.1
    coarse = streamed(maps, masks)
    assert abs(coarse.compute().auroc - pixel_metrics(maps, masks).auroc) <= coarse.error_bounds["auroc"]
    merged = streamed([np.array([[1.0, 1.0 + 1e-12]])], [np.array([[False, True]])])  # both become the float32 1.0
    assert merged.compute().auroc == 0.5
    assert merged.error_bounds["auroc"] == 0.5
    fine = streamed(maps * 1e7 - 1e7, masks)
    assert 0 < fine.error_bounds["auroc"] < 1e-3 < coarse.error_bounds["auroc"]
    assert abs(fine.compute().ap - pixel_metrics(maps, masks).ap) <= fine.error_bounds["ap"] < 1e-2


@settings(deadline=None)
@given(mapped(st.floats(width=16, allow_nan=False, allow_infinity=False)))
def test_streaming_is_exact_for_float16_values(case):
    histogram, exact = streamed(*case, bits=19), pixel_metrics(*case)
    value = histogram.compute()
    for name in NAMES:
        assert getattr(value, name) == pytest.approx(getattr(exact, name), abs=1e-12)
    assert value.f1_threshold == exact.f1_threshold
    assert histogram.error_bounds == dict.fromkeys(NAMES, 0.0)


@pytest.mark.parametrize("score", [-1.0, -2.5, 0.0, 6e-8, 65504.0])
def test_streaming_gives_the_very_threshold_where_nothing_is_lost(score):
    found = streamed([np.array([[score, -60000.0]], np.float16)], [np.array([[True, False]])], bits=19).compute()
    assert found.f1_max == 1
    assert found.f1_threshold == np.float16(score)


def test_streaming_takes_minus_zero_for_zero():
    found = streamed([np.float32([[0.0, -0.0]])], [np.array([[False, True]])]).compute()
    assert found == pixel_metrics([np.float32([[0.0, -0.0]])], [np.array([[False, True]])])
    assert found.auroc == 0.5


def test_streaming_memory_does_not_grow():
    histogram = PixelHistogram(bits=10)
    before = {key: value.nbytes for key, value in vars(histogram).items() if isinstance(value, np.ndarray)}
    for one, mask in zip(MAPS["float"], GOLDEN["in.masks"], strict=True):
        histogram.update(one, mask)
    after = {key: value.nbytes for key, value in vars(histogram).items() if isinstance(value, np.ndarray)}
    assert before == after
    assert sum(after.values()) == 24 * 2**10


@pytest.mark.parametrize("wrong", [{"bits": 8}, {"bits": 27}, {"fpr_limit": 0}, {"fpr_limit": 1.5}])
def test_bad_histogram_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=f"not {next(iter(wrong.values()))}"):
        PixelHistogram(**wrong)


def test_a_refused_map_is_not_counted():
    histogram = PixelHistogram()
    for bad, mask in ((np.full((8, 8), 1e300), SQUARE), (np.full((8, 8), np.inf), SQUARE), (np.zeros((8, 7)), SQUARE)):
        with pytest.raises(ValueError, match="the map"):
            histogram.update(bad, mask)
    assert histogram.compute() == PixelMetrics(reason=pixel_metrics([], []).reason)


# --- Bootstrap -----------------------------------------------------------------------------------------------------


def test_bootstrap_contains_the_estimate_and_narrows_with_more_images():
    rng = np.random.default_rng(1)
    widths = []
    for n in (40, 400, 4000):
        labels = np.arange(n) % 2 == 0
        scores = rng.standard_normal(n) + labels
        found, estimate = bootstrap_interval(scores, labels), image_metrics(scores, labels)
        assert found["auroc"][0] < estimate.auroc < found["auroc"][1]
        assert found["ap"][0] < estimate.ap < found["ap"][1]
        assert all(0 <= low <= high <= 1 for low, high in found.values())
        assert list(found) == ["auroc", "ap", "f1_max"]
        widths.append(found["auroc"][1] - found["auroc"][0])
    assert widths[0] > 2 * widths[1] > 4 * widths[2]


def test_bootstrap_covers_the_truth_about_as_often_as_it_says():
    """Two normals one standard deviation apart: AUROC = Phi(1 / sqrt(2)) = 0.7602."""
    rng, labels = np.random.default_rng(2), np.arange(120) % 2 == 0
    intervals = [
        bootstrap_interval(rng.standard_normal(120) + labels, labels, 0.9, 300, i)["auroc"] for i in range(200)
    ]
    assert 0.83 <= np.mean([low <= 0.7602 <= high for low, high in intervals]) <= 0.96


@settings(deadline=None)
@given(scored(most=20))
def test_bootstrap_is_a_plain_resampling(case):
    """Every resample's value is what image_metrics says of the drawn images, so one resample has low = high."""
    scores, labels = case
    assume(0 < image_metrics(scores, labels).auroc < 1)
    low, high = zip(*bootstrap_interval(scores, labels, resamples=1, seed=3).values(), strict=True)
    rng = np.random.default_rng(3)
    drawn = [rng.choice(np.flatnonzero(labels == kind), (1, (labels == kind).sum()))[0] for kind in (False, True)]
    index = np.concatenate(drawn)
    expected = image_metrics(scores[index], labels[index])
    assert low == high == pytest.approx((expected.auroc, expected.ap, expected.f1_max), abs=1e-12)


def test_where_no_resample_would_differ_the_interval_is_the_exact_one_of_independent_pairs():
    labels = np.array([False] * 41 + [True] * 119)
    lowest = 0.025 ** (1 / 41)  # an AUROC at which 41 of 41 pairs lie in order in one of forty cases
    assert bootstrap_interval(labels * 1.0, labels) == {"auroc": (pytest.approx(lowest), 1)}
    assert bootstrap_interval(labels * -1.0, labels) == {"auroc": (0, pytest.approx(1 - lowest))}
    assert bootstrap_interval(labels * 1.0, labels, 0.8)["auroc"][0] == pytest.approx(0.1 ** (1 / 41))
    tied = np.where(np.arange(160) == 0, 1.0, labels)  # one good picture as high as the defects
    assert list(bootstrap_interval(tied, labels)) == ["auroc", "ap", "f1_max"]


def test_bootstrap_has_a_seed_and_checks_its_settings():
    labels = np.arange(50) % 3 == 0
    scores = np.random.default_rng(0).random(50) + labels / 2
    assert bootstrap_interval(scores, labels, seed=5) == bootstrap_interval(scores, labels, seed=5)
    assert bootstrap_interval(scores, labels, seed=5) != bootstrap_interval(scores, labels, seed=6)
    narrow, wide = (bootstrap_interval(scores, labels, c)["auroc"] for c in (0.5, 0.99))
    assert wide[0] < narrow[0] < narrow[1] < wide[1]
    for wrong in ({"confidence": 95}, {"resamples": 0}):
        with pytest.raises(ValueError, match="confidence must"):
            bootstrap_interval(scores, labels, **wrong)
