"""`inlier benchmark`: rows outlast a crash, tables say what `evaluate` says, settings are chosen without the tests."""

import csv
import io
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
import psutil
import pytest

from conftest import write_dataset
from inlier import InlierError, PaDiM, evaluate
from inlier.apart import last_words
from inlier.bench import page, plan, published, rows, tables
from inlier.bench.cell import MODEL
from inlier.bench.compare import draw_differences, grouped, variant
from inlier.bench.grid import best, tried
from inlier.bench.sweep import like, remaining
from inlier.data.cues import CUES
from inlier.data.datasets import open_dataset
from inlier.data.datasets.sample import Dataset, Sample
from inlier.methods import diad
from inlier.methods.diad.memory import memory_of_training
from inlier.metrics import image_metrics
from test_contract import TINY as TINY_OF
from test_report import Tags, words

TINY = ("--set", "size=64", "--set", "backbone=tiny", "--set", "taps=4,8")
BOTH = ("--methods", "padim,simplenet", "--set", "simplenet.steps=8", "--set", "simplenet.patches=64")
MEASURED = ("fit", "predict", "peak_memory", "seconds", "fit_seconds")


@pytest.fixture
def benchmark(inlier, tiny_everywhere):
    def run(*arguments):
        return inlier("benchmark", *arguments, *TINY)

    return run


def lasting(row):
    """What must not differ between two runs."""
    return {name: value for name, value in row.items() if name not in MEASURED}


# -- end to end -------------------------------------------------------------------------------------------------------


def test_the_tables_say_what_evaluate_says_and_nothing_is_run_twice(benchmark, plates, tmp_path):
    out = tmp_path / "out"
    command = (plates, *BOTH, "--seeds", "1", "--alpha", "0.2", "--out", out)
    code, stdout, stderr = benchmark(*command)
    assert code == 0, stderr
    assert "plate  padim light, backbone=tiny, taps=4,8, size=64  seed 0  image AUROC" in stdout
    for name in ("table.md", "table.csv", "index.html"):
        assert f"written: {out / name}" in stdout

    detector = PaDiM("light", size=64, backbone="tiny", taps=(4, 8)).fit(plates)
    expected = evaluate(detector, plates, alpha=0.2).categories["plate"]
    found = {row["method"]: row for row in rows.read(out)}
    row = found["padim"]
    assert set(found) == {"padim", "simplenet"}
    assert {key: row[key] for key in expected.to_json()} == json.loads(json.dumps(expected.to_json()))
    assert row["settings"] == {"backbone": "tiny", "taps": [4, 8], "size": 64} and row["all_settings"]["size"] == 64
    assert (row["data"], row["category"], row["seed"], row["alpha"]) == (plates.name, "plate", 0, 0.2)
    assert row["processor"] and row["torch"] and row["threads"] >= 1 and row["library"] and "commit" in row
    for spent, pictures in ((row["fit"], 16), (row["predict"], 12)):
        assert spent["wall"] > 0 and spent["processor"] > 0 and spent["pictures"] == pictures
    assert 5e7 < row["peak_memory"] < 5e9
    detector.save(tmp_path / "m.inlier")
    assert row["artifact_bytes"] == (tmp_path / "m.inlier").stat().st_size

    scores = json.loads((out / row["scores"]).read_text())
    assert scores["scores"] == [case.score for case in expected.cases]
    assert [kind is not None for kind in scores["defects"]] == [case.sample.is_defect for case in expected.cases]
    auroc, detected = (f"{100 * value:.1f}" for value in (expected.image.auroc, expected.detection_rate))
    line = next(line for line in (out / "table.md").read_text().splitlines() if "| padim |" in line)
    assert [cell.strip() for cell in line.split("|")][5:11:5] == [auroc, detected]
    table = {line["method"]: line for line in csv.DictReader(io.StringIO((out / "table.csv").read_text()))}
    assert float(table["padim"]["image AUROC"]) == expected.image.auroc and table["padim"]["alpha"] == "0.2"
    text = (out / "index.html").read_text()
    Tags(text)
    assert "http" not in text and str(tmp_path) not in text and str(plates) not in text
    assert (
        "Which differences are real?" in text
        and "good test pictures and defects differ in brightness (AUROC" in words(text)
    )

    before = (out / "rows.jsonl").read_bytes()
    code, _, stderr = benchmark(*command)
    assert code == 2 and "holds 2 rows of an earlier benchmark; --resume" in stderr
    code, stdout, stderr = benchmark(*command, "--resume")
    assert code == 0 and "2 of 2 models are finished already" in stderr and "seed 0  image" not in stdout
    assert (out / "rows.jsonl").read_bytes() == before
    assert sorted(os.listdir(out)) == ["index.html", "rows.jsonl", "scores", "table.csv", "table.md"]


def stopped(how, command, out):
    """Exit code of a benchmark that is stopped while it is at its second model; that model has ended, too."""
    process = subprocess.Popen(
        [sys.executable, "-m", "inlier", "benchmark", *map(str, command), "--out", str(out), *TINY],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    models, deadline = [], time.monotonic() + 120
    while not models:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
        if (out / "rows.jsonl").exists() and rows.read(out):
            children = psutil.Process(process.pid).children()
            models = [child for child in children if "spawn_main" in " ".join(child.cmdline())]
    process.send_signal(how)
    code = process.wait(60)
    psutil.wait_procs(models, timeout=60)
    assert not any(child.is_running() for child in models), "nobody waits for it"
    return code


def test_a_killed_benchmark_goes_on_and_ends_with_the_same_rows(benchmark, plates, tmp_path):
    out, command = tmp_path / "out", (plates, "--methods", "padim", "--seeds", "2", "--alpha", "0.2")
    assert stopped(signal.SIGKILL, command, out) == -signal.SIGKILL
    with (out / "rows.jsonl").open("ab") as file:  # what a power cut would leave
        file.write(b'{"kind": "test", "da')
    (out / MODEL).write_text("half a model")
    code, _, stderr = benchmark(*command, "--out", out, "--resume")
    assert code == 0 and re.search("[12] of 2 models are finished already", stderr)
    assert benchmark(*command, "--out", tmp_path / "whole")[0] == 0
    assert [*map(lasting, rows.read(out))] == [*map(lasting, rows.read(tmp_path / "whole"))]
    assert not [name for name in os.listdir(out) if name.startswith(".")]


def test_ctrl_c_keeps_what_is_finished(tiny_everywhere, plates, tmp_path):
    assert stopped(signal.SIGINT, (plates, "--methods", "padim", "--seeds", "9"), tmp_path / "out") == 130
    assert 1 <= len(rows.read(tmp_path / "out")) < 9 and len(os.listdir(tmp_path / "out")) == 2


def test_a_model_that_fails_costs_no_other(benchmark, plates, tmp_path, monkeypatch):
    out = tmp_path / "out"
    command = (plates, *BOTH, "--seeds", "1", "--alpha", "0.06", "--out", out)
    code, stdout, stderr = benchmark(*command)  # the five pictures that simplenet holds out cannot promise that
    assert code == 1 and "seed 0  failed" in stdout
    assert "failed: plate, simplenet light, seed 0: " in stderr and "1 of 2 failed; --resume tries them again" in stderr
    good, bad = rows.read(out)
    assert good["method"] == "padim" and "error" not in good
    assert bad["method"] == "simplenet" and "alpha" in bad["error"] and str(plates) not in bad["error"]
    assert bad["error"].splitlines()[0][:40] in words((out / "index.html").read_text()).replace("&#39;", "'")

    monkeypatch.setenv("DIES", "1")
    code, _, stderr = benchmark(*command, "--resume")
    assert code == 1 and "1 of 2 models are finished already" in stderr and "ended by SIGKILL" in stderr
    assert len(rows.read(out)) == 2, "a later row takes the place of one that failed"


def test_one_model_for_all_and_a_choice_by_simulated_defects(benchmark, plates, tmp_path):
    root = write_dataset(tmp_path / "more", category="disc", size=48)
    out = tmp_path / "out"
    code, _, stderr = benchmark(
        *(plates, root, "--methods", "padim", "--seeds", "1", "--joint", "--alpha", "0.2", "--out", out),
        *("--grid", "channels=4,9"),
    )
    assert code == 0, stderr
    found = rows.read(out)
    assert [(row["kind"], row["category"]) for row in found] == [*2 * [("trial", "plate"), ("trial", "disc")]] + [
        ("test", "plate"),
        ("test", "disc"),
    ]
    chosen = best(next(iter(tried(found).values())))
    assert [variant(row) for row in found[-2:]] == [chosen, chosen] and "one model for 2" in chosen
    assert all("image" not in row for row in found[:4]) and all(0 < row["trial"]["ap"] <= 1 for row in found[:4])
    text = words((out / "index.html").read_text())
    assert "Choice of settings" in text and "chosen" in text and "Mean of all" in text
    assert found[-1]["n_good"] == 6 and found[-1]["joint"].keys() == {"plate", "disc"}


# -- refused before anything runs -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, said",
    [
        (("--methods", "padin"), "Did you mean 'padim'?"),
        (("--methods", "padim,padim"), "each once"),
        (("--methods", ","), "at least one"),
        (("--presets", "medium"), "has no preset 'medium'"),
        (("--set", "siez=64"), "Did you mean 'size'?"),
        (("--set", "size=9"), "out of range"),
        (("--set", "size"), "is not KEY=VALUE"),
        (("--set", "memseg.size=64"), "memseg is not among the methods"),
        (("--set", "backbone=resnet19"), "resnet19"),
        (("--grid", "channels"), "is not KEY=VALUE,VALUE"),
        (("--grid", "channels=5,x"), "channels"),
        (("--grid", "chanels=5,6"), "Did you mean 'channels'?"),
        (("--grid", "channels=5,6", "--set", "padim.channels=7"), "given twice"),
        (("--grid", "taps=[8,16],[8,16"), "setting 'taps': '[8,16' is not a list"),
        (("--grid", "taps=[8,16],8],[16"), "setting 'taps': '8],[16' is not a list"),
        (("--set", "taps=[8,16)"), "setting 'taps': '[8,16)' is not a list"),
        (("--seeds", "0"), "at least one seed"),
        (("--seeds", "1,1"), "each seed once"),
        (("--seeds", "2147483648,"), "from 0 to 2147483647"),
        (("--seeds", "1000000000"), "at most 1000"),
        (("--seeds", "9" * 5000), "at most 1000"),
        (("--seeds", "9" * 5000 + ",1"), "from 0 to 2147483647"),
        (("--seeds", "x"), "neither a number of seeds nor a list"),
        (("--alpha", "1.5"), "not a number between 0 and 1 (exclusive); 5 % is written 0.05"),
        (("--compare", "others"), "only: published"),
        (("--category", "plat"), "There are: plate"),
        (("--joint",), "one category alone"),
        (("--device", "tpu9"), "cannot be used here"),
    ],
)
def test_what_cannot_be_run_is_refused_at_once(arguments, said, inlier, plates, tmp_path):
    defaults = {"--methods": "padim", "--out": tmp_path / "out"}
    for name in arguments[::2]:
        defaults.pop(name, None)
    code, _, stderr = inlier("benchmark", plates, *arguments, *(part for pair in defaults.items() for part in pair))
    assert code == 2 and said in stderr, stderr
    assert "1 of" not in stderr and not (tmp_path / "out" / "rows.jsonl").exists()


def test_sets_that_cannot_be_told_apart_or_have_no_tests_are_refused(inlier, plates, tmp_path):
    for data, said in (
        ((plates, plates), "given twice"),
        ((plates / "plate/train/good",), "has no test pictures"),
        ((tmp_path / "none",), "no such file or folder"),
    ):
        code, _, stderr = inlier("benchmark", *data, "--methods", "padim", "--out", tmp_path / "out")
        assert code == 2 and said in stderr
    table = tmp_path / "table.csv"
    table.write_text("path,split,label\n" + f"{plates}/plate/train/good/000.png,train,good\n" * 1)
    code, _, stderr = inlier("benchmark", table, "--methods", "padim", "--out", tmp_path)
    assert code == 2 and table.read_text().startswith("path")


# -- rows -------------------------------------------------------------------------------------------------------------


def row(**changes):
    image = {"auroc": 0.9, "ap": 0.8}
    at_alpha = {"alpha": 0.05, "false_alarm_rate": 0.1, "detection_rate": 0.7}
    known = {
        "kind": "test",
        "data": "sets",
        "category": "plate",
        "joint": None,
        "fingerprint": "f00",
        "method": "padim",
    }
    known |= {"preset": "light", "settings": {}, "alpha": 0.05, "seed": 0, "n_good": 4, "n_defect": 2}
    return known | {"image": image, "pixel": None, "at_alpha": at_alpha} | changes


def test_rows_outlast_a_torn_line_and_the_later_one_counts(tmp_path):
    rows.append(tmp_path, [row(), row(seed=1, error="full disk")])
    with (tmp_path / rows.FILE).open("ab") as file:
        file.write(b'{"torn')
    assert [r["seed"] for r in rows.read(tmp_path)] == [0, 1]
    wanted = [row(seed=seed) for seed in range(3)]
    assert [r["seed"] for r in rows.missing(wanted, rows.read(tmp_path))] == [1, 2]
    rows.append(tmp_path, [row(seed=1, mended=True)])
    assert [r.get("mended") for r in rows.read(tmp_path)] == [None, True]
    assert len((tmp_path / rows.FILE).read_text().splitlines()) == 3


def test_damage_in_the_middle_is_named(tmp_path):
    (tmp_path / rows.FILE).write_text('{"a": 1}\n')
    with pytest.raises(InlierError, match="line 1 is no row"):
        rows.read(tmp_path)


MEASURES = {"wall": 1.0, "processor": 0.5}
DAMAGED = {
    "data": [5, None],
    "settings": ["x", [], None],
    "seed": ["0", -1, 0.5, True, None],
    "kind": ["best", 5, []],
    "joint": ["plate", 5],
    "fingerprint": [5],
    "alpha": ["0.05", 5, []],
    "error": [5, {}],
    "warnings": ["all", [5]],
    "n_good": ["4", None, -1],
    "image": [None, "x", {}, {"auroc": "0.9", "ap": 0.8}, {"auroc": 7, "ap": 0.8}, {"auroc": float("nan"), "ap": 0.8}],
    "pixel": ["x", {"auroc": 0.9}, {"auroc": 0.9, "aupro": -0.1}],
    "at_alpha": ["x", {"alpha": 0.05}, {"alpha": None, "false_alarm_rate": 0.1, "detection_rate": 0.7}],
    "fit": [None, {}, {"wall": "1", "processor": 1.0}, {"wall": float("inf"), "processor": 1.0}],
    "predict": [None, {"wall": -1.0, "processor": 1.0}],
    "peak_memory": ["much", -5],
    "scores": [5, "", "../../etc/passwd", "/etc/passwd"],
    "trivial": [5, {"brightness": 0.5}, {"brightness": {"detector": 7, "leak": 0.5}}],
    "all_settings": [None, "x"],
}


@pytest.mark.parametrize("name, value", [(name, value) for name, values in DAMAGED.items() for value in values])
def test_a_row_in_which_anything_is_damaged_is_named_by_its_line(name, value, tmp_path):
    """Or pages would show what cannot be, or none would be written after hours of work."""
    lines = [row(fit=MEASURES, predict=MEASURES, scores="scores/a.json"), row(seed=1) | {name: value}]
    (tmp_path / rows.FILE).write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(InlierError, match=r"rows.jsonl: line 2 is no row of a benchmark \(.+\); mend or remove it"):
        rows.read(tmp_path)


@pytest.mark.parametrize("name", ["data", "category", "method", "preset", "settings", "seed", "n_good", "n_defect",
                                  "image", "pixel", "at_alpha"])  # fmt: skip
def test_a_row_that_lacks_what_all_rows_ever_had_is_named(name, tmp_path):
    left = {key: value for key, value in row().items() if key != name}
    (tmp_path / rows.FILE).write_text(json.dumps(left) + "\n")
    with pytest.raises(InlierError, match=f"line 1 is no row of a benchmark \\(it has no {name}\\)"):
        rows.read(tmp_path)
    rows.append(tmp_path / "failed", [row(error="full disk", image=None)])
    assert rows.read(tmp_path / "failed"), "what failed has no results"


def test_a_benchmark_is_not_begun_beside_damaged_rows(benchmark, plates, tmp_path):
    for line in ("[" * 100_000, "null", "5", "{", json.dumps(row(image="x")), json.dumps(row(kind="trial"))):
        (tmp_path / rows.FILE).write_text(line + "\n")
        code, _, stderr = benchmark(plates, "--methods", "padim", "--seeds", "1", "--out", tmp_path, "--resume")
        assert code == 2 and "line 1 is no row of a benchmark" in stderr and "1 of" not in stderr, stderr
        assert (tmp_path / rows.FILE).read_text() == line + "\n"


@pytest.mark.parametrize("changes", [{"fingerprint": "other"}, {"settings": {"size": 64}}, {"alpha": None}, {"seed": 9},
                                     {"joint": {"plate": "f00", "nut": "f01"}}, {"kind": "trial"}])  # fmt: skip
def test_what_differs_in_anything_is_another_row(changes):
    assert rows.missing([row(**changes)], [row()]) and not rows.missing([row()], [row(data="moved")])


def test_a_preset_that_has_changed_is_run_again():
    old, new = row(all_settings={"size": 256, "taps": [8]}), row(all_settings={"size": 256, "taps": [8], "new": 1})
    assert not rows.missing([new], [old]) and rows.missing([new | {"all_settings": {"size": 320}}], [old])


def test_the_rows_of_before_are_read_and_count_as_finished(tmp_path):
    kept = Path(__file__).parent.parent / "benchmarks" / "results.jsonl"
    shutil.copy(kept, tmp_path / rows.FILE)
    known = rows.read(tmp_path)
    assert tables.markdown(grouped(known)).count("\n") > 10, "old rows and new ones in one table"
    new = ("kind", "joint", "fingerprint", "alpha")
    old = [{key: value for key, value in row(seed=seed).items() if key not in new} for seed in range(2)]
    assert [r["seed"] for r in rows.missing([row(seed=seed) for seed in range(3)], old)] == [2]
    table = tables.markdown(grouped(old), tables.SHARES)
    assert table.splitlines()[2] == "| plate | padim | light | 2 | 90.0 | 80.0 | no masks | no masks | 10.0 | 70.0 |"


# -- numbers ----------------------------------------------------------------------------------------------------------


def test_the_paired_bootstrap_is_that_of_its_definition():
    rng = np.random.default_rng(0)
    defect = np.arange(30) >= 20
    first, second = rng.normal(size=(3, 30)).round(1) + defect, rng.normal(size=(2, 30)) + 0.5 * defect

    def auroc(scores, chosen=slice(None)):
        return np.mean([image_metrics(line[chosen], defect[chosen]).auroc for line in scores])

    drawn = draw_differences(first, second, defect, 300)
    assert drawn[0] == pytest.approx(auroc(first) - auroc(second))
    np.testing.assert_allclose(draw_differences(second, first, defect, 300), -drawn)
    naive = []
    for _ in range(2000):
        chosen = np.concatenate([rng.integers(0, 20, 20), rng.integers(20, 30, 10)])
        naive.append(auroc(first, chosen) - auroc(second, chosen))
    np.testing.assert_allclose(np.quantile(drawn[1:], [0.1, 0.5, 0.9]), np.quantile(naive, [0.1, 0.5, 0.9]), atol=0.03)
    np.testing.assert_array_equal(draw_differences(first, first, defect, 10), 0)


def test_blocks_change_nothing(monkeypatch):
    rng = np.random.default_rng(1)
    defect, first, second = np.arange(50) >= 30, rng.normal(size=(2, 50)), rng.normal(size=(1, 50))
    whole = draw_differences(first, second, defect, 20)
    monkeypatch.setattr("inlier.bench.compare.BLOCK", 200)
    np.testing.assert_allclose(draw_differences(first, second, defect, 20), whole)


def test_seeds_and_grids_are_spelt_as_told():
    (points,) = plan.variants(["padim"], ["light"], ["size=64"], ["taps=[8],[8,16]", "channels=4,5", "grid=0"])
    assert [point.changed["channels"] for point in points] == [4, 5, 4, 5]
    assert [point.settings["taps"] for point in points] == [(8,), (8,), (8, 16), (8, 16)]
    (same,) = plan.variants(["padim"], ["light"], ["size=256"], [])
    assert same[0].changed == {}, "what the preset has anyway is no change"


@pytest.mark.parametrize("text, seeds", [("0003", [0, 1, 2]), ("007,1", [7, 1]), ("2147483647,", [2**31 - 1]),
                                         ("1000", list(range(1000)))])  # fmt: skip
def test_seeds_may_be_any_that_a_generator_takes(text, seeds):
    assert plan.seeds(text) == seeds


def test_the_best_trial_is_one_with_all_seeds():
    def trial(size, seed, ap, **changes):
        found = {"ap": ap, "detection": 0.5}
        return row(kind="trial", settings={"size": size}, seed=seed, trial=found, **changes)

    found = tried(
        [trial(64, 0, 0.6), trial(64, 1, 0.8), trial(128, 0, 0.9), trial(128, 1, 0, error="no memory"), row()]
    )
    ((model, of),) = found.items()
    assert model == ("plate", "padim", "light") and of == {"padim light, size=64": (pytest.approx(0.7), 0.5)}


def test_sets_of_one_name_are_told_apart():
    groups = grouped([row(), row(data="b", fingerprint="f01"), row(data="b", category="nut")])
    assert [group.set for group in groups] == ["sets/plate", "b/plate", "nut"]
    groups = grouped([row(fingerprint=None), row(seed=1)])
    assert [(group.set, len(group.rows)) for group in groups] == [("plate", 2)], "of before there were fingerprints"
    groups = grouped([row(), row(fingerprint="0123456789"), row(seed=1)])
    assert [(group.set, len(group.rows)) for group in groups] == [("sets/plate (f00)", 2), ("sets/plate (012345)", 1)]


def test_times_of_other_machines_are_not_averaged():
    def timed(seed, seconds, device="cpu"):
        return row(seed=seed, device=device, fit={"wall": seconds, "processor": seconds})

    (group,) = grouped([timed(0, 100.0), timed(1, 300.0), timed(2, 5.0, "cuda:0, NVIDIA H200")])
    assert group.spread("fit, s") == (200.0, 100.0, 300.0) and len(group.rows) == 3


def test_published_figures_come_with_their_protocol():
    found = published.figures(["screw", "plate"])
    assert {figure.category for figure in found} == {"screw"} and all(figure.protocol for figure in found)
    assert next(f for f in found if f.run.startswith("MemSeg ResNet18, 5000"))[5:] == (93.2, 94.2, 92.4)
    assert len(published.figures(published.MVTEC)) > 2 * len(found)
    assert "41 good" in published.doubt("screw", 41, 118) and not published.doubt("screw", 41, 119)
    assert not published.doubt("plate", 1, 1)


# -- the page ---------------------------------------------------------------------------------------------------------


def test_names_cannot_break_out_of_page_and_table(tmp_path):
    names = {"category": '<b>"x"|', "data": "<i>", "settings": {"textures": "<u>"}, "warnings": ["<s>\nx"]}
    baseline = {cue: {"detector": 0.4, "leak": 0.95} for cue in CUES}
    scores = {"pictures": ["a", "b", "c"], "defects": [None, "<b>", None], "scores": [1, 2, 3], "p_values": [1, 1, 1]}
    (tmp_path / "scores.json").write_text(json.dumps(scores))
    known = [row(**names, trivial=baseline, scores="scores.json"), row(**names, method="<em>", scores="scores.json")]
    known += [row(**names, seed=1, error="<script>"), row(**names, kind="trial", trial={"ap": 0.5, "detection": 0.5})]
    page.write(known, tmp_path, compare=True)
    html = (tmp_path / "index.html").read_text()
    Tags(html)
    for raw in ("<b>", "<i>", "<u>", "<s>", "<em>y", "<script"):
        assert raw not in html.replace("<em>Detector", "").replace("<em>Leak", "").replace("<em>best on test", "")
    assert "&lt;script&gt;" in html and "&lt;b&gt;" in html
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert all(line.replace("\\|", "").count("|") == 15 for line in lines[2:6]) and "<" not in "".join(lines)


def test_a_line_of_a_gpu_says_so(tmp_path):
    page.write([row(device="cpu"), row(method="memseg", device="cuda:0, a GPU")], tmp_path)
    html = (tmp_path / "index.html").read_text()
    assert "memseg light<small>cuda:0, a GPU</small>" in html and "padim light</th>" in html


def test_a_page_of_nothing_but_failures(tmp_path):
    page.write([row(error="full disk")], tmp_path)
    assert "full disk" in words((tmp_path / "index.html").read_text())


def test_what_is_left_is_told_by_method_and_not_before_each_is_known():
    def cell(method):
        return plan.Cell("test", (), plan.Variant(method, "light", {}, {}, {}), 0, None)

    fast, slow = cell("padim"), cell("differnet")
    assert remaining({}, [fast]) is None and remaining({like(fast): [1.0]}, [fast, slow]) is None
    assert remaining({like(fast): [1.0, 3.0], like(slow): [100.0]}, [fast, slow, slow]) == 202
    assert remaining({}, []) == 0


# -- small things -----------------------------------------------------------------------------------------------------


def test_a_file_that_is_no_picture_costs_no_other_set(tmp_path):
    (tmp_path / "bad.png").write_text("text")
    samples = open_dataset(write_dataset(tmp_path / "d", train=3, good=2, defects=2)).samples
    bad = Sample(tmp_path / "bad.png", "nut", "test", None)
    nut = [Sample(s.source, "nut", s.split, s.defect) for s in samples]
    found = plan.sources([Dataset("both", "", (*samples, *nut, bad))], [], 1)
    assert [source.category for source in found] == ["nut", "plate"]
    gone = Sample(tmp_path / "gone.png", "nut", "test", None)
    other, plate = plan.sources([Dataset("both", "", (*samples, *nut, gone))], [], 1)
    assert plate.fingerprint == found[1].fingerprint and other.fingerprint != found[0].fingerprint


def test_last_words():
    assert last_words(-9) == "its process was ended by SIGKILL: too little memory?"
    assert last_words(3) == "its process ended without a word, exit code 3"


def test_the_script_of_diad_at_full_size_knows_what_its_training_takes(monkeypatch):
    monkeypatch.setattr(diad, "memory_of_training", memory_of_training)  # as it is, and not as tests have it for speed
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "benchmarks"))
    import diad_full

    usual, lean = diad_full.memory_of_training("tiny", **(TINY_OF["diad"] | {"batch_size": 12}))
    assert 2**20 < lean < usual < 2**33
