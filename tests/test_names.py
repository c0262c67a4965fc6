"""Names hold anything: bytes that are no text, line breaks, markup. Nothing is lost, and nothing forged."""

import json
import os
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFont

from conftest import write_dataset
from inlier import PaDiM, drawing, load
from inlier.cli.outputs import json_text, print_table
from inlier.names import file_name, shorten, shown, shown_message

LATIN = os.fsdecode(b"pr\xfcf")  # as an old Windows disk has it
TINY_PADIM = ("--method=padim", "--backbone=tiny", "--calibration=none")
FORGED = "000.png\ngood    p 1.0000  score 1            real"
NAMES = (f"{LATIN}.png", f"{FORGED}.png", "中 [red]x[b].png", "$x_$ :smile: \x1b[2J.png", "x" * 250 + ".png")


@pytest.fixture(scope="module")
def model(plates, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "plate.inlier"
    PaDiM("light", backbone="tiny", size=32).fit(plates).save(path)
    return path


@pytest.fixture
def pictures(plates, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in NAMES:
        (folder / name).write_bytes((plates / "plate/test/dent/000.png").read_bytes())
    return folder


@settings(max_examples=50)
@given(st.text(st.characters()))
def test_a_shown_name_is_one_printable_line(text):
    line = shown(text)
    assert len(line.splitlines()) <= 1 and "\x1b" not in line
    line.encode()
    assert all(sign.isprintable() or sign.isspace() for sign in line)


def test_plain_names_are_shown_as_they_are():
    for name in ("Prüfling 中 ½.png", "C:\\bilder\\a.png", "a\u202fb\u3000c"):
        assert shown(name) == name
    assert shown(LATIN) == "pr\\xfcf" and shown("a\n\tb\u202e") == "a\\n\\tb\\u202e"


def test_a_message_keeps_its_own_lines_and_no_others():
    assert shown_message("two:\n  a\nerror: x\n  b\tc") == "two:\n  a\\nerror: x\n  b\\tc"


@settings(max_examples=30)
@given(st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=300))
def test_a_shortened_name_fits_and_keeps_its_suffix(text):
    short = shorten(f"{text}.png")
    assert len(short.encode()) <= 255 and short.endswith(".png")
    assert (short == f"{text}.png") == (len(text.encode()) <= 251)


@pytest.mark.parametrize("text", ["1." + 199 * "漢", "x" * 300 + "." + "y" * 300, "." * 300])
def test_what_follows_a_dot_is_no_suffix_where_it_is_long(text):
    assert len(shorten(text).encode()) <= 255 and shorten(text) != shorten(text + "x")


def test_file_names_of_different_texts_differ():
    texts = ["a/b", "a_b", "a\\b", "../a", "..", "x" * 300, "x" * 301, "a\0b"]
    names = {file_name(f"preview-{text}.png") for text in texts}
    assert len(names) == len(texts) and not any("/" in name or "\0" in name for name in names)


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "ascii"])
def test_json_can_be_printed_and_read_again_in_every_encoding(encoding):
    for name in (*NAMES, "😀", "a\u2028b\x85c", "Prüfling"):
        line = json_text({"path": name}, encoding)
        assert len(line.splitlines()) == 1 and json.loads(line.encode(encoding).decode(encoding)) == {"path": name}
    assert "Prüfling" in json_text("Prüfling") and "Prüfling" in json_text("Prüfling", "cp1252")


def test_every_picture_has_one_line_and_all_its_files(inlier, model, pictures, tmp_path):
    outputs = ("--maps", tmp_path / "maps", "--overlays", tmp_path / "overlays")
    code, stdout, stderr = inlier("predict", model, pictures, *outputs)
    assert code == 0 and "error" not in stderr
    assert [line.split()[0] for line in stdout.splitlines()] == ["defect"] * len(NAMES)
    assert stdout.count("\x1b") == 0 and f"{LATIN}.png" not in stdout and "pr\\xfcf.png" in stdout
    for folder, suffix in (("maps", ".tiff"), ("overlays", ".png")):
        names = os.listdir(tmp_path / folder)
        assert len(names) == len(NAMES) and all(name.endswith(suffix) for name in names)

    code, stdout, _ = inlier("predict", model, pictures, "--jsonl", tmp_path / "lines.jsonl")
    read = [json.loads(line)["path"] for line in (tmp_path / "lines.jsonl").read_bytes().splitlines()]
    assert (
        code == 0
        and not stdout
        and sorted(map(os.fsencode, read)) == sorted(os.fsencode(pictures / name) for name in NAMES)
    )


def test_a_name_as_long_as_can_be_gets_its_map(inlier, model, plates, tmp_path):
    for name in ("x" * 251 + ".png", "x" * 251 + ".bmp", "ä" * 125 + "x.png"):
        with Image.open(plates / "plate/test/good/000.png") as picture:
            picture.save(tmp_path / name)
    inputs = sorted(tmp_path.iterdir())
    code, stdout, stderr = inlier("predict", model, *inputs, "--maps", tmp_path / "maps")
    assert (code, len(stdout.splitlines()), len(os.listdir(tmp_path / "maps"))) == (0, 3, 3), stderr


def test_one_overlay_that_cannot_be_written_costs_no_verdict(inlier, model, plates, tmp_path):
    (tmp_path / "overlays/001.png").mkdir(parents=True)
    code, stdout, stderr = inlier(
        "predict", model, plates / "plate/test/good", "--overlays", tmp_path / "overlays", "--jsonl", "-"
    )
    verdicts = [json.loads(line)["verdict"] for line in stdout.splitlines()]
    assert code == 1 and len(verdicts) == 6 and None not in verdicts
    assert f"error: {plates}/plate/test/good/001.png: judged, but its pictures were not all written" in stderr
    assert "overlays of 1 of 6 pictures could not be written" in stderr and len(os.listdir(tmp_path / "overlays")) == 6


@pytest.mark.parametrize("category", [LATIN, "a [red]\n$x$ :smile:"], ids=ascii)
def test_a_category_of_any_name_trains_evaluates_and_previews(inlier, tmp_path, category):
    data, out = (
        write_dataset(tmp_path / "data", 6, 2, 2, category) / category,
        tmp_path / "data" / category / "m.inlier",
    )
    tiny = ("--backbone", "tiny", "--set", "size=32")
    code, stdout, stderr = inlier("train", data, "--method", "padim", *tiny, "--out", out)
    assert (code, len(stdout.splitlines())) == (0, 2), stderr
    assert load(out).categories_ == (category,)
    code, stdout, stderr = inlier("evaluate", out, data, "--json", tmp_path / "r.json", "--report", tmp_path / "report")
    assert code == 0 and shown(category) in stdout, stderr
    assert list(json.loads((tmp_path / "r.json").read_bytes())["categories"]) == [category]
    page = (tmp_path / "report/index.html").read_text(encoding="utf-8")
    assert f"<h2>{shown(category)}</h2>" in page and f"scores of {shown(category)}" in page
    code, stdout, stderr = inlier("preview", data, "--size", 64, "--out", tmp_path / "sheet.png")
    assert (code, len(stdout.splitlines())) == (0, 1) and (tmp_path / "sheet.png").is_file(), stderr


def test_categories_of_a_table_are_no_markup(inlier, model, plates, tmp_path):
    rows = [f"{plates}/plate/test/{kind}/000.png,test,{kind},[/]" for kind in ("good", "dent")]
    (tmp_path / "parts.csv").write_text("\n".join(["path,split,label,category", *rows]))
    code, stdout, stderr = inlier("evaluate", model, tmp_path / "parts.csv", "--report", tmp_path)
    assert code == 0 and "[/]: verdicts at" in stdout and "[/]" in stdout.splitlines()[5], stderr


def test_previews_of_categories_that_are_no_file_names(inlier, plates, tmp_path):
    rows = [f'{plates}/plate/train/good/00{i}.png,"{name}"' for i, name in enumerate(("a/b", "a_b", "..", "c" * 300))]
    (tmp_path / "parts.csv").write_text("\n".join(["path,category", *rows]))
    code, stdout, stderr = inlier("preview", tmp_path / "parts.csv", "--size", 64, "--out", tmp_path / "new/sheet.png")
    assert (code, len(stdout.splitlines()), len(os.listdir(tmp_path / "new"))) == (0, 4, 4), stderr


def test_a_table_that_holds_what_no_path_can_is_an_error_of_a_person(inlier, tmp_path):
    (tmp_path / "parts.csv").write_text("path\na\0b.png\nc.png\n")
    code, _, stderr = inlier(
        "train", tmp_path / "parts.csv", "--method=padim", "--calibration=none", "--out", tmp_path / "m"
    )
    assert code == 2 and "a\\x00b.png" in stderr, stderr


def test_a_line_break_in_a_name_forges_no_message(inlier, model, tmp_path):
    (tmp_path / "a\nerror: b.png").write_text("no picture")
    code, stdout, stderr = inlier("predict", model, tmp_path / "a\nerror: b.png")
    assert code == 1 and len(stdout.splitlines()) == 1
    assert sum(line.startswith("error: ") for line in stderr.splitlines()) == 1
    code, _, stderr = inlier("predict", model, tmp_path / "c\nerror: d")
    assert len([line for line in stderr.splitlines() if line.startswith("error: ")]) == 1


def test_the_home_folder(inlier, model, plates, tmp_path, monkeypatch):
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USERPROFILE", str(home))
    monkeypatch.chdir(tmp_path)
    load(model).save("~/a/m.inlier")
    assert load("~/a/m.inlier").categories_ == ("plate",)
    picture = plates / "plate/test/good/000.png"
    assert inlier("predict", "~/a/m.inlier", picture, "--jsonl=~/lines", "--maps", "~/maps")[0] == 0
    tiny = ("--backbone=tiny", "--set=size=32")
    assert inlier("train", plates, "--method", "padim", *tiny, "--out=~/b.inlier")[0] == 0
    code, _, stderr = inlier("train", plates, "--method", "memseg", "--set", "textures=~/dtd", "--out=~/c.inlier")
    assert code == 2 and f"{home}/dtd: not found" in stderr
    PaDiM("light", backbone="tiny", size=32).fit(plates, run_folder="~/run")
    assert sorted(os.listdir(home)) == ["a", "b.inlier", "lines", "maps"] and os.listdir(tmp_path) == ["home"]


def test_a_model_file_tells_no_place_of_this_machine(plates, tmp_path, monkeypatch):
    from inlier import MemSeg

    monkeypatch.setattr(MemSeg, "learn", lambda *_: None)
    textures = tmp_path / "secret" / "dtd"
    textures.mkdir(parents=True)
    Image.effect_noise((64, 64), 80).save(textures / "noise.png")
    tiny = {"size": 32, "memory": 2, "decoder": 8, "steps": 1, "batch_size": 2, "backbone": "tiny"}
    weights = Path(__file__).parent / "tiny_backbone/tiny.safetensors"
    detector = MemSeg("light", weights=weights, textures=textures, **tiny).fit(plates, calibration="none")
    assert detector.settings_.textures == str(textures) and detector.header()["settings"]["textures"] == "dtd"
    detector.save(tmp_path / "m.inlier")
    written = (tmp_path / "m.inlier").read_bytes()
    assert not any(str(place).encode() in written for place in (tmp_path, plates, Path.home(), weights.parent))
    assert load(tmp_path / "m.inlier").header()["settings"]["textures"] == "dtd"


# -- tables -----------------------------------------------------------------------------------------------------------

HEADS = ("category", "good", "image AUROC", "95 %\ninterval", *(f"metric\n{n}" for n in range(8)))
ROWS = [(f"{name} [/] {'long ' * 8}end", "12", "100.0", "97.2-100.0", *["64.7"] * 8) for name in ("a", "b")]


@pytest.mark.parametrize("columns", [10, 40, 80, 120, 300])
def test_a_narrow_terminal_parts_the_table_and_cuts_nothing(capsys, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("LINES", "24")
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    print_table("title", HEADS, ROWS)
    printed = capsys.readouterr().out
    for row in ROWS:
        for cell in set(row):
            assert printed.count(cell) >= row.count(cell) * sum(cell in other for other in ROWS), cell
    assert "…" not in printed
    if columns >= 80:
        assert max(map(len, printed.splitlines())) <= columns


def test_a_pipe_gets_the_whole_table(capsys):
    print_table("title", HEADS, ROWS)
    printed = capsys.readouterr().out
    assert [sum(cell in line for line in printed.splitlines()) for cell in (ROWS[0][0], ROWS[1][0])] == [1, 1]
    print_table("title", ("setting", "value", "meaning"), [("a", "['blocks.3', 'blocks.4']", "word " * 60)], words=True)
    printed = capsys.readouterr().out
    assert "['blocks.3', 'blocks.4']" in printed and printed.count("word") == 60


# -- letters of pictures ----------------------------------------------------------------------------------------------


def test_letters_on_pictures_are_legible_or_escaped():
    assert drawing.legible("Prüfgröße Äa é ² – 中\n") == "Pruefgroesse Aea e 2 - \\u4e2d\\n"
    assert drawing.legible("u\u0308ber a.png") == "ueber a.png", "as macOS writes it"
    font = ImageFont.load_default(20)
    box = bytes(font.getmask("\uffff"))
    for text in (*NAMES, "Größe 中 Łódź Ω ½ …"):
        assert all(bytes(font.getmask(sign)) != box for sign in drawing.legible(text) if sign != " ")


def test_captions_of_panels_hold_no_boxes():
    picture = Image.new("RGB", (300, 100), "white")
    assert drawing.panels([picture], ["ö 中"]).tobytes() == drawing.panels([picture], ["oe \\u4e2d"]).tobytes()
