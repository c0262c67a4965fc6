"""The station as others meet it: over HTTP."""

import hashlib
import io
import json
import shutil
import sys
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor, wait

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

import inlier as library
from conftest import part, write_dataset
from inlier.drawing import as_file
from inlier.errors import InlierError
from inlier.inspection.result import Box, Prediction
from inlier.serve.app import make_app
from inlier.serve.calibrating import calibrate
from inlier.serve.config import checked
from inlier.serve.plant import Plant
from inlier.serve.regions import outlines
from inlier.serve.security import check_safe
from test_contract import short

TOKENS = {name: f"{name}-token-0123456789" for name in ("viewer", "operator", "engineer")}
WITH_TOKENS = [{"name": f"the {name}", "role": name, "token": token} for name, token in TOKENS.items()]


def png(image):
    return as_file(image, "png", compress_level=1)


def pictures(seed=0, good=4, defects=4):
    """Bytes of good plates, then of plates with a dent."""
    rng = np.random.default_rng(seed)
    return [png(part(rng, defect=k >= good)[0]) for k in range(good + defects)]


def open_plant(folder, model, /, stations=None, **config):
    stations = stations or [{"name": "press", "model": str(model)}]
    server = {"data": str(folder / "data")} | config.pop("server", {})
    return Plant(checked({"server": server, "stations": stations, **config}, "station.toml"))


@pytest.fixture
def serve(plate_model, tmp_path):
    """Starts a server with these entries of its config; all end with the test."""
    clients = []

    def start(**config):
        plant = open_plant(tmp_path, plate_model, **config)
        client = TestClient(make_app(plant), base_url="http://localhost", raise_server_exceptions=False)
        client.__enter__()
        client.plant = plant
        clients.append(client)
        return client

    yield start
    for client in clients:
        client.__exit__(None, None, None)


def inspect(client, raw, **about):
    return client.post("/v1/stations/press/inspect", content=raw, params=about)


def as_(role):
    return {"Authorization": f"Bearer {TOKENS[role]}"}


# -- judging -----------------------------------------------------------------------------------------------------------


def test_a_picture_gets_the_verdict_that_predict_gives_and_a_record(serve, plate_model):
    client, model = serve(), library.load(plate_model)
    for raw in pictures():
        told = inspect(client, raw, part="17", lot="L1").json()
        p = model.inspect(Image.open(io.BytesIO(raw)))
        assert (told["score"], told["p_value"], told["verdict"]) == (p.score, p.p_value, p.verdict)
        assert told["threshold"] == p.threshold
        assert [r["box"] for r in told["regions"]] == [list(box[:4]) for box in p.boxes()][:20]
        assert [r["area"] for r in told["regions"]] == [box.area for box in p.boxes()][:20]
        assert told["picture"] == hashlib.sha256(raw).hexdigest()
        assert told["model"] == hashlib.sha256(plate_model.read_bytes()).hexdigest()
        kept = client.get(f"/v1/records/{told['id']}").json()
        assert kept == told | {"actions": []}
        assert client.get(f"/v1/records/{told['id']}/picture").content == raw
    assert {r["verdict"] for r in client.get("/v1/records").json()["records"]} == {"good", "defect"}
    assert list(client.plant.store.verify()) == []


def test_a_form_is_as_good_as_a_body(serve):
    client, raw = serve(), pictures()[0]
    body = inspect(client, raw, part="1", lot="L").json()
    form = client.post(
        "/v1/stations/press/inspect", files={"picture": ("a.png", raw)}, data={"part": "1", "lot": "L"}
    ).json()
    for name in ("score", "p_value", "verdict", "part", "lot", "picture", "regions"):
        assert form[name] == body[name]


def test_polygons_enclose_what_is_above_the_threshold(serve, plate_model):
    from PIL import ImageDraw

    client, model, raw = serve(), library.load(plate_model), pictures()[-1]
    (region, *_) = inspect(client, raw).json()["regions"]
    drawn = Image.new("1", (64, 64))
    ImageDraw.Draw(drawn).polygon([(x - 0.5, y - 0.5) for x, y in region["polygon"]], fill=1)
    inside, wanted = np.asarray(drawn), model.inspect(Image.open(io.BytesIO(raw))).region
    assert (inside & wanted).sum() / (inside | wanted).sum() > 0.9


def test_the_region_of_a_picture_is_computed_once_however_many_boxes_it_has(plate_model, monkeypatch):
    p, asked = library.load(plate_model).inspect(Image.open(io.BytesIO(pictures()[-1]))), []
    region = np.zeros((64, 64), bool)
    region[::4, ::4] = True
    boxes = [Box(x, y, x + 1, y + 1, 1.0, 1) for x in range(0, 64, 4) for y in range(0, 64, 4)]
    monkeypatch.setattr(Prediction, "region", property(lambda self: asked.append(1) or region))
    monkeypatch.setattr(Prediction, "boxes", lambda self: boxes)
    assert len(outlines(p)) == 20 and len(asked) == 1


def test_a_batch_is_answered_in_order_and_one_bad_picture_costs_no_other(serve):
    client, sent = serve(limits={"waiting": 4}), pictures()
    sent[2] = b"no picture"
    files = [("pictures", (f"{k}.png", raw)) for k, raw in enumerate(sent)]
    told = client.post("/v1/stations/press/batch", files=files, data={"lot": "L"}).json()
    assert [r["picture"] for r in told] == [hashlib.sha256(raw).hexdigest() for raw in sent]
    assert [bool(r["error"]) for r in told] == [k == 2 for k in range(8)]
    assert {r["lot"] for r in told} == {"L"}


@pytest.mark.parametrize("raw", [b"x", b"\x89PNG\r\n\x1a\n" + b"0" * 90, png(Image.new("L", (64, 64)))[:60]])
def test_what_cannot_be_read_is_told_and_is_a_record(serve, raw):
    client = serve()
    answer = inspect(client, raw, part="bad")
    assert answer.status_code == 422 and "picture" in answer.json()["error"]
    (record,) = client.get("/v1/records", params={"verdict": "error"}).json()["records"]
    assert (record["part"], record["verdict"], record["score"]) == ("bad", None, None)
    assert inspect(client, pictures()[0]).status_code == 200


def test_requests_that_wait_are_judged_together_with_the_verdicts_of_each_alone(serve):
    client, sent = serve(), pictures(good=8, defects=8)
    alone = [inspect(client, raw).json()["score"] for raw in sent]
    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(lambda raw: inspect(client, raw).json(), sent))
    assert np.allclose([r["score"] for r in together], alone, rtol=1e-4)
    assert max(r["timings"]["batch"] for r in together) > 1
    assert client.plant.store.last() == 32 and list(client.plant.store.verify()) == []


def test_a_number_that_is_sent_again_gives_the_same_record(serve):
    client, raw = serve(), pictures()[0]
    first, again = inspect(client, raw, key="17").json(), inspect(client, raw, key="17").json()
    assert first == again and client.plant.store.last() == 1


def test_too_much_at_once_is_told_when_to_come_again_and_nothing_is_lost(serve):
    client, raw = serve(limits={"waiting": 2}), pictures()[0]
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda k: inspect(client, raw, part=str(k)), range(40)))
    codes = [answer.status_code for answer in answers]
    assert set(codes) <= {200, 429} and 200 in codes and 429 in codes
    assert all(answer.headers["Retry-After"] == "1" for answer in answers if answer.status_code == 429)
    assert client.plant.store.last() == codes.count(200)


def test_stations_share_a_model_and_keep_their_own_rules(serve, plate_model):
    stations = [
        {"name": name, "model": str(plate_model), "alpha": alpha} for name, alpha in (("press", 0.05), ("strict", 0.5))
    ]
    client = serve(stations=stations)
    press, strict = (client.plant.stations[name] for name in ("press", "strict"))
    assert press.model.inspector is strict.model.inspector and press.judge is strict.judge
    raws = pictures(good=20, defects=0)
    verdicts = {
        name: [client.post(f"/v1/stations/{name}/inspect", content=raw).json() for raw in raws]
        for name in client.plant.stations
    }
    for a, b in zip(verdicts["press"], verdicts["strict"]):
        assert a["score"] == b["score"]
        assert (a["verdict"] == "defect") == (a["p_value"] <= 0.05) and (b["verdict"] == "defect") == (
            b["p_value"] <= 0.5
        )
    assert [r["verdict"] for r in verdicts["press"]] != [r["verdict"] for r in verdicts["strict"]]


def test_copies_of_one_model_are_asked_by_one_thread_and_nobody_else_asks(serve, plate_model, tmp_path):
    """A network takes no two calls at a time."""
    copy = tmp_path / "copy.inlier"
    copy.write_bytes(plate_model.read_bytes())
    client = serve(stations=[{"name": "press", "model": str(plate_model)}, {"name": "saw", "model": str(copy)}])
    press, saw = client.plant.stations.values()
    assert press.model.inspector is saw.model.inspector and press.judge is saw.judge
    runtime, asked = press.model.inspector.runtime_, []
    press.model.inspector.runtime_ = lambda *given: asked.append(threading.current_thread()) or runtime(*given)
    for raw in pictures(seed=5, good=12, defects=2):
        record = inspect(client, raw).json()
        client.post("/v1/stations/saw/inspect", content=raw)
        client.post(f"/v1/records/{record['id']}/label", json={"label": "good"})
    half = {"width": 64, "height": 64, "polygons": [[[0, 0], [64, 0], [64, 32], [0, 32]]]}
    assert client.post("/v1/stations/press/calibrate", json={"region": half}).status_code == 200
    assert set(asked) == {press.judge._judging}


def test_a_station_that_is_given_another_model_changes_to_its_thread_and_the_old_one_ends(plate_model, tmp_path):
    other = tmp_path / "other.inlier"
    rng = np.random.default_rng(9)
    library.load(plate_model).calibrate([part(rng)[0] for _ in range(25)]).save(other)
    plant = open_plant(tmp_path, plate_model)
    try:
        press, before = plant.stations["press"], plant.stations["press"].judge
        stations = [{"name": name, "model": str(other)} for name in ("saw", "press")]
        plant.apply(checked({"server": {"data": str(plant.folder)}, "stations": stations}, "station.toml"))
        assert press.judge is plant.stations["saw"].judge and not before._judging.is_alive()
        press.inspect(pictures()[0]).result(20)
    finally:
        plant.close()


# -- what a record shows -----------------------------------------------------------------------------------------------


def test_a_map_is_the_models_own_also_when_it_is_made_again(serve, plate_model):
    client, model, raw = serve(), library.load(plate_model), pictures()[-1]
    number = inspect(client, raw).json()["id"]
    wanted = model.inspect(Image.open(io.BytesIO(raw))).map
    for _ in range(2):
        found = np.load(io.BytesIO(client.get(f"/v1/records/{number}/map.npy").content))
        assert np.array_equal(found, wanted)
        client.plant.stations["press"]._remembered.clear()
    for what in ("map.png", "overlay.png"):
        shown = Image.open(io.BytesIO(client.get(f"/v1/records/{number}/{what}").content))
        assert shown.size == (64, 64) and len(shown.convert("RGB").getcolors(5000)) > 20
    answer = client.get(f"/v1/records/{number}/reconstruction.png")
    assert answer.status_code == 422 and answer.json() == {"error": "this model repaints nothing"}


def test_a_picture_that_is_not_kept_says_so(serve, plate_model):
    keep = {"pictures": "defects"}
    client = serve(stations=[{"name": "press", "model": str(plate_model), "keep": keep}])
    good, *_, defect = (inspect(client, raw).json() for raw in pictures())
    assert good["kept"] is None and defect["kept"]
    client.plant.stations["press"]._remembered.clear()
    assert client.get(f"/v1/records/{defect['id']}/picture").status_code == 200
    answer = client.get(f"/v1/records/{good['id']}/overlay.png")
    assert answer.status_code == 422 and "not kept" in answer.json()["error"]


def test_labels_and_statistics(serve):
    client = serve()
    told = [inspect(client, raw).json() for raw in pictures()]
    for record, label in zip(told, 4 * ["good"] + 3 * ["defect"] + ["good"]):
        answer = client.post(f"/v1/records/{record['id']}/label", json={"label": label, "note": "seen"})
        assert answer.json()["who"] == "local"
    answer = client.post("/v1/records/1/label", content=b'{"label": "good"}')
    assert answer.status_code == 422 and "with the header Content-Type: application/json" in answer.json()["error"]
    stats = client.get("/v1/stations/press/statistics").json()
    defects = sum(r["verdict"] == "defect" for r in told)
    assert stats["verdicts"]["records"] == 8 and stats["verdicts"]["defects"]["count"] == defects
    assert stats["agreement"]["labelled"] == 8 and stats["agreement"]["missed"]["of"] == 3
    assert stats["agreement"]["false_alarms"]["of"] == 5
    assert 0 < stats["latency_ms"]["p50"] <= stats["latency_ms"]["p99"]
    assert stats["throughput"]["last_minute"] == 8 and stats["drift"]["pictures"] == 8
    found = client.get("/v1/records", params={"label": "defect"}).json()["records"]
    assert [r["id"] for r in found] == [7, 6, 5]
    assert client.get("/v1/records/8").json()["actions"][0]["details"]["note"] == "seen"


def test_another_false_alarm_rate_changes_what_the_model_would_have_said(serve, plate_model):
    client, model = serve(), library.load(plate_model)
    raws = pictures(good=20, defects=4)
    before = [inspect(client, raw).json()["verdict"] for raw in raws]
    told = client.get("/v1/stations/press/rejudge", params={"alpha": 0.4}).json()
    after = [model.inspect(Image.open(io.BytesIO(raw)), alpha=0.4).verdict for raw in raws]
    changes = list(zip(before, after))
    assert told["to_defect"] == changes.count(("good", "defect")) > 0
    assert told["to_good"] == changes.count(("defect", "good")) == 0
    assert "of good parts" in told["promise"]
    answer = client.get("/v1/stations/press/rejudge", params={"alpha": 0.001})
    assert answer.status_code == 422 and "can promise no false-alarm rate below" in answer.json()["error"]


def test_exports(serve):
    client = serve()
    for raw in pictures():
        record = inspect(client, raw).json()
        client.post(f"/v1/records/{record['id']}/label", json={"label": record["verdict"]})
    lines = client.get("/v1/export", params={"format": "jsonl", "verdict": "defect"}).text.splitlines()
    assert [json.loads(line)["verdict"] for line in lines] == len(lines) * ["defect"] and lines
    assert len(client.get("/v1/export").text.splitlines()) == 9
    assert client.get("/v1/export", params={"format": "parquet"}).content[:4] == b"PAR1"
    names = zipfile.ZipFile(io.BytesIO(client.get("/v1/stations/press/labelled.zip").content)).namelist()
    assert len(names) == 8 and all(name.startswith("press/") for name in names)


# -- calibration and reload --------------------------------------------------------------------------------------------


def test_calibration_on_labelled_parts_is_previewed_then_applied_and_outlasts_a_restart(plate_model, tmp_path):
    plant = open_plant(tmp_path, plate_model)
    with TestClient(make_app(plant), base_url="http://localhost") as client:
        answer = client.post("/v1/stations/press/calibrate", json={})
        assert answer.status_code == 422 and "label more" in answer.json()["error"]
        for raw in pictures(seed=5, good=30, defects=2):
            record = inspect(client, raw).json()
            if record["id"] <= 30:
                client.post(f"/v1/records/{record['id']}/label", json={"label": "good"})
        before = client.get("/v1/stations/press").json()
        preview = client.post("/v1/stations/press/calibrate", json={}).json()
        assert preview["pictures"] == 30 and preview["before"]["scores"] == 40 and preview["now"]["scores"] == 30
        assert preview["changes"]["records"] == 32
        assert client.get("/v1/stations/press").json()["model"] == before["model"]
        applied = client.post("/v1/stations/press/calibrate", json={"apply": True}).json()
        assert applied["now"] == preview["now"]
        after = client.get("/v1/stations/press").json()
        assert after["threshold"] == preview["now"]["threshold"] != before["threshold"]
        assert client.get("/v1/actions").json()[0]["what"] == "calibrate"
        assert inspect(client, pictures()[0]).json()["threshold"] == after["threshold"]
    again = open_plant(tmp_path, plate_model)
    assert again.stations["press"].model.sha256 == after["model"]["sha256"]
    assert list(again.store.verify()) == []
    again.close()


def test_a_region_of_interest_is_tried_then_taken(serve):
    client = serve()
    for raw in pictures(seed=5, good=30, defects=6):
        record = inspect(client, raw).json()
        client.post(f"/v1/records/{record['id']}/label", json={"label": "good" if record["id"] <= 30 else "defect"})
    corner = {"width": 64, "height": 64, "polygons": [[[0, 0], [12, 0], [12, 12], [0, 12]]]}
    told = client.post("/v1/stations/press/calibrate", json={"region": corner}).json()
    assert told["changes"]["to_good"] >= 5  # the dents lie elsewhere
    assert inspect(client, pictures()[-1]).json()["verdict"] == "defect"
    client.post("/v1/stations/press/calibrate", json={"region": corner, "apply": True})
    number = inspect(client, pictures()[-1]).json()["id"]
    map_ = np.load(io.BytesIO(client.get(f"/v1/records/{number}/map.npy").content))
    assert np.isfinite(map_[:12, :12]).all() and np.isnan(map_[20:]).all()


def test_a_new_region_in_the_file_replaces_what_the_station_calibrated(plate_model, tmp_path):
    good, rng = tmp_path / "good", np.random.default_rng(7)
    good.mkdir()
    for k in range(20):
        part(rng)[0].save(good / f"{k}.png")
    region = {"width": 64, "height": 64, "polygons": [[[0, 0], [64, 0], [64, 32], [0, 32]]]}
    (tmp_path / "region.json").write_text(json.dumps(region))
    plain = {"name": "press", "model": str(plate_model)}
    with_region = plain | {"region": str(tmp_path / "region.json"), "good": str(good)}

    def rows_inspected(station):
        return int(np.isfinite(station.model.inspector.inspect(part(rng)[0]).map).any(1).sum())

    def change(station):
        return plant.apply(checked({"server": {"data": str(plant.folder)}, "stations": [station]}, "station.toml"))

    plant = open_plant(tmp_path, plate_model)
    press = plant.stations["press"]
    for raw in pictures(seed=5, good=30, defects=0):
        plant.store.label(press.inspect(raw).result()["id"], "good", "Ada")
    calibrate(plant, "press", "Ada", apply=True)
    assert change(with_region) == ["station press: changed"] and rows_inspected(press) < 40
    calibrate(plant, "press", "Ada", apply=True)
    of_region = press.model.sha256
    plant.close()
    plant = open_plant(tmp_path, plate_model, stations=[with_region])  # its own again after a restart
    press = plant.stations["press"]
    assert press.model.sha256 == of_region and rows_inspected(press) < 40
    few = tmp_path / "few"
    shutil.copytree(good, few)
    (few / "0.png").unlink()
    (plant.folder / "models" / "press.json").unlink()
    change(with_region | {"good": str(few)})  # other pictures to calibrate it with
    assert len(press.model.inspector.calibration_) == 19 and rows_inspected(press) < 40
    change(plain)
    assert press.model.sha256 == hashlib.sha256(plate_model.read_bytes()).hexdigest() and rows_inspected(press) == 64
    plant.close()


def test_turned_and_scaled_pictures_get_the_verdict_that_predict_gives(tmp_path):
    rng = np.random.default_rng(3)
    exif = Image.Exif()
    exif[0x0112] = 6
    good = [tmp_path / "good" / f"{k}.jpg" for k in range(12)]
    good[0].parent.mkdir()
    for path in good:
        part(rng)[0].resize((256, 256)).save(path)
    short("padim", scaled_jpeg=True, size=32).fit(good).save(tmp_path / "m.inlier")
    model, plant = library.load(tmp_path / "m.inlier"), open_plant(tmp_path, tmp_path / "m.inlier")
    for suffix in (".jpg", ".png", ".webp"):
        path = tmp_path / f"turned{suffix}"
        part(rng, defect=True)[0].resize((256, 256)).save(path, exif=exif)
        told = plant.stations["press"].inspect(path.read_bytes()).result()
        assert told["score"] == pytest.approx(model.inspect(path).score, rel=1e-6)
    plant.close()


def test_a_station_that_does_not_say_which_of_the_regions_holds_is_refused(tmp_path):
    for name in ("left", "right"):
        write_dataset(tmp_path / "parts", category=name, train=4)
    roi = np.zeros((64, 64), bool)
    roi[8:56, 8:56] = True
    short("padim").fit(tmp_path / "parts", roi={"left": roi}).save(tmp_path / "m.inlier")
    with pytest.raises(InlierError, match="station press: category: .*must be told: one of left, right"):
        open_plant(tmp_path, tmp_path / "m.inlier")


def test_a_region_is_calibrated_by_the_files_own_runtime_whichever_judges(plate_model, tmp_path):
    good, rng = tmp_path / "good", np.random.default_rng(7)
    good.mkdir()
    for k in range(20):
        part(rng)[0].save(good / f"{k}.png")
    ell = {"width": 64, "height": 64, "polygons": [[[0, 0], [64, 0], [64, 20], [20, 20], [20, 64], [0, 64]]]}
    (tmp_path / "region.json").write_text(json.dumps(ell))
    station = {"model": str(plate_model), "region": str(tmp_path / "region.json"), "good": str(good)}
    plant = open_plant(tmp_path, plate_model, stations=[{"name": "press", "runtime": "onnx"} | station])
    inspector = plant.stations["press"].model.inspector
    made = next((plant.folder / "models").glob("press-*-region-*"))
    own = library.load(made)
    assert made.suffix == ".inlier" and inspector.runtime_.suffix == ".onnx"
    picture = part(rng, defect=True)[0]
    assert inspector.inspect(picture).score == pytest.approx(own.inspect(picture).score, rel=1e-4)
    np.testing.assert_array_equal(inspector.calibration_.scores, own.calibration_.scores)
    plant.close()


def test_pictures_of_before_an_exchange_do_not_count_for_the_model_after_it(plate_model, tmp_path):
    plant = open_plant(tmp_path, plate_model)
    press = plant.stations["press"]
    row = press.inspect(pictures()[0]).result()
    press.drift.update(row | {"id": row["id"] + 1, "picture": "0" * 64, "model": "0" * 64})
    assert press.drift.stream.pictures == 1 and press.drift.last == row["id"] + 1
    plant.close()


def test_the_state_of_a_stream_is_saved_between_two_pictures(plate_model, tmp_path, monkeypatch):
    plant = open_plant(tmp_path, plate_model)
    drift = plant.stations["press"].drift
    row = plant.stations["press"].inspect(pictures()[0]).result()
    saving, going_on, to_dict = threading.Event(), threading.Event(), drift.stream.to_dict
    monkeypatch.setattr(drift.stream, "to_dict", lambda: saving.set() or (going_on.wait(20) and to_dict()))
    with ThreadPoolExecutor(2) as pool:
        saved = pool.submit(drift.save)
        assert saving.wait(20)
        updated = pool.submit(drift.update, row | {"id": row["id"] + 1, "picture": "0" * 64})
        assert not wait([updated], 0.3).done
        going_on.set()
        saved.result(20), updated.result(20)
    state = json.loads(drift.path.read_bytes())
    assert state["last"] == row["id"] and state["stream"]["monitors"][0]["pictures"] == 1
    plant.close()


def test_a_model_is_replaced_without_losing_a_request(serve, plate_model, tmp_path):
    model = tmp_path / "press.inlier"
    model.write_bytes(plate_model.read_bytes())
    client, raws = serve(stations=[{"name": "press", "model": str(model)}]), pictures()
    rng = np.random.default_rng(9)
    other = library.load(model).calibrate([part(rng)[0] for _ in range(25)])
    ended, told = threading.Event(), []

    def send():
        while not ended.is_set():
            told.append(inspect(client, raws[len(told) % 8]))

    sender = threading.Thread(target=send)
    sender.start()
    first = client.plant.stations["press"].model.sha256
    other.save(model)
    for _ in range(100):
        if client.plant.stations["press"].model.sha256 != first:
            break
        threading.Event().wait(0.1)
    threading.Event().wait(0.3)
    ended.set()
    sender.join()
    second = hashlib.sha256(model.read_bytes()).hexdigest()
    assert {answer.status_code for answer in told} == {200}
    assert {answer.json()["model"] for answer in told} == {first, second}
    model.write_bytes(b"half a model")
    assert client.post("/v1/stations/press/reload").status_code == 422
    assert inspect(client, raws[0]).json()["model"] == second


def test_drift_goes_on_after_a_restart_as_if_unbroken(plate_model, tmp_path):
    raws = pictures(good=12, defects=0)
    whole = open_plant(tmp_path / "a", plate_model)
    for raw in raws:
        whole.stations["press"].inspect(raw).result()
    broken = open_plant(tmp_path / "b", plate_model)
    for raw in raws[:6]:
        broken.stations["press"].inspect(raw).result()
    broken.writer.close()  # killed: nothing of the stream was saved
    broken = open_plant(tmp_path / "b", plate_model)
    for raw in raws[6:]:
        broken.stations["press"].inspect(raw).result()
    whole.writer.close(), broken.writer.close()
    assert broken.stations["press"].drift.stream == whole.stations["press"].drift.stream
    assert whole.stations["press"].drift.stream.pictures == 12
    assert set(whole.stations["press"].drift.stream.monitors) == {"score", "brightness", "contrast", "sharpness"}


# -- safety ------------------------------------------------------------------------------------------------------------


def test_strangers_get_nothing_and_roles_get_theirs(serve):
    client = serve(tokens=WITH_TOKENS)
    raw = pictures()[0]
    calls = {
        "viewer": lambda h: client.get("/v1/records", headers=h),
        "operator": lambda h: client.post("/v1/stations/press/inspect", content=raw, headers=h),
        "engineer": lambda h: client.post("/v1/stations/press/reload", headers=h),
    }
    for needed, call in calls.items():
        assert call({}).status_code == 401
        assert call({"Authorization": "Bearer wrong-token-0123456789"}).status_code == 401
        for place, role in enumerate(TOKENS):
            assert (call(as_(role)).status_code == 200) == (place >= list(TOKENS).index(needed)), (needed, role)
    for path in ("/v1/health", "/health", "/healthz"):
        assert client.get(path).json() == {"status": "ok", "version": library.__version__}
    client.post("/v1/records/1/label", json={"label": "good"}, headers=as_("operator"))
    assert client.get("/v1/records/1", headers=as_("viewer")).json()["actions"][0]["who"] == "the operator"
    assert client.get("/v1/records", headers={"Cookie": f"inlier_token={TOKENS['viewer']}"}).status_code == 200


@pytest.mark.parametrize(
    "headers, code",
    [
        ({"Host": "evil.example"}, 400),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://localhost"}, 200),
    ],
)
def test_pages_of_other_sites_cannot_use_the_station(serve, headers, code):
    client = serve()
    assert client.post("/v1/stations/press/inspect", content=pictures()[0], headers=headers).status_code == code


def test_too_many_bytes_and_too_many_pixels_are_refused(serve):
    client = serve(limits={"bytes": 10_000, "pixels": 5000})
    assert inspect(client, b"0" * 10_001).status_code == 413
    chunks = (b"0" * 1000 for _ in range(20))
    assert client.post("/v1/stations/press/inspect", content=chunks).status_code == 413
    large = inspect(client, png(Image.new("L", (100, 100))))
    assert large.status_code == 422 and "100 x 100 pixels" in large.json()["error"]
    bomb = inspect(client, _claims(60_000, 60_000))
    assert bomb.status_code == 422 and "pixels" in bomb.json()["error"]
    assert inspect(client, pictures()[0]).status_code == 200


def _claims(width, height):
    """A small PNG whose header promises a huge picture."""
    import struct
    import zlib

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"0" * 1000)), (b"IEND", b"")]
    made = b"\x89PNG\r\n\x1a\n"
    for name, content in chunks:
        made += struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
    return made


@pytest.mark.parametrize(
    "path",
    [
        "/v1/stations/..%2f..%2fetc/inspect",
        "/v1/stations/../../etc/passwd",
        "/v1/records/1/..%2f..%2fetc%2fpasswd",
        "/v1/records/99999999999999999999999/picture",
        "/v1/records/-1",
        "/v1/records/1/passwd",
        "/v1/records?station=%00",
        "/v1/records?before=0",
        "/v1/records?since=yesterday",
    ],
)
def test_strange_addresses_are_refused_without_telling_anything(serve, path):
    client = serve()
    answer = client.get(path)
    assert 400 <= answer.status_code < 500
    assert set(answer.json()) == {"error"} and "Traceback" not in answer.text and "/site-packages" not in answer.text


def test_too_many_requests_of_one_client_wait(serve):
    client = serve(limits={"per_second": 5})
    codes = [client.get("/v1/health").status_code for _ in range(30)]
    assert codes[:10] == 10 * [200] and codes.count(429) >= 15


def test_tokens_and_limits_change_while_it_runs(serve):
    client = serve(tokens=WITH_TOKENS)
    plant, raw = client.plant, pictures()[0]
    only_operator = [one for one in WITH_TOKENS if one["role"] == "operator"]
    entries = {"stations": [{"name": "press", "model": str(plant.stations["press"].config.model)}]}
    entries["server"] = {"data": str(plant.folder)}

    def apply(**more):
        return plant.apply(checked(entries | more, "station.toml"))

    assert apply(tokens=only_operator, limits={"bytes": 1000}) == ["[[tokens]]: changed", "[limits]: changed"]
    assert client.get("/v1/records", headers=as_("viewer")).status_code == 401
    answer = client.post("/v1/stations/press/inspect", content=raw, headers=as_("operator"))
    assert answer.status_code == 413 and "1000 bytes" in answer.json()["error"]
    apply(tokens=only_operator)
    assert client.post("/v1/stations/press/inspect", content=raw, headers=as_("operator")).status_code == 200
    apply(tokens=only_operator, limits={"per_second": 1})
    assert 429 in [client.get("/v1/health").status_code for _ in range(5)]


def test_a_server_that_others_reach_keeps_its_tokens_whatever_the_file_says(plate_model, tmp_path):
    plant = open_plant(tmp_path, plate_model, server={"host": "0.0.0.0"}, tokens=WITH_TOKENS)
    without = {"server": {"host": "127.0.0.1"}, "stations": [{"name": "press", "model": str(plate_model)}]}
    try:
        with pytest.raises(InlierError, match="others than this machine"):
            plant.apply(checked(without, "station.toml"))
        assert len(plant.config.tokens) == len(WITH_TOKENS)
    finally:
        plant.close()


def test_answers_carry_headers_that_browsers_obey(serve):
    headers = serve().get("/v1/records").headers
    assert "default-src 'none'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff" and headers["x-frame-options"] == "DENY"


def test_a_database_that_is_away_is_told_and_nothing_answered_is_lost(serve, monkeypatch):
    client, raw = serve(), pictures()[0]
    assert inspect(client, raw).status_code == 200
    engine, url = client.plant.store.engine, client.plant.store.engine.url
    with engine.connect().execution_options(writes=True) as blocker:
        with engine.connect() as quick:
            quick.exec_driver_sql("SELECT 1")
        monkeypatch.setattr(engine.dialect, "do_execute", _gone)
        answer = inspect(client, raw)
        assert answer.status_code == 503 and answer.headers["Retry-After"] == "5"
        assert "database" in answer.json()["error"]
        assert client.get("/v1/ready").status_code == 503
        monkeypatch.undo()
        blocker.rollback()
    assert inspect(client, raw).status_code == 200
    assert client.get("/v1/ready").json() == {"ready": True, "problems": {}}
    assert client.plant.store.last() == 2 and list(client.plant.store.verify()) == [] and url


def test_a_picture_that_the_disk_refuses_costs_no_verdict(serve, tmp_path):
    (tmp_path / "data" / "pictures").mkdir(parents=True)
    (tmp_path / "data" / "pictures" / "press").write_text("no folder can be made here")
    told = inspect(serve(), pictures()[0])
    assert told.status_code == 200 and told.json()["verdict"] and told.json()["kept"] is None


def _gone(cursor, statement, parameters, context=None):
    import sqlite3

    raise sqlite3.OperationalError("disk I/O error")


def test_metrics_count_what_was_judged(serve):
    client = serve()
    for raw in pictures():
        inspect(client, raw)
    text = client.get("/metrics").text
    counted = [float(line.split()[-1]) for line in text.splitlines() if line.startswith("inlier_inspections_total")]
    assert sum(counted) == 8 and 'inlier_latency_seconds_count{station="press"} 8.0' in text


# -- the config --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change, told",
    [
        ({"name": "a b"}, "stations[0].name: String should match"),
        ({"alpha": 2}, "stations[0].alpha: Input should be less than 1, not 2; 5 % is written 0.05, with a"),
        ({"alpha": "5%"}, "unable to parse string as a number, not '5%'; 5 % is written 0.05, with a point"),
        ({"confidence": 95}, "stations[0].confidence: Input should be less than 1, not 95; 95 % is written 0.95"),
        ({"alhpa": 0.1}, "stations[0].alhpa: no such entry"),
        ({"region": "r.json"}, "region: thresholds hold for the region that the model was calibrated with"),
        ({"sinks": [{"kind": "fax"}]}, "stations[0].sinks[0]: Input tag 'fax' found using 'kind' does not match"),
        ({"sinks": [{"kind": "mqtt"}]}, "stations[0].sinks[0].host: is missing"),
        ({"source": {}}, "stations[0].source: give folder or camera, one of them"),
        ({"source": {"folder": "in", "every": 2}}, "source: every is for cameras"),
        ({"source": {"folder": "in", "trigger": True}}, "source: trigger is for cameras"),
        ({"source": {"camera": 0, "trigger": True, "every": 2}}, "source: every changes nothing where the line"),
        (
            {"source": {"camera": 0, "trigger": True}},
            "station press: trigger: its camera waits for OPC UA; add [opcua]",
        ),
        ({"keep": {"near": 0.05}}, "stations[0].keep: near and one_in change nothing where all pictures stay"),
        ({"sinks": [{"kind": "mqtt", "host": "h", "topic": "l/{line}"}]}, "in which only {station} is replaced"),
        ({"sinks": [{"kind": "mqtt", "host": "h", "topic": "line/#"}]}, "a text without + and #"),
        ({"sinks": [{"kind": "mqtt", "host": "h", "password": "p"}]}, "password: is given to nobody without user"),
        ({"sinks": [{"kind": "webhook", "url": "http://h:99999/"}]}, "sinks[0].url: Port out of range"),
        ({"sinks": [{"kind": "webhook", "url": "http:///verdicts"}]}, "sinks[0].url: names no host"),
    ],
)
def test_a_wrong_entry_is_one_line(change, told):
    with pytest.raises(InlierError) as error:
        checked({"stations": [{"name": "press", "model": "m.inlier"} | change]}, "station.toml")
    assert told in str(error.value) and len(str(error.value).splitlines()) == 1


def test_two_stations_of_one_name_are_refused():
    with pytest.raises(InlierError, match="stations: two have the name 'press'"):
        checked({"stations": 2 * [{"name": "press", "model": "m.inlier"}]}, "station.toml")


def test_a_host_that_others_reach_needs_tokens():
    with pytest.raises(InlierError, match=r"host 0\.0\.0\.0: others than this machine"):
        check_safe(checked({"server": {"host": "0.0.0.0"}}, "x"))
    check_safe(checked({"server": {"host": "0.0.0.0"}, "tokens": WITH_TOKENS}, "x"))


def test_an_alpha_that_calibration_cannot_promise_is_told_at_the_start(plate_model, tmp_path):
    stations = [{"name": "press", "model": str(plate_model), "alpha": 0.001}]
    with pytest.raises(InlierError, match="can promise no false-alarm rate below"):
        open_plant(tmp_path, plate_model, stations=stations)


@pytest.mark.parametrize(
    ("package", "more"),
    [
        *((name, "") for name in ("contourpy", "jinja2", "python_multipart", "uvicorn")),
        ("paho", "sinks = [{kind = 'mqtt', host = '127.0.0.1'}]"),
        ("watchfiles", "source = {folder = '.'}"),
        ("asyncua", "[opcua]\nport = 4841"),
        ("psycopg", "[server]\ndatabase = 'postgresql://who@127.0.0.1:1/x'"),
    ],
)
def test_a_package_that_is_not_there_is_named_at_the_start(inlier, plate_model, tmp_path, monkeypatch, package, more):
    """And not by a thread, once parts pass."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, package, None)
    (tmp_path / "s.toml").write_text(f"[[stations]]\nname = 'x'\nmodel = '{plate_model}'\n{more}")
    code, _, err = inlier("serve", "--config", "s.toml", "--data", "d", "--port", 0)
    name = {"paho": "paho-mqtt"}.get(package, package).replace("_", "-")
    assert code == 2 and f"error: this needs {name}, which is not installed here: pip install 'inlier[serve]'\n" in err


def test_serve_says_what_is_missing(inlier, tmp_path):
    code, _, err = inlier("serve")
    assert code == 2 and "no station: give a model" in err
    code, _, err = inlier("serve", tmp_path / "none.inlier", "--data", tmp_path / "d", "--port", 0)
    assert code == 2 and "no such model file" in err and not (tmp_path / "d").exists()
    for option, words in (
        (("--alpha", 5), "'--alpha': 5 is not a number between 0 and 1 (exclusive); 5 % is written 0.05"),
        (("--port", 99999), "error: --port: Input should be less than or equal to 65535, not 99999\n"),
        (("--runtime", "tpu"), "error: --runtime: Input should be 'torch', "),
    ):
        code, _, err = inlier("serve", tmp_path / "none.inlier", *option)
        assert code == 2 and words in err and "options:" not in err
    code, _, err = inlier("serve", tmp_path, "--data", tmp_path / "d", "--port", 0)
    assert code == 2 and "is a folder, not a model file" in err and not (tmp_path / "d").exists()
    (tmp_path / "odd.toml").write_text("stations = [\n= 3")
    code, _, err = inlier("serve", "--config", tmp_path / "odd.toml")
    assert code == 2 and "odd.toml: is no valid TOML: " in err and "line 2" in err
    (tmp_path / "odd.toml").write_text("stations = []", encoding="utf-16")
    code, _, err = inlier("serve", "--config", tmp_path / "odd.toml")
    assert code == 2 and "odd.toml: is no text in UTF-8" in err and "save it as UTF-8" in err
    (tmp_path / "odd.toml").write_text("stations = []", encoding="utf-8-sig")
    assert "no station: give a model" in inlier("serve", "--config", tmp_path / "odd.toml")[2]
    (tmp_path / "station.toml").write_text("[[stations]]\nname = 'x'\n")
    code, _, err = inlier("serve", "--config", tmp_path / "station.toml")
    assert code == 2 and "stations[0].model: is missing" in err
    for text, words in (("server = 3", "server: Input should be"), ("stations = 3", "stations: Input should be")):
        (tmp_path / "station.toml").write_text(text)
        code, _, err = inlier("serve", "--config", tmp_path / "station.toml", "--port", 0)
        assert code == 2 and words in err and len(err.splitlines()) == 1


# -- every kind of model -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["differnet", "diad"])
def test_maps_that_cost_extra_and_pictures_repainted_as_good(method, tmp_path):
    """DifferNet's map is made for defects alone, and for others when somebody asks; DiAD shows what it repainted."""
    rng = np.random.default_rng(3)
    detector = short(method).fit([part(rng)[0] for _ in range(16)])
    detector.save(tmp_path / "part.inlier")
    plant = open_plant(tmp_path, tmp_path / "part.inlier")
    with TestClient(make_app(plant), base_url="http://localhost") as client:
        raw = pictures()[0]
        told = inspect(client, raw).json()
        p = detector.inspect(Image.open(io.BytesIO(raw)))
        assert told["score"] == pytest.approx(p.score, rel=1e-5) and told["verdict"] == p.verdict
        found = np.load(io.BytesIO(client.get(f"/v1/records/{told['id']}/map.npy").content))
        assert np.allclose(found, p.map, rtol=1e-3, atol=1e-6)
        answer = client.get(f"/v1/records/{told['id']}/reconstruction.png")
        assert answer.status_code == (200 if detector.repaints else 422)
        if detector.repaints:
            assert Image.open(io.BytesIO(answer.content)).size == (64, 64)
