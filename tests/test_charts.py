"""Charts of the report, and pictures inside a URI."""

import base64
import io
import re
import subprocess
import sys
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from inlier.bench.profile import Limit, Timing, drawn, in_words
from inlier.errors import InlierError
from inlier.report import charts

SCORES, IS_DEFECT = [0.1, 0.2, 0.3, 0.9], [False, False, True, True]


def test_a_picture_of_noise_can_be_kept():
    noise = np.random.default_rng(0).integers(0, 256, (400, 400, 3), np.uint8)
    assert charts.data_uri(Image.fromarray(noise)).startswith("data:image/jpeg;base64,")


def test_two_colours_and_strips_are_kept_exactly():
    truth = Image.fromarray(np.eye(9, dtype=bool))
    strip = Image.fromarray(np.arange(30, dtype=np.uint8).reshape(1, 10, 3))
    for picture in (truth, strip):
        kind, data = charts.data_uri(picture).split(",")
        assert kind == "data:image/png;base64"
        back = Image.open(io.BytesIO(base64.b64decode(data)))
        np.testing.assert_array_equal(np.asarray(back), np.asarray(picture))


@pytest.mark.parametrize("scores", [[1, 1.1, 1.2, 1e3, 1e6], [1e-9, 1, 5], [-3, 0, 1e9], [2, 2], [0.0], [7, 7, 7, 9e9]])
def test_no_score_falls_outside_the_histogram(scores):
    edges, logarithmic = charts.bin_edges(np.array(scores))
    assert np.histogram(scores, edges)[0].sum() == len(scores)
    assert logarithmic == (scores[0] >= 1 and scores[-1] > 1e2)
    pytest.importorskip("matplotlib", reason="charts are drawn by matplotlib")
    assert f"defect ({len(scores)})" in charts.histogram([], scores, (1.0, 0.1), "x")


def draw(name="plate"):
    return (
        charts.histogram([0.1, 0.2], [0.3, 0.9], (0.25, 0.05), name),
        charts.roc(SCORES, IS_DEFECT, "AUROC 100 %", (0.0, 1.0), name),
    )


def test_charts_are_elements_with_text_as_text_and_the_colour_of_the_page():
    pytest.importorskip("matplotlib", reason="charts are drawn by matplotlib")
    for chart in draw('<b>"x"'):
        svg = ElementTree.fromstring(chart)
        assert svg.tag == "svg"
        assert svg.attrib["aria-label"].endswith('of <b>"x"')
        assert charts.INK not in chart and "currentColor" in chart
        assert "metadata" not in chart
    histogram, roc = draw()
    for words in ("good (2)", "defect (2)", "threshold 0.25 (alpha 0.05)"):
        assert words in histogram
    assert "at the threshold: 100.0 % found, 0.0 % false alarms" in roc


def test_charts_share_no_ids_and_are_the_same_each_time():
    pytest.importorskip("matplotlib", reason="charts are drawn by matplotlib")
    drawn = [*draw("a"), *draw("b")]
    ids = [set(re.findall(r'\bid="([^"]*)"', chart)) for chart in drawn]
    assert len(set.union(*ids)) == sum(map(len, ids))
    for chart, own in zip(drawn, ids):
        assert set(re.findall(r'href="#([^"]*)"|url\(#([^)]*)\)', chart)) <= {(i, "") for i in own} | {
            ("", i) for i in own
        }
    assert drawn == [*draw("a"), *draw("b")]


@pytest.mark.parametrize(
    "chart",
    [lambda: charts.histogram([1.0], [2.0], None, "x"), lambda: charts.roc(SCORES, IS_DEFECT, "", None, "x")],
    ids=["histogram", "roc"],
)
def test_without_matplotlib_a_chart_says_what_to_install(monkeypatch, chart):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(InlierError, match=r"the report's charts need matplotlib: pip install 'inlier\[report\]'"):
        chart()


def test_importing_charts_does_not_load_matplotlib():
    code = "import sys, inlier.report.charts; sys.exit('matplotlib' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_long_labels_stand_below_one_another():
    assert charts._columns(["padim light", "simplenet light"]) == 2
    assert charts._columns(["padim light", "differnet light, backbone=resnet18, taps=4,8,16"]) == 1
    assert charts._columns([]) == 2


def test_the_picture_of_a_profile_tells_a_verdict_from_its_drawing():
    stages = {"read": 0.1, "decode": 7.0, "resize": 4.0, "method": 20.0, "map": 0.4, "judge": 0.5, "draw": 50.0}
    timings = [Timing("torch", 8, stages | {"backbone": 30.0}), Timing("onnx", 1, stages)]
    page = drawn(timings)
    assert "62.0, drawn 112.0" in page and "32.0, drawn 82.0" in page
    assert "backbone and method" in page  # of a graph that cannot be divided
    assert page.startswith("<svg ") and "background: white" in page
    assert "backbone and method" not in drawn(timings[:1])


def test_a_bound_above_what_was_measured_is_left_out_with_the_reason():
    def timing(runtime, batch, ms):
        return Timing(runtime, batch, {"backbone": ms - 8, "method": 5.0, "map": 3.0, "decode": 50.0})

    limit = Limit(multiply_adds=8.2e9, weights=2**20, rate=1e11, bandwidth=1e10)  # 82 ms
    words = in_words(limit, [timing("torch", 1, 48.0), timing("torch", 8, 90.0)])
    assert "a picture takes at least about 82.00 ms in a batch of 8; no bound is told" in words
    assert "48.00 ms in a batch of 1, where these rates allow 82.00 ms" in words
    words = in_words(limit, [timing("torch", 1, 100.0), timing("torch", 8, 90.0)])
    assert words.endswith("at least about 82.00 ms in a batch of 1, 82.00 ms in a batch of 8")
    words = in_words(limit, [timing("torch", 1, 48.0), timing("torch", 8, 40.0)])
    assert "at least" not in words and "48.00 ms in a batch of 1" in words and "40.00 ms in a batch of 8" in words
