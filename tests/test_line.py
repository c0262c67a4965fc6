"""Where pictures come from by themselves, and who is told of verdicts."""

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest

from conftest import part
from inlier import load
from inlier.errors import InlierError
from inlier.serve import plant as plant_
from inlier.serve.config import checked, read_toml
from inlier.serve.plant import Plant
from inlier.serve.store import Filter
from test_station import pictures


@pytest.fixture
def opened(plate_model, tmp_path):
    """Opens a plant with one station, sources and sinks running."""
    plants = []

    def start(limits=None, **station):
        content = {
            "server": {"data": str(tmp_path / "data")},
            "limits": limits or {},
            "stations": [{"name": "press", "model": str(plate_model), **station}],
        }
        plants.append(Plant(checked(content, "station.toml")))
        return plants[-1]

    yield start
    for plant in plants:
        plant.close()


def until(condition, seconds=30.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.02)


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


# -- a watched folder --------------------------------------------------------------------------------------------------


def test_pictures_that_come_into_a_folder_are_judged_once(opened, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    raws = pictures()
    (folder / "before.png").write_bytes(raws[0])
    plant = opened(source={"folder": str(folder)})
    (folder / "lot 7").mkdir()
    for k, raw in enumerate(raws[1:]):
        (folder / "lot 7" / f"{k}.png").write_bytes(raw)
    (folder / "notes.txt").write_text("no picture")
    (folder / ".hidden.png").write_bytes(raws[0])
    until(lambda: plant.store.last() == 8)
    assert sorted(r["part"] for r in plant.store.all(Filter())) == sorted(
        ["before.png", *(f"{k}.png" for k in range(7))]
    )
    plant.close()
    again = opened(source={"folder": str(folder)})
    (folder / "0.png").write_bytes(raws[0])  # a new one of a known name elsewhere
    until(lambda: again.store.last() == 9)
    time.sleep(0.5)
    assert again.store.last() == 9


def test_a_file_that_grows_slowly_is_judged_when_it_is_whole(opened, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    plant, raw = opened(source={"folder": str(folder)}), pictures()[0]
    with (folder / "slow.png").open("wb") as file:
        for start in range(0, len(raw), len(raw) // 6 + 1):
            file.write(raw[start : start + len(raw) // 6 + 1])
            file.flush()
            time.sleep(0.1)
    until(lambda: plant.store.last() == 1)
    assert plant.store.record(1)["error"] is None


def test_a_damaged_file_is_a_record_with_an_error_and_others_go_on(opened, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    plant = opened(source={"folder": str(folder)})
    (folder / "a.png").write_bytes(b"damaged")
    (folder / "b.png").write_bytes(pictures()[0])
    until(lambda: plant.store.last() == 2)
    assert {r["part"]: r["error"] is None for r in plant.store.all(Filter())} == {"a.png": False, "b.png": True}


def test_a_folder_that_does_not_exist_is_told(opened, tmp_path):
    with pytest.raises(InlierError, match="no such folder to watch"):
        opened(source={"folder": str(tmp_path / "none")})
    (tmp_path / "loop").symlink_to("loop")
    sink = {"kind": "folder", "path": str(tmp_path / "loop" / "out")}
    with pytest.raises(InlierError, match="no such folder to watch"):
        opened(source={"folder": str(tmp_path / "loop" / "in")}, sinks=[sink])


def test_a_folder_sink_inside_the_watched_folder_is_refused(opened, tmp_path):
    (tmp_path / "in").mkdir()
    with pytest.raises(InlierError, match="its pictures would be judged again"):
        opened(
            source={"folder": str(tmp_path / "in")}, sinks=[{"kind": "folder", "path": str(tmp_path / "in" / "out")}]
        )


def test_a_name_that_is_no_text_is_judged_moved_and_keeps_nobody_waiting(opened, tmp_path):
    folder, out, name = tmp_path / "in", tmp_path / "out", os.fsdecode(b"pr\xfcf.png")
    folder.mkdir()
    (folder / name).write_bytes(pictures()[0])
    plant = opened(source={"folder": str(folder)}, sinks=[{"kind": "folder", "path": str(out)}])
    until(lambda: plant.store.last() == 1)
    for file in (f"again {name}", "z.png"):  # while it is watched
        (folder / file).write_bytes(pictures()[0])
    until(lambda: plant.store.last() == 3 and not list(folder.iterdir()), 20)
    assert {r["part"] for r in plant.store.all(Filter())} == {"pr\\xfcf.png", "again pr\\xfcf.png", "z.png"}
    assert {path.name[10:] for path in out.rglob("*.png")} == {name, f"again {name}", "z.png"}


def test_a_file_that_fails_costs_no_other_and_the_station_says_so(opened, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    plant = opened(source={"folder": str(folder)})
    station, inspect = plant.stations["press"], plant.stations["press"].inspect

    def fails(raw, **about):
        if about["part"] == "a.png":
            raise RuntimeError("unforeseen")
        return inspect(raw, **about)

    station.inspect = fails
    (folder / "a.png").write_bytes(pictures()[0])
    until(lambda: station.problem.endswith("a.png: is not judged; the server's log says how"))
    (folder / "b.png").write_bytes(pictures()[0])
    until(lambda: plant.store.last() == 1)


# -- folders of verdicts -----------------------------------------------------------------------------------------------


def test_watched_pictures_are_moved_by_their_verdict(opened, tmp_path):
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    plant = opened(source={"folder": str(folder)}, sinks=[{"kind": "folder", "path": str(out)}])
    raws = pictures()
    for k, raw in enumerate(raws):
        (folder / f"{k}.png").write_bytes(raw)
    (folder / "bad.png").write_bytes(b"x")
    until(lambda: len(list(out.rglob("*.png"))) == 9 and not list(folder.iterdir()))
    for row in plant.store.all(Filter()):
        verdict = "error" if row["error"] else row["verdict"]
        found = out / verdict / f"{row['id']:09}-{row['part']}"
        assert row["error"] or found.read_bytes() == raws[int(row["part"][0])]
    until(lambda: plant.store.unsent() == {})


def test_a_part_number_cannot_lead_out_of_the_folder(opened, tmp_path):
    plant = opened(sinks=[{"kind": "folder", "path": str(tmp_path / "out")}])
    plant.stations["press"].inspect(pictures()[0], part="../../../evil", key="../../x:1:2").result()
    until(lambda: plant.store.unsent() == {})
    (found,) = (p for p in tmp_path.rglob("*") if "evil" in p.name)
    assert found.parent == tmp_path / "out" / "good"


# -- MQTT --------------------------------------------------------------------------------------------------------------


class Broker:
    """A real mosquitto, which can be stopped and started again."""

    def __init__(self, folder):
        if not shutil.which("mosquitto"):
            pytest.skip("needs Debian's mosquitto")
        self.port, self.config, self.process = free_port(), folder / "mosquitto.conf", None
        self.config.write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous true\n"
            f"persistence true\npersistence_location {folder}/\nuser root\n"
        )

    def start(self):
        self.process = subprocess.Popen(
            ["mosquitto", "-c", self.config], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        until(lambda: self._listens())

    def stop(self):
        if self.process:
            self.process.terminate()
            self.process.wait(10)
        self.process = None

    def _listens(self):
        with socket.socket() as one:
            return one.connect_ex(("127.0.0.1", self.port)) == 0


@pytest.fixture
def broker(tmp_path):
    made = Broker(tmp_path)
    yield made
    made.stop()


class Listener:
    """A real subscriber, for whom the broker keeps what comes while it is away."""

    def __init__(self, port):
        from paho.mqtt import client as mqtt
        from paho.mqtt.enums import CallbackAPIVersion

        self.messages, subscribed = [], threading.Event()
        self.client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="listener", clean_session=False)
        self.client.on_message = lambda c, u, m: self.messages.append((m.topic, json.loads(m.payload)))
        self.client.on_connect = lambda c, *_: c.subscribe("inlier/#", 1)
        self.client.on_subscribe = lambda *_: subscribed.set()
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()
        assert subscribed.wait(10)

    def close(self):
        self.client.disconnect()
        self.client.loop_stop()

    def numbers(self):
        return list(dict.fromkeys(message["id"] for _, message in self.messages))


def test_every_record_reaches_the_broker_in_order_over_its_absence_and_a_restart(opened, broker):
    sinks = [{"kind": "mqtt", "host": "127.0.0.1", "port": broker.port}]
    broker.start()
    Listener(broker.port).close()
    broker.stop()
    plant, raws = opened(sinks=sinks), pictures()
    for raw in raws[:3]:  # nobody is there
        plant.stations["press"].inspect(raw).result()
    until(lambda: plant.sinks_of("press")["press/mqtt-1"]["problem"])
    assert plant.store.unsent() == {"press/mqtt-1": 3}
    plant.close()
    plant = opened(sinks=sinks)  # a restart: they wait on the disk
    broker.start()
    listener = Listener(broker.port)
    for raw in raws[3:5]:
        plant.stations["press"].inspect(raw, lot="L").result()
    until(lambda: listener.numbers() == [1, 2, 3, 4, 5])
    listener.close()
    broker.stop()
    for raw in raws[5:]:
        plant.stations["press"].inspect(raw).result()
    broker.start()
    listener = Listener(broker.port)
    # what the listener took last may come again: it left before the broker had its word
    until(lambda: [number for number in listener.numbers() if number > 5] == [6, 7, 8])
    until(lambda: plant.store.unsent() == {})
    topic, told = listener.messages[-1]
    kept = plant.store.record(8)
    assert topic == "inlier/press"
    assert (told["verdict"], told["score"], told["hash"]) == (kept["verdict"], kept["score"], kept["hash"])
    listener.close()


def test_a_broker_that_refuses_is_named_once(opened, broker):
    broker.config.write_text(broker.config.read_text().replace("allow_anonymous true", "allow_anonymous false"))
    broker.start()
    plant = opened(sinks=[{"kind": "mqtt", "host": "127.0.0.1", "port": broker.port}])
    plant.stations["press"].inspect(pictures()[0]).result()
    until(lambda: plant.sinks_of("press")["press/mqtt-1"]["problem"])
    assert plant.sinks_of("press")["press/mqtt-1"]["problem"] == "127.0.0.1: the broker refuses: Not authorized"


def test_a_station_stops_before_messages_would_be_lost(opened, broker, tmp_path):
    sinks = [{"kind": "mqtt", "host": "127.0.0.1", "port": broker.port}]
    plant, raw = opened(sinks=sinks, limits={"unsent": 2}), pictures()[0]
    for _ in range(2):
        plant.stations["press"].inspect(raw).result()
    with pytest.raises(InlierError, match="2 messages wait for press/mqtt-1"):
        plant.stations["press"].inspect(raw)
    broker.start()
    until(lambda: not plant.stations["press"].refusal())
    plant.stations["press"].inspect(raw).result()
    until(lambda: plant.store.unsent() == {})


# -- webhooks ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def hook():
    """A server that takes messages, and answers with what `codes` holds as long as it holds something."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            code = server.codes.pop(0) if server.codes else 200
            if code == 200:
                server.taken.append((body["id"], self.headers["Authorization"], self.headers["Idempotency-Key"]))
            self.send_response(code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.codes, server.taken = [], []
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def test_a_webhook_is_told_again_until_it_takes_the_message_in_order(opened, hook):
    hook.codes = [500, 302, 404]
    url = f"http://127.0.0.1:{hook.server_port}/verdicts?line=3"
    plant = opened(sinks=[{"kind": "webhook", "url": url, "token": "secret"}])
    rows = [plant.stations["press"].inspect(raw).result() for raw in pictures()]
    until(lambda: plant.store.unsent() == {})
    assert hook.taken == [(row["id"], "Bearer secret", row["hash"]) for row in rows]


def test_what_a_webhook_took_before_one_that_it_refuses_does_not_come_again(opened, hook):
    hook.codes = 1000 * [500]
    plant = opened(sinks=[{"kind": "webhook", "url": f"http://127.0.0.1:{hook.server_port}/"}])
    for raw in pictures():
        plant.stations["press"].inspect(raw).result()
    hook.codes[:] = [200, 200, 200, 422, 422]
    until(lambda: plant.store.unsent() == {})
    assert [number for number, _, _ in hook.taken] == list(range(1, 9))


# -- cameras -----------------------------------------------------------------------------------------------------------


def test_a_camera_without_opencv_says_what_to_install(opened, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(InlierError, match=r"pip install 'inlier\[camera\]'"):
        opened(source={"camera": 0})


def test_a_camera_is_judged_and_its_absence_is_told(opened, tmp_path):
    pytest.importorskip("cv2", reason="needs OpenCV")
    for k, raw in enumerate(pictures()):
        (tmp_path / f"{k:03}.png").write_bytes(raw)
    plant = opened(source={"camera": str(tmp_path / "%03d.png"), "every": 0})
    until(lambda: plant.store.last() >= 8)
    until(lambda: "gives no picture" in plant.stations["press"].problem)
    until(lambda: plant.store.last() >= 16)  # it is back


def test_a_camera_that_fails_is_told_and_tried_again(opened, monkeypatch):
    class Camera:
        frames: ClassVar = [RuntimeError("an odd frame"), pictures()[0]]

        def __init__(self, name):
            self.read = lambda: (True, Camera.frames[0])

        def release(self):
            pass

    def encode(kind, frame):
        if isinstance(frame, Exception):
            raise frame
        return True, np.frombuffer(frame, np.uint8)

    monkeypatch.setitem(sys.modules, "cv2", SimpleNamespace(VideoCapture=Camera, imencode=encode))
    plant = opened(source={"camera": 0, "every": 0.1})
    until(lambda: plant.stations["press"].problem == "camera 0: failed; the server's log says how")
    del Camera.frames[0]
    until(lambda: plant.store.last() >= 1 and not plant.stations["press"].problem)


# -- files of the station ----------------------------------------------------------------------------------------------


def test_a_changed_file_changes_stations_and_a_wrong_one_changes_nothing(plate_model, tmp_path):
    file = tmp_path / "station.toml"

    def write(text):
        file.write_text(f'[server]\ndata = "{tmp_path / "data"}"\n{text}')
        os.utime(file, ns=(time.time_ns(), time.time_ns()))

    def station(name, alpha):
        return f'[[stations]]\nname = "{name}"\nmodel = "{plate_model}"\nalpha = {alpha}\n'

    write(station("press", 0.05))
    read = lambda: checked(read_toml(file), str(file))  # noqa: E731
    plant = Plant(read(), read, file)
    write(station("press", 0.5) + station("saw", 0.1))
    until(lambda: "saw" in plant.stations)
    assert plant.stations["press"].model.alpha == 0.5
    write(station("press", 2))
    time.sleep(1.5)
    assert set(plant.stations) == {"press", "saw"} and plant.stations["press"].model.alpha == 0.5
    write(station("saw", 0.1))
    until(lambda: set(plant.stations) == {"saw"})
    until(lambda: "station press: removed" in plant.store.actions()[0]["details"]["done"])
    with pytest.raises(InlierError, match="no station 'press'"):
        plant.station("press")
    plant.close()


@pytest.fixture
def changed(plate_model, opened, tmp_path):
    """A plant with the station `press`, and what changes its stations: by name, what each has beside its model."""
    plant = opened()

    def change(**stations):
        entries = [{"name": name, "model": str(plate_model)} | more for name, more in stations.items()]
        return plant.apply(checked({"server": {"data": str(tmp_path / "data")}, "stations": entries}, "station.toml"))

    return plant, change


def test_a_station_that_cannot_be_started_is_told_and_starts_once_it_can(changed, tmp_path):
    plant, change = changed
    saw = {"source": {"folder": str(tmp_path / "in")}, "sinks": [{"kind": "folder", "path": str(tmp_path / "out")}]}
    (told,) = change(press={}, saw=saw)
    assert told == f"station saw: is not started: station saw: {tmp_path / 'in'}: no such folder to watch"
    assert set(plant.stations) == {"press"} and plant.sinks_of("saw") == {}
    (tmp_path / "in").mkdir()
    assert change(press={}, saw=saw) == ["station saw: added"]
    (tmp_path / "in" / "a.png").write_bytes(pictures()[0])
    until(lambda: list((tmp_path / "out").rglob("*a.png")))
    assert change(press={}) == ["station saw: removed"]


def test_a_change_that_cannot_be_made_leaves_source_and_sinks_at_work(changed, tmp_path):
    plant, change = changed
    (tmp_path / "in").mkdir()
    sinks = [{"kind": "folder", "path": str(tmp_path / "out")}]
    change(press={"source": {"folder": str(tmp_path / "in")}, "sinks": sinks})
    (told,) = change(press={"source": {"folder": str(tmp_path / "none")}, "alpha": 0.5})
    assert told.startswith("station press: stays as it was") and "no such folder" in plant.stations["press"].problem
    assert plant.stations["press"].model.alpha is None
    (tmp_path / "in" / "a.png").write_bytes(pictures()[0])
    until(lambda: list((tmp_path / "out").rglob("*a.png")))
    assert change(press={"alpha": 0.5}) == ["station press: changed"]


def test_what_fails_for_one_station_keeps_no_other_from_changing(changed, monkeypatch):
    plant, change = changed
    opens = plant_.open_model

    def fails(config, *more):
        if config.name == "press":
            raise RuntimeError("unforeseen")
        return opens(config, *more)

    monkeypatch.setattr(plant_, "open_model", fails)
    told = change(press={"alpha": 0.5}, saw={})
    assert told[0].startswith("station press: stays as it was: its model") and told[1] == "station saw: added"
    assert plant.stations["press"].problem.endswith("the server's log says how")


def test_the_last_station_is_not_taken_away(changed):
    plant, change = changed
    with pytest.raises(InlierError, match="no station"):
        change()
    assert set(plant.stations) == {"press"}


def test_who_reads_the_stations_holds_them_as_they_were(changed, tmp_path):
    """Other threads go through them while they change."""
    plant, change = changed
    before, unsent = plant.running, plant.unsent
    change(press={}, saw={"sinks": [{"kind": "webhook", "url": "http://127.0.0.1:1/"}]})
    plant.stations["saw"].inspect(pictures()[0]).result()
    assert set(before) == {"press"} and unsent == {}
    assert set(plant.running) == {"press", "saw"} and plant.unsent["saw/webhook-1"] == 1


def test_a_plant_that_cannot_start_leaves_nothing_running(plate_model, opened, tmp_path):
    (tmp_path / "in").mkdir()
    before = set(threading.enumerate())
    stations = [
        {"name": name, "model": str(plate_model), "source": {"folder": str(tmp_path / name)}} for name in ("in", "x")
    ]
    with pytest.raises(InlierError, match="no such folder"):
        Plant(checked({"server": {"data": str(tmp_path / "data")}, "stations": stations}, "station.toml"))
    assert not set(threading.enumerate()) - before


@pytest.fixture
def two(plate_model, tmp_path):
    """(a plant of `press` and `saw`, each with a model file of its own; its station.toml)."""
    file, text = tmp_path / "station.toml", f'[server]\ndata = "{tmp_path / "data"}"\n'
    for name in ("press", "saw"):
        shutil.copy(plate_model, tmp_path / f"{name}.inlier")
        text += f'[[stations]]\nname = "{name}"\nmodel = "{tmp_path / name}.inlier"\n'
    file.write_text(text)
    read = lambda: checked(read_toml(file), str(file))  # noqa: E731
    plant = Plant(read(), read, file)
    yield plant, file
    plant.close()


def test_what_changes_while_another_file_is_read_is_read_too(two, monkeypatch):
    plant, file = two
    rng, opens = np.random.default_rng(9), plant_.open_model
    other = load(plant.stations["press"].config.model).calibrate([part(rng)[0] for _ in range(25)])

    def meanwhile(config, *more):
        if config.name == "press" and other.path:
            path, other.path = other.path, None
            other.save(path)
            file.write_text(file.read_text().replace('name = "saw"', 'name = "saw"\nalpha = 0.5'))
        return opens(config, *more)

    other.path = plant.stations["saw"].config.model
    monkeypatch.setattr(plant_, "open_model", meanwhile)
    first = plant.stations["saw"].model.sha256
    plant.reload("press", "Ada")
    until(lambda: plant.stations["saw"].model.sha256 != first and plant.stations["saw"].model.alpha == 0.5)


def test_a_file_of_stations_is_read_when_nobody_writes_it_any_more(two, monkeypatch):
    monkeypatch.setattr(plant_, "SETTLED", 1.0)  # however busy the machine
    plant, file = two
    whole = file.read_text()
    cut = whole[: whole.rindex("[[stations]]")]
    for _ in range(40):  # saved again and again, and for most of the time cut at a table
        file.write_text(cut)
        time.sleep(0.07)
        file.write_text(whole)
        time.sleep(0.01)
    time.sleep(1.5)
    assert set(plant.stations) == {"press", "saw"} and plant.store.actions() == []


def test_two_cores_are_enough_for_the_whole_thing_to_end(opened, tmp_path):
    """Closing finishes what waits, and is quick."""
    (tmp_path / "in").mkdir()
    plant = opened(source={"folder": str(tmp_path / "in")})
    futures = [plant.stations["press"].inspect(raw) for raw in pictures()]
    start = time.monotonic()
    plant.close()
    assert time.monotonic() - start < 10 and all(future.result()["id"] for future in futures)
    assert Path(tmp_path / "data" / "drift" / "press.json").is_file()
