"""Where pictures come from by themselves: a folder that somebody writes to, or a camera."""

import logging
import re
import threading
import time
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inlier.data.images import NO_PICTURES, SUFFIXES, find_pictures
from inlier.errors import InlierError
from inlier.names import shown
from inlier.serve.config import StationConfig
from inlier.serve.database import StoreError
from inlier.serve.station import Busy, Station, Stopped
from inlier.serve.store import Row

log = logging.getLogger("inlier")
SETTLED = 0.25  # seconds without a change after which a file counts as written
PATIENCE = 3.0  # seconds that a file which cannot be read yet may still be written
RESCAN = 30.0  # seconds between two looks at the whole folder: network drives tell of no changes
RETRY = 1.0  # seconds
NOT_JUDGED = "is not judged; the server's log says how"


def source_of(config: StationConfig, station: Station) -> "FolderWatch | Camera | None":
    """Where the station's pictures come from beside the API; it has not begun yet. Raises InlierError."""
    source = config.source
    if source and source.folder:
        return FolderWatch(station, source.folder)
    if source and source.camera is not None:
        return Camera(station, source.camera, source.every, source.trigger)
    return None


def key_of(name: str, state: tuple[int, int]) -> str:
    r"""What tells one inspection of a file from others. Bytes of its name that are no text are escaped.

    >>> key_of("pr\udcfcf.png", (7, 9))
    'pr\\udcfcf.png:7:9'
    """
    return f"{name.encode(errors='backslashreplace').decode()}:{state[0]}:{state[1]}"


def file_of(folder: Path, key: str) -> Path:
    """The file that a key was made for."""
    name = key.rsplit(":", 2)[0]
    if (folder / name).is_file():
        return folder / name
    return folder / re.sub(r"\\udc([0-9a-f]{2})", lambda found: chr(0xDC00 + int(found[1], 16)), name)


@dataclass
class Seen:
    """A file that waits: its time of change and size, and since when they are so."""

    state: tuple[int, int]
    since: float


class FolderWatch:
    """Judges each picture that comes into a folder, once: a file's name, time and size are the record's key."""

    def __init__(self, station: Station, folder: Path):
        if not folder.is_dir():
            raise InlierError(f"station {station.name}: {folder}: no such folder to watch")
        import watchfiles  # noqa: F401 (missing is said now, not by a thread while parts pass)

        self.station, self.folder = station, folder.resolve()
        self._waiting: dict[Path, Seen] = {}
        self._done: dict[Path, tuple[int, int]] = {}
        self._under_way: deque[tuple[Path, tuple[int, int], Future[Row]]] = deque()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"watch {station.name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        from watchfiles import watch

        scanned = -RESCAN
        while not self._ended.is_set():
            try:
                for changes in watch(
                    self.folder, debounce=100, step=30, rust_timeout=100, yield_on_timeout=True, stop_event=self._ended
                ):
                    for _, name in changes:
                        self._notice(Path(name))
                    if time.monotonic() - scanned > RESCAN:
                        for path in find_pictures(self.folder).pictures:
                            self._notice(path)
                        scanned = time.monotonic()
                    self._take()
            except (OSError, InlierError) as error:  # the folder is away
                _tell(self.station, f"{self.folder}: cannot be watched: {shown(error)}")
            except Exception as error:
                if "decode path" not in str(error):  # watchfiles', of a name that is no text: it is found without it
                    _tell(self.station, f"{self.folder}: watching it failed; the server's log says how", error)
            scanned = -RESCAN  # what came meanwhile
            self._ended.wait(RETRY)

    def _notice(self, path: Path) -> None:
        parts = path.relative_to(self.folder).parts
        hidden = any(part.startswith(".") or part.casefold() in NO_PICTURES for part in parts)
        if hidden or path.suffix.lower() not in SUFFIXES:
            return
        try:
            found = path.stat()
        except OSError:  # gone again
            self._waiting.pop(path, None)
            self._done.pop(path, None)
            return
        state = found.st_mtime_ns, found.st_size
        if self._done.get(path) == state:
            return
        if path not in self._waiting or self._waiting[path].state != state:
            self._waiting[path] = Seen(state, time.monotonic())

    def _take(self) -> None:
        """Submit what is settled, oldest first; as much as the station takes."""
        self._collect()
        for path in sorted(self._waiting, key=lambda path: (self._waiting[path].state[0], str(path))):
            seen = self._waiting[path]
            self._notice(path)  # perhaps it is written to just now
            if self._waiting.get(path) is not seen or time.monotonic() - seen.since < SETTLED:
                continue
            if len(self._under_way) >= max(1, self.station.limits.waiting // 2):
                return
            if not self._submit(path, seen):
                return
            self._collect()

    def _submit(self, path: Path, seen: Seen) -> bool:
        """Whether the next may be tried."""
        try:
            raw = path.read_bytes()
            if not raw and time.monotonic() - seen.since < PATIENCE:
                return True
            key = key_of(path.relative_to(self.folder).as_posix(), seen.state)
            future = self.station.inspect(raw, part=shown(path.name), key=key)
        except Busy:
            return False
        except (Stopped, StoreError) as error:
            self.station.problem = str(error)
            self._ended.wait(RETRY)
            return False
        except OSError as error:
            if time.monotonic() - seen.since < PATIENCE:
                return True
            _tell(self.station, f"{shown(path)}: cannot be read ({error.strerror or error})")
            future = None
        except Exception as error:  # what fails with one file costs no other
            _tell(self.station, f"{shown(path)}: {NOT_JUDGED}", error)
            future = None
        self._waiting.pop(path, None)
        self._done[path] = seen.state
        if future:
            self._under_way.append((path, seen.state, future))
        return True

    def _collect(self) -> None:
        while self._under_way and self._under_way[0][2].done():
            path, state, future = self._under_way.popleft()
            error = future.exception()
            if isinstance(error, StoreError):  # again, when the database is back
                self.station.problem = str(error)
                self._done.pop(path, None)
                self._waiting[path] = Seen(state, time.monotonic() + RETRY)
            elif error:
                _tell(self.station, f"{shown(path)}: {NOT_JUDGED}", error)
            elif self.station.problem:
                self.station.problem = ""


class Camera:
    """Judges a picture of a camera every so many seconds. One that is away is tried again, and the station says so."""

    def __init__(self, station: Station, camera: str | int, every: float, triggered: bool = False):
        try:
            import cv2
        except ModuleNotFoundError:
            raise InlierError(f"station {station.name}: a camera needs OpenCV: pip install 'inlier[camera]'") from None
        self._cv2: Any = cv2
        self.station, self.camera, self.every, self.triggered = station, camera, every, triggered
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"camera {station.name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.is_set():
            words, failure = f"camera {self.camera}: gives no picture; look at its cable and address", None
            try:
                self._watch()
            except Exception as error:  # OpenCV's, for an odd frame or address, and whatever a verdict may raise
                words, failure = f"camera {self.camera}: failed; the server's log says how", error
            if not self._ended.is_set():
                _tell(self.station, words, failure)
                self._ended.wait(RETRY)

    def _watch(self) -> None:
        """Until it gives no picture."""
        capture = self._cv2.VideoCapture(self.camera)
        try:
            while not self._ended.is_set():
                if self.triggered and not self.station.trigger.wait(0.05):
                    continue
                self.station.trigger.clear()
                start = time.monotonic()
                there, frame = capture.read()
                if not there:
                    return
                self._judge(frame)
                if not self.triggered:
                    self._ended.wait(max(0.0, self.every - (time.monotonic() - start)))
        finally:
            capture.release()

    def _judge(self, frame: Any) -> None:
        _, encoded = self._cv2.imencode(".png", frame)
        try:
            self.station.inspect(encoded.tobytes()).result()
            self.station.problem = ""
        except (Busy, Stopped, StoreError) as error:
            self.station.problem = str(error)


def _tell(station: Station, words: str, error: BaseException | None = None) -> None:
    """What is wrong, for people; into the log once."""
    if station.problem != words:
        log.warning("station %s: %s", station.name, words, exc_info=error)
    station.problem = words
