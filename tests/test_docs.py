"""What the documentation shows works: snippets and commands run on drawn parts, with tiny networks in place of `light`.

Commands that take long, wait for ever, or need a server or an exported model are only parsed; other tests run them.
"""

import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import part, write_dataset
from inlier import methods
from inlier.cli.main import app
from test_contract import SHORT, TINY

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
PARSED = re.compile(
    r"inlier (auto|tune|benchmark|demo|export|profile|serve|records|fleet|study|stress)|onnx|diad|--reconstructions"
)


def blocks(page, language):
    found = re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [text for kind, text in found if (kind or "bash") == language]


def commands_of(page, in_text=True):
    """In blocks, and in the text where files are named."""
    lines = [line for block in blocks(page, "bash") for line in block.replace("\\\n", " ").splitlines()]
    if in_text:
        lines += re.findall(r"`(inlier [^`]*\bparts?[./][^`]*)`", page.read_text(encoding="utf-8"))
    return [line.partition(" #")[0].strip() for line in lines if line.startswith("inlier ")]


COMMANDS = list(dict.fromkeys(command for page in PAGES for command in commands_of(page)))
RUN = [command for command in COMMANDS if not PARSED.search(command)]
SNIPPETS = [page for page in PAGES if blocks(page, "python")]


@pytest.fixture
def light(monkeypatch):
    """The presets `light` are tiny."""
    for name in methods.names():
        kind = methods.get(name)
        known = kind.presets["light"]
        small = {"backbone": "tiny", **TINY[name], **SHORT.get(name, {})}
        monkeypatch.setitem(kind.presets, "light", known.replace(**small))


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    """A folder with all that the pages name: parts/good, parts/new, dataset, roi.png, part.inlier, ..."""
    from inlier import PaDiM

    root, rng = tmp_path_factory.mktemp("docs"), np.random.default_rng(0)
    for folder, count in (("parts/good", 32), ("parts/new", 3), ("parts/more-good", 24), ("dtd/bricks", 3)):
        (root / folder).mkdir(parents=True)
        for i in range(count):
            part(rng, defect=folder == "parts/new")[0].save(root / folder / f"{i:03}.png")
    shutil.copy(root / "parts/new/000.png", root / "parts/new/17.png")
    write_dataset(root / "dataset", train=16)
    for category in ("screw", "bottle", "left", "right"):
        write_dataset(root / "ROOT", train=8, good=1, defects=1, category=category)
    Image.new("L", (64, 64), 255).save(root / "roi.png")
    (polygons,) = blocks(ROOT / "docs/region.md", "json")
    for side in ("left", "right"):
        (root / f"{side}.json").write_text(polygons)
    PaDiM(size=64, backbone="tiny").fit(root / "parts/good").save(root / "part.inlier")
    return root


@pytest.fixture
def here(everything, tmp_path, monkeypatch, light):
    """A copy of that folder; the test runs in it."""
    shutil.copytree(everything, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_options_and_settings_that_exist(command):
    import typer

    _, *words = shlex.split(command)
    known, name = typer.main.get_command(app), ""
    while hasattr(known, "commands"):
        name = words.pop(0)
        known = known.commands[name]
    context = known.make_context(name, words)
    chosen = context.params.get("set_") or context.params.get("settings") or ()
    if chosen and isinstance(method := context.params.get("method"), str):
        preset = methods.get(method).presets[context.params.get("preset") or "light"]
        preset.replace(**preset.parse(list(chosen)))


@pytest.mark.parametrize("command", RUN)
def test_commands_run(command, inlier, here):
    code, _, stderr = inlier(*shlex.split(command)[1:])
    assert code == 0, stderr


@pytest.mark.parametrize("page", SNIPPETS, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_python_runs(page, here):
    for text in blocks(page, "python"):
        exec(compile(text, str(page), "exec"), {})


def test_the_first_steps_lead_from_an_empty_folder_to_a_verdict(inlier, tmp_path, monkeypatch, light):
    page = ROOT / "docs/start.md"
    monkeypatch.chdir(tmp_path)
    drawing, judging = blocks(page, "python")
    exec(compile(drawing, str(page), "exec"), {})
    said = {}
    for command in commands_of(page, in_text=False):
        if command in RUN:
            code, stdout, stderr = inlier(*shlex.split(command)[1:])
            assert code == 0, stderr
            said[command.split()[1]] = stdout
    assert [line.split()[0] for line in said["predict"].splitlines()] == 3 * ["defect"] + 3 * ["good"]
    exec(compile(judging, str(page), "exec"), {})
    assert {"000.png", "looks", "part.inlier"} <= {path.name for path in tmp_path.iterdir()}


def test_the_page_of_json_names_all_fields(inlier, here):
    from inlier.serve.tables import records

    named = set(re.findall(r"\w+", " ".join(re.findall(r"`([^`]+)`", (ROOT / "docs/reference/json.md").read_text()))))
    assert inlier("predict", "part.inlier", "parts/new", "--jsonl", "v.jsonl")[0] == 0
    assert inlier("evaluate", "part.inlier", "dataset", "--category", "plate", "--json", "r.json")[0] == 0
    result = json.loads(Path("r.json").read_text())
    (figures,) = result["categories"].values()
    fields = {*json.loads(Path("v.jsonl").read_text().splitlines()[0]), *result, *figures, *records.columns.keys()}
    for inner in ("image", "pixel", "at_alpha"):
        fields |= {key for key in figures[inner] if not key.endswith("_95")}
    assert fields <= named


def test_tables_of_stations_are_valid():
    config = pytest.importorskip("inlier.serve.config")
    texts = [*blocks(ROOT / "docs/station.md", "toml"), (ROOT / "deploy/station.toml").read_text()]
    for text in texts:
        config.checked(tomllib.loads(text.replace('"..."', '"' + 64 * "0" + '"')), "station.toml")


def test_addresses_that_curl_asks_exist():
    pytest.importorskip("inlier.serve.app")
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        import pages
    except ModuleNotFoundError:
        pytest.skip("mkdocs is not installed")
    finally:
        sys.path.pop(0)
    known = [re.sub(r"\{\w+\}", "[^/]+", path) for path in re.findall(r"## \w+ (\S+)", pages.api())]
    asked = [path for page in PAGES for path in re.findall(r"http://127\.0\.0\.1:8000(/[^?'\s>]+)", page.read_text())]
    assert len(asked) >= 2
    assert not [path for path in asked if not any(re.fullmatch(pattern, path) for pattern in known)]


def test_extras_that_pip_is_told_exist():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for page in PAGES:
        for named in re.findall(r"inlier\[([\w,-]+)\]", page.read_text()):
            assert set(named.split(",")) <= set(extras)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_to_files(page):
    prose = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    targets = re.findall(r"\]\(([^)#\s]+)", prose)
    missing = [t for t in targets if ":" not in t and not (page.parent / t).exists()]
    assert not missing


def test_pictures_of_thresholds_are_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    subprocess.run([sys.executable, ROOT / "tools/draw_thresholds.py", "--out", tmp_path], check=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["needed.svg", "promises.svg", "threshold.svg"]


@pytest.mark.parametrize("notebook", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.name)
def test_notebooks_run(notebook, tmp_path):
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    content = nbformat.read(notebook, as_version=4)
    assert not any(cell.get("outputs") for cell in content.cells)  # none are committed
    nbclient.NotebookClient(content, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
