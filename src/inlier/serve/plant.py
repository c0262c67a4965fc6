"""All stations of one process, and what they share: records, pictures, threads."""

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from inlier import artifact
from inlier.errors import InlierError
from inlier.inspection.inspector import Inspector
from inlier.serve.config import Config, StationConfig
from inlier.serve.judging import Judge
from inlier.serve.models import open_model
from inlier.serve.pictures import Pictures
from inlier.serve.security import check_safe
from inlier.serve.station import Station
from inlier.serve.store import Missing, Row, Store, StoreError
from inlier.serve.writer import Writer

log = logging.getLogger("inlier")
LOOK = 1.0  # seconds between two looks at the files of models and stations
READERS = max(1, (os.cpu_count() or 2) // 2)  # threads that decode for one model
SWEEP = 600.0  # seconds between two sweeps of pictures


class Part(Protocol):
    """A thread of a station: its source, or one of its sinks."""

    def close(self) -> None: ...


class Woken(Protocol):
    """Looks for messages when it is told that there are some."""

    problem: str  # why it takes none; ""

    def wake(self) -> None: ...


@dataclass
class Parts:
    """What runs beside a station."""

    running: list[Part] = field(default_factory=list)
    sinks: Mapping[str, Woken] = field(default_factory=dict)  # by name


class Plant:
    """Stations with their store.

    read: gives the config again when `file` has changed. start: makes the sources and sinks of a station.
    """

    def __init__(
        self,
        config: Config,
        read: Callable[[], Config] | None = None,
        file: Path | None = None,
        start: Callable[["Plant", Station], Parts] = lambda plant, station: Parts(),
    ):
        if not config.stations:
            raise InlierError("no station: give a model, or a --config with [[stations]]")
        for one in config.stations:  # before any folder is made
            if not one.model.is_file():
                raise InlierError(f"station {one.name}: {one.model}: no such model file")
        self.config, self.read, self.file, self._start = config, read, file, start
        self.folder = config.server.data.expanduser()
        artifact.check_writable(self.folder / "any")
        self.store = Store(config.server.database or self.folder / "records.sqlite")
        self.pictures = Pictures(self.folder / "pictures")
        self.stations: dict[str, Station] = {}
        self._parts: dict[str, Parts] = {}
        self._opened: dict[Any, Inspector] = {}
        self._judges: dict[Any, Judge] = {}
        self._watched: dict[Path, tuple[float, int]] = {}
        self.listeners: list[Callable[[list[Row]], None]] = []  # told of new records, on the writer's thread
        self.unsent: dict[str, int] = self.store.unsent()
        self.writer = Writer(self.store, self._sinks, self._written)
        self._changing = threading.Lock()
        self._ended = threading.Event()
        for one in config.stations:
            self._add(one)
        self._note_files()
        self._keeper = threading.Thread(target=self._keep_house, name="house", daemon=True)
        self._keeper.start()

    def station(self, name: str) -> Station:
        """Raises InlierError."""
        if found := self.stations.get(name):
            return found
        raise Missing(f"there is no station {name!r}, only: {', '.join(self.stations)}")

    def sinks_of(self, name: str) -> dict[str, dict[str, Any]]:
        """Of each sink of a station, how many messages wait, and what is wrong."""
        parts = self._parts.get(name)
        found = parts.sinks if parts else {}
        return {sink: {"waiting": self.unsent.get(sink, 0), "problem": one.problem} for sink, one in found.items()}

    def close(self) -> None:
        """Take no more pictures, finish those that wait, write all, stop."""
        if self._ended.is_set():
            return
        self._ended.set()
        self._keeper.join()
        for station in self.stations.values():
            station.refusal = lambda: "the station is being stopped"
        for parts in self._parts.values():
            for part in parts.running:
                part.close()
        for judge in self._judges.values():
            judge.close()
        self.writer.close()
        for station in self.stations.values():
            station.drift.save()
        self.store.close()

    def apply(self, config: Config) -> list[str]:
        """Change stations, tokens and limits to what the file says now; what was done.

        A station that cannot be changed stays as it is. Raises InlierError where strangers could come in; then nothing
        is changed.
        """
        done = []
        with self._changing:
            before = self.config
            if config.server != before.server or config.opcua != before.opcua:
                done.append("[server] and [opcua] take effect at the next start")
            config = config.model_copy(update={"server": before.server, "opcua": before.opcua})
            check_safe(config)
            self.config = config
            if config.tokens != before.tokens:
                done.append("[[tokens]]: changed")
            if config.limits != before.limits:
                done.append("[limits]: changed")
                for judge in self._judges.values():
                    judge.batch = config.limits.batch
                for station in self.stations.values():
                    station.limits = config.limits
            wanted = {one.name: one for one in config.stations}
            for name in [name for name in self.stations if name not in wanted]:
                self._remove(name)
                done.append(f"station {name}: removed")
            for name, one in wanted.items():
                try:
                    if name not in self.stations:
                        self._add(one)
                        done.append(f"station {name}: added")
                    elif self.stations[name].config != one:
                        self._change(self.stations[name], one)
                        done.append(f"station {name}: changed")
                except InlierError as error:
                    done.append(f"station {name}: stays as it was: {error}")
                    if name in self.stations:
                        self.stations[name].problem = str(error)
            self._note_files()
        for line in done:
            log.info("%s", line)
        if done:
            self.store.act("the station", "configure", {"done": done})
        return done

    def reload(self, name: str, who: str) -> None:
        """Read the station's model again. Raises InlierError; the station then judges with what it had."""
        station = self.station(name)
        with self._changing:
            before = station.model.sha256
            try:
                station.exchange(open_model(station.config, self.folder / "models", self._opened))
            except InlierError as error:
                station.problem = str(error)
                raise
            station.problem = ""
            self._forget_unused()
            self._note_files()
        self.store.act(who, "reload", {"station": name, "before": before, "now": station.model.sha256})
        log.info("station %s: judges with %s", name, station.model.path)

    # -- inside --------------------------------------------------------------------------------------------------------

    def _add(self, config: StationConfig) -> None:
        model = open_model(config, self.folder / "models", self._opened)
        key = config.model, config.runtime, config.device
        judge = self._judges.get(key) or self._judges.setdefault(key, Judge(self.config.limits.batch, READERS))
        shared = self.writer, self.store, self.pictures, self.config.limits, self.folder
        station = Station(config, model, judge, *shared)
        station.refusal = lambda: self._refusal(station.name)
        self.stations[config.name] = station
        self._parts[config.name] = self._start(self, station)

    def _change(self, station: Station, config: StationConfig) -> None:
        model = open_model(config, self.folder / "models", self._opened)
        same = (station.config.source, station.config.sinks) == (config.source, config.sinks)
        station.exchange(model, config)
        station.problem = ""
        self._forget_unused()
        if not same:
            for part in self._parts[station.name].running:
                part.close()
            self._parts[station.name] = self._start(self, station)

    def _remove(self, name: str) -> None:
        station = self.stations.pop(name)
        station.refusal = lambda: "the station was removed"
        for part in self._parts.pop(name).running:
            part.close()
        station.drift.save()

    def _forget_unused(self) -> None:
        used = {id(station.model.inspector) for station in self.stations.values()}
        self._opened = {key: inspector for key, inspector in self._opened.items() if id(inspector) in used}

    def _sinks(self) -> dict[str, Sequence[str]]:
        return {name: tuple(parts.sinks) for name, parts in self._parts.items()}

    def _refusal(self, name: str) -> str:
        """Messages wait for a sink that is away: stop before any would be lost."""
        parts = self._parts.get(name)
        for sink in parts.sinks if parts else ():
            if self.unsent.get(sink, 0) >= self.config.limits.unsent:
                return f"{self.unsent[sink]} messages wait for {sink}, which takes none; look after it"
        return ""

    def _written(self, rows: list[Row]) -> None:
        for row in rows:
            if station := self.stations.get(row["station"]):
                if alarm := station.drift.update(row):
                    log.warning("station %s: %s", station.name, alarm)
                for name, sink in self._parts[station.name].sinks.items() if station.name in self._parts else ():
                    self.unsent[name] = self.unsent.get(name, 0) + 1
                    sink.wake()
        for listener in list(self.listeners):
            listener(rows)

    def _note_files(self) -> None:
        self._watched = {path: _state(path) for path in self._files()}

    def _files(self) -> list[Path]:
        models = [station.config.model.expanduser() for station in self.stations.values()]
        return models + ([self.file] if self.file else [])

    def _keep_house(self) -> None:
        swept = 0.0
        while not self._ended.wait(LOOK):
            try:
                self._look_at_files()
                if time.monotonic() - swept > SWEEP:
                    for station in list(self.stations.values()):
                        self.pictures.sweep(station.name, station.config.keep, self.store)
                    swept = time.monotonic()
                counted = self.store.unsent()
                self.unsent = {sink: counted.get(sink, 0) for sink in self.unsent.keys() | counted.keys()}
            except StoreError as error:
                log.warning("%s", error)
            except Exception:
                log.exception("housekeeping")

    def _look_at_files(self) -> None:
        changed = {path for path in self._files() if self._watched.get(path) != (state := _state(path)) and state[1]}
        if not changed:
            return
        if self.file in changed and self.read:
            self._watched[self.file] = _state(self.file)
            try:
                self.apply(self.read())
            except InlierError as error:
                log.warning("%s: the stations stay as they are", error)
        for name, station in list(self.stations.items()):
            path = station.config.model.expanduser()
            if path in changed and _settled(path):
                self._watched[path] = _state(path)
                try:
                    self.reload(name, "the station")
                except InlierError as error:
                    log.warning("station %s: goes on with the model it has: %s", name, error)


def _state(path: Path) -> tuple[float, int]:
    """Time of change and size; (0, 0) where there is none."""
    try:
        found = path.stat()
    except OSError:
        return 0.0, 0
    return found.st_mtime, found.st_size


def _settled(path: Path) -> bool:
    """Whether nobody is writing it any more, as far as that shows."""
    before = _state(path)
    time.sleep(0.2)
    return _state(path) == before and before[1] > 0
