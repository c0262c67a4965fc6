"""The robustness card: changes of stated size, and the largest that keeps the promise."""

import csv
import re

import numpy as np
import pytest
from PIL import Image
from scipy.stats import binomtest

from conftest import part, write_dataset
from inlier import artifact, load
from inlier.bench import stress
from inlier.data import perturbations
from inlier.data.datasets import open_dataset
from inlier.data.perturbations import CHANGES, COLOURS, picture_of, values_of
from inlier.errors import InlierError


@pytest.fixture(scope="module")
def plate():
    return values_of(part(np.random.default_rng(0), size=64)[0].convert("RGB"))


@pytest.fixture(scope="module")
def coloured(plate):
    return np.concatenate([plate[..., :1] * 0.9, plate[..., 1:]], -1)


def colour(red, green, blue):
    return np.full((8, 8, 3), (red, green, blue), np.float32)


# -- changes ----------------------------------------------------------------------------------------------------------


def test_sizes_of_light_are_what_they_say():
    assert perturbations.brightness(colour(0.5, 0.2, 0.9), 20)[0, 0] == pytest.approx([0.6, 0.24, 1.0])
    assert perturbations.cast(colour(0.5, 0.5, 0.5), 10)[0, 0] == pytest.approx([0.55, 0.5, 0.45])
    two = np.concatenate([colour(0.4, 0.4, 0.4), colour(0.6, 0.6, 0.6)])
    changed = perturbations.contrast(two, -50)
    assert changed.min() == pytest.approx(0.45) and changed.max() == pytest.approx(0.55)


def test_sizes_of_blur_and_noise_are_deviations():
    point = np.zeros((41, 41, 3), np.float32)
    point[20, 20] = 1
    blurred = perturbations.blur(point, 2.0)[..., 0]
    assert (blurred.sum(0) * (np.arange(41) - 20) ** 2).sum() == pytest.approx(4, rel=0.02)  # its variance
    grey = np.full((200, 200, 3), 0.5, np.float32)
    noisy = perturbations.noise(grey, 10, np.random.default_rng(0))
    assert 255 * noisy[..., 0].std() == pytest.approx(10, rel=0.02)
    np.testing.assert_array_equal(noisy[..., 0], noisy[..., 2])  # a grey camera's noise has no colour


def test_a_picture_moves_by_the_pixels_stated():
    picture = np.zeros((21, 31, 3), np.float32)
    picture[10, 15] = 1  # the centre
    assert np.argwhere(perturbations.moved(picture, right=3, down=-2)[..., 0]).tolist() == [[8, 18]]
    right = np.zeros_like(picture)
    right[10, 23] = 1  # 8 to the right of the centre
    assert np.argwhere(perturbations.moved(right, degrees=90)[..., 0] > 0.5).tolist() == [[18, 15]]  # clockwise: below
    assert np.argwhere(perturbations.moved(right, scale=1.5)[..., 0] > 0.5).tolist() == [[10, 27]]  # 12 to the right
    small = values_of(Image.fromarray(np.arange(24, dtype=np.uint8).reshape(4, 6)).convert("RGB"))
    np.testing.assert_allclose(perturbations.moved(small), small, atol=1e-6)


def test_a_shift_is_a_share_of_the_longer_side_in_any_direction():
    rows, columns = np.mgrid[:100, :200].astype(np.float32) / 200
    for seed in range(4):
        before = np.stack([rows, columns, rows], -1)
        after = perturbations.shift(before, 5, np.random.default_rng(seed))
        down, right = 200 * (before - after)[50, 100, :2]
        assert np.hypot(down, right) == pytest.approx(10, abs=0.01)


@pytest.mark.parametrize("name", CHANGES)
def test_every_change_grows_with_its_sizes(coloured, name):
    change, far = CHANGES[name], []
    for size in change.sizes:
        changed = change.apply(coloured, size, np.random.default_rng(0))
        assert changed.shape == coloured.shape and changed.dtype == np.float32
        assert changed.min() >= -1e-6 and changed.max() <= 1 + 1e-6
        far.append(float(np.abs(changed - coloured).mean()))
    assert far[0] > 0 and far == sorted(far)


@pytest.mark.parametrize("name", CHANGES)
def test_grey_pictures_stay_grey_and_deep_ones_deep(plate, name):
    for picture in (plate, plate[..., 0]):
        size = CHANGES[name].sizes[1]
        changed = CHANGES[name].apply(picture, size, np.random.default_rng(0))
        assert changed.shape == picture.shape
        if name not in COLOURS:
            assert perturbations.is_grey(changed)
    assert picture_of(plate).dtype == np.uint8 and picture_of(plate[..., 0]).dtype == np.float32


def test_what_is_not_changed_is_the_same_picture():
    picture = np.random.default_rng(0).integers(0, 256, (9, 9, 3), np.uint8)
    np.testing.assert_array_equal(picture_of(values_of(Image.fromarray(picture))), picture)


# -- the promise ------------------------------------------------------------------------------------------------------


def test_the_promise_is_broken_where_chance_explains_it_no_longer():
    for n in (10, 50, 191):
        for alpha in (0.01, 0.05):
            for k in range(n // 2):
                expected = binomtest(k, n, alpha, alternative="greater").pvalue < 0.05
                assert stress.is_broken(k, n, alpha) == expected


def test_a_model_that_keeps_its_promise_is_rarely_said_to_break_it():
    """By simulation: at a true rate of alpha, fewer than 5 of 100 sets of pictures break it."""
    alarms = np.random.default_rng(0).binomial(50, 0.05, 20_000)
    assert np.mean([stress.is_broken(int(k), 50, 0.05) for k in alarms]) < 0.05


def test_what_is_kept_ends_at_the_first_size_that_breaks():
    def kept(before, *alarms):
        steps = tuple(stress.Step(float(i), k, 0, 0.0) for i, k in enumerate(alarms, 1))
        card = stress.Card("x", 0.05, 50, 0, stress.Step(None, before, 0, 0.0), (stress.Ladder("blur", "px", steps),))
        assert card.limit == 6
        return card.kept(card.ladders[0])

    assert kept(0, 1, 6, 2) == 1 and kept(0, 1, 5, 5) == 3 and kept(5, 6, 0, 0) == 0
    assert kept(6, 0, 0, 0) == 0  # broken before anything is changed


# -- the card ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Plates with enough good test pictures to break a promise."""
    return write_dataset(tmp_path_factory.mktemp("many"), train=4, good=12, defects=4)


@pytest.fixture(scope="module")
def card(plate_model, many):
    return stress.stress(load(plate_model), open_dataset(many), alpha=0.05, most=8)


def test_the_card_counts_what_the_model_says(card, plate_model, many):
    assert (card.category, card.n_good, card.n_defect, card.alpha) == ("plate", 8, 4, 0.05)
    assert [ladder.name for ladder in card.ladders] == [name for name in CHANGES if name not in COLOURS]
    # one ladder's last step anew: the test pictures, darker, judged one by one
    model = load(plate_model)
    samples = [s for s in open_dataset(many).test if not s.is_defect]
    chosen = [samples[i] for i in np.linspace(0, 11, 8).round().astype(int)]
    said = []
    for sample in chosen:
        with Image.open(sample.source) as image:
            values = values_of(image.convert("RGB"))
        darker = picture_of(perturbations.brightness(values, -40))
        said.append(model.inspect(darker, alpha=0.05, maps=False).verdict == "defect")
    darker = next(ladder for ladder in card.ladders if ladder.name == "darker")
    assert darker.steps[-1].size == 40 and darker.steps[-1].false_alarms == sum(said)


def test_strong_changes_break_the_promise_of_unchanged_pictures(card):
    assert card.unchanged.drift == 0 and card.unchanged.false_alarms < card.limit
    assert any(ladder.steps[-1].false_alarms >= card.limit for ladder in card.ladders)


def test_a_card_is_read_back_from_its_table(card, tmp_path):
    lines = list(stress.rows(card))
    artifact.write_table(tmp_path / "stress.csv", list(lines[0]), [list(line.values()) for line in lines])
    assert stress.read(tmp_path / "stress.csv") == card
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InlierError, match="is no table that `inlier stress` wrote"):
        stress.read(tmp_path / "other.csv")
    with pytest.raises(InlierError, match=r"none.csv: cannot be read \(No such file"):
        stress.read(tmp_path / "none.csv")


def test_a_card_without_promise_or_good_pictures_is_refused(plate_model, many, tmp_path):
    model = load(plate_model)
    only = open_dataset(many)
    bare = type(only)("bare", "", tuple(s for s in only.samples if s.is_defect or s.split == "train"))
    with pytest.raises(InlierError, match="no good test pictures"):
        stress.stress(model, bare)
    model.calibration_ = type(model.calibration_)("none")
    with pytest.raises(InlierError, match="makes no promise"):
        stress.stress(model, only)


def test_the_command_writes_page_and_table(inlier, plate_model, many, tmp_path):
    out = tmp_path / "card"
    code, stdout, stderr = inlier("stress", plate_model, many, "--pictures", 3, "--alpha", 0.05, "--out", out)
    assert code == 0 and "\\n" not in stdout
    assert "changes and the promise" in stdout and "warmer and colder are left out" in stderr
    page = (out / "stress.html").read_text(encoding="utf-8")
    assert "<svg" in page and not re.search(r'(src|href)="(?!data:|#)', page)  # one file, without another
    with (out / "stress.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["change"] == "unchanged" and len(rows) == 1 + sum(
        len(change.sizes) for name, change in CHANGES.items() if name not in COLOURS
    )
    assert all(float(row["low"]) <= float(row["false-alarm rate"]) <= float(row["high"]) for row in rows)
