"""Processes of this machine that live on from task to task, so that PyTorch is loaded once in each."""

import logging
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

from inlier import machine
from inlier.apart import ctrl_c_held_back, end_with_parent, last_words
from inlier.fleet import ledger, tasks
from inlier.fleet.engine import Job, Need, refused, startable
from inlier.fleet.ledger import Row
from inlier.fleet.store import Store
from inlier.fleet.tasks import TRIES

log = logging.getLogger("inlier")
# one thread of arithmetic a worker, everywhere: the same bits on every engine
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
Work = Callable[[Any, Store], Any]  # an item and the store -> what comes of it; named at the top of its module


class Local:
    """workers: how many. memory: bytes that they may take together; default: what is free when the run begins."""

    def __init__(self, workers: int, memory: int | None = None):
        self.workers, self.memory = workers, memory or machine.free_memory()

    def run(self, jobs: Sequence[Job], store: Store) -> Iterator[Row | None]:
        by_name = {task.part.name: (task, need) for task, need in jobs}
        for task, found in self.each(tasks.run, jobs, store):
            if isinstance(found, str):
                found = tasks.new_row(task) | {"error": found, "attempts": TRIES}
                ledger.add(store, found)
            elif found is WAITING:
                found = refused(by_name[task.part.name], self.memory)
                ledger.add(store, found)
            yield found

    def each(
        self, work: Work, items: Sequence[tuple[Any, Need]], store: Store, tries: int = TRIES
    ) -> Iterator[tuple[Any, Any]]:
        """(item, what came of it), as they end: a text where all its tries ended with its worker's death, WAITING where
        it needs more memory than there is. Such a death costs the item one of its tries, and nothing else."""
        waiting = list(items)
        tried: dict[int, int] = {}
        idle: list[_Worker] = []
        busy: dict[Any, tuple[_Worker, tuple[Any, Need]]] = {}
        try:
            while waiting or busy:
                while len(busy) < self.workers:
                    place = startable(waiting, [need for _, (_, need) in busy.values()], self.workers, self.memory)
                    if place is None:
                        break
                    job = waiting.pop(place)
                    worker = idle.pop() if idle else _Worker(work, store.place)
                    busy[worker.pipe] = worker, job
                    worker.send(job[0])
                if not busy:  # not even alone
                    yield from ((item, WAITING) for item, _ in waiting)
                    return
                for pipe in wait(list(busy)):
                    worker, job = busy.pop(pipe)
                    try:
                        found = worker.pipe.recv()
                    except (EOFError, ConnectionError):
                        words = worker.end()
                        tried[id(job)] = tried.get(id(job), 0) + 1
                        if tried[id(job)] < tries:
                            log.warning("%s; what it did is tried again", words)
                            waiting.insert(0, job)
                        else:
                            yield job[0], words
                        continue
                    idle.append(worker)
                    if isinstance(found, Exception):
                        raise found
                    yield job[0], found
        finally:
            for worker in (*idle, *(worker for worker, _ in busy.values())):
                worker.end()


WAITING = object()


class _Worker:
    def __init__(self, work: Work, place: str):
        spawn = multiprocessing.get_context("spawn")
        self.pipe, theirs = spawn.Pipe()
        self.process = spawn.Process(target=_main, args=(theirs, work, place, log.level))
        before = {name: os.environ.get(name) for name in ONE_THREAD}
        os.environ.update(ONE_THREAD)  # libraries read it when they are loaded
        try:
            with ctrl_c_held_back():
                self.process.start()
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value
        theirs.close()

    def send(self, item: Any) -> None:
        try:
            self.pipe.send(item)
        except OSError:  # it has died while it was idle; that nothing will come from it tells
            self.process.join()

    def end(self) -> str:
        """Kill it, if it lives; why it ended."""
        self.pipe.close()
        self.process.join(0.1)
        self.process.kill()
        self.process.join()
        return last_words(self.process.exitcode)


# -- in the new process -----------------------------------------------------------------------------------------------


def _main(pipe: Connection, work: Work, place: str, level: int) -> None:
    threading.Thread(target=end_with_parent, daemon=True).start()
    log.setLevel(max(level, logging.WARNING))  # progress of a task says nothing about the run
    store = Store(place)
    one_thread()
    while True:
        try:
            item = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send(work(item, store))
        except Exception as error:  # the store refuses even the row, for one: no other task will fare better
            pipe.send(error)


def one_thread() -> None:
    import torch

    if torch.get_num_threads() != 1:
        torch.set_num_threads(1)
