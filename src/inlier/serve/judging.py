"""Pictures that wait for a model, judged in micro-batches: whatever waits when the model is free goes through at once.

Threads: some read ahead of the model, one judges, some finish. No picture waits for others to come.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from inlier.data.batches import Prepared, batches_of, prepare
from inlier.data.cues import WATCHED, cues
from inlier.data.images import decode_image
from inlier.errors import InlierError
from inlier.inspection.result import Prediction
from inlier.serve.models import Model

log = logging.getLogger("inlier")
PICTURE = "the picture"  # its name in errors


@dataclass
class Task:
    """One picture on its way. Times are of time.perf_counter()."""

    raw: bytes
    model: Model
    done: Callable[["Task"], None]  # called on a finishing thread
    with_map: bool = False  # also where maps cost extra and the verdict is good
    error: str = ""  # why there is no prediction; with one from the start it is only handed on
    arrived: float = field(default_factory=time.perf_counter)
    prepared: Prepared | None = None
    prediction: Prediction | None = None
    cues: dict[str, float] = field(default_factory=dict)  # how the picture looks, where drift is watched by it
    milliseconds: dict[str, float] = field(default_factory=dict)


class Judge:
    """The threads of one inspector, which nobody else may ask: several stations may share them."""

    def __init__(self, batch: int, readers: int = 1):
        self.batch = batch
        self._coming: queue.Queue[Task | None] = queue.Queue()  # bounded by who submits
        self._ready: queue.Queue[Task | None] = queue.Queue()
        self._ahead = threading.Semaphore(2 * batch)  # pictures that are read: they are large
        self._finishers = ThreadPoolExecutor(2, "finish")
        self._readers = [threading.Thread(target=self._read, name="read", daemon=True) for _ in range(readers)]
        self._judging = threading.Thread(target=self._judge, name="judge", daemon=True)

    def start(self) -> None:
        for thread in (*self._readers, self._judging):
            thread.start()

    def submit(self, task: Task) -> None:
        self._coming.put(task)

    def close(self) -> None:
        """Everything that was submitted is finished first."""
        for _ in self._readers:
            self._coming.put(None)
        for thread in self._readers:
            thread.join()
        self._ready.put(None)
        self._judging.join()
        self._finishers.shutdown()

    def _read(self) -> None:
        while (task := self._coming.get()) is not None:
            self._ahead.acquire()
            start = time.perf_counter()
            task.milliseconds["waited"] = 1000 * (start - task.arrived)
            try:
                if not task.error:
                    inspector = task.model.inspector
                    geometry = inspector.geometry_for(task.model.known_category)
                    # a model that was fitted on JPEG files decoded smaller judges them so; cues are of the whole
                    source = task.raw if geometry.least else decode_image(task.raw, PICTURE)
                    if len(inspector.cues_):
                        whole = decode_image(source, PICTURE) if isinstance(source, bytes) else source
                        task.cues = dict(zip(WATCHED, cues(whole)))
                    task.prepared = prepare(source, PICTURE, geometry)
            except Exception as error:
                task.error = _told(error)
            task.milliseconds["read"] = 1000 * (time.perf_counter() - start)
            self._ready.put(task)

    def _judge(self) -> None:
        while (task := self._ready.get()) is not None:
            tasks, ended = [task], False
            while len(tasks) < self.batch and not ended:
                try:
                    more = self._ready.get_nowait()
                except queue.Empty:
                    break
                ended = more is None
                tasks += [] if more is None else [more]
            if ended:
                self._ready.put(None)
            groups: dict[tuple[object, ...], list[Task]] = {}
            for one in tasks:
                if one.prepared:
                    rule = one.model.alpha, one.model.confidence, one.model.category
                    groups.setdefault(rule, []).append(one)
            for group in groups.values():
                self._judge_together(group)
            for one in tasks:
                one.prepared = None
                self._ahead.release()
                self._finishers.submit(_finish, one)

    def _judge_together(self, tasks: list[Task]) -> None:
        start = time.perf_counter()
        try:
            model = tasks[0].model
            cheap = not model.inspector.maps_cost_extra
            predictions = _predictions(model, tasks, maps=cheap)
            if not cheap:
                wanting = [k for k, p in enumerate(predictions) if p.verdict == "defect" or tasks[k].with_map]
                for k, p in zip(wanting, _predictions(model, [tasks[k] for k in wanting], maps=True)):
                    predictions[k] = p
            for task, p in zip(tasks, predictions, strict=True):
                task.prediction, task.error = (p, "") if p.error is None else (None, _told(InlierError(p.error)))
        except Exception as error:
            for task in tasks:
                task.prediction, task.error = None, _told(error)
        taken = 1000 * (time.perf_counter() - start)
        for task in tasks:
            task.milliseconds["judged"] = taken / len(tasks)
            task.milliseconds["batch"] = len(tasks)


def _predictions(model: Model, tasks: list[Task], maps: bool) -> list[Prediction]:
    prepared = [one.prepared for one in tasks if one.prepared]
    numbered = [Prepared(one.picture._replace(number=k), one.views) for k, one in enumerate(prepared)]
    found = model.inspector.judge(
        batches_of(numbered, max(1, len(numbered))),
        alpha=model.alpha,
        confidence=model.confidence,
        category=model.category,
        maps=maps,
        errors="keep",
    )
    return list(found)


def _finish(task: Task) -> None:
    try:
        task.done(task)
    except Exception:
        log.exception("a verdict could not be passed on")


def _told(error: Exception) -> str:
    """For people; what is no message for them goes to the log alone."""
    if isinstance(error, InlierError):
        return str(error).replace(f"{PICTURE}: ", f"{PICTURE} ")
    log.error("a picture could not be judged", exc_info=error)
    return "the model failed on this picture; the server's log says how"
