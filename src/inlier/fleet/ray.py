"""Tasks on a Ray cluster, whose nodes have inlier installed and reach the pictures and the store by the same paths."""

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from inlier.errors import InlierError
from inlier.fleet import ledger, tasks
from inlier.fleet.engine import Job, refused
from inlier.fleet.ledger import Row
from inlier.fleet.local import ONE_THREAD
from inlier.fleet.plan import Task
from inlier.fleet.store import Store
from inlier.fleet.tasks import TRIES

log = logging.getLogger("inlier")
AHEAD = 4  # tasks for each processor that the cluster knows of before it is asked for their results


class Ray:
    """address: of a cluster; None: the one that Ray finds, or a new one on this machine. workers: at most at once."""

    def __init__(self, address: str | None, workers: int | None):
        self.address, self.workers = address, workers

    def run(self, jobs: Sequence[Job], store: Store) -> Iterator[Row | None]:
        """A node that dies gives its tasks back. What needs more memory than one is busy with waits in Ray's queue."""
        with connected(self.address) as ray:
            waiting = list(jobs)
            running: dict[Any, Job] = {}
            most = largest_memory(ray)
            remote = ray.remote(max_retries=TRIES - 1)(_task)
            while waiting or running:
                limit = self.workers or AHEAD * int(ray.cluster_resources().get("CPU", 1))
                while waiting and len(running) < limit:
                    job = waiting.pop(0)
                    if job[1].memory > most:
                        row = refused(job, most)
                        ledger.add(store, row)
                        yield row
                        continue
                    wanted = remote.options(num_cpus=job[1].processors, memory=job[1].memory)
                    running[wanted.remote(job[0], store.place)] = job
                ended, _ = ray.wait(list(running), num_returns=1) if running else ([], [])
                for reference in ended:
                    yield _result(ray, reference, running.pop(reference), store)


def _result(ray: Any, reference: Any, job: Job, store: Store) -> Row | None:
    try:
        row: Row | None = ray.get(reference)
        return row
    except ray.exceptions.RayTaskError as error:  # the store refuses the row itself
        raise error.as_instanceof_cause() from None
    except ray.exceptions.RayError as error:  # its workers died, again and again
        words = str(error).strip().split("\n")[0]
        lost = tasks.new_row(job[0]) | {"error": f"its workers ended: {words}", "attempts": TRIES}
        ledger.add(store, lost)
        return lost


def _task(task: Task, place: str) -> Row | None:
    return tasks.run(task, Store(place))


@contextmanager
def connected(address: str | None) -> Iterator[Any]:
    """Ray, connected. Raises InlierError where it is not installed or not reached."""
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # tasks without a GPU see none: Ray's way to come
    try:
        import ray
    except ImportError as error:
        raise InlierError(f"Ray is not installed here ({error}): pip install 'inlier[fleet]'") from None
    mine = not ray.is_initialized()
    if mine:
        environment = {"env_vars": ONE_THREAD}
        try:
            ray.init(address=address, runtime_env=environment, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise InlierError(f"Ray at {address or 'this machine'}: cannot be reached ({error})") from None
    try:
        yield ray
    finally:
        if mine:
            ray.shutdown()


def largest_memory(ray: Any) -> int:
    """Bytes of the node that has the most."""
    return max((int(node["Resources"].get("memory", 0)) for node in ray.nodes() if node["Alive"]), default=0)
