"""Whether the parts of a station still look like its calibration, over restarts as over an unbroken run."""

import json
import logging
from pathlib import Path

from inlier import artifact
from inlier.drift import Monitor, fingerprint
from inlier.errors import InlierError
from inlier.serve.models import Model
from inlier.serve.store import Filter, Row, Store

log = logging.getLogger("inlier")
EVERY = 500  # records after which the state is written; what comes after it is played again at the next start
DIGITS = 16  # of a picture's hash


class Drift:
    """The martingale of one station's records, in their order. It begins anew where the calibration changes."""

    def __init__(self, station: str, model: Model, store: Store, path: Path):
        self.path, self.monitor, self.last, self._written = path, None, store.last(station), 0
        calibration = model.inspector.calibration_
        self._tells = len(calibration) > 0 and len(model.inspector.categories_) <= 1  # one kind of part
        if not self._tells:
            return
        scores = calibration.scores
        self.monitor = Monitor.start(scores)
        known = _read(path)
        if known and known[0].calibration == fingerprint(scores):
            self.monitor, self.last = known
            for row in store.all_after(Filter(station, model=model.sha256), self.last):
                self._take(row)
            self._written = self.last
        else:  # so that a process that is killed leaves the place where the stream began
            self.save()

    def update(self, row: Row) -> str:
        """What must be told about this record, or ""."""
        if row["id"] <= self.last:
            return ""
        alarm = self._take(row)
        if self.last - self._written >= EVERY:
            self.save()
        return alarm

    def _take(self, row: Row) -> str:
        self.last = row["id"]
        if self.monitor is None or row["score"] is None:
            return ""
        alarm = self.monitor.update(row["score"], row["picture"][:DIGITS])
        return str(alarm) if alarm else ""

    def save(self) -> None:
        if self.monitor is None:
            return
        state = {"last": self.last, "monitor": self.monitor.to_dict()}
        try:
            artifact.write_bytes(self.path, json.dumps(state, allow_nan=False).encode())
            self._written = self.last
        except InlierError as error:  # the records are there to play it again from
            log.warning("%s", error)


def _read(path: Path) -> tuple[Monitor, int] | None:
    if not path.is_file():
        return None
    try:
        state = json.loads(path.read_bytes())
        return Monitor.from_dict(state["monitor"]), int(state["last"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("%s: is damaged (%s); the stream is watched anew", path, error)
        return None
