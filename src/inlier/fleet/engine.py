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
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from inlier import methods
from inlier.errors import InlierError
from inlier.fleet import ledger, tasks
from inlier.fleet.ledger import Row
from inlier.fleet.models import models_in_use
from inlier.fleet.plan import AUTO, Order, Plan, Task, check_methods
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


def due(plan: Plan, order: Order, store: Store) -> list[Job]:
    """The tasks whose inputs changed since they were done, or that failed, with what each takes.

    The longest first, so that none is left at the end alone; those not known yet lead. Raises InlierError where the
    plan has a wrong entry: that stops all, before any.
    """
    last = ledger.last(store, order.verb)
    used = models_in_use(store)
    found = [
        task
        for task in (Task(order, part) for part in plan.parts)
        if not tasks.is_done(last.get(task.part.name), tasks.stamp(task, used.get(task.part.name)))
    ]
    if order.verb == "check":
        check_methods(plan)
    elif order.verb == "train":  # the rest of the plan was carried out before, and PyTorch need not be loaded for it
        check_methods(Plan(parts=tuple(task.part for task in found)))
    jobs = [(task, need(task, last.get(task.part.name))) for task in found]
    return sorted(jobs, key=lambda job: -(job[1].seconds or float("inf")))


def need(task: Task, last: Row | None) -> Need:
    """As measured the last time, or else as the method foretells it."""
    part = task.part
    if last is not None and last.get("memory") and last["state"] == "done":
        busy = round(last["processor_seconds"] / max(last["seconds"], 1e-9))
        memory = int(MARGIN * last["memory"])
        return Need(max(1, busy, part.processes), memory, last["seconds"])
    fit = _of_fit(part.method, part.preset, json.dumps(part.settings)) if task.order.verb == "train" else 0
    return Need(part.processes, BASE + part.processes * fit)


@functools.cache  # hundreds of parts have the same settings, and some methods look at their network for it
def _of_fit(method: str, preset: str, settings: str) -> int:
    """Bytes that a fit takes at most, by the method's own word; 0 where it says nothing, or cannot be fitted so."""
    if method == AUTO:
        return BASE
    detector = methods.create(method, preset, **json.loads(settings))
    try:
        return detector.memory_needed(detector.settings)
    except InlierError:  # of a layer that its backbone lacks, for one: the task will say so
        return 0


def refused(job: Job, most: int) -> Row:
    """The row of a task that no worker has the memory for. most: bytes of the largest worker."""
    task, needed = job
    error = (
        f"needs about {needed.memory / GIB:.1f} GiB of memory, the largest worker has {most / GIB:.1f} GiB: run it "
        "where there is more (--memory, --on ray)"
    )
    return tasks.new_row(task) | {"state": "refused", "error": error}


def run(jobs: Sequence[Job], store: Store, engine: Engine) -> Iterator[Row]:
    """Do them, and give the row of each that no other run had done."""
    try:
        yield from (row for row in engine.run(jobs, store) if row is not None)
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
