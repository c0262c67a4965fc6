"""A verb over a whole plan: what is due, what each task needs, and which engine does it.

An engine takes tasks with what they need and gives a row for each, as they end. `local` and `ray` differ in nothing
else; a shard is a part of the plan on the local engine.
"""

import functools
import json
import logging
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Protocol

from inlier import methods
from inlier.errors import InlierError
from inlier.fleet import ledger, tasks
from inlier.fleet.ledger import Row
from inlier.fleet.models import models_in_use
from inlier.fleet.plan import AUTO, Part, Plan, Task, check_methods
from inlier.fleet.store import Store

log = logging.getLogger("inlier")
GIB = 2**30
BASE = GIB // 2  # bytes that a worker takes with PyTorch, before it does anything
MARGIN = 1.1  # a task may take so much more memory than it did the last time


@dataclass(frozen=True)
class Need:
    """What a task takes: processors that are busy, bytes, and seconds, 0 where that is not known."""

    processors: int = 1
    memory: int = BASE
    seconds: float = 0.0


Job = tuple[Task, Need]


class Engine(Protocol):
    def run(self, jobs: Sequence[Job], store: Store) -> Iterator[Row | None]:
        """A row for each, as they end; None where another run had done it. The rows are in the store by then."""


@dataclass(frozen=True)
class Where:
    """Of `--on`: local, shard:2/4, ray or ray:ADDRESS."""

    kind: str
    shard: tuple[int, int] = (1, 1)
    address: str | None = None


def where(text: str) -> Where:
    """Raises InlierError for anything else.

    >>> where("shard:2/4").shard
    (2, 4)
    """
    if text == "local":
        return Where("local")
    if found := re.fullmatch(r"shard:(\d+)/(\d+)", text):
        i, n = int(found[1]), int(found[2])
        if not 1 <= i <= n:
            raise InlierError(f"--on {text}: the shards of {n} are 1/{n} to {n}/{n}")
        return Where("local", (i, n))
    if found := re.fullmatch(r"ray(?::(.+))?", text):
        return Where("ray", address=found[1])
    raise InlierError(f"--on {text}: give local, shard:i/n (such as shard:1/4), ray or ray:ADDRESS")


def processors() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def run_name() -> str:
    """Sorts by time."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{os.getpid()}"


def due(plan: Plan, verb: str, store: Store, given: Task) -> tuple[list[Task], dict[str, Row]]:
    """(the tasks whose inputs changed since they were done, or that failed; all last rows). given: options of all."""
    last, used = ledger.last(store, verb), models_in_use(store)
    every = [replace(given, verb=verb, part=part) for part in plan.parts]
    return [
        task
        for task in every
        if not tasks.is_done(last.get(task.part.name), tasks.stamp(task, used.get(task.part.name)))
    ], last


def jobs(due: Sequence[Task], last: Mapping[str, Row]) -> list[Job]:
    """With what each takes, the longest first, so that none is left at the end alone; those not known yet lead."""
    found = [(task, need(task, last.get(task.part.name))) for task in due]
    return sorted(found, key=lambda job: -(job[1].seconds or float("inf")))


def need(task: Task, last: Row | None) -> Need:
    """As measured the last time, or else as the method foretells it."""
    if last is not None and last.get("memory") and last["state"] == "done":
        busy = round(last["processor_seconds"] / max(last["seconds"], 1e-9))
        memory = int(MARGIN * last["memory"])
        return Need(max(1, busy, task.part.processes), memory, last["seconds"])
    foretold = _foretold(task.part) if task.verb == "train" else 0
    return Need(task.part.processes, BASE + task.part.processes * foretold)


def _foretold(part: Part) -> int:
    """Bytes that a fit takes at most, by the method's own word; 0 where it says nothing, or the data cannot be read."""
    from inlier.data.datasets import open_dataset

    if part.method == AUTO:
        return BASE
    try:
        n = len(open_dataset(part.data, [part.category] if part.category else []).train)
    except InlierError:  # the task will say so
        return 0
    return _of_fit(part.method, part.preset, json.dumps(part.settings), n) if n else 0


@functools.cache  # hundreds of parts have the same settings, and some methods look at their network for it
def _of_fit(method: str, preset: str, settings: str, pictures: int) -> int:
    detector = methods.create(method, preset, **json.loads(settings))
    return detector.memory_needed(detector.settings)


def refused(job: Job, most: int) -> Row:
    """The row of a task that no worker has the memory for. most: bytes of the largest worker."""
    task, needed = job
    told = f"needs about {needed.memory / GIB:.1f} GiB of memory, the largest worker has {most / GIB:.1f} GiB"
    return tasks.new_row(task) | {
        "state": "refused",
        "error": f"{told}: run it where there is more (--memory, --on ray)",
    }


def run(
    plan: Plan, verb: str, store: Store, engine: Engine, given: Task, todo: Sequence[Task], last: Mapping[str, Row]
) -> Iterator[Row]:
    """Do what is due, and give each row. The plan is checked as a whole first: a wrong entry stops all, before any."""
    if not todo:
        return
    if verb in ("train", "check"):
        check_methods(Plan(parts=tuple(task.part for task in todo)))
    try:
        yield from (row for row in engine.run(jobs(todo, last), store) if row is not None)
    finally:
        ledger.fold(store)


def startable(waiting: Iterable[Job], running: Sequence[Need], processors: int, memory: int) -> int | None:
    """Place of the first of the waiting that fits beside those that run; None: all have to wait.

    What is alone may take more processors than there are. memory: bytes of all.
    """
    busy, taken = sum(need.processors for need in running), sum(need.memory for need in running)
    for place, (_, needed) in enumerate(waiting):
        fits = busy + needed.processors <= processors or not running
        if fits and taken + needed.memory <= memory:
            return place
    return None
