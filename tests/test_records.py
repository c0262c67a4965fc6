"""What a station keeps: records that nobody can change unseen, in SQLite and in PostgreSQL."""

import contextlib
import hashlib
import json
import os
import shutil
import socket
import sqlite3
import subprocess
import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from PIL import Image
from sqlalchemy import create_engine, delete, event, insert, select, text, update
from sqlalchemy import inspect as looked_at

from inlier.data.datasets import open_dataset
from inlier.errors import InlierError
from inlier.serve import chain, statistics
from inlier.serve.config import Keep
from inlier.serve.database import StoreError
from inlier.serve.pictures import Pictures
from inlier.serve.store import Filter, Store, now
from inlier.serve.tables import actions, ends, metadata, records
from test_station import open_plant, pictures, png


@pytest.fixture(scope="session")
def postgres_server():
    """(address of a real server, which ends with the tests; what controls it)."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found or not shutil.which("setpriv") or os.geteuid() != 0:
        pytest.skip("needs Debian's postgresql, and root to start it as another user")
    bin, folder = found[-1].parent, Path(tempfile.mkdtemp(prefix="inlier-pg-"))
    shutil.chown(folder, "postgres", "postgres")
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]

    def run(*command):
        user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
        subprocess.run([*user, *map(str, command)], check=True, cwd=folder, stdout=subprocess.DEVNULL, timeout=60)

    run(bin / "initdb", "-D", folder / "db", "-A", "trust", "--no-sync", "-E", "UTF8")
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"

    def control(what):
        more = ["-o", options, "-l", folder / "log"] if what == "start" else ["-m", "immediate"]
        run(bin / "pg_ctl", "-D", folder / "db", "-w", *more, what)

    control("start")
    yield f"postgresql://postgres@127.0.0.1:{port}/postgres", control
    control("stop")
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def postgres(postgres_server):
    return postgres_server[0]


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request, tmp_path):
    url = str(tmp_path / "records.sqlite") if request.param == "sqlite" else request.getfixturevalue("postgres")
    made = Store(url)
    yield made
    if request.param == "postgresql":  # as new, for the next test
        with made.engine.begin() as connection:
            connection.execute(text("TRUNCATE outbox, actions, records"))
            connection.execute(update(ends).values(last=0, hash=chain.START))
            connection.execute(text("UPDATE alembic_version SET version_num = '0001'"))
    made.close()


def row(score=0.5, station="press", verdict="good", **more):
    return {
        "time": now(),
        "station": station,
        "part": None,
        "lot": None,
        "key": None,
        "picture": "a" * 64,
        "model": "b" * 64,
        "settings": {"alpha": 0.05},
        "score": score,
        "p_value": 0.1,
        "threshold": 1.0,
        "verdict": verdict,
        "error": None,
        "regions": [],
        "latency": 12.5,
        "timings": {"read": 1.25},
        **more,
    }


# -- the chain ---------------------------------------------------------------------------------------------------------


def test_each_row_holds_the_hash_of_the_row_before(store):
    first, second = store.add([row(0.1), row(0.2)])
    (third,) = store.add([row(0.3)])
    assert (first["id"], second["id"], third["id"]) == (1, 2, 3)
    assert first["previous"] == chain.START
    assert (second["previous"], third["previous"]) == (first["hash"], second["hash"])
    assert store.end() == (3, third["hash"])
    assert list(store.verify()) == []


def test_what_is_read_is_what_was_written_to_the_last_digit(store):
    values = [0.1, 1 / 3, 1e-300, 12345.678901234567, float(np.float32(0.7472307085990906))]
    written = store.add([row(value, part="Prüfling 中 'x' --", settings={"ä": [1, None]}) for value in values])
    assert [store.record(r["id"]) for r in written] == written
    assert [r["score"] for r in written] == values
    assert list(store.verify()) == []


def test_an_error_a_time_or_a_name_is_part_of_the_hash():
    one = chain.linked([row()], 0, chain.START)[0]["hash"]
    for change in ({"error": "x"}, {"time": 1}, {"station": "other"}, {"latency": 12.500001}):
        assert (
            chain.linked([row(**change) if "time" not in change else row() | change], 0, chain.START)[0]["hash"] != one
        )


TAMPERING = {
    "a score": (update(records).where(records.c.id == 3).values(score=0.9), "record 3: was changed"),
    "a verdict": (update(records).where(records.c.id == 5).values(verdict="defect"), "record 5: was changed"),
    "one row": (delete(records).where(records.c.id == 3), "record 3: missing"),
    "some rows": (delete(records).where(records.c.id.in_([2, 3])), "records 2 to 3: missing"),
    "the first": (delete(records).where(records.c.id == 1), "record 1: missing"),
    "the last": (delete(records).where(records.c.id == 5), "record 5: missing at the end"),
    "all": (delete(records), "records 1 to 5: missing at the end"),
    "a label": (update(records).where(records.c.id == 2).values(label="defect"), "record 2: its label was changed"),
    "a label's reason": (delete(actions), "action 1: missing at the end"),
}


@pytest.mark.parametrize("what", TAMPERING)
def test_tampering_shows(store, what):
    store.add([row(0.1 * k) for k in range(5)])
    store.label(2, "good", "Ada")
    change, told = TAMPERING[what]
    with store.engine.begin() as connection:
        connection.execute(change)
    assert any(fault.startswith(told) for fault in store.verify()), list(store.verify())


def test_exchanged_rows_show(store):
    store.add([row(0.1 * k) for k in range(4)])
    with store.engine.begin() as connection:
        for old, new in ((2, 100), (3, 2), (100, 3)):
            connection.execute(update(records).where(records.c.id == old).values(id=new))
    faults = list(store.verify())
    assert any("record 2" in fault for fault in faults) and any("record 3" in fault for fault in faults)


def test_a_chain_written_anew_shows_by_a_hash_that_was_noted(store):
    noted = store.add([row(0.1), row(0.2)])[1]["hash"]
    with store.engine.begin() as connection:
        rows = [dict(r) for r in connection.execute(select(records)).mappings()]
        connection.execute(delete(records))
        base = [{k: v for k, v in r.items() if k not in ("id", "previous", "hash", "label", "kept")} for r in rows]
        base[0]["score"] = 0.0
        forged = chain.linked(base, 0, chain.START)
        connection.execute(insert(records), forged)
        connection.execute(update(ends).where(ends.c.name == "records").values(hash=forged[-1]["hash"]))
    assert list(store.verify()) == []  # nobody could tell from the database alone
    assert not store.has_hash(noted)


def test_writers_of_several_stores_make_one_chain(store):
    others = [Store(store.engine.url.render_as_string(hide_password=False)) for _ in range(3)]

    def write(one):
        for k in range(10):
            one.add([row(float(k)), row(float(k))])

    threads = [threading.Thread(target=write, args=(one,)) for one in (store, *others)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.last() == 80
    assert list(store.verify()) == []
    for one in others:
        one.close()


def test_an_inspection_that_is_sent_again_is_the_same_record(store):
    sent = row(key="cam1-17")
    first = store.add([sent, sent, row()])
    again = store.add([row(0.9, key="cam1-17")])
    assert [r["id"] for r in first] == [1, 1, 2]
    assert again[0] == first[0]
    assert store.by_key("press", "cam1-17") == first[0]
    assert store.add([row(station="other", key="cam1-17")])[0]["id"] == 3  # another station's own number
    assert list(store.verify()) == []


def test_a_set_back_clock_changes_no_order(store):
    late, early = store.add([row() | {"time": 2_000_000_000_000_000}])[0], store.add([row() | {"time": 1_000}])[0]
    assert [r["id"] for r in store.page(Filter())] == [early["id"], late["id"]]
    assert list(store.verify()) == []


# -- looking up --------------------------------------------------------------------------------------------------------


def test_pages_give_each_record_once_and_filters_choose(store):
    rng = np.random.default_rng(0)
    rows = [
        row(
            float(k),
            station=str(rng.choice(["a", "b"])),
            verdict=str(rng.choice(["good", "defect"])),
            lot=str(rng.choice(["L1", "L2"])),
        )
        | {"time": 1_000_000 + k}
        for k in range(60)
    ]
    rows[7] |= {"verdict": None, "error": "broken"}
    written = store.add(rows)
    store.label(1, "good", "Ada")
    for chosen, wanted in (
        (Filter(), lambda r: True),
        (Filter("a"), lambda r: r["station"] == "a"),
        (Filter("a", verdict="defect"), lambda r: r["station"] == "a" and r["verdict"] == "defect"),
        (Filter(verdict="error"), lambda r: r["error"]),
        (Filter(lot="L2", since=1_000_010, until=1_000_040), lambda r: r["lot"] == "L2" and 11 <= r["id"] <= 40),
        (Filter(label="good"), lambda r: r["id"] == 1),
        (Filter(label="none"), lambda r: r["id"] != 1),
    ):
        expected = [r["id"] for r in written if wanted(r)]
        found, before = [], None
        while page := store.page(chosen, before=before, limit=7):
            found += [r["id"] for r in page]
            before = found[-1]
        assert found == expected[::-1]
        assert [r["id"] for r in store.all(chosen)] == expected


def test_another_alpha_is_judged_from_stored_scores_and_p_values(store):
    store.add([row(0.2, p_value=0.5), row(0.8, p_value=0.2), row(1.5, p_value=0.01, verdict="defect")])
    store.add([row(99.0, model="c" * 64, p_value=0.5), row(0.0, model="c" * 64, p_value=0.04)])
    told = store.changed_verdicts(Filter("press"), "b" * 64, alpha=0.05, threshold=0.7)
    assert told == {"records": 5, "to_defect": 2, "to_good": 0}
    told = store.changed_verdicts(Filter("press"), "b" * 64, alpha=0.001, threshold=2.0)
    assert told == {"records": 5, "to_defect": 0, "to_good": 1}


def test_labels_are_kept_and_the_last_one_counts(store):
    store.add([row(), row(verdict="defect"), row(verdict="defect")])
    store.label(2, "defect", "Ada", "scratch", [[[0, 0], [4, 0], [4, 4]]])
    store.label(2, "good", "Bob", "only dust")
    store.label(3, "defect", "Ada")
    assert [(a["who"], a["details"]["label"], a["details"]["note"]) for a in store.actions(2)] == [
        ("Bob", "good", "only dust"),
        ("Ada", "defect", "scratch"),
    ]
    told = statistics.agreement(store.counts(Filter()))
    assert told["labelled"] == 2 and told["agree"]["count"] == 1
    assert told["false_alarms"]["count"], told["false_alarms"]["of"] == (1, 1)
    assert told["missed"] == {"count": 0, "of": 1, "share": 0.0, "low": 0.0, "high": pytest.approx(0.975)}
    with pytest.raises(InlierError, match="there is no record 99"):
        store.label(99, "good", "Ada")
    assert len(store.actions()) == 3 and list(store.verify()) == []


def test_messages_wait_in_the_same_transaction_as_their_records(store):
    store.add([row(), row(station="silent")], {"press": ["mqtt", "hook"]})
    assert store.unsent() == {"mqtt": 1, "hook": 1}
    ((message, record),) = store.waiting("mqtt", 10)
    assert record == store.record(1)
    store.delivered([message])
    assert store.unsent() == {"hook": 1}


# -- the database ------------------------------------------------------------------------------------------------------


def test_migrations_lead_to_the_tables_of_today(store):
    with store.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_a_newer_database_is_refused(store):
    with store.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(InlierError, match="made by a newer inlier"):
        Store(store.engine.url.render_as_string(hide_password=False))


THEIRS = ("CREATE TABLE alembic_version (version_num VARCHAR(32))", "CREATE TABLE records (id INTEGER)")  # by chance
REFUSED = "holds tables, but not those of inlier's records .it holds alembic_version, records.* of their own with --db"


@pytest.mark.parametrize("address", ["{}", "sqlite:///{}"])
def test_a_file_of_another_program_stays_as_it_is(inlier, plate_model, tmp_path, address):
    file = tmp_path / "other.sqlite"
    run_sql(file, *THEIRS)
    before = file.read_bytes()
    with pytest.raises(InlierError, match=f"{file}: {REFUSED}"):
        Store(address.format(file))
    code, _, err = inlier("serve", plate_model, "--db", address.format(file), "--data", tmp_path / "data", "--port", 0)
    assert code == 2 and err.startswith(f"error: {file}: holds tables, but not those") and err.count("\n") == 1
    assert file.read_bytes() == before and not list(tmp_path.glob("other.sqlite-*"))


def test_a_database_of_another_program_on_a_server_stays_as_it_is(postgres):
    server = create_engine(postgres.replace("postgresql:", "postgresql+psycopg:"), isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        connection.execute(text("CREATE DATABASE theirs"))
    server.dispose()
    url = f"{postgres.rpartition('/')[0]}/theirs"
    theirs = create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    with theirs.begin() as connection:
        for statement in THEIRS:
            connection.execute(text(statement))
    with pytest.raises(InlierError, match=REFUSED):
        Store(url)
    assert sorted(looked_at(theirs).get_table_names()) == ["alembic_version", "records"]
    theirs.dispose()


@pytest.mark.parametrize(
    "url, words",
    [
        ("mysql://x/y", "sqlite or postgresql"),
        ("postgresql://nobody@127.0.0.1:1/x", "the database did not take part"),
        ("/proc/x/records.sqlite", "cannot be made"),
    ],
)
def test_a_database_that_cannot_be_used_is_told(url, words):
    with pytest.raises(InlierError, match=words):
        Store(url)


def test_postgresql_may_be_away_for_a_while(postgres_server):
    url, control = postgres_server
    store = Store(url)
    before = store.add([row()])[-1]
    control("stop")
    with pytest.raises(StoreError, match="the database did not take part"):
        store.add([row()])
    control("start")
    assert store.add([row()])[0]["previous"] == before["hash"]
    assert list(store.verify()) == []
    store.close()


def test_a_full_disk_writes_nothing_and_the_chain_goes_on(tmp_path):
    store = Store(tmp_path / "records.sqlite")
    store.add([row()])
    with store.engine.connect() as connection:
        pages = connection.execute(text("PRAGMA page_count")).scalar()
    store.engine.dispose()
    event.listen(store.engine, "connect", lambda c, _: c.execute(f"PRAGMA max_page_count = {pages}"))
    with pytest.raises(StoreError, match="full"):
        store.add([row(part="x" * 2000) for _ in range(50)])
    assert store.last() == 1
    last = store.last()
    store.close()
    again = Store(tmp_path / "records.sqlite")
    assert again.add([row()])[0]["id"] == last + 1
    assert list(again.verify()) == []
    again.close()


# -- pictures ----------------------------------------------------------------------------------------------------------


def picture(level):
    return png(Image.new("L", (16, 16), level))


def test_old_pictures_go_and_labelled_ones_stay(tmp_path):
    store, pictures = Store(tmp_path / "records.sqlite"), Pictures(tmp_path / "pictures")
    day = 86_400_000_000
    for k, age in enumerate((10, 9, 0)):
        sha = f"{k:064x}"
        kept = pictures.keep("press", sha, picture(k), ".png")
        store.add([row(picture=sha, kept=kept) | {"time": now() - age * day}])
    store.label(2, "defect", "Ada")
    pictures.sweep("press", Keep(days=5), store)
    assert [r["kept"] is not None for r in store.all(Filter())] == [False, True, True]
    assert len(list((tmp_path / "pictures").rglob("*.png"))) == 2
    assert list(store.verify()) == []
    pictures.sweep("press", Keep(gigabytes=1e-9), store)  # all but what somebody labelled
    assert [r["kept"] is not None for r in store.all(Filter())] == [False, True, False]
    store.close()


def test_a_picture_without_a_record_is_waste_after_an_hour(tmp_path):
    store, pictures = Store(tmp_path / "records.sqlite"), Pictures(tmp_path / "pictures")
    fresh = pictures.path(pictures.keep("press", "a" * 64, picture(1), ".png"))
    old = pictures.path(pictures.keep("press", "b" * 64, picture(2), ".png"))
    os.utime(old, (1, 1))
    pictures.sweep("press", Keep(), store)
    assert fresh.exists() and not old.exists()
    store.close()


# -- the command -------------------------------------------------------------------------------------------------------


@pytest.fixture
def kept(tmp_path):
    """A station's folder with 20 records, some labelled, and their pictures."""
    store, pictures, rng = Store(tmp_path / "records.sqlite"), Pictures(tmp_path / "pictures"), np.random.default_rng(0)
    for k in range(20):
        raw = picture(10 * k)
        sha = hashlib.sha256(raw).hexdigest()
        verdict = "defect" if k % 5 == 0 else "good"
        regions = [{"polygon": [[2, 2], [9, 2], [9, 9]], "box": [2, 2, 9, 9], "area": 30, "peak": 1.0}]
        found = row(float(rng.random()), verdict=verdict, picture=sha, part=f"=cmd{k}", regions=regions)
        store.add([found | {"kept": pictures.keep("press", sha, raw, ".png")}])
        store.label(k + 1, verdict, "Ada", regions=[[[2, 2], [9, 2], [9, 9]]] if verdict == "defect" else [])
    store.close()
    return tmp_path


def test_records_are_listed_newest_first(inlier, kept):
    code, out, _ = inlier("records", "list", "--data", kept, "--verdict", "defect", "--limit", 2)
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == ["16", "11"]
    assert "label defect" in out and "score" in out


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_an_export_holds_all_records(inlier, kept, tmp_path, kind):
    out = tmp_path / f"out.{kind}"
    assert inlier("records", "export", out, "--data", kept)[0] == 0
    if kind == "csv":
        import csv

        with out.open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert rows[0]["part"] == "'=cmd0"  # nothing that a spreadsheet would run
    elif kind == "jsonl":
        rows = [json.loads(line) for line in out.read_text().splitlines()]
    else:
        import pyarrow.parquet as pq

        rows = pq.read_table(out).to_pylist()
    assert [int(r["id"]) for r in rows] == list(range(1, 21))
    store = Store(kept / "records.sqlite")
    assert [float(r["score"]) for r in rows] == [r["score"] for r in store.all(Filter())]
    store.close()


def test_an_export_of_no_records_has_its_head_line(inlier, kept, tmp_path):
    out = tmp_path / "out.csv"
    assert inlier("records", "export", out, "--data", kept)[0] == 0
    head, *_ = out.read_text().splitlines()
    assert inlier("records", "export", out, "--data", kept, "--lot", "none")[0] == 0
    assert out.read_text().splitlines() == [head] and head.startswith("id,time,station,")


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_an_export_that_breaks_off_leaves_the_older_file_whole(inlier, kept, tmp_path, monkeypatch, kind):
    out, rows = tmp_path / "new" / f"out.{kind}", Store.all
    assert inlier("records", "export", out, "--data", kept)[0] == 0
    before = out.read_bytes()

    def breaks_off(self, chosen):
        yield next(rows(self, chosen))
        raise StoreError("the database has gone away")

    monkeypatch.setattr(Store, "all", breaks_off)
    code, _, err = inlier("records", "export", out, "--data", kept)
    assert code == 2 and "gone away" in err
    assert out.read_bytes() == before and list(out.parent.iterdir()) == [out]


def test_labelled_pictures_are_a_data_set_for_the_next_training(inlier, kept, tmp_path):
    code, out, _ = inlier("records", "export", tmp_path / "set", "--labelled", "--station", "press", "--data", kept)
    assert code == 0 and "24 files" in out  # 20 pictures and 4 masks
    dataset = open_dataset(tmp_path / "set")
    assert len(dataset.train) + sum(not s.is_defect for s in dataset.test) == 16
    defects = [s for s in dataset.test if s.is_defect]
    assert len(defects) == 4 and all(s.read_mask().sum() > 10 for s in defects)


def test_verify_says_what_is_wrong_and_ends_with_1(inlier, kept):
    code, out, _ = inlier("records", "verify", "--data", kept, "--pictures")
    assert code == 0 and "20 records, no faults" in out
    noted = out.split()[-1]
    assert inlier("records", "verify", "--data", kept, "--expect", noted)[0] == 0
    assert inlier("records", "verify", "--data", kept, "--expect", "0" * 64)[0] == 1
    next((kept / "pictures").rglob("*.png")).write_bytes(b"x")
    code, _, err = inlier("records", "verify", "--data", kept, "--pictures")
    assert code == 1 and "was changed or is missing" in err
    store = Store(kept / "records.sqlite")
    with store.engine.begin() as connection:
        connection.execute(update(records).where(records.c.id == 4).values(score=0))
    store.close()
    code, _, err = inlier("records", "verify", "--data", kept)
    assert code == 1 and "record 4: was changed after it was written" in err


def test_a_shift_report_has_verdicts_labels_and_pictures(inlier, kept, tmp_path):
    assert inlier("records", "report", tmp_path / "shift.html", "--data", kept)[0] == 0
    page = (tmp_path / "shift.html").read_text()
    assert "<h2>press</h2>" in page and "The records are unbroken: 20" in page
    assert page.count('<img src="data:image/') == 4 and "<svg" in page
    assert "http" not in page.replace("http://www.w3.org", "")


def test_a_wrong_filter_or_folder_is_told(inlier, kept, tmp_path):
    code, _, err = inlier("records", "list", "--data", kept, "--verdict", "bad")
    assert code == 2 and "--verdict bad: must be one of good, defect, error" in err
    code, _, err = inlier("records", "list", "--data", kept, "--station", "pre\udcff")
    assert code == 2 and r"pre\xff: is no text" in err
    code, _, err = inlier("records", "list", "--data", tmp_path / "none")
    assert code == 2 and "holds no records" in err
    for place in ("typing.error", "sqlite:///typing.error"):  # nothing is made, which would have no faults
        code, _, err = inlier("records", "verify", "--db", place)
        assert code == 2 and "typing.error: holds no records" in err and not Path("typing.error").exists()


READING = (("list",), ("verify",), ("export", "{out}/out.csv"), ("report", "{out}/out.html"))


def reading(inlier, tmp_path, db):
    """(name, exit code, stdout, stderr) of each command that reads records."""
    for name, *more in READING:
        yield name, *inlier("records", name, *(text.format(out=tmp_path) for text in more), "--db", db)


def test_reading_leaves_the_database_and_its_folder_as_they_are(inlier, kept, tmp_path_factory):
    def looked_at():
        return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in kept.glob("records*")}

    before = looked_at()
    for _, code, *said in reading(inlier, tmp_path_factory.mktemp("out"), kept / "records.sqlite"):
        assert code == 0 and looked_at() == before, said
    with pytest.raises(StoreError, match="readonly"), Store(kept / "records.sqlite", read_only=True)._writing() as it:
        it.execute(delete(records))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "holds no records of inlier"),
        ("CREATE TABLE records (id)", "holds no records of inlier"),
        (b"what is no database" * 1000, "file is not a database"),
        ("half", "malformed"),
        ("UPDATE alembic_version SET version_num = '9999'", "made by a newer inlier"),
        ("DELETE FROM alembic_version", "`inlier serve` with it, once, brings it up to date"),
    ],
)
def test_what_is_no_database_of_a_station_is_refused_by_name_and_stays(inlier, kept, tmp_path, content, words):
    db = tmp_path / "other.sqlite"
    if isinstance(content, bytes):
        db.write_bytes(content)
    elif content.startswith("CREATE"):
        run_sql(db, content)
    else:
        shutil.copy(kept / "records.sqlite", db)
        if content == "half":
            os.truncate(db, db.stat().st_size // 2)
        else:
            run_sql(db, content)
    before = db.read_bytes()
    for _, code, _, err in reading(inlier, tmp_path, db):
        assert code == 2 and words in err and "other.sqlite: " in err and err.count("\n") == 1, err
    assert db.read_bytes() == before and not list(tmp_path.glob("out.*"))


def run_sql(db, *statements):
    with contextlib.closing(sqlite3.connect(db)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


def test_a_copy_where_nothing_can_be_written_is_read(inlier, kept, tmp_path):
    """A link to nowhere where SQLite wants to lay a file: root could write into a folder of any mode."""
    (kept / "records.sqlite-shm").symlink_to(tmp_path / "no folder" / "file")
    for name, code, out, err in reading(inlier, tmp_path, kept / "records.sqlite"):
        assert code == 0, err
        assert name != "verify" or "20 records, no faults" in out
    (kept / "records.sqlite-wal").write_bytes(b"newest records")
    for _, code, _, err in reading(inlier, tmp_path, kept / "records.sqlite"):
        assert code == 2 and "records.sqlite: its newest records lie in records.sqlite-wal" in err, err
        assert "copy both into another folder" in err


@pytest.mark.parametrize(
    "change",
    [
        "regions = '{bad'",
        "regions = '3'",
        "settings = x'ff'",
        "time = 'x'",
        "time = 9e15 * 1000",
        "time = 9000000000000000000",
        "score = 'abc'",
        "score = 9e999",
        "p_value = x'00'",
        "part = cast(x'ff' AS TEXT)",
        "station = 'press' || cast(x'ff' AS TEXT)",
    ],
)
def test_a_record_that_cannot_be_read_is_a_fault_and_is_named(inlier, kept, tmp_path, change):
    db = kept / "records.sqlite"
    run_sql(db, f"UPDATE records SET {change} WHERE id = 11", "UPDATE records SET score = 0 WHERE id = 16")
    for name, code, out, err in reading(inlier, tmp_path, db):
        if name == "verify":
            assert code == 1 and "20 records, 2 faults" in out
            assert [line for line in err.splitlines() if line] == [
                f"error: record {k}: was changed after it was written" for k in (11, 16)
            ]
        else:
            assert code == 2 and "error: record 11: its " in err and err.count("\n") == 1, (name, err)
    assert inlier("records", "verify", "--db", db, "--data", kept, "--pictures")[0] == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("regions = '[{}]'", "its regions were changed and cannot be drawn"),
        ("settings = '{}', kept = NULL", None),
        ("timings = '{\"a\": 1e999}'", "holds an infinite number"),
    ],
)
def test_a_record_of_another_content_than_a_stations_is_named(inlier, kept, tmp_path, change, words):
    run_sql(kept / "records.sqlite", f"UPDATE records SET {change} WHERE id IN (16, 20)")
    ends_ = [inlier("records", "report", tmp_path / "out.html", "--data", kept)]
    ends_ += [inlier("records", "export", tmp_path / "out.jsonl", "--data", kept)]
    wrong = [err for code, _, err in ends_ if code]
    assert [f"error: record 16: {words}" in err for err in wrong] == ([True] if words else []), wrong


def test_ends_that_were_removed_are_told(inlier, kept, tmp_path):
    db = kept / "records.sqlite"
    for statement in ("UPDATE ends SET last = 'x'", "DELETE FROM ends"):
        run_sql(db, statement)
        code, out, err = inlier("records", "verify", "--db", db)
        assert code == 1 and "20 records, 2 faults" in out and "records: which is the last was removed" in err
    store = Store(db)
    with pytest.raises(StoreError, match="no longer knows the last of its records"):
        store.add([row()])
    store.close()


def test_a_label_whose_action_cannot_be_read_is_a_fault(inlier, kept):
    run_sql(kept / "records.sqlite", "UPDATE actions SET details = '{bad' WHERE id = 3")
    code, out, err = inlier("records", "verify", "--data", kept)
    assert code == 1 and "20 records, 2 faults" in out and "action 3: was changed" in err, err


def test_names_in_a_list_stay_in_their_line(inlier, kept):
    run_sql(kept / "records.sqlite", "UPDATE records SET station = 'a' || char(27, 10) || 'b', verdict = char(27)")
    code, out, _ = inlier("records", "list", "--data", kept, "--limit", 1)
    assert code == 0 and out.count("\n") == 1 and "\x1b" not in out and r"a\x1b\nb" in out


def test_no_export_or_report_takes_the_place_of_what_it_is_made_from(inlier, kept):
    files = [path for path in kept.rglob("*") if path.is_file()]
    before = [path.read_bytes() for path in files]
    table = kept / "records.csv"
    shutil.copy(kept / "records.sqlite", table)
    for arguments, words in (
        (("report", kept / "records.sqlite", "--data", kept), "choose a name that ends in .html"),
        (("export", table, "--db", table, "--data", kept), "is an input of this command"),
        (("export", kept / "pictures", "--data", kept, "--labelled", "--station", "press"), "lies in"),
    ):
        code, _, err = inlier("records", *arguments)
        assert code == 2 and words in err, err
    assert table.read_bytes() == (kept / "records.sqlite").read_bytes()
    assert [path.read_bytes() for path in files] == before


def test_records_in_postgresql_are_listed(inlier, store, tmp_path):
    store.add([row()])
    db = store.engine.url.render_as_string(hide_password=False).replace("+psycopg", "")
    for _, code, _, err in reading(inlier, tmp_path, db):
        assert code == 0, err


def test_a_station_keeps_its_records_in_postgresql(postgres, plate_model, tmp_path):
    plant = open_plant(tmp_path, plate_model, server={"database": postgres})
    before = plant.store.last()
    rows = [plant.stations["press"].inspect(raw).result() for raw in pictures()]
    assert [row["id"] for row in plant.store.page(Filter("press", kept=True), limit=8)][::-1] == [
        row["id"] for row in rows
    ]
    assert rows[0]["id"] == before + 1 and list(plant.store.verify()) == []
    plant.close()
