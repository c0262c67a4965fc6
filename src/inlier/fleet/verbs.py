"""What each verb does for a part: makes its files at `place` in the store, and returns numbers for the row."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from inlier import methods
from inlier.data.check import examine
from inlier.data.datasets import open_dataset
from inlier.data.datasets.sample import Dataset, Sample
from inlier.data.region import open_regions
from inlier.drift import SCORE, Stream
from inlier.errors import InlierError
from inlier.evaluation import evaluate as evaluated
from inlier.fleet.contents import MODEL
from inlier.fleet.judging import judged, load_from
from inlier.fleet.models import use
from inlier.fleet.plan import AUTO, Part, Task
from inlier.fleet.promote import compare, objections
from inlier.fleet.store import Store
from inlier.inspection.inspector import Inspector
from inlier.runtime.load import load
from inlier.settings import as_text

READERS = 1  # threads that read pictures ahead of a task's one thread of arithmetic


def check(task: Task, store: Store, used: str | None, place: str) -> dict[str, Any]:
    """What the part's data would be used as; what cannot be used, region and weights too, fails the task."""
    dataset = _data(task.part)
    report = examine(dataset, READERS).require(dataset)
    if not dataset.train:
        raise InlierError(f"{dataset.name}: holds no good training pictures ({dataset.layout})")
    open_regions(task.part.roi, dataset.categories)
    if task.part.weights and not Path(task.part.weights).is_file():
        raise InlierError(f"{task.part.weights}: no such file of weights")
    counts = {"train": len(dataset.train), "validation": len(dataset.validation), "test": len(dataset.test)}
    return {"layout": dataset.layout, "pictures": counts, "notes": [*dataset.notes, *report.warnings]}


def train(task: Task, store: Store, used: str | None, place: str) -> dict[str, Any]:
    """Fit, propose, and promote where nothing speaks against it."""
    part = task.part
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / MODEL
        if part.processes > 1:
            _fit_together(part, made)
        else:
            _fit(part).save(made)
        store.write(f"{place}/{MODEL}", made.read_bytes())
        new = load(made)
        size = made.stat().st_size
    return _proposed(task, store, new, used, f"{place}/{MODEL}", kept(part)) | {"bytes": size}


def calibrate(task: Task, store: Store, used: str | None, place: str) -> dict[str, Any]:
    """The model in use, calibrated anew on the good pictures that were kept; proposed like a new one."""
    assert used is not None
    samples = kept(task.part)
    if not samples:
        raise InlierError(
            f"{task.part.name}: has no good pictures to calibrate on; give the part an entry `good`, a folder of good "
            "pictures that the model was not fitted on"
        )
    model = load_from(store, used)
    good = Dataset(task.part.name, "kept good pictures", tuple(samples))
    model.calibrate(good, group=task.part.group, workers=READERS)
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / MODEL
        model.save(made)  # type: ignore[attr-defined]
        store.write(f"{place}/{MODEL}", made.read_bytes())
    # it is calibrated on the kept pictures: they cannot judge it, too
    return _proposed(task, store, model, used, f"{place}/{MODEL}", [])


def evaluate(task: Task, store: Store, used: str | None, place: str) -> dict[str, Any]:
    assert used is not None
    model = load_from(store, used)
    results = evaluated(model, _data(task.part), alpha=task.part.alpha, workers=READERS).to_json()
    store.write(f"{place}/numbers.json", json.dumps(results, allow_nan=False).encode())
    return {"model": used, "mean": results["mean"]}


def predict(task: Task, store: Store, used: str | None, place: str) -> dict[str, Any]:
    """Judge the part's pictures, and watch whether they still look like the calibration's."""
    from inlier.data.images import list_images

    assert used is not None
    if task.part.pictures is None:
        raise InlierError(
            f"{task.part.name}: has no pictures to judge; give the part an entry `pictures`, their folder"
        )
    paths = list_images(task.part.pictures)
    model = load_from(store, used)
    rows = judged(model, task.part, used, paths, READERS)
    store.write_table(f"{place}/verdicts.parquet", rows)
    verdicts = rows["verdict"].to_pylist()
    counts = {
        "pictures": len(rows),
        "defects": verdicts.count("defect"),
        "unread": len(rows) - rows["error"].null_count,
    }
    return {"model": used, **counts, "drift": _drift(store, task.part, model, rows.to_pylist())}


def export(task: Task, store: Store, used: str | None, place: str) -> dict[str, Any]:
    from inlier.runtime.export import SUFFIXES

    assert used is not None
    suffix = next(suffix for suffix, name in SUFFIXES.items() if name == task.order.to)
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / f"model{suffix}"
        model = load_from(store, used)
        parity = model.export(made, to=task.order.to, workers=READERS)  # type: ignore[attr-defined]
        for path in sorted(Path(folder).iterdir()):
            store.write(f"{place}/{path.name}", path.read_bytes())
    return {"model": used, "file": f"{place}/model{suffix}", "parity": str(parity)}


def kept(part: Part) -> list[Sample]:
    """Good pictures that no model of the part is fitted on: those of `good`, or else the data's validation split."""
    if part.good is None:
        return list(_data(part).validation)
    dataset = open_dataset(part.good)
    categories = _data(part).categories
    samples = dataset.validation or dataset.train
    if len(categories) == 1:  # a folder of good pictures is named after itself
        samples = tuple(Sample(s.source, categories[0], "train", None, number=s.number) for s in samples)
    return list(samples)


def _data(part: Part) -> Dataset:
    return open_dataset(part.data, [part.category] if part.category else [])


def _fit(part: Part) -> Any:
    """The fitted detector: the bits of `inlier train` with the same settings and one thread."""
    shared: dict[str, Any] = {"roi": part.roi, "group": part.group, "workers": READERS}
    if part.method == AUTO:
        from inlier.bench.auto import auto

        return auto(_data(part), part.budget, seed=part.seed, **shared)
    detector = methods.create(part.method, part.preset, seed=part.seed, weights=part.weights, **part.settings)
    return detector.fit(_data(part), calibration=part.calibration, **shared)


def _fit_together(part: Part, out: Path) -> None:
    """`inlier train` by torchrun: the training loop shares each batch among the processes."""
    if part.method == AUTO:
        raise InlierError(f"{part.name}: `processes` goes with a method of its own, not with auto")
    options: dict[str, Any] = {"method": part.method, "preset": part.preset, "category": part.category, "roi": part.roi}
    options |= {"calibration": part.calibration, "group": part.group, "weights": part.weights, "seed": part.seed}
    words = [f"--{name}={value}" for name, value in options.items() if value is not None]
    words += [f"--set={name}={as_text(value)}" for name, value in part.settings.items()]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={part.processes}"]
    command = [*torchrun, "-m", "inlier", "train", part.data, f"--out={out}", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode or not out.is_file():
        lines = done.stderr.splitlines()
        reason = [line for line in lines if line.startswith("error:")] or lines[-3:]
        raise InlierError(f"{part.name}: {' '.join(reason) or 'torchrun ended without a model'}")


def _proposed(
    task: Task, store: Store, new: Inspector, used: str | None, model: str, samples: list[Sample]
) -> dict[str, Any]:
    """Compare with the model in use, and take its place where nothing speaks against it."""
    old = None if used is None else load_from(store, used)
    change = compare(new, old, samples, task.part.alpha, task.part.seed)
    against = objections(change)
    promoted = task.order.promote == "auto" and not against
    if promoted:
        use(store, task.part.name, model, change["new"])
    return {
        "model": model,
        "method": new.header()["method"],
        "replaces": used,
        "change": change,
        "objections": against,
        "promoted": promoted,
    }


def _drift(store: Store, part: Part, model: Inspector, rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Go on with the part's stream of scores; a new model or calibration begins a new one. None: nothing to compare."""
    if len(model.categories_) != 1 or not len(model.calibration_):
        return None
    calibration = model.calibration_.scores
    path = f"drift/{part.name}.json"
    content = store.read(path)
    stream = start = Stream.start({SCORE: calibration})
    try:
        known = start if content is None else Stream.from_json(content)
        if known.fingerprints == start.fingerprints:
            stream = known
        if not stream.goes_on_from(start):
            raise InlierError("its scores or bets are not those of its model")
    except InlierError as error:
        place = f"{store.place}/{path}"
        raise InlierError(f"{place}: cannot be used to go on: {error}; put a copy of it back, or remove it") from None
    for row in rows:
        if row["score"] is not None:
            stream.update({SCORE: row["score"]}, row["digest"][:16])
    store.write(path, json.dumps(stream.to_dict(), allow_nan=False).encode())
    monitor = stream.strongest
    alarm = None if stream.alarm is None else str(stream.alarm)
    return {"alarm": alarm, "evidence": monitor.evidence, "limit": monitor.limit, "pictures": stream.pictures}
