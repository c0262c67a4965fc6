"""A region of interest: nothing outside of it changes a score or a map, for any method; it travels with the model."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from conftest import part, write_dataset
from inlier import InlierError, load, open_dataset
from inlier.bench.trial import planted_defects
from inlier.data.batches import read_batches
from inlier.data.geometry import Geometry, View
from inlier.data.images import read_image
from inlier.data.region import Region, read_region
from inlier.data.simulation.foreground import WHOLE, Foreground
from inlier.data.simulation.simulator import Simulator
from inlier.drawing import OUTLINE
from inlier.evaluation import evaluate
from test_contract import every_method, short


def disc(size=64, radius=20):
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    return y**2 + x**2 < radius**2


def noisy_outside(picture, mask, seed):
    """The same picture with random pixels outside the mask."""
    pixels = np.array(read_image(picture))
    noise = np.random.default_rng(seed).integers(0, 256, pixels.shape, np.uint8)
    return np.where(mask[..., None], pixels, noise)


@pytest.fixture(scope="module")
def shapes(plates):
    return sorted((plates / "plate/train/good").iterdir())[:8]


@every_method
def test_no_pixel_outside_changes_a_bit(name, shapes, tmp_path):
    mask = disc()
    detector = short(name).fit(shapes, roi=mask)
    detector.save(tmp_path / "m.inlier")
    loaded = load(tmp_path / "m.inlier")
    np.testing.assert_array_equal(loaded.regions_[""].mask, mask)
    pictures = [noisy_outside(shapes[0], mask, seed) for seed in range(3)]
    # one by one: what else is in a batch may change the rounding
    first, *others = (detector.inspect(picture) for picture in [np.array(read_image(shapes[0])), *pictures])
    assert np.isnan(first.map[~mask]).all() and np.isfinite(first.map[mask]).all()
    for p in [*others, loaded.inspect(pictures[0])]:
        assert p.score == first.score and p.p_value == first.p_value
        np.testing.assert_array_equal(p.map, first.map)


@every_method
def test_the_fit_sees_nothing_outside_either(name, shapes, tmp_path):
    mask, made = disc(), []
    for seed in (1, 2):
        pictures = [noisy_outside(picture, mask, seed) for picture in shapes]
        made.append(short(name).fit(pictures, roi=mask))
    np.testing.assert_array_equal(made[0].calibration_.scores, made[1].calibration_.scores)
    np.testing.assert_array_equal(made[0].calibration_.peaks, made[1].calibration_.peaks)


def test_the_network_sees_the_box_around_the_region():
    mask = np.zeros((60, 100), bool)
    mask[10:30, 40:90] = True
    geometry = Geometry(32, region=Region(mask))
    assert geometry.views(60, 100) == [View(10, 40, 30, 90)]
    assert geometry.views(120, 200) == [View(20, 80, 60, 180)]  # twice the size, the same shape
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 100, 3), np.uint8))
    (view,) = geometry.inputs(picture)
    np.testing.assert_array_equal(view, Geometry(32)(picture.crop((40, 10, 90, 30))))
    np.testing.assert_array_equal(geometry.seen(60, 100), mask)
    assert geometry.inspected(60, 100).all()


def test_a_region_that_vanishes_in_a_smaller_picture_is_an_error_of_that_picture():
    mask = np.zeros((300, 400), bool)
    mask[151:153, 202:204] = True
    sources = [np.zeros((300, 400), np.uint8), np.zeros((30, 40), np.uint8)]
    (batch,) = read_batches(sources, Geometry(32, region=Region(mask)), errors="keep")
    assert [picture.error for picture in batch.pictures] == [
        None,
        "image 1: has 40 x 30 pixels, in which the region of interest, drawn for 400 x 300, is smaller than a pixel",
    ]


def test_outside_has_the_mean_colour_of_the_inside_in_colour_grey_and_16_bit():
    mask = disc(8, 3)
    colour = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    deep = np.random.default_rng(0).random((8, 8)).astype(np.float32)
    painted = np.asarray(Geometry(8, region=Region(mask))._painted(Image.fromarray(colour)))
    np.testing.assert_array_equal(
        painted[~mask], np.broadcast_to(np.rint(colour[mask].mean(0)), (int((~mask).sum()), 3))
    )
    np.testing.assert_array_equal(painted[mask], colour[mask])
    painted = np.asarray(Geometry(8, region=Region(mask))._painted(Image.fromarray(deep)))
    np.testing.assert_allclose(painted[~mask], deep[mask].mean(), rtol=1e-6)


@settings(deadline=None, max_examples=50)
@given(st.integers(20, 70), st.integers(20, 70), st.integers(0, 2**31), st.sampled_from([None, 16, 24]))
def test_maps_come_back_into_the_region_and_nowhere_else(height, width, seed, tile):
    rng = np.random.default_rng(seed)
    mask = rng.random((height, width)) > 0.7
    mask[height // 2, width // 2] = True
    geometry = Geometry(16, tile=tile, region=Region(mask))
    n = len(geometry.views(height, width))
    assert (
        geometry.inspected(height, width).shape == (n, 16, 16) and geometry.inspected(height, width).any((1, 2)).all()
    )
    back = geometry.to_original(rng.random((n, 16, 16), np.float32), height, width)
    np.testing.assert_array_equal(np.isfinite(back), mask)
    np.testing.assert_array_equal(geometry.seen(height, width), mask)


def test_a_region_is_read_from_a_picture_polygons_or_labelme(tmp_path):
    square = np.zeros((40, 60), bool)
    square[10:21, 20:41] = True
    Image.fromarray(square).save(tmp_path / "roi.png")
    corners = [[20, 10], [40, 10], [40, 20], [20, 20]]
    (tmp_path / "roi.json").write_text(json.dumps({"width": 60, "height": 40, "polygons": [corners]}))
    labelme = {"imageWidth": 60, "imageHeight": 40, "shapes": [{"points": corners, "shape_type": "polygon"}]}
    (tmp_path / "labelme.json").write_text(json.dumps(labelme))
    for name in ("roi.png", "roi.json", "labelme.json"):
        np.testing.assert_array_equal(read_region(tmp_path / name).mask, square)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read as a region of interest"),
        ('{"polygons": []}', r"is no region of interest \(it has no 'width'\)"),
        ('{"width": 9, "height": 9, "polygons": []}', "nothing would be inspected"),
        ('{"width": 9, "height": 9, "polygons": [[[1]]]}', "is no region of interest"),
        (
            '{"imageWidth": 9, "imageHeight": 9, "shapes": [{"points": [], "shape_type": "circle"}]}',
            "no polygons: circle",
        ),
        ("[]", "is no region of interest"),
    ],
)
def test_what_is_no_region_is_refused_by_name(content, message, tmp_path):
    (tmp_path / "roi.json").write_text(content)
    with pytest.raises(InlierError, match=rf"roi\.json.*{message}"):
        read_region(tmp_path / "roi.json")


def test_a_picture_of_another_shape_is_refused_and_costs_no_other_verdict(shapes):
    detector = short("padim").fit(shapes, roi=disc())
    strip = np.zeros((40, 64), np.uint8)
    good, refused, again = detector.predict([shapes[0], strip, shapes[0]], errors="keep")
    assert "image 1: has 64 x 40 pixels, but the region of interest was drawn for 64 x 64" in refused.error
    assert good.score == again.score
    with pytest.raises(InlierError, match="region of interest was drawn for 64 x 40"):
        short("padim").fit(shapes, roi=np.ones((40, 64), bool))


def test_a_fit_that_fails_leaves_no_model_with_regions_that_it_was_not_fitted_with(shapes):
    detector = short("padim").fit(shapes)
    with pytest.raises(InlierError, match="region of interest was drawn for 64 x 40"):
        detector.fit(shapes, roi=np.ones((40, 64), bool))
    with pytest.raises(InlierError, match="not fitted yet"):
        detector.inspect(shapes[0])


def test_every_category_has_its_own(tmp_path):
    for name in ("left", "right"):
        write_dataset(tmp_path, category=name, train=8)
    left, right = np.zeros((2, 64, 64), bool)
    left[:, :32], right[:, 32:] = True, True
    detector = short("padim").fit(tmp_path, roi={"left": left, "right": right})
    picture = tmp_path / "left/test/good/000.png"
    for name, mask in (("left", left), ("right", right)):
        np.testing.assert_array_equal(np.isfinite(detector.inspect(picture, category=name).map), mask)
    with pytest.raises(InlierError, match="the category of the pictures must be told: one of left, right"):
        detector.inspect(picture)
    with pytest.raises(InlierError, match="roi: the data has no category up, only: left, right"):
        short("padim").fit(tmp_path, roi={"up": left})
    assert evaluate(detector, tmp_path).categories["left"].not_inspected > 0


def test_a_model_of_one_category_with_a_region_of_its_own_judges_parts_of_any_name(tmp_path):
    write_dataset(tmp_path / "fitted", category="bolt", train=8)
    seen = write_dataset(tmp_path / "seen", category="parts", train=1)
    left = np.zeros((64, 64), bool)
    left[:, :32] = True
    detector = short("padim").fit(tmp_path / "fitted", roi={"bolt": left})
    result = evaluate(detector, seen).categories["parts"]
    assert result.rule == detector.calibration_.rule(category="bolt") and result.not_inspected > 0
    good = [sample for sample in open_dataset(seen).test if not sample.is_defect]
    for _, _, made in planted_defects(good, detector, seed=0):
        assert not (made.mask & ~left).any()


def test_defects_outside_are_counted_as_not_inspected_and_change_no_metric(shapes, plates):
    rng = np.random.default_rng(3)
    picture, mask = part(rng, defect=True)
    inside = np.zeros((64, 64), bool)
    inside[:8, :8] = True
    detector = short("padim").fit(shapes, roi=inside)
    assert np.isfinite(detector.inspect(picture).map).sum() == 64 and not (mask & inside).any()
    result = evaluate(detector, plates).categories["plate"]
    assert result.not_inspected == 1.0 and "no defect pixel" in result.pixel_note


@pytest.mark.parametrize("method", ["memseg", "differnet"])
def test_a_preview_draws_the_region_of_each_category(inlier, tmp_path, method):
    for name in ("left", "plain"):
        write_dataset(tmp_path / "parts", train=5, good=0, defects=1, category=name)
    half = np.zeros((64, 64), bool)
    half[:, :32] = True
    Image.fromarray(half).save(tmp_path / "half.png")
    call = ("preview", tmp_path / "parts", "--method", method, "--size", 64, "--out", tmp_path / "sheet.png")
    assert inlier(*call, "--roi", f"left={tmp_path / 'half.png'}")[0] == 0
    with Image.open(tmp_path / "sheet-left.png") as drawn, Image.open(tmp_path / "sheet-plain.png") as plain:
        above = np.asarray(drawn)[:364]
        assert drawn.height > plain.height + 300
    # four pictures of 300 pixels, bright to the left of the outline's right edge, dark from there on
    rows, columns = np.nonzero((above == OUTLINE).all(2))
    assert rows.max() - rows.min() == 299 and (np.diff(np.unique(columns)) > 100).sum() == 3
    first = above[rows.min() : rows.max() + 1, columns.min() : columns.min() + 300]
    assert (first[:, :150] == OUTLINE).all(2)[:, [0, 149]].all() and first[10:-10, 10:140].min() > 90
    assert first[10:-10, 160:].max() < 80
    code, _, stderr = inlier(*call, "--roi", f"up={tmp_path / 'half.png'}")
    assert code == 2 and "roi: the data has no category up, only: left, plain" in stderr
    Image.fromarray(half[:40]).save(tmp_path / "half.png")
    code, _, stderr = inlier(*call, "--roi", tmp_path / "half.png")
    assert code == 2 and "10 pictures cannot be used" in stderr and "drawn for 64 x 40" in stderr


def test_simulated_defects_lie_in_the_region_wherever_the_foreground_is():
    picture, mask = np.full((64, 64, 3), 200, np.uint8), disc(radius=6)
    picture[:8] = 20
    for rule in (WHOLE, Foreground(100), Foreground(100, darker=True)):  # the last finds nothing inside the region
        for number in range(20):
            made = Simulator(foreground=rule)(picture, (number,), mask)
            assert made.mask.any() and not (made.mask & ~mask).any() and not (made.foreground & ~mask).any()
            assert made.whole_image == rule.darker
            np.testing.assert_array_equal(made.image[~mask], picture[~mask])
