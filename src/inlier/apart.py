"""What processes that work for this one need: they end with it, leave Ctrl-C to it, and say why they ended."""

import logging
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import wait

from inlier.names import shown_message


@contextmanager
def ctrl_c_held_back() -> Iterator[None]:
    """Ctrl-C comes afterwards. A process that is started meanwhile holds it back for ever: its parent ends it."""
    if sys.platform == "win32":
        yield
        return
    resource_tracker.ensure_running()  # or it would be started now, which lets signals through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def last_words(code: int | None) -> str:
    """Why a process ended without a result. code: its exit code, as multiprocessing tells it."""
    if code is not None and code < 0:
        known = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        hint = ": too little memory?" if -code == signal.SIGKILL else ""
        return f"its process was ended by {known}{hint}"
    return f"its process ended without a word, exit code {code}"


def end_with_parent() -> None:
    """For a thread: nobody waits for the result of a process whose parent was killed."""
    parent = multiprocessing.parent_process()
    if parent:
        wait([parent.sentinel])
        os._exit(1)


class Messages(logging.Handler):
    """Keeps warnings for the row, and shows how far the work is; the rest would be said again for each task."""

    def __init__(self) -> None:
        super().__init__()
        self.warnings: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING:
            self.warnings.append(record.getMessage())
        elif record.module == "progress":
            print(shown_message(record.getMessage()), file=sys.stderr, flush=True)
