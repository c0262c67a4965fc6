"""Planted defects, by which methods and settings are chosen without a test set."""

import numpy as np
import pytest
from PIL import Image

from conftest import part
from inlier import PaDiM
from inlier.bench import trial
from inlier.data.datasets import open_dataset
from inlier.data.simulation.foreground import Foreground
from inlier.data.simulation.planted import AREA, KINDS, plant
from inlier.data.simulation.sources import Textures


@pytest.fixture(scope="module")
def plate():
    return np.asarray(part(np.random.default_rng(0), size=128)[0].convert("RGB"))


@pytest.fixture(scope="module")
def textures(tmp_path_factory):
    path = tmp_path_factory.mktemp("textures") / "stripes.png"
    Image.fromarray(np.tile(np.array([[0, 255], [0, 255]], np.uint8).repeat(4, 1), (40, 10))).save(path)
    return Textures((path,), "stripes")


@pytest.mark.parametrize("number, kind", list(enumerate(KINDS)))
def test_each_kind_changes_its_mask_and_little_else(plate, textures, number, kind):
    made = plant(plate, (0, number), textures=textures)
    assert made.kind == kind and made.mask.any() and made.image.dtype == np.uint8
    apart = np.abs(made.image.astype(int) - plate).max(2)
    assert apart[made.mask].mean() >= 6
    assert apart[~made.mask].mean() < 1  # a stain fades, the edge of a scratch is soft
    again = plant(plate, (0, number), textures=textures)
    np.testing.assert_array_equal(again.image, made.image)
    assert not np.array_equal(plant(plate, (1, number), textures=textures).image, made.image)


def test_defects_keep_to_the_part_and_to_the_region(plate, textures):
    rule, region = Foreground(150), np.zeros((128, 128), bool)
    region[:, :64] = True
    for number in range(12):
        made = plant(plate, (0, number), rule, textures, region)
        allowed = rule(plate) & region
        assert not (made.mask & ~allowed).any()
        np.testing.assert_array_equal(made.image[~allowed], plate[~allowed])


def test_sizes_are_shares_of_the_part(plate):
    made = [plant(plate, (0, 5 * k + 1)) for k in range(60)]  # without textures there are five kinds
    areas = [one.mask.mean() for one in made if one.kind == "displaced"]
    assert len(areas) > 40 and AREA[0] / 4 < min(areas) < 0.006 < 0.02 < max(areas) < 2 * AREA[1]


def test_a_flat_picture_gets_what_can_be_seen():
    flat = np.full((64, 64, 3), 128, np.uint8)
    for number in range(10):
        made = plant(flat, (0, number))
        assert np.abs(made.image[made.mask].astype(int) - 128).mean() >= 6


def test_grey_pictures_get_grey_defects_and_coloured_ones_keep_their_colours(plate, textures):
    for number in range(len(KINDS)):
        image = plant(plate, (0, number), textures=textures).image
        assert (image == image[..., :1]).all()
    tinted = plate * np.array([1, 0.8, 0.5])
    assert (plant(tinted.astype(np.uint8), (0, 4)).image.std(2) > 0).any()


def test_a_trial_counts_what_a_model_finds(plates):
    dataset = open_dataset(plates)
    fitted, held_out, _ = trial.hold_out(dataset, 0)
    assert len(fitted.train) + len(held_out) == len(dataset.train)
    assert not {sample.name for sample in fitted.train} & {sample.name for sample in held_out}
    detector = PaDiM("light", backbone="tiny", size=64).fit(fitted, calibration="none")
    found = trial.run(detector, held_out)
    assert len(found.good) == len(held_out) and len(found.defects) == trial.PLANTED * len(held_out)
    expected = [detector.inspect(sample.source).score for sample in held_out]
    np.testing.assert_allclose(found.good, expected, rtol=1e-6)
    apart = found.defects[:, None] - found.good[None]
    assert found.auroc == pytest.approx((apart > 0).mean() + (apart == 0).mean() / 2)
    limit = np.sort(found.good)[-1]  # of so few, 5 % is none
    assert found.detection() == pytest.approx((found.defects > limit).mean())
    by_kind = [found.by_kind()[kind] for kind in found.kinds]
    assert np.mean(by_kind) == pytest.approx(found.detection())
