"""The commands end to end: what is printed, written, and returned as exit code."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import part
from inlier import artifact, drift, load, methods
from inlier.cli import extras
from inlier.data.cues import CUES
from inlier.runtime.load import READS

TINY = ("--set", "size=64", "--backbone", "tiny")
TRAIN_SIMPLENET = (
    *("--method", "simplenet", *TINY),
    *(word for s in ("taps=8", "hidden=32", "steps=32", "patches=256") for word in ("--set", s)),
)


@pytest.fixture(scope="module")
def model(plates, tmp_path_factory):
    from inlier import PaDiM

    path = tmp_path_factory.mktemp("model") / "plate.inlier"
    PaDiM("light", size=64, backbone="tiny").fit(plates).save(path)
    return path


def test_train_evaluate_predict(inlier, plates, tmp_path):
    out = tmp_path / "Prüf ling" / "m.inlier"
    code, stdout, stderr = inlier("train", plates, "--method", "padim", "--set", "size=64", "--out", out)
    assert code == 0 and out.is_file() and "fitted in" in stdout
    assert "MVTec-AD layout, 1 category" in stderr and "memory:" in stderr and "calibration: folds, 16" in stderr
    assert (stdout + stderr).count("raise a false alarm on average") == 1
    assert "hint: at size=64 a few features span the whole picture" in stderr
    assert os.listdir(out.parent) == ["m.inlier"]  # no run folder, no temporary file is left
    assert "in place of" not in stdout
    _, stdout, _ = inlier("train", plates, "--method", "padim", "--set", "size=64", "--out", out)
    assert re.search(r"fitted in \d+ s, in place of the one that was there", stdout)

    code, stdout, _ = inlier("evaluate", out, plates, "--json", tmp_path / "r.json", "--report", tmp_path / "rep")
    assert code == 0 and "image AUROC" in stdout and (tmp_path / "rep" / "index.html").is_file()

    assert "trivial baselines, AUROC in %: as a detector / as a leak" in stdout and " *" in stdout
    assert "warning: plate: good test pictures and defects differ in brightness (AUROC" in stdout

    code, stdout, stderr = inlier(
        "predict", out, plates / "plate/test", "--maps", tmp_path / "maps", "--overlays", tmp_path / "over"
    )
    assert code == 0 and len(stdout.splitlines()) == 12 and "the outline of a strong defect may enclose" in stderr
    with Image.open(tmp_path / "maps/dent/000.tiff") as picture:
        map_ = np.asarray(picture)
    assert map_.shape == (64, 64) and map_.dtype == np.float32
    with Image.open(tmp_path / "over/good/000.png") as picture:
        assert picture.size == (64, 64)


def test_calibrate_says_what_changes(inlier, model, plates, tmp_path):
    out = tmp_path / "m.inlier"
    code, stdout, _ = inlier("calibrate", model, plates / "plate/test/good", "--out", out)
    lines = stdout.splitlines()
    assert code == 0 and [line.split(":")[0] for line in lines] == ["before", "now", "before", "now", str(out)]
    assert "folds, 16 calibration pictures" in lines[0] and "split, 6 calibration pictures" in lines[1]
    assert "at alpha 0.05882 a defect above score" in lines[2] and "at alpha 0.1429 a defect above score" in lines[3]
    assert "14.3 % raise a false alarm on average" in lines[3] and "95 % confidence at most 39.3 %" in lines[3]


def test_calibrate_warns_where_the_new_promise_is_weaker_than_wanted(inlier, model, plates, tmp_path):
    folder, out = tmp_path / "one", tmp_path / "m.inlier"
    folder.mkdir()
    for copies, words in ((1, "1 calibration picture promises"), (9, "9 calibration pictures in 1 group promise")):
        for k in range(copies):
            shutil.copy(plates / "plate/test/good/000.png", folder / f"{k}.png")
        code, _, stderr = inlier("calibrate", model, folder, "--out", out)
        assert code == 0 and f"warning: plate: {words} no false-alarm rate below 0.5, so alpha is 0.5" in stderr


def test_a_pattern_that_finds_one_group_alone_is_warned_of_and_an_empty_one_refused(inlier, model, plates, tmp_path):
    good, out = plates / "plate/test/good", tmp_path / "m.inlier"
    code, _, stderr = inlier("calibrate", model, good, "--group", "", "--out", out)
    assert code == 2 and "nothing follows --group" in stderr and not out.exists()
    code, _, stderr = inlier("calibrate", model, good, "--group", "plate", "--out", out)
    assert code == 0 and "group 'plate' finds the same in all 6 names: they count as one part" in stderr
    assert "finds the same" not in inlier("calibrate", model, good, "--group", "[0-9]+.png", "--out", out)[2]


def test_a_file_is_calibrated_as_what_it_is(inlier, model, plates, tmp_path):
    """Calibrated by ONNX Runtime, MODEL became an ONNX file under its old name."""
    before = model.read_bytes()
    for arguments, words in (
        (("--runtime", "onnx"), "is calibrated by its own runtime, torch; leave --runtime out"),
        (("--runtime", "auto"), "is calibrated by its own runtime, torch; leave --runtime out"),
        (("--out", tmp_path / "m.onnx"), "give a name that ends as that does"),
    ):
        code, _, stderr = inlier("calibrate", model, plates / "plate/test/good", *arguments)
        assert code == 2 and words in stderr and model.read_bytes() == before
    assert not list(tmp_path.iterdir())


def test_a_profile_names_the_file_that_is_no_picture(inlier, model, tmp_path):
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("text")
    for name in ("empty.png", "text.png"):
        code, _, stderr = inlier("profile", model, tmp_path / name, "--runtime", "torch")
        assert code == 2 and f"error: {tmp_path / name}: " in stderr


def test_the_json_has_the_fixed_layout(inlier, model, plates, tmp_path):
    assert inlier("evaluate", model, plates, "--json", tmp_path / "r.json", "--alpha", "0.1")[0] == 0
    results = json.loads((tmp_path / "r.json").read_text())
    assert (
        results["schema"] == 1
        and results["model"]["method"] == "padim"
        and set(results["seconds"]) == {"total", "per_image"}
    )
    plate = results["categories"]["plate"]
    assert (plate["n_good"], plate["n_defect"]) == (6, 6)
    assert {"auroc", "ap", "f1_max"} <= set(plate["image"]) and {"auroc", "ap", "f1_max", "aupro"} <= set(
        plate["pixel"]
    )
    assert (
        set(plate["at_alpha"])
        == {
            "alpha",
            "confidence",
            "average",
            "confident",
            "false_alarm_rate",
            "false_alarm_interval_95",
            "detection_rate",
            "detection_interval_95",
        }
        and plate["at_alpha"]["alpha"] == 0.1
    )
    assert set(plate["trivial"]) == set(CUES) and set(plate["trivial"]["contrast"]) == {"detector", "leak"}
    assert set(plate["defects"]["dent"]) == {"n", "image_auroc", "detection_rate", "detection_interval_95"}
    assert set(results["mean"]) == {"image", "pixel", "at_alpha"}


def test_one_class_gives_null_and_a_sentence(inlier, model, plates, tmp_path):
    good = tmp_path / "plate"
    (good / "test").mkdir(parents=True)
    (good / "test" / "good").symlink_to(plates / "plate/test/good")
    code, stdout, _ = inlier("evaluate", model, good, "--json", tmp_path / "r.json")
    plate = json.loads((tmp_path / "r.json").read_text())["categories"]["plate"]
    assert code == 0 and plate["image"]["auroc"] is None and plate["pixel"] is None
    assert "no defect picture among the test pictures" in stdout


def test_predict_goes_on_after_a_bad_file_and_names_it(inlier, model, plates, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_text("text")
    gone = tmp_path / "gone.png"
    gone.symlink_to("nowhere.png")
    code, stdout, stderr = inlier("predict", model, bad, plates / "plate/test/good/000.png", gone, "--jsonl", "-")
    lines = [json.loads(line) for line in stdout.splitlines()]
    assert code == 1 and "2 of 3 pictures could not be read" in stderr and str(bad) in stderr
    assert set(lines[0]) == {"path", "error"} and lines[0]["path"] == str(bad)
    assert set(lines[1]) == {"path", "score", "p_value", "verdict"} and lines[1]["verdict"] in ("good", "defect")
    assert stderr.splitlines()[-1] == f"3 pictures: 1 {lines[1]['verdict']}, 2 unreadable"


def test_predict_ends_with_what_was_judged_where_it_was_more_than_one(inlier, model, plates):
    test = plates / "plate/test"
    code, stdout, stderr = inlier("predict", model, test)
    said = [line.split()[0] for line in stdout.splitlines()]
    counts = [f"{said.count(verdict)} {verdict}" for verdict in ("good", "defect") if verdict in said]
    assert code == 0 and len(said) == 12 and stderr.splitlines()[-1] == f"12 pictures: {', '.join(counts)}"
    _, quiet, stderr = inlier("--quiet", "predict", model, test)
    assert quiet == stdout and "pictures: " not in stderr
    assert "pictures:" not in inlier("predict", model, test / "good/000.png")[2]


def test_names_where_nothing_lies_are_wrong_use_before_a_model_is_read(inlier, plates, tmp_path):
    code, stdout, stderr = inlier("predict", tmp_path / "m.inlier", plates, tmp_path / "nope", plates / "no.png")
    assert (code, stdout) == (2, "")
    assert stderr == f"error: {tmp_path / 'nope'}, {plates / 'no.png'}: no such file or folder\n"
    code, _, stderr = inlier("profile", tmp_path / "m.inlier", tmp_path / "nope")
    assert code == 2 and stderr == f"error: {tmp_path / 'nope'}: no such file or folder\n"


def test_what_is_no_model_is_named_with_the_order_of_the_arguments(inlier, model, plates, tmp_path):
    picture = plates / "plate/test/good/000.png"
    shutil.copy(picture, tmp_path / "copy.inlier")  # by its content
    (tmp_path / "broken.png").write_bytes(b"")  # by its name
    first = "a command takes the model first: MODEL PICTURES"
    for path in (picture, tmp_path / "copy.inlier", tmp_path / "broken.png"):
        code, _, stderr = inlier("predict", path, model)
        assert code == 2 and stderr == f"error: {path}: is a picture, not a model file; {first}\n"
    code, _, stderr = inlier("predict", plates, model)
    assert code == 2 and stderr == f"error: {plates}: is a folder, not a model file; {first}\n"
    (tmp_path / "cut.inlier").write_bytes(model.read_bytes()[:2000])
    code, _, stderr = inlier("predict", tmp_path / "cut.inlier", picture)
    assert code == 2 and "is not a whole inlier model" in stderr and "copy it again, or train it anew" in stderr


@pytest.fixture(scope="module")
def anywhere(plates, tmp_path_factory):
    """A model that other processes can read, which do not know the tiny backbone."""
    from inlier import PaDiM

    path = tmp_path_factory.mktemp("anywhere") / "plate.inlier"
    PaDiM("light", size=64).fit(plates).save(path)
    return path


HIDING = """
import sys
sys.modules.update(dict.fromkeys(sys.argv.pop(1).split(",")))
from inlier.__main__ import main
main()
"""


def without(hidden, folder, *arguments):
    """A command in a process of its own that does not find some packages: (exit code, stderr)."""
    command = [sys.executable, "-c", HIDING, hidden, *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("hidden", "command", "extra"),
    [
        ("sqlalchemy", "serve {model}", "serve"),
        ("sqlalchemy", "records list", "serve"),
        ("sqlalchemy", "records report r.html", "serve"),
        ("pyarrow", "fleet rejudge {model} a.parquet --station s", "fleet"),
        ("matplotlib,jinja2", "fleet report r.html", "report"),
        ("matplotlib,jinja2", "study report", "report"),
        ("matplotlib,jinja2", "evaluate {model} {data} --report r", "report"),
        ("matplotlib,jinja2", "stress {model} {data}", "report"),
        ("matplotlib,jinja2", "profile {model} --chart p.svg", "report"),
        ("onnxscript", "export {model} --out m.onnx", "export"),
        ("timm", "train {data} --method padim --backbone timm:resnet18", "timm"),
        ("diffusers", "train {data} --method diad", "diad"),
        ("starlette", "serve {model}", "serve"),
        ("markupsafe", "serve {model}", "serve"),
        ("mako", "records list", "serve"),  # that alembic asks for
        ("markupsafe", "stress {model} {data}", "report"),
    ],
)
def test_a_package_of_an_extra_that_is_not_there_is_a_line_that_names_the_extra(
    anywhere, plates, tmp_path, hidden, command, extra
):
    if "fleet" in command:
        pytest.importorskip("pydantic")  # else that is what is missing first
    code, stderr = without(hidden, tmp_path, *command.format(model=anywhere, data=plates).split())
    assert code == 2 and stderr.splitlines()[-1].startswith("error: "), stderr
    assert f"pip install 'inlier[{extra}]'" in stderr and "Traceback" not in stderr
    assert not os.listdir(tmp_path)


def test_any_other_package_that_is_not_there_is_a_fault_of_ours(model, plates, tmp_path):
    code, stderr = without("scipy.ndimage", tmp_path, "predict", model, plates)
    assert code == 1 and "Traceback" in stderr and "pip install" not in stderr
    code, stderr = without("safetensors", tmp_path, "predict", model, plates)
    assert code == 1 and "Traceback" in stderr and "pip install" not in stderr
    assert extras.words_of(ModuleNotFoundError(name="starlette.gone")) is None, "it is there, in another version"
    assert extras.words_of(ModuleNotFoundError(name="nowhere")) is None
    code, stderr = without("sqlalchemy", tmp_path, "--debug", "records", "list")
    assert code == 1 and "Traceback" in stderr


def test_every_package_that_is_asked_for_is_known_by_its_module():
    """Modules that have another name than their package are in a list, which must not be forgotten."""
    import ast

    source = Path(extras.__file__).parent.parent
    asked = {
        (node.module if isinstance(node, ast.ImportFrom) else node.names[0].name) or ""
        for file in source.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, (ast.Import, ast.ImportFrom))
    }
    base = ["PIL", "huggingface_hub", "numpy", "psutil", "rich", "safetensors", "scipy", "simplejpeg", "torch", "typer"]
    others = {name.split(".")[0] for name in asked} - {"inlier", "", *base} - sys.stdlib_module_names
    assert len(others) > 20
    told = {name: extras.words_of(ModuleNotFoundError(name=name)) for name in others}
    assert not [name for name, words in told.items() if words is None]
    assert "opencv-python-headless" in told["cv2"] and "inlier[camera]" in told["cv2"]
    assert "inlier[onnx]" in told["onnxruntime"]
    assert extras.words_of(ModuleNotFoundError(name="skimage.data")).endswith("'inlier[textures]'")


def test_predict_says_when_it_is_given_the_pictures_that_the_model_was_fitted_on(inlier, model, plates, tmp_path):
    good, words = plates / "plate/train/good", "are ones that"
    assert f"16 of these 16 pictures {words}" in inlier("predict", model, good)[2]
    shutil.copytree(good, tmp_path / "copies")
    first, *others = sorted((tmp_path / "copies").iterdir())
    code, stdout, stderr = inlier("predict", model, *others, first)
    assert code == 0 and len(stdout.splitlines()) == 16 and words in stderr
    assert f"15 of these 15 pictures {words}" in inlier("predict", model, *others)[2]
    stderr = inlier("predict", model, others[0], plates / "plate/test/good")[2]
    assert f"warning: 1 of these {1 + len(os.listdir(plates / 'plate/test/good'))} pictures {words}" in stderr
    assert words not in inlier("predict", model, plates / "plate/test/good")[2]


@pytest.mark.parametrize("option", [(), ("--extend",)])
def test_no_model_is_calibrated_on_pictures_that_it_was_fitted_on(inlier, model, plates, tmp_path, option):
    (tmp_path / "some").mkdir()
    for number, path in enumerate(
        [*(plates / "plate/test/good").iterdir(), *(plates / "plate/train/good").iterdir()][:9]
    ):
        shutil.copy(path, tmp_path / "some" / f"{number}.png")
    n = 9 - len(os.listdir(plates / "plate/test/good"))
    code, _, stderr = inlier("calibrate", model, tmp_path / "some", "--out", tmp_path / "new.inlier", *option)
    assert code == 2 and f"error: {n} of these 9 pictures are ones that the model was fitted on" in stderr
    assert not (tmp_path / "new.inlier").exists()


def test_an_evaluation_on_pictures_of_the_fit_says_so(inlier, model, plates, tmp_path):
    shutil.copytree(plates / "plate/test", tmp_path / "set/test")
    assert "the figures are too good" not in inlier("evaluate", model, tmp_path / "set")[2]
    shutil.copy(next((plates / "plate/train/good").iterdir()), tmp_path / "set/test/good/more.png")
    assert "warning: 1 of these" in (stderr := inlier("evaluate", model, tmp_path / "set")[2])
    assert "the figures are too good" in stderr


def test_a_model_of_before_knows_its_pictures_all_together(model, plates, tmp_path):
    inspector = load(model)
    assert len(inspector.marks_) == 16
    inspector.marks_ = inspector.marks_[:0]
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (plates / "plate/train/good").iterdir()]
    assert inspector.n_known(digests) == 16 and inspector.n_known(digests[1:]) == inspector.n_known([""]) == 0


@pytest.mark.parametrize("command", [(), ("study",), ("fleet",), ("records",)])
def test_a_command_without_anything_shows_its_help_as_a_person_reads_it(inlier, command):
    code, stdout, stderr = inlier(*command)
    assert code == 2 and stderr.startswith("Usage: ") and "\n\nOptions:" in stderr and "error:" not in stderr
    assert not stdout


def test_what_the_system_stops_says_so():
    code = """
import os
from inlier.cli.main import app, main
app.command("die")(lambda: os.kill(os.getpid(), 15))
main()
"""
    done = subprocess.run([sys.executable, "-c", code, "die"], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGTERM and done.stderr == "stopped\n"


@pytest.mark.parametrize("name", ["part.onnx", "part.XML"])
def test_no_model_gets_the_name_of_an_exported_one(inlier, plates, tmp_path, name):
    assert set(artifact.EXPORTED) == set(READS)
    for command in (("train", plates, "--method", "padim"), ("auto", plates)):
        code, _, stderr = inlier(*command, "--out", tmp_path / name)
        assert code == 2 and "is what exported models are called; choose a name that ends in .inlier" in stderr


def test_two_pictures_of_one_name_do_not_overwrite_each_other(inlier, model, plates, tmp_path):
    a, b = (plates / "plate/test" / kind / "000.png" for kind in ("good", "dent"))
    assert inlier("predict", model, a, b, "--maps", tmp_path)[0] == 0
    assert sorted(os.listdir(tmp_path)) == ["000.png.tiff", "000.tiff"]


def test_what_is_read_is_never_overwritten(inlier, model, plates, tmp_path):
    picture = tmp_path / "000.png"
    picture.write_bytes((plates / "plate/test/good/000.png").read_bytes())
    before = picture.read_bytes(), model.read_bytes()
    for arguments in (
        ("predict", model, picture, "--overlays", tmp_path),
        ("predict", model, picture, "--jsonl", model),
        ("evaluate", model, plates, "--json", model),
    ):
        code, _, stderr = inlier(*arguments)
        assert code == 2 and "overwritten" in stderr
    assert (picture.read_bytes(), model.read_bytes()) == before


def test_hard_links_are_one_place(inlier, model, plates, tmp_path):
    part, linked = tmp_path / "part.inlier", tmp_path / "linked"
    shutil.copy(model, part)
    good = shutil.copytree(plates / "plate/test/good", tmp_path / "good")
    for number in range(2):
        linked.mkdir(exist_ok=True)
        (linked / f"{number}.json").hardlink_to(part)
    (linked / "000.png").hardlink_to(good / "000.png")
    (tmp_path / "0.txt").touch()
    (tmp_path / "1.txt").hardlink_to(tmp_path / "0.txt")
    before = sorted((path, path.read_bytes()) for path in tmp_path.rglob("*.*"))
    for arguments, words in (
        (("evaluate", part, plates, "--json", linked / "1.json"), "1.json: is an input of this command"),
        (("predict", part, good, "--overlays", linked), "000.png: is an input of this command"),
        (
            ("predict", model, good, "--jsonl", tmp_path / "0.txt", "--monitor", tmp_path / "1.txt"),
            "1.txt: two outputs|0.txt: two outputs",
        ),
    ):
        code, _, stderr = inlier(*arguments)
        assert code == 2 and re.search(words, stderr), stderr
    assert sorted((path, path.read_bytes()) for path in tmp_path.rglob("*.*")) == before
    code, _, stderr = inlier("evaluate", part, plates, "--json", tmp_path / "0.txt")
    assert code == 0, stderr


def test_no_output_takes_the_place_of_a_picture_or_lies_among_them(inlier, model, plates, tmp_path):
    good, textures, table = tmp_path / "good", tmp_path / "textures", tmp_path / "parts.csv"
    roi = tmp_path / "roi.png"
    Image.new("L", (64, 64), 255).save(roi)
    shutil.copytree(plates / "plate/train/good", good)
    shutil.copytree(plates / "plate/test/good", textures)
    table.write_text("path\ngood/000.png\ngood/001.png\ngood/002.png\n")
    before = sorted((path, path.read_bytes()) for path in tmp_path.rglob("*.*"))
    memseg = ("--method", "memseg", "--textures", textures)
    for arguments, out, words in (
        (("train", good, "--method", "padim"), good / "001.png", "overwritten"),
        (("train", table, "--method", "padim"), good / "001.png", "overwritten"),
        (("train", plates, *memseg), textures / "000.png", "lies in"),
        (("train", good, *memseg), good / "m.inlier", "look.png: lies in"),
        (("preview", good), good / "preview.png", "lies in"),
        (("preview", good, "--textures", textures), textures / "000.png", "lies in"),
        (("preview", table), good / "001.png", "overwritten"),
        (("train", good, "--method", "padim", "--roi", roi), roi, "overwritten"),
        (("preview", good, "--roi", roi), roi, "overwritten"),
    ):
        code, _, stderr = inlier(*arguments, "--out", out)
        assert code == 2 and words in stderr, stderr
    for arguments, words in (
        (("evaluate", model, plates, "--json", plates / "plate/test/good/000.png"), "overwritten"),
        (("predict", model, good, "--overlays", good / "overlays"), "lies in"),
        (("predict", model, good, "--overlays", model), f"{model} is a file that is read, not a folder"),
    ):
        code, _, stderr = inlier(*arguments)
        assert code == 2 and words in stderr
    assert sorted((path, path.read_bytes()) for path in tmp_path.rglob("*.*")) == before


EXTRAS = {
    "fleet": ("pydantic", "pyarrow", "sqlalchemy"),
    **dict.fromkeys(("records", "serve"), ("pydantic", "sqlalchemy")),
}


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("predict {model} {test} --monitor m.json --jsonl m.json", "m.json: two outputs"),
        ("predict {model} {test} --monitor m.png --monitor-chart m.png", "m.png: two outputs"),
        ("predict {model} {test} --maps m --jsonl m", "m: cannot be a file and the folder of another output"),
        ("predict {model} {test} --overlays m --reconstructions m", "two outputs"),
        ("predict {model} {test} --overlays m --reconstructions again", "two outputs"),
        ("predict {model} {test} --maps m --jsonl m/000.tiff", "m/000.tiff: two outputs"),
        ("predict {model} {test} --monitor -", "-: only results can go to stdout"),
        ("tune padim {data} --out t.x --report t.x", "t.x: two outputs"),
        ("tune padim {data} --out t.x --json t.x", "t.x: two outputs"),
        ("tune padim {data} --roi roi.png --out roi.png", "roi.png: is an input"),
        ("auto {data} --out t.html --report t.html", "t.html: two outputs"),
        ("auto {data} --report again/t.html --json m/t.html", "m/t.html: two outputs"),
        ("auto {data} --report why", "why: the page is HTML"),
        ("evaluate {model} {data} --json r/index.html --report r", "r/index.html: two outputs"),
        ("evaluate {model} {data} --json r --report r", "r: cannot be a file and the folder of another output"),
        ("check {data} --json r/index.html --report r", "r/index.html: two outputs"),
        ("export {model} --check {data} --out model.xml", "model.bin: is a folder"),
        ("train {data} --method padim --out -", "-: only results can go to stdout"),
        ("fleet report plan.toml", "plan.toml: the page is HTML"),
        ("fleet rejudge {model} records.sqlite --station press", "records.sqlite: a table of Parquet is written"),
        ("fleet rejudge {model} r.parquet --station press --db r.parquet", "r.parquet: is an input"),
    ],
)
def test_every_output_has_a_place_of_its_own(inlier, model, plates, tmp_path, monkeypatch, command, words):
    for needed in EXTRAS.get(command.split()[0], ()):
        pytest.importorskip(needed, reason="needs the extras serve and fleet")
    monkeypatch.chdir(tmp_path)
    Image.new("L", (64, 64), 255).save("roi.png")
    Path("m").mkdir()
    Path("model.bin").mkdir()
    Path("again").symlink_to("m")
    if "--reconstructions" in command:
        monkeypatch.setattr("inlier.inspection.inspector.Inspector.repaints", True)
    before = sorted(tmp_path.rglob("*"))
    test = plates / "plate/test/good"
    code, stdout, stderr = inlier(*command.format(model=model, data=plates, test=test).split())
    assert code == 2 and words in stderr and stderr.count("\n") <= 4 and not stdout, stderr
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "command",
    [
        "train {data} --method padim --out {loop}",
        "train {data} --method padim --out m.inlier --roi {loop}",
        "auto {data} --out {loop}",
        "tune padim {data} --report {loop}/t.html",
        "check {data} --json {loop}",
        "check {data} --report {loop}",
        "evaluate {model} {data} --json {loop}",
        "evaluate {model} {data} --report {loop}",
        "predict {model} {test} --jsonl {loop}",
        "predict {model} {test} --maps {loop}",
        "predict {model} {test} --monitor {loop}",
        "predict {model} {test} --maps m --monitor {loop}/m",
        "calibrate {model} {data} --out {loop}",
        "export {model} --out {loop}/m.onnx",
        "profile {model} --chart {loop}/c.svg",
        "benchmark {data} --methods padim --out {loop}",
        "stress {model} {data} --out {loop}",
        "preview {data} --out {loop}/p.png",
        "study plan {data} --study {loop}",
        "fleet report {loop}/p.html",
        "records list --db {loop}",
        "serve {model} --db {loop}",
        "serve {model} --data {loop}",
    ],
)
def test_links_in_a_circle_are_one_sentence(inlier, model, plates, tmp_path, monkeypatch, command):
    for needed in EXTRAS.get(command.split()[0], ()):
        pytest.importorskip(needed, reason="needs the extras serve and fleet")
    monkeypatch.chdir(tmp_path)
    Path("loop").symlink_to("loop")
    test = plates / "plate/test/good"
    code, _, stderr = inlier(*command.format(model=model, data=plates, test=test, loop="loop").split())
    assert code == 2 and "loop" in stderr.splitlines()[-1], stderr
    assert os.listdir(tmp_path) == ["loop"]


def test_a_picture_behind_links_in_a_circle_is_named_and_the_others_are_judged(inlier, model, plates, tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    test = plates / "plate/test/good"
    code, stdout, stderr = inlier("predict", model, tmp_path / "loop/x.png", test, "--maps", tmp_path / "maps")
    assert code == 1 and "loop/x.png" in stderr and len(stdout.splitlines()) == 7, stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("calibrate", "{model}", ""), "nothing follows {model}"),
        (("calibrate", "{model}", "{data}", "--out", ""), "nothing follows --out"),
        (("benchmark", "{data}", "--out="), "nothing follows --out="),
        (("train", "{data}", "--method", "padim", "--roi", "plate="), "--roi plate=: names no file"),
    ],
)
def test_nothing_is_no_path(inlier, model, plates, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    code, _, stderr = inlier(*(text.format(model=model, data=plates) for text in arguments))
    assert code == 2 and words.format(model=model) in stderr.splitlines()[-1], stderr
    assert not os.listdir(tmp_path)


def test_places_that_cannot_be_written_are_known_before_the_work(inlier, model, plates, tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "file").touch()
    (tmp_path / "m.inlier.run").touch()
    for arguments, words in (
        (("train", plates, "--method", "padim", "--out", tmp_path / "pipe.png"), "is a device or a pipe"),
        (("train", plates, "--method", "padim", "--out", tmp_path / "file/m.inlier"), "is a file and not a folder"),
        (("train", plates, "--method", "padim", "--out", tmp_path / "m.inlier"), "m.inlier.run: is a file"),
        (("preview", plates, "--out", tmp_path / "pipe.png"), "is a device or a pipe"),
        (("preview", plates, "--out", tmp_path / "sheet.gif"), "its name ends in one of"),
        (("evaluate", model, plates, "--json", tmp_path / "pipe.png"), "is a device or a pipe"),
        (("predict", model, plates / "plate/test", "--maps", tmp_path / "file"), "is a file and not a folder"),
        (("predict", model, plates / "plate/test", "--jsonl", tmp_path / "file/l.jsonl"), "is a file and not a folder"),
    ):
        code, stdout, stderr = inlier(*arguments)
        assert code == 2 and words in stderr and not stdout and "backbone:" not in stderr, stderr


def test_a_disk_that_refuses_is_exit_code_1_and_keeps_the_run(inlier, plates, tmp_path, monkeypatch):
    from inlier import training

    monkeypatch.setattr(training, "CHECKPOINT_EVERY", 0.0)
    out = tmp_path / "m.inlier"
    original = os.replace

    def full(source, target):
        if str(target) == str(out):
            raise OSError(28, "No space left on device")
        original(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        code, _, stderr = inlier("train", plates, *TRAIN_SIMPLENET, "--out", out)
    assert code == 1 and "No space left on device" in stderr and not out.exists()
    assert inlier("train", plates, *TRAIN_SIMPLENET, "--out", out, "--resume")[0] == 0
    assert os.listdir(tmp_path) == ["m.inlier"]


def test_a_model_does_not_say_where_its_weights_lay(model):
    from inlier import artifact

    assert artifact.read_header(model)["weights"]["source"] == "tiny.safetensors"


def test_folds_are_counted(inlier, plates, tmp_path):
    (tmp_path / "good").mkdir()
    for i in range(4):
        shutil.copy(plates / f"plate/train/good/00{i}.png", tmp_path / "good")
    options = ("--calibration", "folds", "--out", tmp_path / "m.inlier")
    code, _, stderr = inlier("train", tmp_path / "good", *TRAIN_SIMPLENET, *options)
    assert code == 0 and "fold 4 of 4" in stderr, stderr


def test_methods_lists_methods_and_settings(inlier):
    assert "padim" in inlier("methods")[1] and "simplenet" in inlier("methods")[1]
    assert "epsilon" in inlier("methods", "padim")[1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ("train", "{plates}"),
            "--method is missing: padim to start; `inlier methods` lists them, `inlier auto` chooses",
        ),
        (("train", "{plates}", "--method", "padin"), "Did you mean 'padim'"),
        (("train", "{plates}", "--method", "padim", "--preset", "heavy"), "no preset 'heavy'"),
        (("train", "{plates}", "--method", "padim", "--set", "sgma=1"), "Did you mean 'sigma'"),
        (("train", "{plates}", "--method", "padim", "--set", "sigma=x"), "is not a number"),
        (("train", "{plates}", "--method", "padim", "--set", "sigma=-1"), "out of range"),
        (("train", "{plates}", "--method", "padim", "--category", "plato"), "Did you mean 'plate'"),
        (("train", "{plates}", "--method", "padim", "--calibration", "some"), "unknown calibration 'some'"),
        (("train", "{plates}", "--method", "padim", "--backbone", "resnet19"), "unknown backbone"),
        (
            ("train", "{plates}", "--method", "padim", "--backbone", "resnet18"),
            "no weights for the backbone 'resnet18'",
        ),
        (("train", "{plates}", "--method", "padim", "--device", "tpu9"), "cannot be used here"),
        (("train", "{plates}/nowhere", "--method", "padim"), "no such file or folder"),
        (("train", "{plates}", "--method", "padim", "--out", "."), "is a folder"),
        (("evaluate", "{plates}/nothing.inlier", "{plates}"), "no such model file"),
        (
            ("predict", "{model}", "{plates}/plate/test/good", "--alpha", "0.0001"),
            "can promise no false-alarm rate below",
        ),
        (("predict", "{model}", "x.png", "--alpha", "7"), "'--alpha': 7 is not a number between 0 and 1"),
        (
            ("predict", "{model}", "x.png", "--alpha", "0,05"),
            "0,05 is not a number between 0 and 1",
        ),
        (("evaluate", "{model}", "{plates}", "--alpha", "5%"), "5 % is written 0.05, with a point"),
        (("evaluate", "{model}", "{plates}", "--confidence", "95"), "95 % is written 0.95, with a point"),
        (("polish",), "No such command"),
    ],
)
def test_wrong_use_is_one_clear_line_and_exit_code_2(inlier, plates, model, monkeypatch, arguments, words, tmp_path):
    monkeypatch.chdir(tmp_path)
    code, _, stderr = inlier(*(a.format(plates=plates, model=model) for a in arguments))
    errors = [line for line in stderr.splitlines() if line.startswith("error: ")]
    assert code == 2 and len(errors) == 1 and words in stderr and "Traceback" not in stderr


def test_bad_files_are_listed_together_before_training(inlier, tmp_path):
    from conftest import write_dataset

    root = write_dataset(tmp_path)
    (root / "plate/train/good/000.png").write_text("text")
    (root / "plate/train/good/001.png").write_bytes(b"")
    Image.new("L", (10, 10)).save(root / "plate/ground_truth/dent/000_mask.png")
    (root / "plate/ground_truth/dent/001_mask.png").unlink()
    code, _, stderr = inlier("train", root, "--method", "padim", *TINY, "--out", tmp_path / "m.inlier")
    assert code == 2 and "fitting padim" not in stderr
    for name in ("train/good/000.png", "train/good/001.png", "dent/000", "dent/001"):
        assert name in stderr


def test_debug_shows_the_traceback(plates):
    run = subprocess.run(
        [sys.executable, "-m", "inlier", "--debug", "train", plates, "--method", "no"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 1 and "Traceback" in run.stderr


def start(arguments, before=""):
    code = f"{before}import tiny_backbone; from inlier.cli import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )


def test_a_stop_while_the_command_is_still_loaded_is_a_stop():
    """As where Ctrl-C comes in the middle of an import."""
    code = """
import sys
class Stop:
    def find_spec(self, name, *of):
        if name == "inlier.cli.train":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Stop())
from inlier.__main__ import main
main()
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (130, "stopped\n")


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_run_resumes_and_ends_bit_equal_to_an_unbroken_one(inlier, how, plates, tmp_path):
    command = ("train", plates, *TRAIN_SIMPLENET)
    out = tmp_path / "stopped.inlier"
    # it rests after every step, which makes a checkpoint, so that it cannot end before it is stopped
    rest = "w = t.artifact.write; t.artifact.write = lambda *a: (w(*a), time.sleep(0.2)); "
    before = f"import time; import inlier.training as t; t.CHECKPOINT_EVERY = 0.0; {rest}"
    process = start([*command, "--out", out], before=before)
    checkpoint = tmp_path / "stopped.inlier.run" / "checkpoint.safetensors"
    deadline = time.monotonic() + 60
    while not checkpoint.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(how)
    code = process.wait(30)
    process.stderr.close()
    assert not out.exists() and checkpoint.exists(), "it was stopped in the middle"
    assert code == (130 if how == signal.SIGINT else -signal.SIGKILL)

    code, _, stderr = inlier(*command, "--out", out, "--resume")
    assert code == 0 and "resumed at step" in stderr
    assert inlier(*command, "--out", tmp_path / "unbroken.inlier")[0] == 0
    assert out.read_bytes() == (tmp_path / "unbroken.inlier").read_bytes()
    assert not checkpoint.parent.exists()


def test_resuming_another_run_is_refused(inlier, plates, tmp_path):
    from inlier import artifact

    run = tmp_path / "m.inlier.run"
    artifact.write(run / "checkpoint.safetensors", {}, {"step": 1, "identity": {"method": "simplenet", "seed": 7}})
    code, _, stderr = inlier("train", plates, *TRAIN_SIMPLENET, "--out", tmp_path / "m.inlier", "--resume")
    assert code == 2 and "belongs to a run with other" in stderr and "seed" in stderr
    assert "weights from" not in stderr, "it was known before the pictures were read"


@pytest.mark.parametrize(
    "command",
    [
        "evaluate none.inlier {plates} --report {new}/report --json {new}/numbers.json",
        "calibrate none.inlier {plates} --out {new}/new.inlier",
        "predict none.inlier {plates} --overlays {new}/looks --jsonl {new}/verdicts.jsonl",
        "export none.inlier --out {new}/part.onnx",
        "stress none.inlier {plates} --out {new}/card",
        "study plan {plates} --model none.inlier --study {new}/study",
    ],
)
def test_a_missing_model_makes_nothing(inlier, plates, tmp_path, command):
    code, _, stderr = inlier(*command.format(plates=plates, new=tmp_path / "new").split())
    assert code == 2 and "no such model file" in stderr
    assert not (tmp_path / "new").exists()


def imported_by(*arguments):
    """The heavy packages that a Python process with these arguments has loaded: what makes it slow, on any machine."""
    heavy = ("PIL", "diffusers", "jinja2", "matplotlib", "numpy", "safetensors", "scipy", "simplejpeg", "torch")
    done = subprocess.run([sys.executable, "-X", "importtime", *arguments], capture_output=True, text=True, check=True)
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "inlier" in loaded
    return loaded & set(heavy)


def test_import_and_help_load_nothing_heavy():
    assert not imported_by("-c", "import inlier")
    assert not imported_by("-c", "import inlier.cli")
    assert not imported_by("-m", "inlier", "--help")


def test_numbers_on_stdout_are_json_and_nothing_else(inlier, model, plates):
    code, stdout, _ = inlier("evaluate", model, plates, "--json", "-")
    assert code == 0 and json.loads(stdout)["schema"] == 1


def test_wrong_options_are_known_before_a_picture_is_read(inlier, tmp_path):
    from conftest import write_dataset

    root = write_dataset(tmp_path)
    (root / "plate/train/good/000.png").write_text("not a picture")
    for wrong, words in (
        (("--set", "taps=3,16,32"), "no tap point 3"),
        (("--weights", tmp_path / "none.pth"), "no such weight file"),
        (("--device", "meta"), "cannot be used here"),
        (("--calibration", "much"), "unknown calibration"),
    ):
        code, _, stderr = inlier("train", root, "--method", "padim", *wrong, "--out", tmp_path / "m.inlier")
        assert code == 2 and words in stderr, stderr
    for wrong, words in (
        (("--textures", tmp_path / "none"), "none: not found; --textures"),
        (("--set", "tiles=0"), "setting 'tiles'"),
        (("--set", "foreground=left"), "setting 'foreground'"),
    ):
        code, _, stderr = inlier("train", root, "--method", "memseg", *wrong, "--out", tmp_path / "m.inlier")
        assert code == 2 and words in stderr, stderr


@pytest.mark.parametrize("command", [("train", "--tile=64"), ("preview", "--set=tile=64")])
def test_tiles_of_a_preset_that_crops_are_refused_before_any_file_is_looked_for(inlier, tmp_path, command):
    call = (*command, "--preset", "paper", tmp_path / "no data", "--out", tmp_path / "out.png")
    for method in ("memseg", "padim", "simplenet") if command[0] == "train" else ("memseg",):
        code, _, stderr = inlier(*call, "--method", method)
        assert code == 2 and stderr.startswith("error: tile and shorter_side: a tile is never cropped"), stderr


def test_preview_draws_the_steps_of_simulated_defects(inlier, plates, tmp_path):
    code, stdout, _ = inlier("preview", plates, "--out", tmp_path / "sheet.png", "--foreground", "whole")
    assert code == 0 and "Simulated defects lie anywhere in the picture" in stdout
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 1000 and len(sheet.convert("P").getcolors()) > 20


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--textures", "{empty}"), "holds no pictures"),
        (("--textures", "{empty}", "--set", "textures={bad}"), "leave one out"),
        (("--preset", "heavy"), "no preset 'heavy'"),
        (("--set", "tiles=0,4"), "setting 'tiles'"),
        (("--textures", "{bad}"), "1 of 1 textures cannot be read"),
        (("--foreground", "left"), "got 'left'"),
        (("--category", "none"), "none"),
    ],
)
def test_what_a_preview_cannot_use(inlier, plates, tmp_path, options, words):
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/a.png").write_text("no picture")
    options = (option.format(empty=tmp_path / "empty", bad=tmp_path / "bad") for option in options)
    code, _, stderr = inlier("preview", plates, *options, "--out", tmp_path / "sheet.png")
    assert code == 2 and words in stderr and not (tmp_path / "sheet.png").exists()


def test_the_preview_shows_what_would_be_trained(inlier, plates, tmp_path, monkeypatch):
    from inlier.methods import memseg

    used, of = [], []

    def sheet(images, simulator, names, inspected):
        used.append((images[0].shape[0], simulator.grid, simulator.match_grey))
        of.append(names)
        return Image.new("RGB", (8, 8))

    monkeypatch.setattr(memseg, "preview_sheet", sheet)
    out = tmp_path / "sheet.jpg"
    assert inlier("preview", plates, "--out", out)[0] == 0
    options = ("--preset", "paper-code", "--set", "size=64", "--set", "foreground=brighter:255")
    code, _, stderr = inlier("preview", plates, *options, "--out", out)
    assert code == 0 and "none found on 16 of 16 images" in stderr
    assert used == [(256, (4, 8), True), (64, (8, 8), False)]
    assert inlier("preview", plates, "--out", out, "--size", 32, "--set", "tile=32", "--set", "overlap=0")[0] == 0
    assert of == [["000.png", "001.png", "002.png", "003.png"]] * 2 + [["000.png"] * 4]  # four tiles of a picture
    with Image.open(out) as picture:
        assert picture.format == "JPEG"


def test_a_preview_names_all_broken_pictures_and_writes_nothing(inlier, tmp_path):
    from conftest import write_dataset

    for category in ("a", "b", "c"):
        write_dataset(tmp_path / "parts", 4, 0, 1, category)
    for name in ("b/train/good/000.png", "c/train/good/001.png"):
        (tmp_path / "parts" / name).write_text("no picture")
    code, _, stderr = inlier("preview", tmp_path / "parts", "--out", tmp_path / "p.png")
    assert code == 2 and "2 pictures cannot be used" in stderr and "b/train/good/000" in stderr and "001.png" in stderr
    assert os.listdir(tmp_path) == ["parts"]


def test_preview_of_the_views_that_differnet_learns_from(inlier, plates, tmp_path):
    out = tmp_path / "views.png"
    for pool, shown in ((0, 6), (3, 3)):
        options = ("--set", "rotation=10", "--set", f"view_pool={pool}", "--set", "views=2")
        code, stdout, _ = inlier("preview", plates, "--method", "differnet", *options, "--size", 64, "--out", out)
        assert code == 0 and "rotation=10" in stdout
        with Image.open(out) as sheet:
            assert sheet.size == ((1 + shown) * 70, 4 * 70)
    for wrong, words in (
        (("--method", "padim"), "nothing to preview for 'padim'"),
        (("--set", "rotation=10"), "unknown setting 'rotation'"),
        (("--method", "differnet", "--foreground", "whole"), "--foreground: differnet has no such setting"),
        (("--method", "differnet", "--set", "rotation=300"), "setting 'rotation'"),
    ):
        code, _, stderr = inlier("preview", plates, *wrong, "--out", tmp_path / "none.png")
        assert code == 2 and words in stderr and not (tmp_path / "none.png").exists()


def test_maps_are_made_only_where_they_are_written(inlier, model, plates, tmp_path):
    picture = plates / "plate/test/good/000.png"
    assert inlier("predict", model, picture)[1] == inlier("predict", model, picture, "--no-maps")[1]
    code, _, stderr = inlier("predict", model, picture, "--no-maps", "--maps", tmp_path / "maps")
    assert code == 2 and "--no-maps leaves nothing to write" in stderr


def test_textures_and_logs_reach_the_training(inlier, plates, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    textures = tmp_path / "textures"
    textures.mkdir()
    Image.effect_noise((64, 64), 80).save(textures / "noise.png")
    out = tmp_path / "m.inlier"
    settings = ("size=64", "memory=4", "decoder=8", "steps=4", "look_every=2")
    options = [part for setting in settings for part in ("--set", setting)]
    code, _, stderr = inlier(
        "train", plates, "--method", "memseg", *options, "--textures", textures, "--log", "tensorboard", "--out", out
    )
    assert code == 0 and f"1 pictures in {textures}" in stderr, stderr
    events = EventAccumulator(str(out) + ".run/log").Reload()
    assert [e.step for e in events.Scalars("loss")] == [1, 2, 3, 4]
    assert len(events.Scalars("learning rate")) == 4 and len(events.Scalars("simulated defects")) == 2
    assert (tmp_path / "m.inlier.run/look-000004.png").is_file()


def test_options_that_a_method_does_not_have(inlier, plates, tmp_path):
    for options, words in (
        (("--textures", tmp_path), "--textures: padim has no such setting"),
        (("--log", "wandb"), "unknown log 'wandb'"),
        (("--log", "tensorboard"), "padim is fitted at once"),
    ):
        code, _, stderr = inlier("train", plates, "--method", "padim", *options, "--out", tmp_path / "m.inlier")
        assert code == 2 and words in stderr


# -- a stream that is watched -----------------------------------------------------------------------------------------


def new_parts(folder, seed, brighter=1.0, n=20):
    folder.mkdir()
    rng = np.random.default_rng(seed)
    for i in range(n):
        picture = np.asarray(part(rng)[0]) * brighter
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(folder / f"{i}.png")
    return folder


def test_monitor_carries_a_stream_from_run_to_run_and_says_when_parts_change(inlier, model, tmp_path):
    state, chart = tmp_path / "line 1" / "state.json", tmp_path / "chart.png"
    code, stdout, stderr = inlier("predict", model, new_parts(tmp_path / "good", 1), "--monitor", state)
    assert code == 0 and len(stdout.splitlines()) == 20 and "alarm:" not in stderr
    assert "a new stream, compared with the 16 scores" in stderr and "20 pictures watched, no alarm" in stderr
    changed = new_parts(tmp_path / "changed", 2, brighter=1.2, n=40)
    code, _, stderr = inlier("--quiet", "predict", model, changed, "--monitor", state, "--monitor-chart", chart)
    assert code == 0 and stderr.count("alarm: the parts no longer look like the calibration") >= 1
    assert "of this stream the brightness of the pictures rises" in stderr
    for stored in json.loads(state.read_bytes())["monitors"]:
        alarm = stored["alarm"]
        assert stored["pictures"] == 60 and (stored["what"] != "brightness" or alarm["direction"] == "rise")
        assert alarm is None or 10 < alarm["began"] <= 21
    with Image.open(chart) as drawn:
        assert drawn.size == (900, 420)
    code, _, stderr = inlier("predict", model, new_parts(tmp_path / "more", 3), "--monitor", state)
    assert code == 0 and "alarm:" not in stderr and "80 pictures watched, alarm at picture" in stderr  # said once


def test_monitor_keeps_what_was_judged_when_stopped_and_nothing_where_nothing_was(
    inlier, model, plates, tmp_path, monkeypatch
):
    state, good = tmp_path / "state.json", plates / "plate/test/good"
    assert inlier("predict", model, good, "--monitor", state, "--alpha", "7")[0] == 2
    assert not state.exists()
    judge, seen = drift.Stream.update, []

    def stopped(self, values, digest):
        if len(seen) == 3:
            raise KeyboardInterrupt
        seen.append(values)
        return judge(self, values, digest)

    def counted():
        return [monitor["pictures"] for monitor in json.loads(state.read_bytes())["monitors"]]

    monkeypatch.setattr(drift.Stream, "update", stopped)
    assert inlier("predict", model, good, "--monitor", state)[0] == 130
    assert counted() == 4 * [3]
    monkeypatch.setattr(drift.Stream, "update", judge)
    _, stdout, stderr = inlier("predict", model, good, "--monitor", state)  # the same command again goes on
    assert len(stdout.splitlines()) == 6 and counted() == 4 * [6]
    assert "of 6 pictures 3 are byte-equal to some that counted before, and do not count again" in stderr


def test_monitor_goes_on_where_a_picture_was_moved_after_its_verdict(inlier, model, tmp_path, monkeypatch):
    folder, state = new_parts(tmp_path / "good", 1, n=4), tmp_path / "state.json"

    def moved(path):
        if Path(path).name == "1.png":
            Path(path).unlink()
        return Path(path).name

    monkeypatch.setattr("inlier.cli.predict.digest", moved)
    code, stdout, stderr = inlier("predict", model, folder, "--monitor", state)
    assert code == 0 and len(stdout.splitlines()) == 4
    assert "does not count, as it cannot be looked at again" in stderr and "1.png" in stderr
    assert [monitor["pictures"] for monitor in json.loads(state.read_bytes())["monitors"]] == 4 * [3]


def test_monitor_refuses_another_models_state_and_what_another_run_changed(
    inlier, model, plates, tmp_path, monkeypatch
):
    state, good, picture = tmp_path / "state.json", plates / "plate/test/good", plates / "plate/test/good/000.png"
    inlier("predict", model, good, "--monitor", state)
    before, other = state.read_bytes(), tmp_path / "other.inlier"
    assert inlier("train", plates / "plate/test/good", "--method", "padim", *TINY, "--out", other)[0] == 0
    for arguments, words in (
        ((other, good, "--monitor", state), "watches the stream of another model"),
        ((model, good, "--monitor", other), "cannot be used to go on"),
        ((model, good, "--monitor", picture), "overwritten"),
        ((model, good, "--monitor-chart", tmp_path / "c.png"), "give that, too"),
        ((model, good, "--monitor", state, "--monitor-chart", tmp_path / "c.svg"), "ends in .png"),
    ):
        code, stdout, stderr = inlier("predict", *arguments)
        assert code == 2 and words in stderr and not stdout, stderr
    assert state.read_bytes() == before
    judge = drift.Stream.update

    def meanwhile(self, values, digest):
        state.write_bytes(before + b" ")
        return judge(self, values, digest)

    monkeypatch.setattr(drift.Stream, "update", meanwhile)
    code, stdout, stderr = inlier("predict", model, plates / "plate/test/dent", "--monitor", state)
    assert code == 2 and len(stdout.splitlines()) == 6 and "another run changed it meanwhile" in stderr
    assert state.read_bytes() == before + b" "


def test_monitor_refuses_a_damaged_state_in_one_sentence_and_leaves_it_as_it_is(inlier, model, plates, tmp_path):
    state, good = tmp_path / "state.json", plates / "plate/test/good"
    inlier("predict", model, good, "--monitor", state)
    true = json.loads(state.read_bytes())
    strict = {**true, "monitors": [monitor | {"level": 1e-12} for monitor in true["monitors"]]}
    three_lost = {**true, "monitors": true["monitors"][:1]}
    for damaged, words in (
        (json.dumps(strict), "its scores or bets are not those of its model"),
        (json.dumps(three_lost), "its scores or bets are not those of its model"),
        (json.dumps({**true, "monitors": []}), "it has no monitors"),
        (state.read_text() + "{}", "it is no whole JSON"),
        ("[" * 100_000, "it is no whole JSON"),
    ):
        state.write_text(damaged)
        code, stdout, stderr = inlier("predict", model, good, "--monitor", state)
        assert code == 2 and stderr.count("\n") == 1 and not stdout, stderr
        assert f"error: {state}: cannot be used to go on: " in stderr and words in stderr and "start afresh" in stderr
        assert state.read_text() == damaged


def test_monitor_needs_a_calibration_and_one_kind_of_part(inlier, plates, tmp_path):
    bare, state = tmp_path / "bare.inlier", tmp_path / "state.json"
    inlier("train", plates, "--method", "padim", *TINY, "--calibration", "none", "--out", bare)
    code, _, stderr = inlier("predict", bare, plates / "plate/test/good", "--monitor", state)
    assert code == 2 and "compared with a calibration" in stderr
    shutil.copytree(plates / "plate", tmp_path / "data/bolt")
    shutil.copytree(plates / "plate", tmp_path / "data/nut")
    inlier("train", tmp_path / "data", "--method", "padim", *TINY, "--out", tmp_path / "two.inlier")
    code, _, stderr = inlier("predict", tmp_path / "two.inlier", plates / "plate/test/good", "--monitor", state)
    assert code == 2 and "judges bolt, nut" in stderr and not state.exists()


def test_the_help_of_preview_names_the_methods_that_it_draws(inlier):
    able = [name for name in methods.names() if methods.get(name).previews]
    for arguments in (("--help",), ("preview", "--help")):
        _, stdout, _ = inlier(*arguments)
        words = " ".join(stdout.split())
        assert f"Draw what a method ({', '.join(able)}) makes" in words
    assert all(f"{name} (" in words for name in able)
