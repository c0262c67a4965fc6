"""The report: what is on the page, which cases the gallery shows, and what the pictures show."""

import atexit
import re
import tempfile
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import part
from inlier import ArtifactError
from inlier.calibration import Rule
from inlier.data.cues import CUES
from inlier.data.datasets.sample import Sample
from inlier.inspection.inspector import Inspector
from inlier.inspection.result import Prediction
from inlier.metrics import ImageMetrics, PixelMetrics
from inlier.report import choose, write_report
from inlier.results import Case, CategoryResult, DefectResult, Results
from inlier.trivial import Baseline

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


FAR_AWAY = tempfile.TemporaryDirectory(prefix="far-away-")
atexit.register(FAR_AWAY.cleanup)


def case(i, score, defect=None, verdict=None, p_value=None, mask=True):
    folder = Path(FAR_AWAY.name)
    source, truth = folder / (defect or "good") / f"{i}.png", folder / "masks" / f"{i}.png"
    if not source.exists() or not truth.exists():
        for path, picture in zip((source, truth), part(np.random.default_rng(i), defect is not None, 40)):
            path.parent.mkdir(exist_ok=True)
            (picture if path == source else Image.fromarray(picture)).save(path)
    sample = Sample(source, "plate", "test", defect, (truth,) if mask and defect else ())
    return Case(sample, Prediction(str(source), score, p_value, verdict=verdict))


class Fake(Inspector):
    """Gives every picture the map that the test asks for; a strip at the left is not inspected."""

    def __init__(self, cases=()):
        self.scores_of = {case.sample.source: case.score for case in cases}
        self.asked, self.categories_ = [], ()

    def inspect(self, picture, *, category=None):
        self.asked.append(picture)
        map_ = np.full((40, 40), 1.0, np.float32)
        map_[:, :5], map_[20:30, 10:30] = np.nan, self.scores_of.get(picture, 1.0)
        prediction = Prediction(str(picture), self.scores_of.get(picture, 1.0))
        vars(prediction)["map"] = map_
        return prediction


class FakeLogarithmic(Fake):
    log_maps = True


DULL = dict.fromkeys(CUES, Baseline(0.51, 0.52))


def category(name="plate", goods=8, defects=9, judged=True, masks=True, trivial=DULL):
    cases = [case(i, 1 + i / 10, None, "good", 0.5) for i in range(goods)]
    for i in range(defects):
        cases.append(case(i, 1.65 + i / 10, "dent" if i % 2 else "crack", "defect" if i > 0 else "good", 0.01))
    if not judged:
        cases = [case(i, c.score, c.sample.defect, mask=masks) for i, c in enumerate(cases)]
    both = bool(goods and defects)
    return CategoryResult(
        category=name,
        n_good=goods,
        n_defect=defects,
        image=ImageMetrics(0.9123, 0.8234, 0.7341, 1.5) if both else ImageMetrics(reason="only one kind"),
        intervals={"auroc": (0.8011, 0.9922), "ap": (0.7, 0.9), "f1_max": (0.6, 0.8)} if both else {},
        pixel=PixelMetrics(0.9561, 0.4562, 0.5563, 1.2, 0.8564) if masks else None,
        pixel_note="",
        rule=Rule(0.01, None, 1.7, 1.5, 0.01, 0.03) if judged else None,
        false_alarm_rate=0.1271 if judged and goods else None,
        detection_rate=0.8872 if judged and defects else None,
        defects={"dent": DefectResult(4, 0.9333, 0.75), "crack": DefectResult(5, 0.8444, None)} if defects else {},
        not_inspected=0.034,
        trivial=trivial if both else {},
        cases=tuple(cases),
    )


def page(tmp_path, *categories, kind=Fake, **model):
    results = Results(MODEL | model, {c.category: c for c in categories}, {"total": 12.34, "per_image": 0.567})
    inspector = kind([case for c in categories for case in c.cases])
    path = write_report(results, inspector, tmp_path / "new" / "report")
    assert len(inspector.asked) == sum(
        len({id(case) for group in choose(c.cases) for case in group}) for c in categories
    )
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
    assert "far-away" not in html


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
        "99 good pictures",
        "held out from fitting",
        "The promise: of good parts, 1 % raise a false alarm on average",
        "with 95 % confidence at most 3 %",
        "(95 % interval 0.3\N{EN DASH}52.7 %)",
        "12.3 s",
        "0.567 s per picture",
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


def test_trivial_baselines_stand_beside_and_what_they_explain_is_marked(tmp_path):
    html = page(tmp_path, category(), category("<nut>", trivial=DULL | {"contrast": Baseline(0.611, 0.955)}))
    Tags(html)
    text = words(html)
    assert "&lt;nut&gt; beware of contrast" in text and "plate beware" not in text
    assert "brightness alone 51.0" in text and "contrast alone 61.1" in text
    assert "&lt;nut&gt;: good test pictures and defects differ in contrast (AUROC 95.5 % by itself, 61.1 %" in text
    assert html.count('class="bad">95.5') == html.count('class="bad"') == 1
    section = text[text.index("What brightness or size alone would do") :]
    assert "plate 51.0 52.0 51.0 52.0" in section and "&lt;nut&gt; 51.0 52.0 61.1 95.5" in section
    assert "alone would do" not in words(page(tmp_path, category(goods=0)))


def test_a_perfect_separation_says_how_far_so_few_pictures_prove_it(tmp_path):
    perfect = replace(category(), image=ImageMetrics(1.0, 1.0, 1.0, 1.5), intervals={"auroc": (0.6306, 1.0)})
    text = words(page(tmp_path, perfect))
    assert "100.0 63.1–100.0" in text
    assert "every defect scores above every good picture, so resampling them would change nothing: the interval" in text
    assert "is the exact one of 8 pairs of pictures" in text
    found = perfect.to_json()["image"]
    assert found["interval_95"] == {"auroc": (0.6306, 1.0), "ap": None, "f1_max": None} and "8 pairs" in found["note"]
    assert "note" not in category().to_json()["image"]
    assert "scores below every good" in replace(perfect, image=ImageMetrics(0.0, 0.4, 0.6, 1.0)).image_note


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
        write_report(Results(MODEL, {"plate": category(goods=1, defects=1)}, {}), Fake(), tmp_path / "file")


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
    result = category(goods=30, defects=40)
    inspector = Fake(result.cases)
    write_report(Results(MODEL, {"plate": result}, {}), inspector, tmp_path)
    assert len(inspector.asked) == 18


def test_maps_over_orders_of_magnitude_are_drawn_by_their_logarithm(tmp_path):
    text = words(page(tmp_path, category(), kind=FakeLogarithmic))
    assert "map score, logarithmic" in text and "region with a map score above 1.5" in text
    assert "logarithmic" not in words(page(tmp_path, category()))
