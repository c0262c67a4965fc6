"""Trivial baselines: what brightness or size alone tell of a picture."""

import numpy as np
import pytest
from PIL import Image

from conftest import write_dataset
from inlier import PaDiM, evaluate, trivial
from inlier.data.check import examine
from inlier.data.datasets.sample import Dataset, Sample


def seen(arrays):
    """The cues of pictures, as a check finds them."""
    samples = tuple(Sample(array, "plate", "test", None) for array in arrays)
    return [look.cues for look in examine(Dataset("plates", "", samples)).looks]


def test_trivial_cues_are_detectors_and_leaks():
    rng = np.random.default_rng(0)

    def picture(level, contrast, size=(40, 30)):
        return np.clip(level + contrast * rng.normal(size=(*size, 3)), 0, 255).astype(np.uint8)

    train = [Sample(picture(120, 10), "plate", "train", None) for _ in range(20)]
    good = [picture(60, 10) for _ in range(10)]  # darker than all others: a leak that misleads
    defects = [picture(120, 30, (40, 60)) for _ in range(10)]
    cues = seen([*good, *defects])
    found = trivial.of_category(train, cues, [False] * 10 + [True] * 10)
    assert found["brightness"].leak == 1 and found["brightness"].detector < 0.2 and found["brightness"].is_suspicious
    assert found["contrast"].detector == found["sharpness"].detector == found["aspect ratio"].detector == 1
    assert found["bytes of the file"] == (None, None) and not found["bytes of the file"].is_suspicious
    np.testing.assert_allclose(cues[0][3:5], [1200, 0.75])
    assert trivial.strongest(found) == ("contrast", 1)
    assert trivial.strongest(trivial.of_category([], cues, [False] * 10 + [True] * 10)) is None
    assert trivial.of_category(train, cues, [True] * 20) == {}


def test_what_a_cue_explains_is_said():
    found = {"brightness": trivial.Baseline(None, 0.951), "contrast": trivial.Baseline(0.79, 0.2)}
    assert trivial.warning("screw", found) == (
        "screw: good test pictures and defects differ in brightness (AUROC 95.1 % by itself); where a cue "
        "alone reaches 80 %, figures say little about methods"
    )
    assert trivial.warning("screw", {"contrast": found["contrast"]}) == ""
    both = trivial.warning("screw", {"contrast": trivial.Baseline(0.9, 0.85)})
    assert "contrast (AUROC 85.0 % by itself, 90.0 % as a detector)" in both


def test_sixteen_bits_have_the_cues_of_eight():
    array = np.random.default_rng(0).integers(0, 256, (40, 30), np.uint8)
    np.testing.assert_allclose(*seen([array, array.astype(np.uint16) * 257]), rtol=1e-5)


def test_large_pictures_are_looked_at_evenly():
    row = np.tile(np.uint8([0, 255]), 1600)  # neighbours in a row differ by all, those in a column by nothing
    brightness, contrast, sharpness, *_ = seen([np.tile(row, (2000, 1))])[0]
    assert (brightness, contrast) == pytest.approx((0.5, 0.5)) and sharpness == pytest.approx(0.5, abs=0.01)


def test_few_training_pictures_are_read_and_one_that_cannot_be_costs_nothing_else(tmp_path, monkeypatch, caplog):
    data = write_dataset(tmp_path, train=12, good=4, defects=4)
    opened, decode = [], trivial.decode_image
    monkeypatch.setattr(trivial, "ENOUGH", 3)
    monkeypatch.setattr(trivial, "decode_image", lambda data, name: opened.append(name) or decode(data, name))
    detector = PaDiM(size=64, backbone="tiny").fit(data)
    whole = evaluate(detector, data).categories["plate"].trivial
    assert sorted(name[-7:] for name in opened) == ["000.png", "006.png", "011.png"]
    (tmp_path / "plate/train/good/006.png").write_text("text")
    found = evaluate(detector, data).categories["plate"].trivial
    assert "006.png" in caplog.text and "trivial baselines are computed without it" in caplog.text
    assert found["brightness"].leak == whole["brightness"].leak and found["brightness"].detector is not None


def test_bytes_of_the_file_are_a_cue(tmp_path):
    data = write_dataset(tmp_path, train=6, good=4, defects=4)
    for path in (data / "plate/test/dent").iterdir():
        Image.open(path).save(path, compress_level=0)
    detector = PaDiM(size=64, backbone="tiny").fit(data)
    assert evaluate(detector, data).categories["plate"].trivial["bytes of the file"] == (1, 1)
