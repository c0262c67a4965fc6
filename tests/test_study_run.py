"""A study from its plan to its report: files, judgements of people and of models, page."""

import csv
import re
import shutil

import numpy as np
import pytest
from PIL import Image, ImageDraw

from conftest import part, write_dataset
from inlier import load
from inlier.data.datasets.sample import Sample
from inlier.errors import InlierError
from inlier.study import agreement, judgements, judging, page, parts
from inlier.study.judging import Surroundings


@pytest.fixture(scope="module")
def plated(tmp_path_factory):
    """A data set with enough to draw from."""
    return write_dataset(tmp_path_factory.mktemp("plated"), train=4, good=12, defects=12)


@pytest.fixture(scope="module")
def planned(plated, plate_model, tmp_path_factory):
    """The folder of a study of 12 parts, planned by the command."""
    from inlier.cli.study import plan

    folder = tmp_path_factory.mktemp("study") / "s"
    plan(str(plated), folder=folder, model=plate_model, good=4, defects=4, borderline=4, appraisers="A,B", trials=2)
    return folder


@pytest.fixture
def folder(planned, tmp_path):
    return shutil.copytree(planned, tmp_path / "s")


def read(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def fill(folder, name, said):
    """Fill in a sheet: said(part, trial) -> verdict."""
    rows = read(folder / f"sheet-{name}.csv")
    for row in rows:
        row["verdict"] = said(row["part"], int(row["trial"]))
    path = folder / f"filled-{name}.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


# -- plan -------------------------------------------------------------------------------------------------------------


def test_a_plan_says_how_many_defects_a_statement_needs(inlier, tmp_path):
    code, stdout, _ = inlier("study", "plan", "--study", tmp_path / "none")
    assert code == 0 and re.search(r"0 +│ +59 │ +58 │", stdout) and "at most 5 % escape, 95 % confidence" in stdout
    assert (
        "50 parts pin an effectiveness of 90 % down to between 78.2 and 96.7 %" in stdout
        and "50 parts, 3 appraisers, 3 trials" in stdout
    )
    assert not (tmp_path / "none").exists()
    assert re.search(r"0 +│ +299 │", inlier("study", "plan", "--escape", 0.01)[1])


def test_what_is_drawn_is_balanced_and_blind(planned):
    drawn = parts.read_parts(planned)
    assert len(drawn) == 12 and sum(p.is_defect for p in drawn) == 6
    assert sorted(p.drawn_as for p in drawn) == 4 * ["borderline"] + 4 * ["defect"] + 4 * ["good"]
    names = [path.name for path in sorted((planned / "pictures").iterdir())]
    assert names == [f"P{i:03}.png" for i in range(1, 13)]  # no name of a picture tells the truth
    for name in "AB":
        sheet = (planned / f"sheet-{name}.csv").read_text(encoding="utf-8")
        assert not re.search("good|defect|dent", sheet)
        page = (planned / f"sheet-{name}.html").read_text(encoding="utf-8")
        assert not re.search("good|defect|dent", re.search(r"const rows = (.*?\]\]),", page)[1])
        rows = read(planned / f"sheet-{name}.csv")
        for trial in "12":
            assert sorted(r["part"] for r in rows if r["trial"] == trial) == [p.name for p in drawn]
    orders = {
        (name, trial): tuple(r["part"] for r in read(planned / f"sheet-{name}.csv") if r["trial"] == trial)
        for name in "AB"
        for trial in "12"
    }
    assert len(set(orders.values())) == 4  # each trial in an order of its own


def test_a_defect_is_measured_by_its_mask(tmp_path):
    picture, mask = Image.new("L", (100, 80), 200), Image.new("1", (100, 80))
    for image, colour in ((picture, 150), (mask, 1)):
        ImageDraw.Draw(image).rectangle((40, 30, 49, 39), colour)
    picture.save(tmp_path / "p.png")
    mask.convert("L").point(lambda v: 255 * bool(v)).save(tmp_path / "m.png")
    size, contrast = parts.measured(Sample(tmp_path / "p.png", "x", "test", "dent", (tmp_path / "m.png",)))
    assert size == pytest.approx(np.sqrt(4 * 100 / np.pi)) and contrast == pytest.approx(50, abs=0.01)
    assert parts.measured(Sample(tmp_path / "p.png", "x", "test", "dent")) is None


def test_the_masks_of_drawn_defects_are_measured(planned):
    for p in parts.read_parts(planned):
        assert (p.size is not None) == p.is_defect
        if p.size is not None:  # a dark square of 10 pixels, 90 grey levels or more below what is around it
            assert p.size == pytest.approx(np.sqrt(4 * 100 / np.pi), rel=0.01) and p.contrast > 60


def test_pictures_of_one_part_are_drawn_together(plated, tmp_path):
    from inlier.cli.study import plan

    plan(str(plated), folder=tmp_path / "s", good=2, defects=2, borderline=0, group=r"test/(\w+/\d\d)\d", trials=3)
    drawn = parts.read_parts(tmp_path / "s")
    assert sorted(len(p.pictures) for p in drawn) == [2, 2, 10, 10]  # 010 and 011; 000 to 009
    rows = read(tmp_path / "s" / "sheet-A.csv")
    for p in drawn:  # another picture in each trial, as far as there are
        of_part = {r["trial"]: r["picture"] for r in rows if r["part"] == p.name}
        places = (1, 2, 3) if len(p.pictures) == 10 else (1, 2, 1)
        assert [of_part[trial] for trial in "123"] == [f"pictures/{p.name}-{place}.png" for place in places]


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("--borderline", 4), "borderline parts are known by their scores"),
        (("--borderline", 0, "--good", 99), "99 good parts are wanted, there are only 12 left"),
        (("--borderline", 0, "--group", r"test/\w+/(\d+)"), "pictures of its part are good and defect"),
        (("--borderline", 0, "--good", 0, "--defects", 0), "a study needs parts"),
        (("--borderline", 0, "--appraisers", " , "), "names with commas between them, each once"),
        (("--borderline", 0, "--appraisers", "A,B,A"), "names with commas between them, each once"),
    ],
)
def test_a_plan_that_cannot_be_says_why(inlier, plated, tmp_path, arguments, words):
    code, _, stderr = inlier("study", "plan", plated, "--study", tmp_path / "s", *arguments)
    assert code == 2 and words in stderr and not (tmp_path / "s").exists()


def test_a_sheet_does_not_replace_the_table_that_parts_are_drawn_from(inlier, plated, tmp_path):
    table = tmp_path / "sheet-A.csv"
    lines = [f"{path},test,{path.parent.name}" for path in sorted((plated / "plate/test").rglob("*.png"))]
    table.write_text("\n".join(["path,split,label", *lines]))
    before = table.read_text()
    code, _, stderr = inlier("study", "plan", table, "--study", tmp_path, "--borderline", 0)
    assert code == 2 and "sheet-A.csv: is an input of this command" in stderr and table.read_text() == before, stderr


def test_an_appraiser_of_any_name_is_in_the_report(inlier, plated, tmp_path):
    folder = tmp_path / "s"
    arguments = ("--good", 2, "--defects", 2, "--borderline", 0, "--trials", 1, "--appraisers", "J/S,../x")
    assert inlier("study", "plan", plated, "--study", folder, *arguments)[0] == 0
    sheets = sorted(folder.glob("sheet-*.csv"))
    assert [sheet.stem for sheet in sheets] == [page.stem for page in sorted(folder.glob("sheet-*.html"))]
    assert len(sheets) == 2
    for sheet in sheets:
        sheet.write_text(re.sub(r",$", ",good", sheet.read_text(), flags=re.MULTILINE))
    code, _, stderr = inlier("study", "run", *sheets, "--study", folder)
    assert code == 0, stderr
    code, stdout, _ = inlier("study", "report", "--study", folder)
    assert code == 0 and "J/S" in stdout and "../x" in stdout


def test_sources_of_one_appraiser_are_refused_before_one_replaces_the_other(inlier, planned, tmp_path):
    one = fill(planned, "A", lambda part, trial: "good")
    again = one.rename(tmp_path / "again.csv")
    code, _, stderr = inlier("study", "run", fill(planned, "A", lambda *of: "defect"), again, "--study", planned)
    assert code == 2 and "several sources are of A" in stderr


def test_pictures_that_cannot_be_used_are_told_before_anything_is_written(inlier, tmp_path):
    root = write_dataset(tmp_path / "d", train=4, good=3, defects=3)
    Image.new("L", (10, 10), 255).save(root / "plate/ground_truth/dent/000_mask.png")
    (root / "plate/test/good/001.png").write_bytes(b"nothing")
    arguments = ("--borderline", 0, "--good", 3, "--defects", 3, "--study", tmp_path / "s")
    code, _, stderr = inlier("study", "plan", root, *arguments)
    assert code == 2 and "unreadable image" in stderr and "mask of another size" in stderr
    assert not (tmp_path / "s").exists()


def test_a_study_is_not_written_over(inlier, plated, folder):
    code, _, stderr = inlier("study", "plan", plated, "--borderline", 0, "--study", folder)
    assert code == 2 and "holds a study already" in stderr


# -- run --------------------------------------------------------------------------------------------------------------


def test_people_and_a_model_are_reported_side_by_side(inlier, folder, plate_model):
    truth = {p.name: "defect" if p.is_defect else "good" for p in parts.read_parts(folder)}
    wrong = next(name for name, said in truth.items() if said == "defect")
    sheets = [
        fill(folder, "A", lambda part, trial: truth[part]),
        fill(folder, "B", lambda part, trial: "ok" if part == wrong and trial == 2 else truth[part]),
    ]
    code, stdout, _ = inlier("study", "run", *sheets, plate_model, "--planted", 12, "--alpha", 0.1, "--study", folder)
    assert code == 0 and "defects of known size found" in stdout
    assert sorted(path.name for path in (folder / "judgements").iterdir()) == ["A.csv", "B.csv", "plate.inlier.csv"]
    assert {r["simulated"] for r in read(folder / "judgements" / "A.csv")} == {""}
    said = {r["trial"]: r["simulated"] for r in read(folder / "judgements" / "plate.inlier.csv")}
    assert said["1"] == "" and said["2"].startswith("repeated pictures: light ±3 %")

    code, stdout, _ = inlier("study", "report", "--study", folder)
    assert code == 0 and "plate.inlier: simulated: repeated pictures" in stdout
    html = (folder / "index.html").read_text(encoding="utf-8")
    assert not re.search(r'(src|href)="(?!data:|#)', html) and "plate.inlier: simulated" in html
    figures = {(r["about"], r["figure"]): r for r in read(folder / "study.csv")}
    a, b = (figures[name, "effectiveness"] for name in "AB")
    assert (a["count"], a["of"], a["verdict"]) == ("12", "12", "acceptable") and (b["count"], b["of"]) == ("11", "12")
    assert figures["B", "miss rate"]["value"] == f"{1 / 12:.6g}" and figures["B", "miss rate"]["low"] == ""
    assert figures["B", "miss rate"]["verdict"] == "unacceptable"
    assert float(figures["A and B", "Cohen's kappa"]["value"]) == pytest.approx(
        agreement.cohen_kappa([[12, 0], [1, 11]]), abs=1e-6
    )
    good, unsure, defect = [[2, 0], [0, 0]], [[0, 0], [1, 1]], [[0, 0], [0, 2]]
    low, high = agreement.cohen_interval([*[good] * 6, unsure, *[defect] * 5])
    row = figures["A and B", "Cohen's kappa"]
    assert [row["low"], row["high"]] == [f"{low:.6g}", f"{high:.6g}"] and f">{low:.2f} to {high:.2f}<" in html
    alike = figures["A", "Cohen's kappa against the truth"]
    assert [alike[column] for column in ("value", "low", "high")] == ["1", "", ""]
    clear, borderline = (figures[f"B, {kind} parts", "miss rate"] for kind in ("clear", "borderline"))
    assert int(clear["of"]) == 8 and int(borderline["of"]) == 4  # decisions on defects
    assert int(clear["count"]) + int(borderline["count"]) == 1
    assert figures["plate.inlier, planted defects, by size", "found"]["of"] == "12"


def test_a_model_says_of_the_first_picture_what_it_says_of_the_file(folder, plate_model):
    drawn, model = parts.read_parts(folder), load(plate_model)
    said = judging.judge(model, "m", drawn, 2, Surroundings(), alpha=0.1)
    first = {j.part: j.is_defect for j in said if j.trial == 1}
    assert first == {p.name: model.inspect(p.pictures[0], alpha=0.1).verdict == "defect" for p in drawn}
    still = judging.judge(model, "m", drawn, 2, Surroundings(0, 0, 0), alpha=0.1)
    assert all(j.is_defect == first[j.part] for j in still)  # nothing changes, nothing is said otherwise


def test_pictures_of_every_trial_are_judged_where_there_are(folder, plate_model, tmp_path):
    rng, pictures = np.random.default_rng(7), []
    for i, defect in enumerate((False, True)):
        pictures.append(tmp_path / f"{i}.png")
        part(rng, defect)[0].save(pictures[-1])
    one = parts.Part("P001", tuple(pictures), True, "defect", "plate")
    said = judging.judge(load(plate_model), "m", [one], 3, Surroundings(0, 0, 0), alpha=0.1)
    assert [j.is_defect for j in said] == [False, True, False]  # the third is the first picture again
    assert [bool(j.simulated) for j in said] == [False, False, True]


def test_defects_are_planted_in_good_parts_that_are_no_false_alarms(folder, plate_model):
    drawn, model = parts.read_parts(folder), load(plate_model)
    good = [p.name for p in drawn if not p.is_defect]
    said = [judgements.Judgement("m", 1, p.name, p.is_defect or p.name == good[0]) for p in drawn]
    found = judging.detect(model, "m", drawn, said, planted=10, alpha=0.1)
    real, planted = [d for d in found if not d.kind], [d for d in found if d.kind]
    assert {d.part for d in real} == {p.name for p in drawn if p.is_defect} and all(d.found for d in real)
    assert {d.part for d in planted} == set(good[1:]) and len(planted) == 10
    assert all(d.size > 0 and d.contrast > 0 for d in planted)
    few = judging.detect(model, "m", drawn, said, planted=2, alpha=0.1)
    assert len([d for d in few if d.kind]) == 2
    judging.keep_detections(folder, "m", found)
    again = judging.kept_detections(folder)
    assert [(d.part, d.kind, d.found) for d in again] == [(d.part, d.kind, d.found) for d in found]


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda text: text.replace(",defect", ",", 1), "the verdict must be good or defect, not ''"),
        (lambda text: text.replace(",defect", ",1", 1), "the verdict must be good or defect, not '1'"),
        (lambda text: text.replace("P001", "P999", 1), "the study has no part 'P999'"),
        (lambda text: text + text.splitlines()[1] + "\n", "twice in trial"),
        (lambda text: text.replace("verdict", "judgement", 1), "no column verdict"),
        (lambda text: text.splitlines()[0] + "\n", "holds no judgements"),
        (lambda text: "\n", "A.csv: is empty"),
        (lambda text: text.replace(",", "\t"), "commas or semicolons part the cells"),
        (lambda text: text + "A,1\n", "fewer cells than columns"),
        (lambda text: "\0".join(text), "is no text in UTF-8 but seems to be UTF-16; save it as UTF-8"),
        (lambda text: text.replace(",defect", ",defect,?", 1), "more cells than columns"),
        (lambda text: text.replace(",1,", ",²,", 1), "the trial must be its number, from 1 on, not '²'"),
        (lambda text: text.replace(",1,", ",0,", 1), "the trial must be its number, from 1 on, not '0'"),
        (lambda text: text.replace("A,", ",", 1), "needs an appraiser's name"),
        (
            lambda text: text.replace(",1,", ",99,", 1),
            "line 2: there is no trial 99, as 2 trials were planned",
        ),
    ],
)
def test_a_sheet_that_is_wrong_says_where(inlier, folder, change, words):
    path = fill(folder, "A", lambda part, trial: "defect")
    path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8")
    code, _, stderr = inlier("study", "run", path, "--study", folder)
    assert code == 2 and words in stderr and not list((folder / "judgements").glob("*.csv"))


def test_a_sheet_of_another_study_or_of_other_pictures_is_refused(inlier, plated, folder, tmp_path):
    other = tmp_path / "other"
    arguments = ("--good", 6, "--defects", 6, "--borderline", 0, "--trials", 2, "--seed", 1, "--appraisers", "A")
    assert inlier("study", "plan", plated, "--study", other, *arguments)[0] == 0
    sheet = fill(other, "A", lambda part, trial: "good")
    code, _, stderr = inlier("study", "run", sheet, "--study", folder)
    assert code == 2 and "line 2: is of another study" in stderr and not list((folder / "judgements").glob("*"))
    assert inlier("study", "run", sheet, "--study", other)[0] == 0
    shutil.copy(other / "judgements/A.csv", tmp_path / "moved.csv")
    assert "is of another study" in inlier("study", "run", tmp_path / "moved.csv", "--study", folder)[2]
    shutil.copy(other / "pictures/P001.png", other / "pictures/P002.png")
    assert "pictures of this one were replaced since" in inlier("study", "report", "--study", other)[2]
    (other / "pictures/P002.png").unlink()
    assert "a picture of the study cannot be read" in inlier("study", "report", "--study", other)[2]


def test_a_table_of_ones_own_needs_no_key_of_the_study(folder, tmp_path):
    drawn = parts.read_parts(folder)
    rows = [f"A,1,{p.name},good" for p in drawn]
    (tmp_path / "own.csv").write_text("\n".join(["appraiser,trial,part,verdict", *rows]), encoding="utf-8")
    assert len(judgements.read_judgements(tmp_path / "own.csv", drawn)) == 12


def test_a_sheet_that_is_not_there_is_said_in_plain_words(inlier, folder):
    code, _, stderr = inlier("study", "run", folder / "no.csv", "--study", folder)
    assert code == 2 and stderr == f"error: {folder / 'no.csv'}: no such file\n"


def test_a_trial_that_was_mistyped_in_the_sheet_itself_does_not_become_the_plan(inlier, folder):
    sheet = folder / "sheet-A.csv"
    filled = re.sub(r",$", ",good", sheet.read_text(encoding="utf-8"), flags=re.MULTILINE)
    sheet.write_text(filled.replace("A,1,", "A,99,", 1), encoding="utf-8")
    code, _, stderr = inlier("study", "run", sheet, "--study", folder)
    assert code == 2 and f"{sheet}, line 2: there is no trial 99, as 2 trials were planned" in stderr


def test_an_incomplete_sheet_is_refused_at_once(inlier, folder):
    path = fill(folder, "A", lambda part, trial: "defect")
    path.write_text("".join(path.read_text(encoding="utf-8").splitlines(keepends=True)[:-1]), encoding="utf-8")
    code, _, stderr = inlier("study", "run", path, "--study", folder)
    assert code == 2 and "A did not judge P0" in stderr and not list((folder / "judgements").glob("*"))


def test_files_of_a_study_that_were_edited_say_where_they_are_wrong(inlier, folder, plate_model):
    """Each is read by a command that is not given it."""

    def told(name, change, *command):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        before = path.read_text(encoding="utf-8") if path.exists() else ""
        path.write_text(change(before), encoding="utf-8")
        code, _, stderr = inlier("study", *command, "--study", folder)
        path.write_text(before, encoding="utf-8")
        assert code == 2 and f"{path}" in stderr, stderr
        return stderr

    run = ("run", plate_model)
    said = told("sheet-A.csv", lambda t: t.replace("A,1,", "A,,", 1), *run)
    assert "line 2: the trial must be its number" in said
    assert "'inf' is no number" in told("parts.csv", lambda t: re.sub(r"[\d.]+\n", "inf\n", t, count=1), *run)
    assert inlier("study", *run, "--planted", 0, "--alpha", 0.1, "--study", folder)[0] == 0
    head = "model,part,kind,size,contrast,found\n"
    said = told("detection/m.csv", lambda _: f"{head}m,P001,,5,nan,yes\n", "report")
    assert "line 2: size and contrast must be numbers above 0" in said
    (folder / "detection/m.csv").unlink()
    assert "is no table that `inlier stress` wrote" in told("stress.csv", lambda _: "size,false alarms\n1\n", "report")


def test_a_sheet_may_come_from_a_spreadsheet_that_writes_semicolons(folder):
    path = fill(folder, "A", lambda part, trial: "NOK")
    text = path.read_text(encoding="utf-8").replace(",", ";")
    path.write_text(text.replace("\n", "\r\n"), encoding="utf-8-sig", newline="")
    drawn = parts.read_parts(folder)
    assert len(judgements.read_judgements(path, drawn)) == 24


def test_a_person_judges_in_the_browser(folder, tmp_path):
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if not chromium:
        pytest.skip("needs Debian's chromium")
    play = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    with play.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        window = browser.new_context().new_page()
        window.goto((folder / "sheet-A.html").as_uri())
        rows, said = read(folder / "sheet-A.csv"), []
        for i, row in enumerate(rows):
            assert window.get_attribute("#picture", "src") == row["picture"]
            assert window.evaluate("document.getElementById('picture').decode().then(() => true)")
            if i == 3:  # a slip of the finger, taken back, and a window that was closed
                window.keyboard.press("d")
                window.keyboard.press("Backspace")
                window.reload()
            said.append("good" if i % 3 else "defect")
            if i % 2:
                window.keyboard.press(said[-1][0])
            else:
                window.click(f"#{said[-1]}")
        with window.expect_download() as download:
            window.click("#save")
        download.value.save_as(tmp_path / "filled.csv")
        assert download.value.suggested_filename == "sheet-A.csv"
        browser.close()
    found = judgements.read_judgements(tmp_path / "filled.csv", parts.read_parts(folder))
    assert [(str(j.trial), j.part) for j in found] == [(row["trial"], row["part"]) for row in rows]
    assert [j.is_defect for j in found] == [word == "defect" for word in said]


# -- report -----------------------------------------------------------------------------------------------------------


def test_every_appraiser_must_judge_every_part_in_every_trial(folder):
    drawn = parts.read_parts(folder)
    said = [judgements.Judgement(name, trial, p.name, True) for name in "AB" for trial in (1, 2) for p in drawn]
    assert judgements.arranged(said, drawn).ratings.shape == (2, 12, 2)
    with pytest.raises(InlierError, match="B did not judge P012 in trial 2"):
        judgements.arranged(said[:-1], drawn)


def test_a_folder_without_study_or_judgements_says_what_to_do(inlier, folder, tmp_path):
    code, _, stderr = inlier("study", "report", "--study", tmp_path)
    assert code == 2 and "holds no study" in stderr
    code, _, stderr = inlier("study", "report", "--study", folder)
    assert code == 2 and "nobody judged yet" in stderr


def test_parts_that_disagree_are_shown_the_worst_first(folder):
    truth = np.array([False, True, False])
    ratings = np.array([[[0, 0], [1, 0], [1, 1]], [[0, 0], [1, 1], [1, 0]]], bool)
    table = judgements.Table(["A", "B"], ratings, {})
    assert page.disagreeing(table, truth) == [2, 1]


def test_names_on_the_page_are_escaped(folder):
    drawn = parts.read_parts(folder)
    said = [judgements.Judgement("<b>x", 1, p.name, p.is_defect) for p in drawn]
    page.write(drawn, judgements.arranged(said, drawn), [], None, folder)
    html = (folder / "index.html").read_text(encoding="utf-8")
    assert "<b>x" not in html and "&lt;b&gt;x" in html and "None: all judgements of all parts are right." in html


def test_what_a_study_cannot_tell_is_left_blank(folder):
    """Good parts alone, judged once by one appraiser."""
    drawn = [p for p in parts.read_parts(folder) if not p.is_defect]
    said = [judgements.Judgement("A", 1, p.name, False) for p in drawn]
    page.write(drawn, judgements.arranged(said, drawn), [], None, folder)
    figures = {(r["about"], r["figure"]): r for r in read(folder / "study.csv")}
    assert figures["A", "miss rate"]["value"] == "" and figures["A", "miss rate"]["verdict"] == ""
    assert figures["A", "false-alarm rate"]["verdict"] == "acceptable"
    assert figures["A", "Fleiss' kappa of the trials"]["value"] == ""
    assert figures["A", "Fleiss' kappa of the trials"]["high"] == ""
    assert ("A", "missed at most, 95 %, Bayes") not in figures
