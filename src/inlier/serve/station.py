"""One station: a model, where its pictures come from, and what becomes of a verdict."""

import hashlib
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from inlier.errors import InlierError
from inlier.inspection.result import Prediction
from inlier.serve.config import Limits, StationConfig
from inlier.serve.drifting import Drift
from inlier.serve.judging import Judge, Task
from inlier.serve.models import Model
from inlier.serve.pictures import Pictures, check_picture, wanted
from inlier.serve.regions import outlines
from inlier.serve.store import Row, Store, now
from inlier.serve.writer import Writer

log = logging.getLogger("inlier")
REMEMBERED = 16  # predictions with their maps, of the newest records


class Busy(InlierError):
    """Too much waits: the sender shall try again."""


class Stopped(InlierError):
    """The station takes no pictures now, and says why."""


@dataclass(frozen=True)
class Remembered:
    """A verdict with its map."""

    prediction: Prediction  # without its picture
    raw: bytes
    model: Model


class Station:
    """Thread-safe. `model` may be exchanged at any time: what came before is judged by the one that it came to."""

    def __init__(
        self,
        config: StationConfig,
        model: Model,
        judge: Judge,
        writer: Writer,
        store: Store,
        pictures: Pictures,
        limits: Limits,
        folder: Path,
    ):
        self.config, self.model, self.judge = config, model, judge
        self.writer, self.store, self.pictures, self.limits, self.folder = writer, store, pictures, limits, folder
        self.refusal: Callable[[], str] = lambda: ""  # why nothing is taken now; "": all is well
        self.lot: str | None = None  # of parts whose sender names none
        self.trigger = threading.Event()  # a picture is wanted now
        self.problem = ""  # of the source, of a reload; for people
        self.drift = self._new_drift(model)
        self._lock, self._ended = threading.Lock(), False
        self._waiting = self._bytes = 0
        self._remembered: OrderedDict[int, Remembered] = OrderedDict()

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def waiting(self) -> int:
        return self._waiting

    def inspect(
        self, raw: bytes, *, part: str | None = None, lot: str | None = None, key: str | None = None
    ) -> "Future[Row]":
        """Judge a picture; its record, when that is written. Raises Busy, Stopped, and StoreError.

        key: the sender's number of this inspection: with one that is known already, its record is given again.
        """
        if key and (known := self.store.by_key(self.name, key)):
            future: Future[Row] = Future()
            future.set_result(known)
            return future
        answer: Future[Row] = Future()
        about = {"part": part, "lot": lot or self.lot, "key": key}
        suffix = wrong = ""
        try:
            suffix = check_picture(raw, self.limits.pixels)
        except InlierError as error:
            wrong = str(error)
        with self._lock:  # `exchange` and `end` wait: a judge that they leave behind gets nothing any more
            if reason := self.refusal():
                raise Stopped(reason)
            if self._waiting >= self.limits.waiting or self._bytes + len(raw) > 8 * self.limits.bytes:
                raise Busy(f"{self._waiting} pictures wait already; send it again in a moment")
            self._waiting += 1
            self._bytes += len(raw)
            task = Task(raw, self.model, lambda task: self._done(task, about, suffix, answer), error=wrong)
            self.judge.submit(task)
        answer.add_done_callback(lambda _: self._leave(len(raw)))
        return answer

    def exchange(self, config: StationConfig, model: Model, judge: Judge) -> None:
        """Judge with these from the next picture on. Raises StoreError; then nothing has changed."""
        self.drift.save()
        drift = self._new_drift(model)
        with self._lock:
            self.config, self.model, self.judge, self.drift = config, model, judge, drift
        self.problem = ""

    def end(self, why: str) -> None:
        """Take nothing any more; what waits is judged still."""
        with self._lock:
            self._ended = True
            self.refusal = lambda: why

    def remembered(self, record: Row) -> Remembered:
        """The verdict of a record with its map; judged again where it is not among the newest. Raises InlierError."""
        with self._lock:
            found = self._remembered.get(record["id"])
        if found and found.prediction.network_maps is not None:
            return found
        if record["error"] is not None:
            raise InlierError("this picture could not be judged, so there is no map")
        raw, ready = self.picture(record), threading.Event()
        with self._lock:
            if self._ended:
                raise Stopped(self.refusal())
            if record["model"] != self.model.sha256:
                raise InlierError("this record was judged by a model that the station no longer has")
            task = Task(raw, self.model, lambda task: ready.set(), with_map=True)
            self.judge.submit(task)
        ready.wait()
        if task.prediction is None:
            raise InlierError(task.error)
        return self._remember(record["id"], task)

    def picture(self, record: Row) -> bytes:
        """The bytes that came. Raises InlierError where they are not kept."""
        with self._lock:
            if found := self._remembered.get(record["id"]):
                return found.raw
        if record["kept"] is None:
            raise InlierError("the picture of this record is not kept")
        return self.pictures.read(record["kept"])

    def _done(self, task: Task, about: dict[str, Any], suffix: str, answer: "Future[Row]") -> None:
        """On a finishing thread: make the record and have it written."""
        try:
            row = self._row(task, about, suffix)
        except Exception as error:
            answer.set_exception(error)
            return

        def written(future: "Future[Row]") -> None:
            if error := future.exception():
                answer.set_exception(error)
                return
            record = future.result()
            if task.prediction:
                self._remember(record["id"], task)
            answer.set_result(record)

        self.writer.put(row).add_done_callback(written)

    def _row(self, task: Task, about: dict[str, Any], suffix: str) -> dict[str, Any]:
        p, model = task.prediction, task.model
        sha256 = hashlib.sha256(task.raw).hexdigest()
        verdict, p_value = (p.verdict, p.p_value) if p else (None, None)
        kept = None
        if suffix and wanted(self.config.keep, sha256, verdict, p_value):
            try:
                kept = self.pictures.keep(self.name, sha256, task.raw, suffix)
            except InlierError as error:  # a verdict is worth more than its picture
                log.warning("station %s: the picture of a record is not kept: %s", self.name, error)
        # both of one moment: together they tell when the picture arrived
        latency, moment = 1000 * (time.perf_counter() - task.arrived), now()
        regions = outlines(p) if p else []
        return {
            **about,
            "time": moment,
            "station": self.name,
            "picture": sha256,
            "model": model.sha256,
            "settings": model.settings | ({"size": [p.size[1], p.size[0]], "cues": task.cues} if p else {}),
            "score": p.score if p else None,
            "p_value": p_value,
            "threshold": p.threshold if p else None,
            "verdict": verdict,
            "error": None if p else task.error,
            "regions": regions,
            "latency": latency,
            "timings": {name: round(value, 3) for name, value in task.milliseconds.items()},
            "label": None,
            "kept": kept,
        }

    def _remember(self, number: int, task: Task) -> Remembered:
        assert task.prediction is not None
        found = Remembered(replace(task.prediction, source=None), task.raw, task.model)
        with self._lock:
            self._remembered[number] = found
            while len(self._remembered) > REMEMBERED:
                self._remembered.popitem(last=False)
        return found

    def _leave(self, size: int) -> None:
        with self._lock:
            self._waiting -= 1
            self._bytes -= size

    def _new_drift(self, model: Model) -> Drift:
        return Drift(self.name, model, self.store, self.folder / "drift" / f"{self.name}.json")
