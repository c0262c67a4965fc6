"""One model of a sweep, in a process of its own: fitted, saved, timed, and tested.

So the memory that is measured is that of this model alone, and a crash costs nothing but its own rows.
"""

import hashlib
import json
import logging
import multiprocessing
import os
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inlier import artifact, machine
from inlier.apart import Messages, ctrl_c_held_back, end_with_parent, last_words
from inlier.bench.plan import Cell, joined
from inlier.bench.rows import Row
from inlier.data.datasets.sample import Sample, evenly
from inlier.errors import InlierError
from inlier.names import file_name
from inlier.results import CategoryResult

if TYPE_CHECKING:
    from inlier.detector import Detector

log = logging.getLogger("inlier")
# a name that the next run in the folder clears away, whatever happens to this one
MODEL = f"{artifact.TEMPORARY}model.tmp"
TIMED = 64  # pictures, evenly spread over the test, whose judging is timed


@dataclass
class Outcome:
    """What became of a cell: its rows, or an error."""

    rows: list[Row] = field(default_factory=list)
    error: str = ""
    warnings: list[str] = field(default_factory=list)


def run_apart(cell: Cell, folder: Path, device: str, workers: int) -> Outcome:
    """Run a cell in a fresh process and wait for it; Ctrl-C ends it. folder: where its scores go."""
    spawn = multiprocessing.get_context("spawn")
    receiver, sender = spawn.Pipe(duplex=False)
    process = spawn.Process(target=_main, args=(sender, cell, folder, device, workers, log.level))
    try:
        with ctrl_c_held_back():
            process.start()
        sender.close()
        outcome: Outcome = receiver.recv()
        process.join()
    except EOFError:
        process.join()
        outcome = Outcome(error=last_words(process.exitcode))
    finally:
        if process.pid is not None:
            process.kill()
            process.join()
        receiver.close()
        (folder / MODEL).unlink(missing_ok=True)  # of one that died
    return outcome


def test(cell: Cell, folder: Path, device: str, workers: int) -> list[Row]:
    """Fit, save, time and test; the cell's rows, one a category. Raises InlierError for what cannot be used."""
    from inlier.evaluation import evaluate

    dataset = joined(cell.sources)
    detector = cell.variant.create(cell.seed, device)
    with _stopwatch() as fit:
        detector.fit(dataset, workers=workers)
    detector.save(folder / MODEL)
    size = (folder / MODEL).stat().st_size
    (folder / MODEL).unlink()
    labels = [source.label for source in cell.sources]
    judging = {source.label: _time_judging(detector, source.dataset.test, workers) for source in cell.sources}
    known = {
        "fit": fit | {"pictures": len(dataset.train)},
        "peak_memory": machine.peak_memory(),  # the metrics of pixels take more, and no station computes them
        "artifact_bytes": size,
        "device": machine.device_name(machine.find_device(device)),
    }
    found = evaluate(detector, dataset, categories=labels, alpha=cell.alpha, workers=workers)
    rows = []
    for row, label in zip(cell.rows(), labels, strict=True):
        result = found.categories[label]
        measured = {"predict": judging[label], "scores": write_scores(folder, row, result)}
        rows.append(row | known | measured | result.to_json())
    return rows


def attempt(cell: Cell, device: str, workers: int) -> list[Row]:
    """Fit on a part of the good pictures, and look for defects that are planted in the others; rows as of `test`."""
    from inlier.bench import trial

    fitted_on, held_out, _ = trial.hold_out(joined(cell.sources), cell.seed)
    detector = cell.variant.create(cell.seed, device)
    with _stopwatch() as fit:
        detector.fit(fitted_on, calibration="none", workers=workers)  # what is held out is all that is needed
    rows = []
    for row, source in zip(cell.rows(), cell.sources, strict=True):
        samples = [sample for sample in held_out if sample.category == source.label]
        found = trial.run(detector, samples, cell.seed)
        numbers = {"ap": found.ap, "auroc": found.auroc, "detection": found.detection(), "pixel_ap": found.pixel_ap}
        counts = {"good": len(found.good), "defects": len(found.defects), "by_kind": found.by_kind()}
        rows.append(row | {"fit": fit | {"pictures": len(fitted_on.train)}, "trial": numbers | counts})
    peak = {"peak_memory": machine.peak_memory()}
    return [row | peak for row in rows]


def write_scores(folder: Path, row: Row, result: CategoryResult) -> str:
    """Write the score of each picture, for comparisons in pairs, and return the file's path inside the folder."""
    identity = [row[name] for name in ("fingerprint", "joint", "settings", "alpha")]
    unique = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
    name = f"{row['category']}-{row['method']}-{row['preset']}-{row['seed']}-{unique}.json"
    content = {
        "pictures": ["/".join(Path(case.sample.name).parts[-3:]) for case in result.cases],
        "defects": [case.sample.defect for case in result.cases],
        "scores": [case.score for case in result.cases],
        "p_values": [case.prediction.p_value for case in result.cases],
    }
    path = Path("scores") / file_name(name)
    artifact.write_bytes(folder / path, json.dumps(content, allow_nan=False).encode())
    return path.as_posix()


def _time_judging(detector: "Detector[Any, Any]", samples: Sequence[Sample], workers: int) -> dict[str, float]:
    """Seconds for a picture, from file to verdict, as `inlier predict` takes them without maps."""
    sources = [sample.source for sample in evenly(samples, TIMED)]
    with _stopwatch() as spent:
        found = detector.predict(sources, category=samples[0].category, workers=workers, maps=False, errors="keep")
        read = sum(p.error is None for p in found)  # the test will name the others
    return {name: seconds / max(read, 1) for name, seconds in spent.items()} | {"pictures": read}


@contextmanager
def _stopwatch() -> Iterator[dict[str, float]]:
    """Seconds that passed, and that the processors worked for this process, once it is over."""
    spent: dict[str, float] = {}
    wall, worked = time.perf_counter(), time.process_time()
    yield spent
    spent |= {"wall": time.perf_counter() - wall, "processor": time.process_time() - worked}


# -- in the new process -----------------------------------------------------------------------------------------------


def _main(sender: Connection, cell: Cell, folder: Path, device: str, workers: int, level: int) -> None:
    threading.Thread(target=end_with_parent, daemon=True).start()
    messages = Messages()
    log.handlers[:], log.propagate = [messages], False
    log.setLevel(level)
    outcome = Outcome()
    try:
        if cell.kind == "trial":
            outcome.rows = attempt(cell, device, workers)
        else:
            outcome.rows = test(cell, folder, device, workers)
    except InlierError as error:
        outcome.error = str(error)
    except KeyboardInterrupt:  # where it could not be held back; the parent says so
        return
    except Exception as error:  # a fault of ours, which must not end the others
        traceback.print_exc()
        outcome.error = f"{type(error).__name__}: {error}"
    samples = [sample for source in cell.sources for sample in source.dataset.samples]
    outcome.error = _without_folders(outcome.error, samples)
    outcome.warnings = [_without_folders(text, samples) for text in messages.warnings]
    sender.send(outcome)


def _without_folders(text: str, samples: Sequence[Sample]) -> str:
    """Rows and pages travel: of pictures and masks the name and the last folder, and not where that lay."""
    paths = [path for sample in samples for path in (sample.source, *sample.masks) if isinstance(path, Path)]
    for folder in dict.fromkeys(path.parent for path in paths):
        text = text.replace(os.path.join(folder, ""), f"{folder.name}/")
    return text
