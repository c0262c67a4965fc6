"""`inlier serve` as a process: it starts, is killed, is besieged, and loses nothing that it answered."""

import contextlib
import datetime
import http.client
import json
import socket
import ssl
import threading
import time

import pytest

from inlier.serve.running import more_files
from inlier.serve.store import Filter, Store
from station_server import Server
from test_station import pictures


@pytest.fixture(scope="module")
def server(plate_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    config = folder / "station.toml"
    config.write_text(f'[limits]\nupload_seconds = 1.0\n[[stations]]\nname = "press"\nmodel = "{plate_model}"\n')
    running = Server(folder, "--config", config)
    yield running
    running.close()


def ask(port, verb, path, body=None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(verb, path, body)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def test_an_upload_that_takes_for_ever_is_ended_and_others_do_not_wait(server):
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as slow:
        start = b"POST /v1/stations/press/inspect HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000\r\n\r\n"
        slow.sendall(start + b"x")
        assert ask(server.port, "POST", "/v1/stations/press/inspect", pictures()[0])[0] == 200
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += slow.recv(4096) or b"\r\n\r\n"
        assert answer.startswith(b"HTTP/1.1 408")


def test_a_thousand_clients_that_say_nothing_keep_nobody_waiting(server):
    more_files()
    with contextlib.ExitStack() as stack:
        for _ in range(1000):
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=20))
        start = time.monotonic()
        assert ask(server.port, "POST", "/v1/stations/press/inspect", pictures()[0])[0] == 200
        assert time.monotonic() - start < 5


def test_a_request_that_is_no_http_harms_nothing(server):
    length = b"POST /v1/stations/press/inspect HTTP/1.1\r\nContent-Length: -5\r\n\r\n"
    for raw in (b"\x00\xff" * 500, b"GET / HTTP/9.9\r\n\r\n", length):
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as one:
            one.sendall(raw)
            one.settimeout(10)
            assert not one.recv(65536).startswith(b"HTTP/1.1 5")
    assert ask(server.port, "GET", "/v1/health")[0] == 200


def test_an_address_that_is_none_is_told_to_a_machine_as_to_a_machine(server):
    """The pages of people lie over all that is left."""
    for verb, path in (("GET", "/v1/nowhere"), ("GET", "/v1/stations/press/inspect"), ("DELETE", "/v1/records/1")):
        code, answer = ask(server.port, verb, path)
        assert code == 404 and f"{path}: no such address, or none for this method" in answer["error"]


def test_it_speaks_tls_with_files_of_your_own(plate_model, tmp_path):
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, day, today = (
        ec.generate_private_key(ec.SECP256R1()),
        datetime.timedelta(1),
        datetime.datetime.now(datetime.UTC),
    )
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
    made = made.not_valid_before(today - day).not_valid_after(today + day)
    made = made.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), False)
    made = made.sign(key, hashes.SHA256())
    (tmp_path / "c.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (tmp_path / "k.pem").write_bytes(key.private_bytes(serialization.Encoding.PEM, *form))
    config = tmp_path / "station.toml"
    config.write_text(
        f'[server]\ncertificate = "{tmp_path}/c.pem"\nkey = "{tmp_path}/k.pem"\n'
        f'[[stations]]\nname = "press"\nmodel = "{plate_model}"\n'
    )
    server = Server(tmp_path, "--config", config, scheme="https")
    try:
        trusted = ssl.create_default_context(cafile=str(tmp_path / "c.pem"))
        connection = http.client.HTTPSConnection("localhost", server.port, timeout=20, context=trusted)
        connection.request("POST", "/v1/stations/press/inspect", pictures()[0])
        assert connection.getresponse().status == 200
        connection.close()
    finally:
        server.close()


def test_what_was_answered_outlives_a_kill_and_the_chain_is_whole(server):  # the last: the server is gone then
    raws, answered, ended = pictures(), {}, threading.Event()

    def send(number):
        sent = 0
        while not ended.is_set():
            part = f"{number}-{sent}"
            sent += 1
            with contextlib.suppress(OSError, http.client.HTTPException):
                status, told = ask(server.port, "POST", f"/v1/stations/press/inspect?part={part}", raws[sent % 8])
                if status == 200:
                    answered[part] = told["id"]

    threads = [threading.Thread(target=send, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    while len(answered) < 40:
        time.sleep(0.01)
    server.kill()
    ended.set()
    for thread in threads:
        thread.join()
    store = Store(server.data / "records.sqlite")
    kept = {row["part"]: row["id"] for row in store.all(Filter())}
    assert {part: kept.get(part) for part in answered} == answered and len(answered) >= 40
    assert list(store.verify()) == []
    store.add([dict(store.record(1), key=None)])  # and goes on
    assert list(store.verify()) == []
    store.close()
