"""Progress on stderr: a bar on a terminal, a line now and then in a log; and what it says about a deadline."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from inlier.errors import OutOfTime
from inlier.names import shown

log = logging.getLogger("inlier")
LINE_EVERY = 30.0  # seconds between two lines in a log
EVIDENCE = 0.05  # share of the time allowed that is measured before an end is projected: single steps say little


class Advance(Protocol):
    def __call__(self, done: int, note: str = "") -> None: ...


@contextmanager
def progress(label: str, total: int) -> Iterator[Advance]:
    """`with progress("reading", 320) as show: ... show(done, "loss 0.31")`, silent unless logging is at INFO."""
    if not log.isEnabledFor(logging.INFO):
        yield lambda done, note="": None
        return

    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    if console.is_terminal:
        columns = (
            TextColumn("{task.description}", markup=False),  # a name is no markup
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
        )
        with Progress(*columns, console=console) as bar:
            task = bar.add_task(shown(label), total=total, note="")
            yield lambda done, note="": bar.update(task, completed=done, note=note)
        return

    start = last = time.monotonic()
    reached = 0

    def line(done: int, note: str = "") -> None:
        nonlocal last, reached
        reached = done
        if time.monotonic() - last > LINE_EVERY:
            last = time.monotonic()
            log.info("%s: %d of %d, %.0f s %s", label, done, total, last - start, note)

    yield line
    if time.monotonic() - start > 2:
        done = f"{reached} of {total}" if reached < total else f"{total}"  # stopped, or good enough early
        log.info("%s: %s in %.0f s", label, done, time.monotonic() - start)


class Pace:
    """Projects when a row of like steps will end. Asked after each of them; deadline: of time.monotonic(), or None.

    The first step counts for nothing, as it warms up caches. Once half of the steps are done it is never too late: to
    give up then would cost more than it saves.

    >>> Pace(None, 100).is_late(1)
    False
    """

    def __init__(self, deadline: float | None, total: int):
        self.deadline, self.total = deadline, total
        self.began = time.monotonic()
        self.first: tuple[int, float] | None = None  # the step, and when it was done
        self.end = self.began  # as projected last

    def is_late(self, done: int) -> bool:
        """Whether the row will not end before the deadline."""
        if self.deadline is None:
            return False
        now = time.monotonic()
        if self.first is None:
            self.first = done, now
        step, since = self.first
        if done > step:
            self.end = now + (self.total - done) * (now - since) / (done - step)
        is_known = done > step and now - self.began >= EVIDENCE * (self.deadline - self.began)
        return 2 * done < self.total and (now > self.deadline or (is_known and self.end > self.deadline))

    def check(self, done: int) -> None:
        """Raise OutOfTime if it is late."""
        if self.is_late(done):
            raise self.error()

    def error(self) -> OutOfTime:
        assert self.deadline is not None
        allowed = max(0.0, self.deadline - self.began)
        if self.end <= self.deadline:  # no pace is known: the time went by before two steps were done
            return OutOfTime(f"was not done in the {allowed:.1f} s that were left for it")
        # this is one of several things to do, so it is the least
        return OutOfTime(f"would take {self.end - self.began:.1f} s or more, {allowed:.1f} s are left for it")
