"""One verb for one part: a function from the part and the store to a row. Every engine runs this and nothing else.

A task is known by the fingerprint of all that decides its result: the library's version, the entries of the plan, the
bytes of the pictures, the model. What it makes lies under that fingerprint, so it may run twice, at once or after a
crash, and leaves the same. Whether anything changed since the last time is told as `make` does it, by names, sizes and
times of the files (the stamp); only where these differ are the bytes read.
"""

import hashlib
import json
import logging
import os
import platform
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from inlier.apart import Messages
from inlier.errors import InlierError
from inlier.fleet import ledger
from inlier.fleet.ledger import Row
from inlier.fleet.models import model_in_use
from inlier.fleet.plan import Task
from inlier.fleet.store import Store
from inlier.version import __version__

log = logging.getLogger("inlier")
TRIES = 3
PAUSE = 1.0  # seconds before the second try, twice as long before each further one
PERMANENT = (ValueError, TypeError, LookupError, AttributeError, AssertionError)  # InlierError is a ValueError
CLEAR_REFS = Path("/proc/self/clear_refs")  # Linux: forgets the peak of the memory
# entries of the plan that decide what comes of a verb, and those that name files that do
DECIDES: dict[str, tuple[str, ...]] = {
    "check": ("category",),
    "train": ("category", "method", "preset", "settings", "calibration", "group", "seed", "budget"),
    "evaluate": ("category", "alpha"),
    "calibrate": ("category", "group"),
    "predict": ("category", "alpha"),
    "export": (),
}
READS: dict[str, tuple[str, ...]] = {
    "check": ("data", "roi", "weights"),
    "train": ("data", "roi", "weights"),
    "evaluate": ("data",),
    "calibrate": ("good", "data"),
    "predict": ("pictures",),
    "export": (),
}
NEEDS_MODEL = ("evaluate", "calibrate", "predict", "export")
VERBS = tuple(DECIDES)


def run(task: Task, store: Store) -> Row | None:
    """Do a task and write its row; None where nothing has changed since it was done. Raises OSError of the store.

    What goes wrong is in the row: `state` is "done" or "failed". What may pass is tried again, later and later.
    """
    verb = task.order.verb
    last = ledger.last_of(store, verb, task.part.name)
    used = model_in_use(store, task.part.name)
    if is_done(last, seal := stamp(task, used)):
        return None
    row = new_row(task) | {"stamp": seal}
    with _measured() as measured, _warnings_kept() as warnings:
        for attempt in range(1, TRIES + 1):
            try:
                row["fingerprint"] = fingerprint(task, used)
                if is_same(last, row["fingerprint"]):
                    ledger.replace(store, {**(last or {}), "stamp": seal})  # files were touched, and nothing else
                    return None
                metrics = _do(task, store, used, f"{verb}/{task.part.name}/{row['fingerprint']}")
                row |= {"metrics": metrics, "state": "done", "error": None}
                break
            except Exception as error:  # of one part, which must not end the others
                row["error"] = str(error) if isinstance(error, InlierError) else f"{type(error).__name__}: {error}"
                if not isinstance(error, (InlierError, OSError)):
                    traceback.print_exc()  # a fault of ours
                if not may_pass(error) or attempt == TRIES:
                    break
                time.sleep(PAUSE * 2 ** (attempt - 1))
    row |= measured | {"attempts": attempt, "warnings": list(dict.fromkeys(warnings)), "time": time.time()}
    ledger.add(store, row)
    return row


def new_row(task: Task) -> Row:
    """Of a task of which nothing has come so far."""
    return {
        "id": ledger.new_number(),
        "run": task.order.run,
        "verb": task.order.verb,
        "part": task.part.name,
        "state": "failed",
        "time": time.time(),
        "fingerprint": None,
        "error": None,
        "library": __version__,
        "machine": platform.node(),
    }


def may_pass(error: BaseException) -> bool:
    """A full disk, a server that is away, too little memory; not what is wrong with pictures or settings.

    >>> may_pass(ConnectionError()), may_pass(InlierError("no pictures"))
    (True, False)
    """
    return not isinstance(error, PERMANENT) or isinstance(error.__cause__, OSError)


# -- what has changed -------------------------------------------------------------------------------------------------


def is_done(last: Row | None, stamp: str) -> bool:
    return last is not None and last["state"] == "done" and last.get("stamp") == stamp


def is_same(last: Row | None, fingerprint: str) -> bool:
    return last is not None and last["state"] == "done" and last["fingerprint"] == fingerprint


def stamp(task: Task, model: str | None) -> str:
    """Of all that decides the task's result, files by name, size and time of change. model: the one in use."""
    return _sealed(task, model, (f"{name} {size} {changed}" for name, size, changed, _ in _inputs(task)))


def fingerprint(task: Task, model: str | None) -> str:
    """The same, files by name and bytes."""
    return _sealed(task, model, (f"{name} {_digest(path)}" for name, _, _, path in _inputs(task)))


def _sealed(task: Task, model: str | None, files: Iterable[str]) -> str:
    verb = task.order.verb
    entries = {name: getattr(task.part, name) for name in DECIDES[verb]}
    known: dict[str, Any] = {"library": __version__, "verb": verb, "entries": entries}
    if verb in NEEDS_MODEL:
        known["model"] = model
    if verb == "export":
        known["to"] = task.order.to
    digest = hashlib.sha256(json.dumps(known, sort_keys=True).encode())
    for line in files:
        digest.update(f"\n{line}".encode(errors="surrogateescape"))
    return digest.hexdigest()[:32]


def _inputs(task: Task) -> Iterator[tuple[str, int, int, str]]:
    """(name, bytes, time of change, path) of each file that the verb reads."""
    for entry in READS[task.order.verb]:
        place = getattr(task.part, entry)
        if place is None:
            continue
        is_folder = os.path.isdir(place)
        paths = list(_files(place)) if is_folder else [place, *_pictures_of_table(place)]
        for path in sorted(paths):
            name = f"{entry}/{os.path.relpath(path, place) if is_folder else os.path.basename(path)}"
            try:
                found = os.stat(path)
                yield name, found.st_size, found.st_mtime_ns, path
            except OSError:  # the name of a data set, or what is missing: the task will say so
                yield name, -1, 0, ""


def _pictures_of_table(place: str) -> list[str]:
    """Of a .csv table, where it is one that can be read; if not, the task will say so."""
    if not place.lower().endswith(".csv") or not os.path.isfile(place):
        return []
    from inlier.data.datasets import open_dataset

    try:
        samples = open_dataset(place).samples
    except InlierError:
        return []
    return [str(path) for sample in samples for path in (sample.source, *sample.masks) if isinstance(path, Path)]


def _files(folder: str) -> Iterator[str]:
    """All but hidden ones, links followed, no folder twice."""
    seen = set[str]()
    for parent, folders, names in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(parent)) in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (os.path.join(parent, name) for name in names if not name.startswith("."))


def _digest(path: str) -> str:
    if not path:
        return "-"
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# -- measuring --------------------------------------------------------------------------------------------------------


@contextmanager
def _measured() -> Iterator[dict[str, float]]:
    """Seconds that passed, that the processors worked for it, and the highest memory meanwhile, once it is over."""
    from inlier import machine

    if CLEAR_REFS.exists():  # elsewhere it is the highest of the process's life
        CLEAR_REFS.write_text("5")
    found: dict[str, float] = {}
    wall, worked = time.perf_counter(), _processor_seconds()
    yield found
    found |= {"seconds": time.perf_counter() - wall, "processor_seconds": _processor_seconds() - worked}
    found["memory"] = machine.peak_memory()


def _processor_seconds() -> float:
    """Of this process and of those that it started and that have ended."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


@contextmanager
def _warnings_kept() -> Iterator[list[str]]:
    """What is warned of goes into the list; a hundred tasks would say it a hundred times."""
    handlers, propagate = log.handlers[:], log.propagate
    messages = Messages()
    log.handlers[:], log.propagate = [messages], False
    try:
        yield messages.warnings
    finally:
        log.handlers[:], log.propagate = handlers, propagate


def _do(task: Task, store: Store, used: str | None, place: str) -> Mapping[str, Any]:
    from inlier.fleet import verbs

    if task.order.verb in NEEDS_MODEL and used is None:
        raise InlierError(f"{task.part.name}: no model is in use yet; run `inlier fleet train` first")
    metrics: Mapping[str, Any] = getattr(verbs, task.order.verb)(task, store, used, place)
    return metrics
