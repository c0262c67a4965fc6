"""The report: what is on the page, which cases the gallery shows, and what the pictures show."""

import re
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from conftest import part
from inlier.artifact import ArtifactError
from inlier.evaluation import Case, CategoryResult, DefectResult, Results
from inlier.metrics import ImageMetrics, PixelMetrics
from inlier.report import choose, figures, write_report

MODEL = {
    "library": "9.9",
    "method": "padim",
    "preset": "paper",
    "settings": {"backbone": "resnet18", "size": 64},
    "seed": 7,
    "categories": ["plate"],
    "calibration": {"kind": "split", "n": 99},
    "data": "f00d",
    "weights": {"source": "somewhere", "licence": "BSD-3 & friends"},
}


def case(i, score, defect=None, verdict=None, p_value=None, mask=True):
    def load():
        picture, truth = part(np.random.default_rng(i), defect is not None, 40)
        map_ = np.full((40, 40), 1.0, np.float32)
        map_[:, :5], map_[20:30, 10:30] = np.nan, score
        return picture.convert("RGB"), truth if mask and defect else None, map_

    # an array as source: cases must never be compared by value
    return Case(f"/far/away/{defect or 'good'}/{i}.png", np.zeros((2, 2)), defect, score, p_value, verdict, load)


def category(name="plate", goods=8, defects=9, judged=True, masks=True):
    cases = [case(i, 1 + i / 10, None, "good", 0.5) for i in range(goods)]
    for i in range(defects):
        cases.append(case(i, 1.65 + i / 10, "dent" if i % 2 else "crack", "defect" if i > 0 else "good", 0.01))
    if not judged:
        cases = [case(i, c.score, c.defect, mask=masks) for i, c in enumerate(cases)]
    both = bool(goods and defects)
    return CategoryResult(
        category=name,
        n_good=goods,
        n_defect=defects,
        image=ImageMetrics(0.9123, 0.8234, 0.7341, 1.5) if both else ImageMetrics(reason="only one kind"),
        intervals={"auroc": (0.8011, 0.9922), "ap": (0.7, 0.9), "f1_max": (0.6, 0.8)} if both else {},
        pixel=PixelMetrics(0.9561, 0.4562, 0.5563, 1.2, 0.8564) if masks else None,
        pixel_note="",
        alpha=0.01 if judged else None,
        false_alarm_rate=0.1271 if judged and goods else None,
        detection_rate=0.8872 if judged and defects else None,
        threshold=1.7 if judged else None,
        pixel_threshold=1.5 if judged else None,
        defects={"dent": DefectResult(4, 0.9333, 0.75), "crack": DefectResult(5, 0.8444, None)} if defects else {},
        not_inspected=0.034,
        cases=tuple(cases),
    )


def page(tmp_path, *categories, **model):
    results = Results(MODEL | model, {c.category: c for c in categories}, {"total": 12.34, "per_image": 0.567})
    path = write_report(results, tmp_path / "new" / "report")
    assert path == tmp_path / "new" / "report" / "index.html"
    return path.read_text(encoding="utf-8")


def words(html):
    """What a reader sees, with single spaces."""
    text = re.sub(r"<style.*?</style>|<[^>]*>", " ", html, flags=re.DOTALL)
    return " ".join(text.replace("&nbsp;", " ").split())


class Tags(HTMLParser):
    void = frozenset(("meta", "img", "link", "br"))

    def __init__(self, html):
        super().__init__()
        self.open, self.all = [], []
        self.feed(html)
        assert not self.open, "unclosed"

    def handle_starttag(self, tag, attrs):
        self.all.append((tag, dict(attrs)))
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.all.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_page_is_well_formed_and_refers_to_nothing_outside(tmp_path):
    html = page(tmp_path, category(), category("nut"))
    tags = Tags(html).all
    ids = [attrs["id"] for _, attrs in tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    for tag, attrs in tags:
        assert tag not in ("script", "link", "iframe", "base", "object")
        for key in ("src", "href", "xlink:href", "srcset"):
            if key in attrs:
                assert attrs[key].startswith(("data:image/", "#")), (tag, attrs)
                assert attrs[key][0] != "#" or attrs[key][1:] in ids
        if tag == "img":
            assert attrs["alt"]
    assert "http" not in html.replace("http-equiv", "")
    assert not re.findall(r"url\((?!#)|@import", html)
    assert set(re.findall(r"url\(#([^)]*)\)", html)) <= set(ids)
    assert html.count("<svg") == 4
    assert "/far/away" not in html


def test_page_is_the_same_for_the_same_results(tmp_path):
    assert page(tmp_path / "a", category()) == page(tmp_path / "b", category())


def test_names_are_escaped(tmp_path):
    html = page(tmp_path, category('<b>"x"'), preset="<i>m", weights={"source": "<u>", "licence": "a & b"})
    Tags(html)
    for raw in ("<b>", "<i>m", "<u>"):
        assert raw not in html
    assert "&lt;b&gt;&#34;x&#34;" in html
    assert 'aria-label="ROC curve of &lt;b&gt;&#34;x&#34;"' in html


def test_page_has_every_number(tmp_path):
    html = page(tmp_path, category(), category("nut"))
    text = words(html)
    tables = " ".join(words(table) for table in re.findall(r"<table>.*?</table>", html, re.DOTALL))
    for number in (
        "91.2",
        "80.1–99.2",
        "82.3",
        "73.4",
        "95.6",
        "45.6",
        "55.6",
        "85.6",
        "12.7",
        "88.7",  # category
        "93.3",
        "75.0",
        "84.4",
        "dent",
        "crack",
    ):
        assert number in tables
    assert tables.count("91.2") == 3  # two categories and their mean
    for fact in (
        "padim",
        "paper",
        "resnet18",
        "99 good images",
        "never used for fitting",
        "conformal guarantee",
        "12.3 s",
        "0.567 s per image",
        "3.4 % of the defect pixels",
        "Of 9 defects, 8 were found and 1 missed",
        "Of 8 good parts, 0 raised",
        "settings.size 64",
        "seed 7",
        "BSD-3 &amp; friends",
        "AUROC 91.2 %",
        "88.7 % found, 12.7 % false alarms",
        "threshold 1.7 (alpha 0.01)",
        "p-value 0.01",
    ):
        assert fact in text, fact


def test_without_masks(tmp_path):
    text = words(page(tmp_path, category(masks=False, judged=False)))
    assert text.count("no masks") == 2  # the table and the sentence
    assert "no mask" in text


def test_without_calibration(tmp_path):
    html = page(tmp_path, category(judged=False), calibration={"kind": "none", "n": 0})
    text = words(html)
    assert "The model has no calibration" in text
    assert "no threshold and no verdict" in text
    assert "No outlines" in text
    for gone in ("threshold 1.7", "judged good", "p-value 0", "at the threshold:", "None", "nan"):
        assert gone not in text
    assert 'class="badge' not in html
    assert "Typical defects" in text


@pytest.mark.parametrize(("goods", "defects", "said"), [(5, 0, "holds no defects"), (0, 5, "holds no good parts")])
def test_with_one_kind_only(tmp_path, goods, defects, said):
    html = page(tmp_path, category(goods=goods, defects=defects))
    assert said in words(html)
    assert "only one kind" in words(html)
    assert html.count("<svg") == 1
    Tags(html)


def test_an_unwritable_place_is_an_error_for_people(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="cannot be written"):
        write_report(Results(MODEL, {"plate": category(goods=1, defects=1)}, {}), tmp_path / "file")


# -- gallery ----------------------------------------------------------------------------------------------------------


def scores(cases):
    return [c.score for c in cases]


def test_gallery_with_verdicts():
    cases = [case(0, float(s), "dent", "defect" if s > 4 else "good") for s in range(20, 0, -1)]
    cases += [case(0, float(s), None, "defect" if s > 4 else "good") for s in (3, 9, 1, 5, 2, 4, 0, 6)]
    gallery = choose(cases)
    assert scores(gallery.misses) == [1, 2, 3, 4, 5, 6]  # the last two were found
    assert scores(gallery.false_alarms) == [9, 6, 5, 4, 3, 2]
    assert scores(gallery.hits) == [15, 14, 13, 12, 11, 10]  # around 13, the median of 5 to 20


def test_gallery_without_verdicts():
    gallery = choose([case(0, float(s), "dent") for s in range(9)] + [case(0, 1.0)])
    assert scores(gallery.misses) == [0, 1, 2, 3, 4, 5]
    assert scores(gallery.hits) == [8, 7, 6]  # none is shown twice
    assert scores(gallery.false_alarms) == [1]


def test_gallery_of_nothing():
    assert choose([]) == ([], [], [])


def test_gallery_loads_only_what_it_shows(tmp_path):
    loaded = []

    def counted(c):
        def load():
            loaded.append(c)
            return c.load()

        return SimpleNamespace(**{**vars(c), "load": load})

    result = category(goods=30, defects=40)
    page(tmp_path, SimpleNamespace(**{**vars(result), "cases": tuple(map(counted, result.cases))}))
    assert len(loaded) == 18


# -- pictures ---------------------------------------------------------------------------------------------------------


def painted(picture, colour):
    return (np.asarray(picture) == colour).all(axis=2)


def test_overlay_outlines_exactly_the_border():
    map_ = np.zeros((30, 40), np.float32)
    map_[10:20, 5:15] = 2
    picture = figures.overlay(Image.new("RGB", (40, 30), "white"), map_, 1.0, (0, 3))
    line, rim = np.zeros((2, 30, 40), bool)
    line[10:20, 5:15] = True
    line[11:19, 6:14] = False
    rim[9:21, 5:15] = rim[10:20, 4:16] = True
    rim[10:20, 5:15] = False
    np.testing.assert_array_equal(painted(picture, figures.OUTLINE), line)
    np.testing.assert_array_equal(painted(picture, figures.RIM), rim)
    np.testing.assert_array_equal(np.asarray(picture)[0, 0], (255, 255, 255))  # nothing over quiet parts


def test_overlay_of_a_region_at_the_edge_and_of_values_at_the_threshold():
    map_ = np.zeros((8, 8), np.float32)
    map_[:3] = 2
    map_[4:] = 1  # not above
    map_[:, 6:] = np.nan
    line = painted(figures.overlay(Image.new("RGB", (8, 8)), map_, 1.0, (0, 3)), figures.OUTLINE)
    expected = np.zeros((8, 8), bool)
    expected[:3, :6] = True
    expected[1, 1:5] = False
    np.testing.assert_array_equal(line, expected)


def test_overlay_without_threshold_has_no_outline():
    map_ = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    assert not painted(figures.overlay(Image.new("RGB", (8, 8)), map_, None, (0, 1)), figures.OUTLINE).any()


def test_overlay_of_another_size_is_an_error():
    with pytest.raises(ValueError, match="differ in size"):
        figures.overlay(Image.new("RGB", (8, 9)), np.zeros((8, 9), np.float32), None, (0, 1))


def test_overlay_of_16_bit_grey_keeps_its_brightness():
    grey = Image.fromarray(np.full((8, 8), 0.5, np.float32))
    assert np.asarray(figures.overlay(grey, np.zeros((8, 8), np.float32), None, (0, 1)))[0, 0].tolist() == [128] * 3


def test_same_value_same_colour():
    rng = np.random.default_rng(0)
    one, two = rng.uniform(0, 10, (2, 20, 20)).astype(np.float32)
    two[3, 4] = one[7, 8]
    scale = (2.0, 8.0)
    assert figures.heat_map(one, scale).getpixel((8, 7)) == figures.heat_map(two, scale).getpixel((4, 3))
    ends = np.array([[-5, 2, 8, 99]], np.float32)
    colours = np.asarray(figures.heat_map(ends, scale))[0]
    assert (colours[0] == colours[1]).all()
    assert (colours[2] == colours[3]).all()


def test_heat_map_hatches_what_was_not_inspected():
    map_ = np.zeros((40, 40), np.float32)
    map_[:10] = np.nan
    pixels = np.asarray(figures.heat_map(map_, (0, 1)))
    assert {tuple(p) for p in pixels[:10].reshape(-1, 3).tolist()} == set(figures.HATCH)
    assert {tuple(p) for p in pixels[10:].reshape(-1, 3).tolist()}.isdisjoint(figures.HATCH)
    figures.heat_map(np.full((4, 4), np.nan, np.float32), figures.colour_scale([np.full((4, 4), np.nan, np.float32)]))


def test_a_picture_of_noise_can_be_kept():
    noise = np.random.default_rng(0).integers(0, 256, (400, 400, 3), np.uint8)
    assert figures.data_uri(Image.fromarray(noise)).startswith("data:image/jpeg;base64,")


def test_maps_over_orders_of_magnitude_are_drawn_by_their_logarithm(tmp_path):
    drawn = figures.drawable(np.array([0.0, 1e-3, 1.0, 100.0], np.float32), True)
    assert drawn.tolist() == pytest.approx([-30, -3, 0, 2], abs=1e-5)
    assert figures.drawable(0.01, True) == -2 and figures.drawable(0.01, False) == 0.01
    assert figures.drawable(None, True) is None
    text = words(page(tmp_path, category(), method="differnet"))
    assert "map score, logarithmic" in text and "region with a map score above 1.5" in text
    assert "logarithmic" not in words(page(tmp_path, category()))


def test_colour_scale():
    rng = np.random.default_rng(0)
    maps = list(rng.uniform(1, 2, (20, 30, 30)).astype(np.float32))
    maps[0][0, 0] = 1000  # a single extreme value decides nothing
    maps[1][:9] = np.nan
    low, high = figures.colour_scale(maps)
    assert low == pytest.approx(1.05, abs=0.02)
    assert high == pytest.approx(2, abs=0.02)
    assert figures.colour_scale(maps, 5.0) == (low, 5.0)
    assert figures.colour_scale([np.ones((3, 3), np.float32)]) == (1, 2)


def test_shrink_keeps_the_aspect_and_small_defects():
    mask = np.zeros((1200, 600), bool)
    mask[700, 300] = True
    image, small, map_ = figures.shrink(Image.new("RGB", (600, 1200)), mask, np.zeros((1200, 600), np.float32))
    assert image.size == (150, 300)
    assert small.shape == map_.shape == (300, 150)
    assert small.sum() == 1
    assert figures.shrink(Image.new("RGB", (2000, 10)), None, np.zeros((10, 2000), np.float32))[0].size == (450, 2)


@pytest.mark.parametrize("scores", [[1, 1.1, 1.2, 1e3, 1e6], [1e-9, 1, 5], [-3, 0, 1e9], [2, 2], [0.0], [7, 7, 7, 9e9]])
def test_no_score_falls_outside_the_histogram(scores):
    edges, logarithmic = figures.bin_edges(np.array(scores))
    assert np.histogram(scores, edges)[0].sum() == len(scores)
    assert logarithmic == (scores[0] >= 1 and scores[-1] > 1e2)
    assert f"defect ({len(scores)})" in figures.histogram([], scores, (1.0, 0.1), "x")
