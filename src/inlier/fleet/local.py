"""Processes of this machine that live on from task to task, so that PyTorch is loaded once in each."""

import logging
import multiprocessing
import os
import threading
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait

from inlier import machine
from inlier.apart import ctrl_c_held_back, end_with_parent, last_words
from inlier.fleet import ledger, tasks
from inlier.fleet.engine import Job, refused, startable
from inlier.fleet.ledger import Row
from inlier.fleet.plan import Task
from inlier.fleet.store import Store
from inlier.fleet.tasks import TRIES

log = logging.getLogger("inlier")
# one thread of arithmetic a worker, everywhere: the same bits on every engine
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


class Local:
    """workers: how many. memory: bytes that they may take together; default: what is free when the run begins."""

    def __init__(self, workers: int, memory: int | None = None):
        self.workers, self.memory = workers, memory

    def run(self, jobs: Sequence[Job], store: Store) -> Iterator[Row | None]:
        """A worker that dies costs its task one of its tries, and nothing else."""
        memory = self.memory or machine.free_memory()
        waiting, tries = list(jobs), dict[str, int]()
        idle: list[_Worker] = []
        busy: dict[Connection, tuple[_Worker, Job]] = {}
        try:
            while waiting or busy:
                while len(busy) < self.workers:
                    running = [need for _, (_, need) in busy.values()]
                    place = startable(waiting, running, self.workers, memory)
                    if place is None:
                        break
                    job, worker = waiting.pop(place), idle.pop() if idle else _Worker(store.place)
                    worker.pipe.send(job[0])
                    busy[worker.pipe] = worker, job
                if not busy:  # not even alone
                    for job in waiting:
                        yield _kept(store, refused(job, memory))
                    return
                for pipe in wait(list(busy)):
                    worker, job = busy.pop(pipe)  # type: ignore[arg-type]
                    try:
                        found = worker.pipe.recv()
                    except EOFError:
                        words, name = worker.end(), job[0].part.name
                        tries[name] = tries.get(name, 0) + 1
                        if tries[name] < TRIES:
                            log.warning("%s: %s; it is tried again", name, words)
                            waiting.append(job)
                        else:
                            lost = tasks.new_row(job[0]) | {"error": words, "attempts": TRIES}
                            yield _kept(store, lost)
                        continue
                    idle.append(worker)
                    if isinstance(found, Exception):
                        raise found
                    yield found
        finally:
            for worker in (*idle, *(worker for worker, _ in busy.values())):
                worker.end()


def _kept(store: Store, row: Row) -> Row:
    ledger.add(store, row)
    return row


class _Worker:
    def __init__(self, place: str):
        spawn = multiprocessing.get_context("spawn")
        self.pipe, theirs = spawn.Pipe()
        self.process = spawn.Process(target=_main, args=(theirs, place, log.level))
        before = {name: os.environ.get(name) for name in ONE_THREAD}
        os.environ.update(ONE_THREAD)  # libraries read it when they are loaded
        try:
            with ctrl_c_held_back():
                self.process.start()
        finally:
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)
        theirs.close()

    def end(self) -> str:
        """Kill it, if it lives; why it ended."""
        self.pipe.close()
        self.process.join(0.1)
        self.process.kill()
        self.process.join()
        return last_words(self.process.exitcode)


# -- in the new process -----------------------------------------------------------------------------------------------


def _main(pipe: Connection, place: str, level: int) -> None:
    threading.Thread(target=end_with_parent, daemon=True).start()
    log.setLevel(max(level, logging.WARNING))  # progress of a task says nothing about the run
    store = Store(place)
    while True:
        try:
            task: Task = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send(one_task(task, store))
        except OSError as error:  # the store refuses the row itself: no task can be done
            pipe.send(error)


def one_task(task: Task, store: Store) -> Row | None:
    """In a process whose libraries use one thread."""
    import torch

    if torch.get_num_threads() != 1:
        torch.set_num_threads(1)
    return tasks.run(task, store)
