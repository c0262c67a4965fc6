"""The fleet measured: overhead, reruns, engines bit by bit, judging in bulk, killed workers, a large ledger.

python benchmarks/fleet.py train --parts 200 --pictures 100     # local, four shards, Ray with a node killed; reruns
python benchmarks/fleet.py bulk --pictures 4000                 # rates of predict, one worker, two workers; Ray Data
python benchmarks/fleet.py kill --seconds 180 --every 20        # kill -9 of a worker
python benchmarks/fleet.py ledger --rows 1000000                # the page of the plant
python benchmarks/fleet.py rates --pictures 200                 # what benchmarks/capacity.py computes with

Each command appends its numbers, with the machine, to benchmarks/fleet.jsonl, and writes benchmarks/FLEET.md from all.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
from PIL import Image

from inlier import load
from inlier.fleet import bulk, ledger, tables
from inlier.fleet.models import model_in_use, models_in_use, use
from inlier.fleet.plan import read_plan
from inlier.fleet.store import Store
from inlier.machine import about

HERE = Path(__file__).parent
ROWS, PAGE = HERE / "fleet.jsonl", HERE / "FLEET.md"
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


def make_plant(root: Path, parts: int, pictures: int, size: int = 64) -> Path:
    """A plan of parts that differ: a disc of another size each, with noise."""
    y, x = np.mgrid[:size, :size]
    lines = ["[defaults]\nmethod = 'padim'\nsettings = {size = 64}\n"]
    for k in range(parts):
        folder, rng = root / "parts" / f"part{k:04}", np.random.default_rng(k)
        folder.mkdir(parents=True)
        disc = (y - size / 2) ** 2 + (x - size / 2) ** 2 < (size * (0.15 + 0.25 * k / parts)) ** 2
        for i in range(pictures):
            picture = 110 + 60.0 * disc + rng.normal(0, 4, (size, size))
            Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(folder / f"{i:04}.png")
        lines.append(f"[[parts]]\nname = '{folder.name}'\ndata = 'parts/{folder.name}'\n")
    (root / "plant.toml").write_text("\n".join(lines))
    return root / "plant.toml"


def fleet(*arguments: object) -> float:
    """Run `inlier fleet ...`; its seconds."""
    command = [sys.executable, "-m", "inlier", "--quiet", "fleet", *map(str, arguments)]
    start = time.perf_counter()
    subprocess.run(command, env=ENVIRONMENT, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def overhead(store: Path, wall: float, workers: int) -> dict[str, Any]:
    """Of the workers' time, what was no task's. Tasks measure themselves."""
    rows = list(ledger.last(Store(str(store)), "train").values())
    tasks, worked = (sum(row[name] for row in rows) for name in ("seconds", "processor_seconds"))
    failed = sum(row["state"] != "done" for row in rows)
    more = {"tasks": len(rows), "failed": failed, "processor_seconds": worked}
    return {"wall": wall, "workers": workers, "sum_of_tasks": tasks, "overhead": workers * wall / tasks - 1} | more


def same_models(plan: Path, one: Path, other: Path) -> int:
    """How many parts have the same model in both stores, byte by byte."""
    a, b = Store(str(one)), Store(str(other))
    names = [part.name for part in read_plan(plan).parts]
    pairs = ((model_in_use(a, name), model_in_use(b, name)) for name in names)
    return sum(x is not None and y is not None and a.read(x) == b.read(y) for x, y in pairs)


@contextlib.contextmanager
def cluster(nodes: int) -> Iterator[Any]:
    """Ray, each node a process of its own with one processor; the head has none."""
    from ray.cluster_utils import Cluster

    os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE.parent / "src"), os.environ.get("PYTHONPATH", "")])
    head = {"num_cpus": 0, "object_store_memory": 10**8, "include_dashboard": False}
    made = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(nodes):
        made.add_node(num_cpus=1, memory=4 * 2**30, object_store_memory=10**8)
    try:
        yield made
    finally:
        made.shutdown()


def train(given: argparse.Namespace) -> dict[str, Any]:
    root = Path(given.folder or tempfile.mkdtemp())
    plan = root / "plant.toml"
    if not plan.exists():
        make_plant(root, given.parts, given.pictures)
    found: dict[str, Any] = {"parts": given.parts, "pictures": given.pictures}
    local = root / "local"
    if "local" in given.engines:
        found["local"] = overhead(local, fleet("train", plan, "--store", local, "--workers", 2), 2)
    if {"local", "rerun"} & set(given.engines.split(",")):
        found["rerun_seconds"] = min(fleet("train", plan, "--store", local) for _ in range(3))
    if "shards" in given.engines:
        walls = [fleet("train", plan, "--store", root / "shards", "--on", f"shard:{i}/4") for i in range(1, 5)]
        found["shards"] = {"wall": sum(walls), "same": same_models(plan, local, root / "shards")}
    if "ray" in given.engines:
        store = root / "ray"
        with cluster(2) as made:
            wall = fleet("train", plan, "--store", store, "--on", f"ray:{made.address}")
        found["ray"] = overhead(store, wall, 2) | {"same": same_models(plan, local, store)}
    if "killed" in given.engines:
        store = root / "killed"
        with cluster(3) as made:
            killer = threading.Thread(target=_kill_a_node, args=(made, store, given.parts))
            killer.start()
            wall = fleet("train", plan, "--store", store, "--on", f"ray:{made.address}")
            killer.join()
        rows = Counter(row["state"] for row in ledger.last(Store(str(store)), "train").values())
        found["ray_with_a_node_killed"] = {"wall": wall, "states": rows, "same": same_models(plan, local, store)}
    return found


def _kill_a_node(made: Any, store: Path, parts: int) -> None:
    while len(Store(str(store)).list("rows/train")) < parts // 3:
        time.sleep(0.1)
    made.remove_node(next(iter(made.worker_nodes)), allow_graceful=False)


def trained_plant(folder: str | None, parts: int, pictures: int, size: int, settings: str) -> tuple[Path, Store]:
    """A plan and its store, with a model in use for each part, fitted on 50 pictures each."""
    root = Path(folder or tempfile.mkdtemp())
    plan, store = root / "plant.toml", Store(str(root / "store"))
    if not plan.exists():
        make_plant(root, parts, pictures, size)
        plan.write_text(plan.read_text().replace("{size = 64}", settings))
    if not models_in_use(store):
        from inlier import PaDiM

        for part in read_plan(plan).parts:
            some = sorted(Path(part.data).iterdir())[:50]
            path = Path(store.place) / "train" / part.name / "model.inlier"
            PaDiM(**part.settings).fit(some).save(path)
            use(store, part.name, f"train/{part.name}/model.inlier", {})
    return plan, store


def judged(plan: Path, store: Store, out: Path, workers: int) -> tuple[float, float]:
    """(pictures a second, processor seconds a picture) from the first chunks' end to the last one's end.

    So workers that are being started do not count.
    """
    parts = read_plan(plan)
    listing = bulk.write_listing(plan.parent / "parts", parts, str(out))
    found = bulk.chunks(listing, parts, models_in_use(store), str(out), 100)
    times = [(time.perf_counter(), _of_children(), n) for n, _ in bulk.run_local(found, store, workers)]
    (begin, before, _), (end, after, _) = times[workers - 1], times[-1]
    n = sum(n for *_, n in times[workers:])
    return n / (end - begin), (after - before) / n


def _of_children() -> float:
    """Processor seconds of the workers so far."""
    spent = (child.cpu_times() for child in psutil.Process().children())
    return sum(one.user + one.system for one in spent)


def predicted(plan: Path, store: Store) -> tuple[float, float]:
    """The same of `predict` with each part's model, one thread, models loaded and warm."""
    seconds, worked, count = 0.0, 0.0, 0
    for part in read_plan(plan).parts:
        with store.file(model_in_use(store, part.name) or "") as file:
            model = load(file)
        paths = sorted(Path(part.data).iterdir())
        list(model.predict(paths[:8], maps=False))
        start, before = time.perf_counter(), time.process_time()
        count += sum(1 for _ in model.predict(paths, maps=False, workers=bulk.READERS, errors="keep"))
        seconds, worked = seconds + time.perf_counter() - start, worked + time.process_time() - before
    return count / seconds, worked / count


def bulk_(given: argparse.Namespace) -> dict[str, Any]:
    import torch

    torch.set_num_threads(1)
    plan, store = trained_plant(given.folder, 2, given.pictures // 2, 256, "{size = 64}")
    runs: dict[str, list[tuple[float, float]]] = {"predict": [], "one": [], "two": []}
    for _ in range(given.repeats):  # in turn, so that a slow minute of the machine is shared by all
        with tempfile.TemporaryDirectory() as folder:
            runs["predict"].append(predicted(plan, store))
            runs["one"].append(judged(plan, store, Path(folder) / "one", 1))
            runs["two"].append(judged(plan, store, Path(folder) / "two", 2))
    rates = {name: max(rate for rate, _ in of) for name, of in runs.items()}
    worked = {name: min(seconds for _, seconds in of) for name, of in runs.items()}
    return {"pictures": given.pictures, "pictures_a_second": rates, "processor_seconds_a_picture": worked}


def kill(given: argparse.Namespace) -> dict[str, Any]:
    """A worker is killed again and again while a listing is judged."""
    plan, store = trained_plant(given.folder, 4, given.pictures // 4, 64, "{size = 64}")
    parts, out = read_plan(plan), Path(tempfile.mkdtemp())
    paths = [(str(path), part.name) for part in parts.parts for path in sorted(Path(part.data).iterdir())]
    # each picture many times under names of its own, until there is enough to do
    many = out / "pictures"
    repeated = []
    for n in range(given.times):
        for path, name in paths:
            link = many / name / f"{n:04}-{Path(path).name}"
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path)
            repeated.append((str(link), name))
    columns = zip(*sorted(repeated, key=lambda pair: pair[1]), strict=True)
    pq.write_table(pa.table(dict(zip(("path", "part"), map(list, columns), strict=True))), out / "list.parquet")
    arguments = ["predict", plan, "--store", store.place, "--pictures", out / "list.parquet", "--out", out / "verdicts"]
    command = [sys.executable, "-m", "inlier", "--quiet", "fleet", *map(str, arguments), "--workers", "2"]
    start, kills = time.monotonic(), 0
    with subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL) as process:
        last = start
        while process.poll() is None:
            time.sleep(0.2)
            if time.monotonic() - last > given.every and time.monotonic() - start < given.seconds:
                last = time.monotonic()
                workers = [p for p in psutil.Process(process.pid).children() if "spawn_main" in " ".join(p.cmdline())]
                if workers:
                    os.kill(workers[kills % len(workers)].pid, signal.SIGKILL)
                    kills += 1
    rows = pyarrow.dataset.dataset(out / "verdicts").to_table(columns=["path", "error"])
    counted = Counter(rows["path"].to_pylist())
    return {
        "pictures": len(repeated),
        "kills": kills,
        "seconds": time.monotonic() - start,
        "exit_code": process.returncode,
        "rows": len(rows),
        "lost": sum(counted[path] == 0 for path, _ in repeated),
        "doubled": sum(n > 1 for n in counted.values()),
        "errors": len(rows) - rows["error"].null_count,
    }


def ledger_(given: argparse.Namespace) -> dict[str, Any]:
    """A page from as many rows: nights of a plant of 5000 parts."""
    root, parts = Path(tempfile.mkdtemp()), 5000
    store, rng = Store(str(root)), np.random.default_rng(0)
    names = [f"part{k:04}" for k in range(parts)]
    nights = -(-given.rows // parts)
    base = {"verb": "train", "error": None, "attempts": 1, "warnings": [], "library": "benchmark", "stamp": ""}
    said = {"alpha": 0.01, "average": 0.0098, "confident": 0.03, "n": 100, "error": None, "alarms": [False] * 40}
    for night in range(nights):
        rows = [
            base
            | {"id": int(rng.integers(2**62)), "run": f"night{night:04}", "part": name, "time": 1.8e9 + 86400 * night}
            | {"state": "done", "seconds": float(rng.gamma(4, 1)), "processor_seconds": 4.0, "memory": 6e8}
            | {"fingerprint": f"{night:032}"}
            | {"metrics": {"method": "padim", "model": f"train/{name}/{night}/model.inlier", "replaces": None,
                           "objections": [], "promoted": True,
                           "change": {"kept": 40, "old": None, "new": said | {"found": [True] * 80}}}}
            for name in names
        ]  # fmt: skip
        table = tables.table((row | {"metrics": {}} for row in rows), ledger.COLUMNS)
        store.write_table(f"ledger/{night:08}.parquet", table)
    for row in rows:
        ledger.replace(store, row)
        use(store, row["part"], row["metrics"]["model"], row["metrics"]["change"]["new"])
    made = fleet("report", root / "plant.html", "--store", root)
    found = {"rows": nights * parts, "parts": parts, "page_made_seconds": made}
    found["page_bytes"] = (root / "plant.html").stat().st_size
    with contextlib.suppress(ImportError):
        found["opened_seconds"] = _opened(root / "plant.html")
    return found


def _opened(path: Path) -> float:
    """Seconds until a real browser shows the rows."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        tab = browser.new_page()
        start = time.perf_counter()
        tab.goto(path.as_uri())
        tab.wait_for_selector("#parts tbody tr:nth-child(300)")
        seconds = time.perf_counter() - start
        browser.close()
    return seconds


def rates(given: argparse.Namespace) -> dict[str, Any]:
    """Of this machine, one thread, JPEG pictures of 1024 x 1024 pixels, PaDiM `light`: what capacity.py starts from."""
    import torch

    from inlier import PaDiM

    torch.set_num_threads(1)
    plan, store = trained_plant(given.folder, 1, given.pictures, 1024, "{}")
    (part,) = read_plan(plan).parts
    for path in Path(part.data).glob("*.png"):
        Image.open(path).save(path.with_suffix(".jpg"), quality=92)
        path.unlink()
    start = time.process_time()
    PaDiM().fit(part.data, workers=1)
    fit = time.process_time() - start
    name = model_in_use(store, part.name) or ""
    with store.file(name) as file:
        model, size = load(file), file.stat().st_size
    paths = sorted(Path(part.data).iterdir())
    list(model.predict(paths[:8], maps=False))
    start = time.process_time()
    rows = bulk.judged(model, part, name, paths, 1)
    judging, content = time.process_time() - start, pa.BufferOutputStream()
    pq.write_table(rows, content, compression="zstd")
    return {
        "pictures": len(rows),
        "fit_processor_seconds": fit,
        "picture_processor_seconds": judging / len(rows),
        "model_bytes": size,
        "row_bytes": content.getvalue().size / len(rows),
    }


NOTES = """Where the load before a command (that of one minute; the machines have two cores) is above 2, the machine did
much else meanwhile, and seconds are those of a busy machine; shares of tasks' own seconds, and processor time, suffer
less. One worker in bulk keeps more than one core busy, as readers decode beside it; so two on two cores cannot be twice
as fast: what counts is how many cores they keep busy.
"""


def write_page() -> None:
    rows: dict[str, dict[str, Any]] = {}
    for line in ROWS.read_text().splitlines():
        row = json.loads(line)
        key = f"{row['command']} {row.get('parts', '')}".strip()
        rows[key] = rows.get(key, {}) | row  # newer numbers replace older ones
    lines = ["# The fleet, measured", "", "Written by `benchmarks/fleet.py` from `benchmarks/fleet.jsonl`.", "", NOTES]
    lines += ["| what | measured | wanted |", "|---|---|---|"]
    for row in rows.values():
        lines += [f"| {what} | {value} | {wanted} |" for what, value, wanted in _table({row["command"]: row})]
    lines.append("")
    for key, row in rows.items():
        told = row["machine"]
        of = f"{told['processor']}, {told['cores']} cores, torch {told['torch']}, load {row['load']:.1f} before"
        lines.append(f"- `{key}`: {row['time']}, commit {row['commit']}, {of}")
    PAGE.write_text("\n".join(lines) + "\n")


def _table(rows: dict[str, dict[str, Any]]) -> Iterator[tuple[str, str, str]]:
    if found := rows.get("train"):
        size = f"{found['parts']} parts of {found['pictures']} pictures"
        for name, wanted in (("local", "<= 5 %"), ("ray", "<= 15 %")):
            if one := found.get(name):
                tasks = f"{one['sum_of_tasks']:.0f} s of tasks, {one['wall']:.0f} s with two workers"
                yield f"overhead, {name}, {size}", f"{100 * one['overhead']:.1f} % ({tasks})", wanted
        if "rerun_seconds" in found:
            yield f"rerun with nothing changed, {size}", f"{found['rerun_seconds']:.2f} s", "< 2 s"
        for name in ("shards", "ray", "ray_with_a_node_killed"):
            if one := found.get(name):
                yield (
                    f"models as on local, byte by byte: {name.replace('_', ' ')}",
                    f"{one['same']} of {found['parts']}",
                    "all",
                )
    if found := rows.get("bulk"):
        rates, worked = found["pictures_a_second"], found["processor_seconds_a_picture"]
        for one, beside, what, wanted in (
            ("one", "predict", "one worker beside `predict`", ">= 0.9 x"),
            ("two", "one", "two workers beside one", ">= 1.8 x"),
        ):
            wall, processor = rates[one] / rates[beside], worked[one] / worked[beside]
            busy = " and ".join(f"{rates[name] * worked[name]:.2f}" for name in (one, beside))
            told = f"{wall:.2f} x as many pictures a second; {processor:.2f} x the processor's time for each"
            told += f"; {busy} cores busy"
            yield f"bulk, {what}", told, wanted
    if found := rows.get("kill"):
        rowed = (
            f"{found['rows']} rows of {found['pictures']} pictures, {found['lost']} lost, {found['doubled']} doubled"
        )
        yield f"kill -9 of a worker, {found['kills']} times in {found['seconds']:.0f} s", rowed, "none"
    if found := rows.get("ledger"):
        opened = f", {found['opened_seconds']:.2f} s to open in Chromium" if "opened_seconds" in found else ""
        yield (
            f"page of {found['rows']:,} rows, {found['parts']} parts",
            f"{found['page_made_seconds']:.2f} s to make{opened}",
            "< 3 s",
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = {"train": train, "bulk": bulk_, "kill": kill, "ledger": ledger_, "rates": rates}
    parser.add_argument("command", choices=[*commands, "page"])
    parser.add_argument("--parts", type=int, default=200)
    parser.add_argument("--pictures", type=int, default=100)
    parser.add_argument("--folder", help="of the plant, to go on with it; default: a new one")
    parser.add_argument("--engines", default="local,shards,ray,killed")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=180)
    parser.add_argument("--every", type=float, default=20)
    parser.add_argument("--times", type=int, default=50)
    parser.add_argument("--rows", type=int, default=1_000_000)
    given = parser.parse_args()
    if given.command != "page":
        load_before = os.getloadavg()[0]
        found = commands[given.command](given)
        commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=HERE, capture_output=True, text=True)
        known = {"command": given.command, "time": time.strftime("%Y-%m-%d"), "commit": commit.stdout.strip()}
        row = known | {"machine": about(), "load": load_before} | found
        with ROWS.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(found, indent=1))
    write_page()


if __name__ == "__main__":
    main()
