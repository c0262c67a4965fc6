"""`inlier fleet` on a Ray cluster of several node processes, some of which are killed, and in a bucket of S3."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pyarrow.dataset
import pytest

from conftest import know_the_tiny_backbone
from fleet_parts import write_parts
from inlier.fleet import bulk, engine, ledger
from inlier.fleet.engine import GIB, Need
from inlier.fleet.models import model_in_use, models_in_use
from inlier.fleet.plan import Order, Task, read_plan
from inlier.fleet.ray import Ray
from inlier.fleet.store import Store
from test_fleet import trained

S3 = Path(sys.prefix) / "s3"  # s3fs and moto, which `make` installs apart: they want other versions of what we use


@pytest.fixture(scope="module")
def cluster():
    """A head without processors and two nodes of one each, in processes of their own. The tiny backbone is known."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        know_the_tiny_backbone(patch)
        head = {"num_cpus": 0, "memory": GIB, "object_store_memory": 10**8, "include_dashboard": False}
        made = Cluster(initialize_head=True, head_node_args=head)
        for _ in range(2):
            add_node(made)
        yield made
        ray.shutdown()
        made.shutdown()


def add_node(cluster):
    return cluster.add_node(num_cpus=1, memory=4 * GIB, object_store_memory=10**8)


@pytest.fixture(scope="module")
def plant(tmp_path_factory):
    """(plan of six parts, the store of a run in this process)."""
    root = tmp_path_factory.mktemp("plant")
    plan, store = write_parts(root, 6), Store(str(root / "store"))
    trained(plan, store)
    return plan, store


def processes(name):
    """Of the clusters of this test, those that do such work now."""
    ours = {p.pid for p in psutil.Process().children(recursive=True)}
    found = psutil.process_iter(["cmdline"])  # unlike a process alone, it passes over those that have ended
    return [p for p in found if p.pid in ours and name in " ".join(p.info["cmdline"] or [])]


def wait_for(condition, seconds=240):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.02)


def test_a_worker_and_a_node_killed_in_the_middle_change_nothing(cluster, plant, tmp_path):
    plan, reference = plant
    store, killed = Store(str(tmp_path / "store")), []

    def kill():
        wait_for(lambda: len(store.list("rows/train")) >= 1)
        workers = processes("_task")
        if workers:
            workers[0].kill()
            killed.append("worker")
        wait_for(lambda: len(store.list("rows/train")) >= 2)
        node = next(iter(cluster.worker_nodes))
        cluster.remove_node(node, allow_graceful=False)
        killed.append("node")

    killer = threading.Thread(target=kill)
    killer.start()
    jobs = engine.due(read_plan(plan), Order("train"), store)
    rows = list(engine.run(jobs, store, Ray(cluster.address, None)))
    killer.join()
    add_node(cluster)
    assert "node" in killed
    assert sorted((row["part"], row["state"]) for row in rows) == [(f"p{k}", "done") for k in range(6)]
    for k in range(6):
        ours, theirs = (of.read(model_in_use(of, f"p{k}")) for of in (store, reference))
        assert ours == theirs, "bit by bit"


def test_what_no_node_has_the_memory_for_is_refused(cluster, plant, tmp_path):
    store = Store(str(tmp_path / "store"))
    task = Task(Order("train"), read_plan(plant[0]).parts[0])
    (row,) = Ray(cluster.address, None).run([(task, Need(1, 64 * GIB))], store)
    assert row["state"] == "refused" and "64.0 GiB of memory, the largest worker has 4.0 GiB" in row["error"]
    assert ledger.last_of(store, "train", "p0") == row


def test_ray_data_gives_one_row_for_each_picture_when_workers_are_killed(cluster, plant, tmp_path):
    plan, store = plant
    parts, out = read_plan(plan), str(tmp_path / "out")
    found = bulk.chunks(bulk.write_listing(plan.parent, parts, out), parts, models_in_use(store), out, size=4)
    killed = []

    def kill():
        for at in (5, 15):
            wait_for(lambda at=at: len(Store(out).list("")) > at)
            actors = processes("MapWorker")
            for actor in actors[:1]:
                os.kill(actor.pid, signal.SIGKILL)
                killed.append(actor.pid)

    killer = threading.Thread(target=kill)
    killer.start()
    done = list(bulk.run_ray(found, store, cluster.address, 2))
    killer.join()
    assert killed and sum(n for n, _ in done) == 6 * (24 + 8 + 5)
    rows = pyarrow.dataset.dataset(out).to_table()
    assert sorted(rows["path"].to_pylist()) == sorted(map(str, plan.parent.glob("p*/*/*.png")))
    local = str(tmp_path / "local")
    for chunk in bulk.chunks(bulk.write_listing(plan.parent, parts, local), parts, models_in_use(store), local, size=4):
        bulk.judge(chunk, store)
    assert pyarrow.dataset.dataset(local).to_table().sort_by("path").equals(rows.sort_by("path")), "the same bits"


@pytest.fixture(scope="module")
def bucket():
    """Environment of a process that finds a bucket `plant` on a real server of this machine."""
    if not (S3 / "moto").is_dir():
        pytest.skip("s3fs and moto are not installed in .venv/s3, as `make` does it")
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    here = Path(__file__).parent
    paths = [S3, here, here.parent / "src", *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "tests",
        "AWS_SECRET_ACCESS_KEY": "tests",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    command = [sys.executable, "-m", "moto.server", "-p", str(port)]
    server = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def answers():
        with socket.socket() as one:
            return one.connect_ex(("127.0.0.1", port)) == 0

    wait_for(answers)
    yield environment
    server.kill()
    server.wait()


def test_a_bucket_is_a_store_like_a_folder(bucket, plant):
    """All of a store's verbs, then a run whose models are those of the folder, and one that finds nothing to do."""
    plan, reference = plant
    script = f"""if True:
        import pathlib, time, s3fs, fleet_parts
        s3fs.S3FileSystem().mkdir("plant")
        from inlier.fleet import clean, ledger, tasks
        from inlier.fleet.models import model_in_use, models_in_use
        from inlier.fleet.plan import Order, Task, read_plan
        from inlier.fleet.report import page
        from inlier.fleet.store import Store
        store = Store("s3://plant/line")
        assert store.read("a/b") is None and store.list("a") == [] and store.read_all("a", "") == {{}}
        store.write("a/b.json", b"1"); store.write("a/c.txt", b"2")
        assert store.list("a") == ["b.json", "c.txt"] and store.read_all("a", ".json") == {{"b.json": b"1"}}
        store.remove(["a/b.json", "a/c.txt"])
        assert store.list("a") == [] and store.look("a/b.json") is None
        for k in range(3):
            store.write(f"train/old/f{{k}}/model.inlier", bytes(k))
            time.sleep(1.1)  # a bucket tells whole seconds
        assert clean.old_models(store, "old", 0) == []
        clean.YOUNG = -60.0
        (gone,) = clean.old_models(store, "old", 2)
        store.remove([gone.path])
        assert gone[:2] == ("train/old/f0/model.inlier", 0) and store.list("train/old") == ["f1", "f2"]
        for again in (False, True):
            for part in read_plan(pathlib.Path({str(plan)!r})).parts[:2]:
                assert (tasks.run(Task(Order("train"), part), store) is None) == again
        assert sorted(models_in_use(store)) == ["p0", "p1"]
        ledger.FEW = 2
        ledger.fold(store)
        assert [name[-8:] for name in store.list("ledger")] == [".parquet"] and len(ledger.table(store)) == 2
        assert "p1" in page(store)
        folder = Store({reference.place!r})
        for name in ("p0", "p1"):
            assert store.read(model_in_use(store, name)) == folder.read(model_in_use(folder, name))
    """
    subprocess.run([sys.executable, "-c", script], env=bucket, check=True, timeout=300)
