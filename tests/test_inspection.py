"""Judging without torch: any runtime, one rule, one record for one picture."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inlier import ImageError, InlierError
from inlier.calibration import Calibration
from inlier.data.datasets import open_dataset
from inlier.data.geometry import Geometry
from inlier.data.region import read_region
from inlier.inspection.inspector import Inspector, Output
from inlier.inspection.result import Box, Prediction


class Darkness:
    """A runtime that finds dark pixels: the map is 1 - brightness, the score its highest value."""

    def __init__(self):
        self.asked = []

    def __call__(self, images, inspected, maps):
        self.asked.append((len(images), maps))
        dark = 1 - images.mean(1)
        return Output(dark.max((1, 2)), dark if maps else None)


@pytest.fixture
def inspector():
    made = Inspector(Darkness(), Geometry(8))
    made.calibration_ = Calibration("split", np.linspace(0.1, 0.5, 9, dtype=np.float32), np.linspace(0.1, 0.5, 9))
    return made


def grey(value, size=8):
    return np.full((size, size), value, np.uint8)


def spotted(size=16):
    picture = grey(255, size)
    picture[2:6, 4:6] = picture[12:14, 8:12] = 0
    picture[12, 8] = 51
    return picture


def test_one_picture(inspector):
    p = inspector.inspect(grey(51))
    assert p.score == pytest.approx(0.8) and p.p_value == 0.1 and p.verdict == "defect"
    assert (p.alpha, p.threshold) == (0.1, pytest.approx(0.5)) and p.path == "image 0"


def test_what_cannot_be_read_is_an_error_at_once(inspector, tmp_path):
    (tmp_path / "bad.png").write_text("no picture")
    with pytest.raises(ImageError, match="bad.png"):
        inspector.inspect(tmp_path / "bad.png")


@pytest.mark.parametrize(
    "data, words",
    [
        ([], "the list of pictures is empty"),
        (7, "expected a picture, a folder or pictures, got int"),
        (open_dataset([grey(0)]), "has no test pictures"),
    ],
)
def test_mistakes_are_said_at_the_call(inspector, data, words):
    with pytest.raises(InlierError, match=words):
        inspector.predict(data)


@pytest.mark.parametrize("alpha", ["0.05", True, None, -1, 0.01])
def test_alpha_is_checked_at_the_call(inspector, alpha):
    if alpha is None:
        inspector.predict([grey(0)], alpha=alpha)
    else:
        with pytest.raises(InlierError, match="alpha"):
            inspector.predict([grey(0)], alpha=alpha)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [("alpha", "5%", "5 % is written 0.05, with a point"), ("confidence", 95, "95 % is written 0.95, with a point")],
)
def test_who_writes_percent_is_told_how_to_write_it(inspector, name, value, words):
    with pytest.raises(InlierError, match=f"not {value!r}; {words}"):
        inspector.predict([grey(0)], **{name: value})


def test_pictures_before_an_unreadable_one_are_judged(inspector, tmp_path):
    found = []
    with pytest.raises(ImageError, match="gone.png"):
        found.extend(p.path for p in inspector.predict([grey(0), grey(1), tmp_path / "gone.png", grey(2)]))
    assert found == ["image 0", "image 1"]


def test_an_empty_folder_is_said_at_the_call(inspector, tmp_path):
    with pytest.raises(InlierError, match="holds no pictures"):
        inspector.predict(tmp_path)


def test_a_generator_is_read_as_it_comes(inspector):
    asked = []

    def camera():
        for i in range(1000):
            asked.append(i)
            yield grey(i % 256)

    stream = inspector.predict(camera(), batch_size=2)
    assert not asked
    assert [next(stream).score for _ in range(3)] == pytest.approx([1, 254 / 255, 253 / 255])
    stream.close()
    assert len(asked) < 20


def test_a_dataset_is_judged_by_its_test_pictures(inspector, plates):
    found = list(inspector.predict(open_dataset(plates)))
    assert len(found) == 12 and all("/test/" in p.path for p in found)


def test_score_samples_asks_for_no_maps(inspector):
    scores = inspector.score_samples([grey(0), grey(255), grey(51)])
    np.testing.assert_allclose(scores, [1, 0, 0.8], atol=1e-6)
    assert scores.dtype == np.float32 and inspector.runtime_.asked == [(3, False)]


def test_a_lowered_alpha_is_said_once(inspector, caplog):
    for _ in range(5):
        inspector.inspect(grey(9))
    assert caplog.text.count("promise no false-alarm rate below 0.1") == 1


def test_calibrate_replaces_the_scores(inspector):
    good = [grey(v) for v in (200, 210, 220, 230)]
    assert inspector.calibrate(good) is inspector
    np.testing.assert_allclose(inspector.calibration_.scores, 1 - np.array([200, 210, 220, 230]) / 255, rtol=1e-5)
    assert inspector.inspect(grey(150)).p_value == 0.2 and inspector.header()["calibration"] == {
        "kind": "split",
        "n": 4,
        "groups": 4,
        "categories": [""],
    }


def test_verdict_threshold_and_p_value_agree_for_every_alpha_and_tie():
    rng = np.random.default_rng(0)
    for n in (1, 2, 7, 9, 10, 99):
        calibration = Calibration("split", rng.integers(0, 4, n).astype(np.float32), np.zeros(n))
        for alpha in [k / (n + 1) for k in range(1, n + 1)] + [1 - 0.9, 0.3, 0.7]:
            if alpha < 1 / (n + 1) - 1e-12:
                continue
            rule = calibration.rule(alpha)
            for score in (-1, 0, 1, 1.5, 2, 3, 4):
                flagged = calibration.p_values(score) <= alpha + 1e-9
                assert (rule.verdict(score) == "defect") == flagged == (score > rule.threshold)


def test_boxes_are_the_parts_of_the_region_highest_first(inspector):
    p = Prediction("x", 1.0, pixel_threshold=0.5, network_maps=1 - spotted()[None] / np.float32(255), size=(16, 16),
                   geometry=Geometry(16))  # fmt: skip
    assert p.boxes() == [Box(4, 2, 6, 6, 1.0, 8), Box(8, 12, 12, 14, 1.0, 8)]
    assert [box.area for box in p.boxes()] == [8, 8] and Prediction("x").boxes() == []
    assert p.region is p.region, "all boxes are of one region, which is computed once"


def test_to_dict_is_plain_json(inspector):
    p = inspector.inspect(spotted())
    back = json.loads(json.dumps(p.to_dict()))
    assert back["verdict"] == "defect" and back["threshold"] == p.threshold and len(back["boxes"]) == len(p.boxes())
    assert "boxes" not in inspector.inspect(spotted(), maps=False).to_dict()


def test_predictions_compare_hash_and_pickle(inspector):
    one, same, other = (inspector.inspect(grey(v)) for v in (9, 9, 10))
    assert one == same and one != other and len({one, same, other}) == 2
    again = pickle.loads(pickle.dumps(one))
    assert again == one
    np.testing.assert_array_equal(again.map, one.map)


def test_plot_is_a_picture_of_three_panels(inspector, tmp_path):
    Image.fromarray(spotted(96)).save(tmp_path / "a.png")
    for p in (inspector.inspect(tmp_path / "a.png"), inspector.inspect(spotted(96))):
        drawn = p.plot()
        assert isinstance(drawn, Image.Image) and drawn.width > 3 * 96 and drawn.height > 96
    with pytest.raises(InlierError, match="no map to draw"):
        inspector.inspect(spotted(), maps=False).plot()


def test_a_tilde_is_the_home_folder_in_every_path_of_pictures(inspector, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    folder = tmp_path / "parts"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        Image.fromarray(grey(51)).save(folder / name)
    (tmp_path / "t.csv").write_text("path\nparts/a.png\n")
    Image.fromarray(grey(255) > 0).save(tmp_path / "roi.png")
    for data in ("~/parts", Path("~/parts"), ["~/parts/a.png", Path("~/parts/b.png")], "~/t.csv"):
        assert {s.name for s in open_dataset(data).train} <= {str(folder / "a.png"), str(folder / "b.png")}
    for data in ("~/parts", ["~/parts"], ["~/parts/a.png", Path("~/parts/b.png")]):
        assert [p.path for p in inspector.predict(data)] == [str(folder / "a.png"), str(folder / "b.png")]
    assert inspector.inspect("~/parts/a.png").path == str(folder / "a.png")
    assert read_region("~/roi.png").mask.all()
    monkeypatch.chdir(folder)
    assert inspector.inspect("./a.png").path == "./a.png", "any other path is named as it was given"
