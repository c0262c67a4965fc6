"""Whether the parts of a station still look like its calibration, over restarts as over an unbroken run."""

import json
import logging
import threading
from pathlib import Path

from inlier import artifact
from inlier.data.cues import WATCHED
from inlier.drift import SCORE, Stream
from inlier.errors import InlierError
from inlier.serve.models import Model
from inlier.serve.store import Filter, Row, Store

log = logging.getLogger("inlier")
EVERY = 500  # records after which the state is written; what comes after it is played again at the next start


class Drift:
    """The martingale of one station's records, in their order. It begins anew where the calibration changes."""

    def __init__(self, station: str, model: Model, store: Store, path: Path):
        self.path, self.model, self.last, self._written = path, model.sha256, store.last(station), 0
        self.stream: Stream | None = None
        self._lock = threading.RLock()  # records come on the writer's thread, and others save
        calibration = model.inspector.calibration_
        self._tells = len(calibration) > 0 and len(model.inspector.categories_) <= 1  # one kind of part
        if not self._tells:
            return
        known_good = {SCORE: calibration.scores}
        if len(model.inspector.cues_):
            known_good |= dict(zip(WATCHED, model.inspector.cues_.T, strict=True))
        self.stream = Stream.start(known_good)
        known = _read(path)
        if known and known[0].goes_on_from(self.stream):
            self.stream, self.last = known
            for row in store.all_after(Filter(station, model=self.model), self.last):
                self._take(row)
            self._written = self.last
        else:  # so that a process that is killed leaves the place where the stream began
            self.save()

    def update(self, row: Row) -> str:
        """What must be told about this record, or ""."""
        with self._lock:
            if row["id"] <= self.last:
                return ""
            alarm = self._take(row)
            if self.last - self._written >= EVERY:
                self.save()
            return alarm

    def _take(self, row: Row) -> str:
        self.last = row["id"]
        if self.stream is None or row["score"] is None or row["model"] != self.model:  # of before an exchange
            return ""
        values = {SCORE: row["score"], **row["settings"].get("cues", {})}
        if not self.stream.monitors.keys() <= values.keys():  # read when the station had a model that watched less
            return ""
        alarms = self.stream.update(values, row["picture"])
        return "; ".join(map(str, alarms))

    def save(self) -> None:
        with self._lock:
            if self.stream is None:
                return
            state = {"last": self.last, "stream": self.stream.to_dict()}
            try:
                artifact.write_bytes(self.path, json.dumps(state, allow_nan=False).encode())
                self._written = self.last
            except InlierError as error:  # the records are there to play it again from
                log.warning("%s", error)


def _read(path: Path) -> tuple[Stream, int] | None:
    if not path.is_file():
        return None
    try:
        state = json.loads(path.read_bytes())
        return Stream.from_dict(state["stream"]), int(state["last"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        log.warning("%s: is damaged (%s); the stream is watched anew", path, error)
        return None
