"""Progress on stderr: a bar on a terminal, a line now and then in a log."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from inlier.names import shown

log = logging.getLogger("inlier")
LINE_EVERY = 30.0  # seconds between two lines in a log


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
