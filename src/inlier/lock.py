"""One at a time: a folder that one fit or one sweep holds, of all processes of the machine."""

import contextlib
import errno
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from inlier import artifact, processes
from inlier.errors import InlierError

log = logging.getLogger("inlier")


@contextmanager
def alone(folder: Path | None) -> Iterator[None]:
    """Hold a run folder for one fit. Raises InlierError if another fit does, of this process or another.

    A fit that was killed holds nothing any more: the lock is the operating system's.
    """
    if folder is None or processes.rank():
        yield
        return
    if folder.exists() and not folder.is_dir():
        raise InlierError(f"{folder}: is a file; the run is kept in a folder of that name: move or rename one")
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        lock = _lock(folder / ".lock")
    except OSError as error:
        raise InlierError(f"{folder}: cannot be written ({error.strerror})") from error
    try:
        for path in folder.rglob(f"{artifact.TEMPORARY}*.tmp"):  # left by a kill -9
            path.unlink()
        yield
    finally:
        if sys.platform == "win32":  # which deletes no open files
            os.close(lock)
        with contextlib.suppress(OSError):
            (folder / ".lock").unlink()
        if sys.platform != "win32":
            os.close(lock)
        for place in missing:
            with contextlib.suppress(OSError):  # not empty
                place.rmdir()


def _lock(path: Path) -> int:
    """The open lock file."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(path, os.O_CREAT | os.O_RDWR, 0o666)
        except FileNotFoundError:  # the end of another fit took the folder away
            continue
        if not _can_take(handle):
            os.close(handle)
            raise InlierError(f"{path.parent}: belongs to a training that runs now; wait for it, or write elsewhere")
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), os.stat(path)):
                return handle
        os.close(handle)  # the end of another fit took the file away


def _can_take(handle: int) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES, errno.EDEADLK):
            return False
        log.warning("the run folder cannot be locked here (%s): start no second training in it", error.strerror)
    return True
