"""The commands as real processes: on consoles of other encodings, into pipes, and where a shell has closed a stream."""

import contextlib
import json
import os
import select
import subprocess
import sys
import threading

import pytest

from inlier.cli import main

# the command line as it is, with a model that needs no torch, so that a process takes half a second
CODE = """
import sys, types
import numpy as np
from inlier.calibration import Calibration
from inlier.cli import main
from inlier.data.geometry import Geometry
from inlier.inspection.inspector import Inspector, Output

def judge(images, inspected, maps):
    return Output(1 + images.std((1, 2, 3)), images[:, 0] if maps else None)

def load(path, device, runtime=None):
    inspector = Inspector(judge, Geometry(32, None, "bilinear"))
    inspector.calibration_ = Calibration("split", np.ones(99, np.float32), np.ones(99, np.float32))
    return inspector

sys.modules["inlier.runtime.load"] = types.SimpleNamespace(load=load)
main()
"""
INLIER, FAST = [sys.executable, "-m", "inlier"], [sys.executable, "-c", CODE]
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": ""}
NAMES = ("a.png", os.fsdecode(b"b\xff.png"), "c\ngood    p 1.0000  score 1            d.png", "中.png", "🙂.png")

pytestmark = pytest.mark.skipif(os.name == "nt", reason="shells, pipes and names as POSIX has them")


@pytest.fixture(scope="module")
def pictures(plates, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for name in NAMES:
        (folder / name).write_bytes((plates / "plate/test/dent/000.png").read_bytes())
    return folder


def run(*arguments, shell="", program=FAST, **environment):
    """A finished command; shell: redirections that a shell makes for it."""
    command = ["sh", "-c", f'exec "$@" {shell}', "sh", *program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, env=ENVIRONMENT | environment, timeout=120, check=False)


@pytest.mark.parametrize("console", [{"PYTHONIOENCODING": "cp1252"}, {"LC_ALL": "C"}, {"PYTHONIOENCODING": "utf-8"}])
def test_any_console_shows_every_verdict_in_a_line_of_its_own(pictures, tmp_path, console):
    done = run("predict", "model", pictures, "--overlays", tmp_path, **console)
    assert (done.returncode, done.stderr.count(b"error")) == (0, 0), done.stderr
    lines = done.stdout.decode(console.get("PYTHONIOENCODING", "utf-8")).splitlines()
    assert len(lines) == len(NAMES) and all(line.startswith("defect") for line in lines), lines
    assert len(os.listdir(tmp_path)) == len(NAMES)


@pytest.mark.parametrize("console", [{"PYTHONIOENCODING": "cp1252"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}])
def test_json_lines_on_any_console_lead_back_to_the_files(pictures, console):
    done = run("predict", "model", pictures, "--jsonl", "-", **console)
    assert done.returncode == 0, done.stderr
    paths = [json.loads(line)["path"] for line in done.stdout.decode("cp1252").splitlines()]
    assert {os.path.basename(path.encode(errors="surrogateescape")) for path in paths} == set(map(os.fsencode, NAMES))


@contextlib.contextmanager
def predicting(plates, tmp_path, *options):
    """(process, go on): eight pictures are judged, then one is waited for until `go on` is called."""
    good = sorted((plates / "plate/train/good").iterdir())
    pipe = tmp_path / "later.png"
    os.mkfifo(pipe)
    command = [*FAST, "predict", "model", *good[:14], pipe, *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT)
    writer = threading.Thread(target=lambda: pipe.write_bytes(good[0].read_bytes()))
    try:
        yield process, writer.start
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()
        if writer.ident:  # where the process has ended before it opened the pipe, the writer still waits for a reader
            reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
            writer.join()
            os.close(reader)


def next_line(process):
    assert select.select([process.stdout], [], [], 30)[0], "nothing comes before the end"
    return process.stdout.readline()


def test_json_lines_arrive_in_a_pipe_as_pictures_are_judged(plates, tmp_path):
    with predicting(plates, tmp_path, "--jsonl", "-") as (process, go_on):
        first = json.loads(next_line(process))
        go_on()
        rest = process.stdout.read().splitlines()
        assert process.wait(60) == 0 and "verdict" in first and len(rest) == 14


def test_a_reader_that_goes_ends_the_run_quietly(plates, tmp_path):
    with predicting(plates, tmp_path) as (process, go_on):
        next_line(process)
        process.stdout.close()
        go_on()
        stderr = process.stderr.read()
        assert process.wait(60) == 1 and not stderr, stderr


def test_without_stdout_nothing_is_judged_for_nobody(pictures, plates, tmp_path):
    for command in (("predict", "model", pictures), ("evaluate", "model", plates), ("methods",)):
        done = run(*command, shell=">&-")
        assert done.returncode == 2 and b"stdout is closed" in done.stderr, done.stderr
    done = run("predict", "model", pictures, "--jsonl", tmp_path / "lines", shell=">&-")
    assert done.returncode == 0 and len((tmp_path / "lines").read_bytes().splitlines()) == len(NAMES), done.stderr


def test_a_full_disk_behind_stdout_is_an_error(pictures):
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    for command in (("predict", "model", pictures), ("methods",), ("--help",)):
        done = run(*command, shell=">/dev/full")
        assert done.returncode == 1 and done.stderr.count(b"\n") == 1, done.stderr
        assert b"error: stdout: cannot be written (No space left on device)" in done.stderr, done.stderr


@pytest.mark.parametrize("shell", ["2>&-", "2>&- <&-"])
def test_without_stderr_messages_stay_out_of_the_results(pictures, tmp_path, shell):
    (tmp_path / "bad.png").write_text("no picture")
    done = run("predict", "model", tmp_path / "bad.png", pictures, "--jsonl", "-", shell=shell)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 1, done.stdout
    assert [("error" in line) for line in lines] == [True] + len(NAMES) * [False]
    assert run("predict", "model", pictures, "--alpha", "7", shell=shell).stdout == b""


def test_a_broken_stderr_costs_no_verdict(pictures, tmp_path):
    (tmp_path / "bad.png").write_text("no picture")
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    done = run("predict", "model", tmp_path / "bad.png", pictures, "--jsonl", "-", shell="2>/dev/full")
    assert done.returncode == 1 and len(done.stdout.splitlines()) == 1 + len(NAMES)


def test_a_second_training_of_one_file_is_refused_while_the_first_runs(plates, tmp_path, monkeypatch, capsys):
    code = """
import pathlib, sys
from inlier.lock import alone
with alone(pathlib.Path(sys.argv[1])):
    print("running", flush=True)
    sys.stdin.readline()
"""
    out = tmp_path / "m.inlier"
    options = ("--method", "padim", "--backbone", "tiny", "--set", "size=32", "--out", str(out))
    monkeypatch.setattr(sys, "argv", ["inlier", "train", str(plates), *options])
    first = subprocess.Popen(
        [sys.executable, "-c", code, f"{out}.run"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=ENVIRONMENT
    )
    try:
        assert first.stdout.readline() == b"running\n"
        with pytest.raises(SystemExit) as stop:
            main()
        assert stop.value.code == 2 and "m.inlier.run: belongs to a training that runs now" in capsys.readouterr().err
    finally:
        first.communicate(timeout=60)
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 0 and os.listdir(tmp_path) == ["m.inlier"]


def test_the_real_program_on_a_console_of_another_encoding(plates, pictures, tmp_path):
    from inlier import PaDiM

    PaDiM("light", size=32).fit(plates, calibration="none").save(tmp_path / "m.inlier")
    done = run("predict", tmp_path / "m.inlier", pictures, program=INLIER, PYTHONIOENCODING="cp1252")
    assert (done.returncode, len(done.stdout.decode("cp1252").splitlines())) == (0, len(NAMES)), done.stderr
