"""The station under load, killed, and with many records. Each command prints JSON with the machine it ran on.

python benchmarks/station.py load MODEL PICTURES --minutes 10 --clients 16
python benchmarks/station.py kill MODEL PICTURES --minutes 5 --every 30     # needs mosquitto
python benchmarks/station.py records --records 1000000
"""

import argparse
import http.client
import json
import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil

from inlier import load
from inlier.data.images import list_images
from inlier.machine import about
from inlier.serve.store import Filter, Store, now


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Server:
    """`inlier serve` with one station, `line`."""

    def __init__(self, model: Path, folder: Path, sinks: str = ""):
        self.port, self.folder = free_port(), folder
        (folder / "station.toml").write_text(
            f'[server]\ndata = "{folder / "data"}"\nport = {self.port}\n[limits]\nper_second = 100000\n'
            f'[[stations]]\nname = "line"\nmodel = "{model.absolute()}"\nkeep = {{pictures = "none"}}\n{sinks}'
        )
        self.start()

    def start(self) -> float:
        """Seconds until it answers."""
        started = time.monotonic()
        command = [sys.executable, "-m", "inlier", "serve", "--config", str(self.folder / "station.toml")]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        while True:
            try:
                ask(http.client.HTTPConnection("127.0.0.1", self.port, timeout=5), "GET", "/v1/ready")
                self.seconds = time.monotonic() - started
                return self.seconds
            except OSError:
                if self.process.poll() is not None:
                    raise SystemExit((self.folder / "log").read_text()) from None
                time.sleep(0.05)

    def memory(self) -> float:
        return round(psutil.Process(self.process.pid).memory_info().rss / 2**20, 1)

    def stop(self, sign: int = signal.SIGTERM) -> None:
        self.process.send_signal(sign)
        self.process.wait()


def ask(connection: http.client.HTTPConnection, verb: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
    connection.request(verb, path, body)
    answer = connection.getresponse()
    return answer.status, answer.read()


class Client(threading.Thread):
    """Sends one picture after the other and notes what was answered."""

    def __init__(self, number: int, port: int, pictures: list[bytes], until: float):
        super().__init__(daemon=True)
        self.number, self.port, self.pictures, self.until = number, port, pictures, until
        self.answered: dict[str, int] = {}  # part -> record
        self.seconds: list[float] = []
        self.refused = self.broken = 0

    def run(self) -> None:
        connection, sent = None, 0
        while time.monotonic() < self.until:
            part = f"{self.number}-{sent}"
            start = time.monotonic()
            try:
                connection = connection or http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
                body = self.pictures[sent % len(self.pictures)]
                status, told = ask(connection, "POST", f"/v1/stations/line/inspect?part={part}", body)
            except (OSError, http.client.HTTPException):
                connection, self.broken, sent = None, self.broken + 1, sent + 1
                time.sleep(0.1)
                continue
            if status == 200:
                self.answered[part] = json.loads(told)["id"]
                self.seconds.append(time.monotonic() - start)
                sent += 1
            else:  # again, as told
                self.refused += 1
                time.sleep(0.2)


def compared(clients: list[Client], store: Store) -> dict:
    """What clients were answered against what was kept."""
    kept: dict[str, list[int]] = {}
    for row in store.all(Filter("line")):
        kept.setdefault(row["part"], []).append(row["id"])
    answered = {part: number for client in clients for part, number in client.answered.items()}
    return {
        "answered": len(answered),
        "records": sum(map(len, kept.values())),
        "lost": sum(number not in kept.get(part, ()) for part, number in answered.items()),
        "double": sum(len(numbers) > 1 for numbers in kept.values()),
        "chain_faults": len(list(store.verify())),
        "refused_and_sent_again": sum(client.refused for client in clients),
        "broken_off": sum(client.broken for client in clients),
    }


def under_load(model: Path, folder: Path, minutes: float, count: int) -> dict:
    paths = list_images(folder)[:64]
    pictures = [path.read_bytes() for path in paths]
    detector = load(model)
    offline = {}
    for maps in (False, True):
        list(detector.predict(paths[:8], maps=maps))
        start = time.monotonic()
        done = sum(1 for _ in detector.predict(paths * 4, maps=maps))
        offline["with maps" if maps else "scores alone"] = round(done / (time.monotonic() - start), 2)
    del detector
    with tempfile.TemporaryDirectory() as place:
        server = Server(model, Path(place))
        memory = {"idle": server.memory()}
        until = time.monotonic() + 60 * minutes
        clients = [Client(k, server.port, pictures, until) for k in range(count)]
        started = time.monotonic()
        for client in clients:
            client.start()
        for tenth in range(1, 11):
            time.sleep(max(0.0, started + 6 * minutes * tenth - time.monotonic()))
            memory[f"{tenth}0 %"] = server.memory()
        for client in clients:
            client.join()
        took = time.monotonic() - started
        store = Store(server.folder / "data" / "records.sqlite")
        told = compared(clients, store)
        store.close()
        server.stop()
    seconds = np.concatenate([client.seconds for client in clients])
    rate = len(seconds) / took
    return {
        "clients": count,
        "minutes": round(took / 60, 2),
        "started_after_s": round(server.seconds, 2),
        "pictures_per_s": round(rate, 2),
        "offline_predict_per_s": offline,
        "share_of_predict_with_maps": round(rate / offline["with maps"], 3),
        "seconds": {f"p{q}": round(float(np.percentile(seconds, q)), 3) for q in (50, 95, 99)},
        "memory_MiB": memory,
        **told,
    }


class Broker:
    """mosquitto, and a subscriber for whom it keeps what comes while it is away."""

    def __init__(self, folder: Path):
        from paho.mqtt import client as mqtt
        from paho.mqtt.enums import CallbackAPIVersion

        if not shutil.which("mosquitto"):
            raise SystemExit("needs mosquitto")
        self.port, self.numbers = free_port(), queue.Queue()
        (folder / "mosquitto.conf").write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\n"
        )
        self.process = subprocess.Popen(["mosquitto", "-c", folder / "mosquitto.conf"], stderr=subprocess.DEVNULL)
        time.sleep(1)
        self.client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="bench", clean_session=False)
        self.client.on_message = lambda c, u, m: self.numbers.put(json.loads(m.payload)["id"])
        self.client.on_connect = lambda c, *_: c.subscribe("inlier/#", 1)
        self.client.connect("127.0.0.1", self.port)
        self.client.loop_start()

    def stop(self) -> list[int]:
        self.client.disconnect()
        self.client.loop_stop()
        self.process.terminate()
        self.process.wait()
        return list(self.numbers.queue)


def killed(model: Path, folder: Path, minutes: float, every: float, count: int) -> dict:
    pictures = [path.read_bytes() for path in list_images(folder)[:64]]
    with tempfile.TemporaryDirectory() as place:
        broker = Broker(Path(place))
        sinks = f'[[stations.sinks]]\nkind = "mqtt"\nhost = "127.0.0.1"\nport = {broker.port}\n'
        server = Server(model, Path(place), sinks)
        until = time.monotonic() + 60 * minutes
        clients = [Client(k, server.port, pictures, until) for k in range(count)]
        for client in clients:
            client.start()
        kills, starts = 0, []
        while time.monotonic() + every < until:
            time.sleep(every)
            server.stop(signal.SIGKILL)
            kills += 1
            starts.append(round(server.start(), 2))
        for client in clients:
            client.join()
        store = Store(server.folder / "data" / "records.sqlite")
        end = time.monotonic() + 60
        while store.unsent() and time.monotonic() < end:
            time.sleep(0.2)
        time.sleep(1)
        server.stop()
        numbers = broker.stop()
        told = compared(clients, store)
        everything = {row["id"] for row in store.all(Filter("line"))}
        store.close()
    first = list(dict.fromkeys(numbers))
    return {
        "clients": count,
        "minutes": minutes,
        "kills": kills,
        "seconds_to_start_again": starts,
        **told,
        "messages": len(numbers),
        "messages_twice": len(numbers) - len(first),
        "records_without_message": len(everything - set(numbers)),
        "messages_in_order": first == sorted(first),
    }


def many_records(count: int) -> dict:
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as place:
        store = Store(Path(place) / "records.sqlite")
        start = time.monotonic()
        for first in range(0, count, 5000):
            scores = rng.gamma(4, 1, 5000)
            store.add(
                [
                    {
                        "time": now(),
                        "station": f"s{k % 3}",
                        "lot": f"L{(first + k) // 2000}",
                        "picture": f"{first + k:064x}",
                        "model": "a" * 64,
                        "settings": {"alpha": 0.01},
                        "score": float(score),
                        "p_value": float(np.exp(-score / 2)),
                        "threshold": 9.0,
                        "verdict": "defect" if score > 9 else "good",
                        "regions": [],
                        "latency": 20.0,
                        "timings": {},
                    }
                    for k, score in enumerate(scores)
                ]
            )
        written = time.monotonic() - start
        one, early = Filter("s1"), store.record(count // 100)["time"]
        asked = {
            "newest 100": lambda: store.page(one, limit=100),
            "100 from the middle": lambda: store.page(one, before=count // 2, limit=100),
            "defects": lambda: store.page(Filter("s1", verdict="defect"), limit=100),
            "labelled, of which there are none": lambda: store.page(Filter("s1", label="good"), limit=100),
            "a lot": lambda: store.page(Filter("s1", lot="L3"), limit=100),
            "a time long ago": lambda: store.page(Filter("s1", until=early), limit=100),
            "a time of which there is nothing": lambda: store.page(Filter("s1", until=1_000_000), limit=100),
            "counts": lambda: store.counts(one),
            "another alpha": lambda: store.changed_verdicts(one, "a" * 64, 0.05, 7.0),
        }
        took = {}
        for name, do in asked.items():
            start = time.monotonic()
            do()
            took[name] = round(1000 * (time.monotonic() - start), 1)
        start = time.monotonic()
        faults = len(list(store.verify()))
        verified = time.monotonic() - start
        size = sum(path.stat().st_size for path in Path(place).iterdir()) / 2**20
        store.close()
    return {
        "records": count,
        "written_per_s": round(count / written),
        "MiB": round(size),
        "ms": took,
        "verified_s": round(verified, 1),
        "faults": faults,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["load", "kill", "records"])
    parser.add_argument("model", nargs="?", type=Path)
    parser.add_argument("pictures", nargs="?", type=Path)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--every", type=float, default=30)
    parser.add_argument("--records", type=int, default=1_000_000)
    given = parser.parse_args()
    if given.what == "records":
        told = many_records(given.records)
    elif given.model is None or given.pictures is None:
        parser.error("give a model and a folder of pictures")
    elif given.what == "load":
        told = under_load(given.model, given.pictures, given.minutes, given.clients)
    else:
        told = killed(given.model, given.pictures, given.minutes, given.every, given.clients)
    print(json.dumps({"what": given.what, **told, "machine": about() | {"load_before": os.getloadavg()}}, indent=1))


if __name__ == "__main__":
    main()
