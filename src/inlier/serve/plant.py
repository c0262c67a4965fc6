"""All stations of one process, and what they share: records, pictures, threads."""

import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inlier import artifact
from inlier.errors import InlierError
from inlier.serve.config import Config, StationConfig
from inlier.serve.database import StoreError
from inlier.serve.judging import Judge
from inlier.serve.models import check_model, open_model
from inlier.serve.pictures import Pictures
from inlier.serve.security import check_safe
from inlier.serve.sinks import Outlet, outlets
from inlier.serve.station import Station
from inlier.serve.store import Missing, Row, Store
from inlier.serve.watch import Camera, FolderWatch, source_of
from inlier.serve.writer import Writer

log = logging.getLogger("inlier")
LOOK = 1.0  # seconds between two looks at the files of models and stations
SETTLED = 0.2  # seconds without a change after which a file counts as written
READERS = max(1, (os.cpu_count() or 2) // 2)  # threads that decode for one model
SWEEP = 600.0  # seconds between two sweeps of pictures


@dataclass(frozen=True)
class Running:
    """A station with the threads beside it."""

    station: Station
    source: FolderWatch | Camera | None
    sinks: Mapping[str, Outlet]  # by name

    @property
    def threads(self) -> list[FolderWatch | Camera | Outlet]:
        return [*([self.source] if self.source else []), *self.sinks.values()]

    def close(self) -> None:
        for one in self.threads:
            one.close()


class Plant:
    """Stations with their store. read: gives the config again when `file` has changed."""

    def __init__(self, config: Config, read: Callable[[], Config] | None = None, file: Path | None = None):
        _check_stations(config)
        for one in config.stations:  # before any folder is made
            check_model(one)
        self.config, self.read, self.file = config, read, file
        self.folder = config.server.data.expanduser()
        artifact.check_writable(self.folder / "any")
        self.store = Store(config.server.database or self.folder / "records.sqlite")
        self.pictures = Pictures(self.folder / "pictures")
        # other threads read these two while they change: both are replaced, and what they hold stays as it is
        self.running: Mapping[str, Running] = {}
        self.unsent: Mapping[str, int] = self.store.unsent()
        self.listeners: list[Callable[[list[Row]], None]] = []  # told of new records, on the writer's thread
        self.writer = Writer(self.store, self._sinks, self._written)
        # each station's model file, and `file` by "", as they were before they were read: what changes meanwhile shows
        self._seen: dict[tuple[str, Path], tuple[int, int]] = {}
        self._changing = threading.Lock()
        self._ended = threading.Event()
        self._keeper = threading.Thread(target=self._keep_house, name="house", daemon=True)
        try:
            for one in config.stations:
                self._run(one)
        except BaseException:
            self.close()
            raise
        self._keeper.start()

    @property
    def stations(self) -> dict[str, Station]:
        """Those of this moment, by name."""
        return {name: one.station for name, one in self.running.items()}

    def station(self, name: str) -> Station:
        """Raises InlierError."""
        stations = self.stations
        if found := stations.get(name):
            return found
        raise Missing(f"there is no station {name!r}, only: {', '.join(stations)}")

    def sinks_of(self, name: str) -> dict[str, dict[str, Any]]:
        """Of each sink of a station, how many messages wait, and what is wrong."""
        one = self.running.get(name)
        found = one.sinks if one else {}
        return {sink: {"waiting": self.unsent.get(sink, 0), "problem": it.problem} for sink, it in found.items()}

    def close(self) -> None:
        """Take no more pictures, finish those that wait, write all, stop."""
        if self._ended.is_set():
            return
        self._ended.set()
        if self._keeper.is_alive():
            self._keeper.join()
        with self._changing:
            for one in self.running.values():
                one.station.end("the station is being stopped")
                one.close()
            for judge in self._judges():
                judge.close()
            self.writer.close()
            for one in self.running.values():
                one.station.drift.save()
            self.store.close()

    def apply(self, config: Config) -> list[str]:
        """Change stations, tokens and limits to what the file says now; what was done.

        A station that cannot be changed stays as it is. Raises InlierError where strangers could come in, and where no
        station is left; then nothing is changed.
        """
        done = []
        with self._changing:
            before = self.config
            if config.server != before.server or config.opcua != before.opcua:
                done.append("[server] and [opcua] take effect at the next start")
            config = config.model_copy(update={"server": before.server, "opcua": before.opcua})
            check_safe(config)
            _check_stations(config)
            self.config = config
            if config.tokens != before.tokens:
                done.append("[[tokens]]: changed")
            if config.limits != before.limits:
                done.append("[limits]: changed")
                for station in self.stations.values():
                    station.limits = config.limits
                    station.judge.batch = config.limits.batch
            wanted = {one.name: one for one in config.stations}
            for name in [name for name in self.running if name not in wanted]:
                self._remove(name)
                done.append(f"station {name}: removed")
            for name, one in wanted.items():
                known = self.stations.get(name)
                if known and known.config == one:
                    continue
                try:
                    self._run(one)
                    done.append(f"station {name}: {'changed' if known else 'added'}")
                except Exception as error:  # of one station; the others change all the same
                    words = str(error)
                    if not isinstance(error, InlierError):
                        log.error("station %s", name, exc_info=error)
                        words = "its model, source or sinks failed; the server's log says how"
                    done.append(f"station {name}: {'stays as it was' if known else 'is not started'}: {words}")
                    if known:
                        known.problem = words
        for line in done:
            log.info("%s", line)
        if done:
            self.store.act("the station", "configure", {"done": done})
        return done

    def reload(self, name: str, who: str) -> None:
        """Read the station's model again. Raises InlierError; the station then judges with what it had."""
        with self._changing:
            station = self.station(name)
            before = station.model.sha256
            try:
                self._run(station.config)
            except InlierError as error:
                station.problem = str(error)
                raise
        self.store.act(who, "reload", {"station": name, "before": before, "now": station.model.sha256})
        log.info("station %s: judges with %s", name, station.model.path)

    # -- inside --------------------------------------------------------------------------------------------------------

    def _run(self, config: StationConfig) -> None:
        """Start a station, or let the one of this name go on as the config says.

        First everything is made that may fail. Raises InlierError then, and nothing has begun or ended.
        """
        self._seen[config.name, config.model] = _state(config.model)
        old, others = self.running.get(config.name), self.stations.values()
        model = open_model(config, self.folder / "models", {one.model.key: one.model.inspector for one in others})
        shared = next((one.judge for one in others if one.model.key == model.key), None)
        judge = shared or Judge(self.config.limits.batch, READERS)
        if old:
            station = old.station
        else:
            shares = self.writer, self.store, self.pictures, self.config.limits, self.folder
            station = Station(config, model, judge, *shares)
            station.refusal = lambda: self._refusal(config.name)
        new, before, left = old, station.config, station.judge
        if not new or (before.source, before.sinks) != (config.source, config.sinks):
            new = Running(station, source_of(config, station), outlets(config, self.store, self.pictures))
        if old:
            station.exchange(config, model, judge)
        # from here on nothing fails
        if not shared:
            judge.start()
        if new is not old:
            self.running = {**self.running, config.name: new}
            if old:
                old.close()
            for one in new.threads:
                one.start()
        self._close_unused(left)

    def _remove(self, name: str) -> None:
        gone = self.running[name]
        self.running = {other: one for other, one in self.running.items() if other != name}
        gone.station.end("the station was removed")
        gone.close()
        self._close_unused(gone.station.judge)
        gone.station.drift.save()

    def _judges(self) -> set[Judge]:
        return {station.judge for station in self.stations.values()}

    def _close_unused(self, judge: Judge) -> None:
        if judge not in self._judges():
            judge.close()

    def _sinks(self) -> dict[str, Sequence[str]]:
        return {name: tuple(one.sinks) for name, one in self.running.items()}

    def _refusal(self, name: str) -> str:
        """Messages wait for a sink that is away: stop before any would be lost."""
        for sink, told in self.sinks_of(name).items():
            if told["waiting"] >= self.config.limits.unsent:
                return f"{told['waiting']} messages wait for {sink}, which takes none; look after it"
        return ""

    def _written(self, rows: list[Row]) -> None:
        running, unsent = self.running, Counter(self.unsent)
        for row in rows:
            if one := running.get(row["station"]):
                if alarm := one.station.drift.update(row):
                    log.warning("station %s: %s", one.station.name, alarm)
                unsent.update(one.sinks.keys())
                for sink in one.sinks.values():
                    sink.wake()
        self.unsent = unsent
        for listener in list(self.listeners):
            listener(rows)

    def _keep_house(self) -> None:
        swept = 0.0
        while not self._ended.wait(LOOK):
            try:
                self._look_at_files()
                if time.monotonic() - swept > SWEEP:
                    for station in self.stations.values():
                        self.pictures.sweep(station.name, station.config.keep, self.store)
                    swept = time.monotonic()
                self.unsent = {**dict.fromkeys(self.unsent, 0), **self.store.unsent()}
            except StoreError as error:
                log.warning("%s", error)
            except Exception:
                log.exception("housekeeping")

    def _look_at_files(self) -> None:
        if self.file and self.read and self._has_changed("", self.file):
            self._seen["", self.file] = _state(self.file)
            try:
                self.apply(self.read())
            except StoreError:  # all is done, but not on record
                raise
            except InlierError as error:
                log.warning("%s: the stations stay as they are", error)
        for name, station in self.stations.items():
            if self._has_changed(name, station.config.model):
                try:
                    self.reload(name, "the station")
                except InlierError as error:
                    log.warning("station %s: goes on with the model it has: %s", name, error)

    def _has_changed(self, name: str, path: Path) -> bool:
        """Whether a file is another than it was, and nobody is writing it any more, as far as that shows."""
        found = _state(path)
        if found == self._seen.get((name, path)) or not found[1]:
            return False
        time.sleep(SETTLED)
        return _state(path) == found


def _check_stations(config: Config) -> None:
    if not config.stations:
        raise InlierError("no station: give a model, or a --config with [[stations]]")


def _state(path: Path) -> tuple[int, int]:
    """Time of change and size; (0, 0) where there is none."""
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_mtime_ns, found.st_size
