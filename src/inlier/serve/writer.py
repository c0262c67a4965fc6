"""One thread writes all records, as many at once as wait: an answer waits for its row, not for a row of its own."""

import logging
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from inlier.errors import InlierError
from inlier.serve.store import Row, Store

log = logging.getLogger("inlier")
AT_ONCE = 256  # records in one transaction


class Writer:
    """sinks: names of the sinks of each station. written: is told the rows of a transaction after it, in order."""

    def __init__(
        self, store: Store, sinks: Callable[[], Mapping[str, Sequence[str]]], written: Callable[[list[Row]], None]
    ):
        self.store, self.sinks, self.written = store, sinks, written
        self._rows: queue.Queue[tuple[dict[str, Any], Future[Row]] | None] = queue.Queue()  # bounded by who submits
        self._thread = threading.Thread(target=self._write, name="write", daemon=True)
        self._thread.start()

    def put(self, row: dict[str, Any]) -> "Future[Row]":
        future: Future[Row] = Future()
        self._rows.put((row, future))
        return future

    def close(self) -> None:
        """Everything that was put is written first."""
        self._rows.put(None)
        self._thread.join()

    def _write(self) -> None:
        ended = False
        while not ended:
            item = self._rows.get()
            items = []
            while item is not None:
                items.append(item)
                if len(items) == AT_ONCE or self._rows.empty():
                    break
                item = self._rows.get()
            ended = item is None
            if items:
                self._write_together(items)

    def _write_together(self, items: list[tuple[dict[str, Any], "Future[Row]"]]) -> None:
        try:
            rows = self.store.add([row for row, _ in items], self.sinks())
        except Exception as error:
            if not isinstance(error, InlierError):
                log.exception("records could not be written")
            for _, future in items:
                future.set_exception(error)
            return
        try:
            self.written(rows)
        except Exception:
            log.exception("after records were written")
        for (_, future), row in zip(items, rows, strict=True):
            future.set_result(row)
