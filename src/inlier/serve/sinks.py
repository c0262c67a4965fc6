"""Tells others what was judged: each sink has a queue in the database, in order, and forgets nothing that nobody took.

A message is written in the transaction of its record and removed when the sink has confirmed it. A process that is
killed in between sends it again: at least once, and the record's number tells which.
"""

import contextlib
import http.client
import json
import logging
import ssl
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from inlier import artifact
from inlier.errors import InlierError
from inlier.names import file_name
from inlier.serve.config import Folder, Mqtt, Sink, StationConfig, Webhook
from inlier.serve.exports import public
from inlier.serve.pictures import Pictures
from inlier.serve.store import Row, Store
from inlier.serve.tables import CHANGING
from inlier.serve.watch import file_of

log = logging.getLogger("inlier")
AT_ONCE = 50  # messages that are under way together
SLOWEST = 5.0  # seconds between two tries, at most
LOOK = 1.0  # seconds after which a sink looks without being woken: another process may have written
Messages = Sequence[tuple[int, Row]]  # the number of each, and its record


class Undelivered(InlierError):
    """A sink did not take a message; all from this one on stay in the queue."""


class Delivery(Protocol):
    """How one kind of sink takes messages: the number of each, once it is taken. Raises Undelivered or OSError, and may
    be called again then, with those that were not."""

    def __call__(self, messages: Messages) -> Iterator[int]: ...
    def close(self) -> None: ...


class Outlet:
    """The thread of one sink."""

    def __init__(self, name: str, deliver: Delivery, store: Store):
        self.name, self.deliver, self.store = name, deliver, store
        self.problem = ""  # why it takes none; ""
        self._woken, self._ended = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        self._woken.set()

    def close(self) -> None:
        """What was not delivered stays in the queue."""
        self._ended.set()
        self._woken.set()
        self._thread.join()
        with contextlib.suppress(OSError):
            self.deliver.close()

    def _run(self) -> None:
        pause = 0.1
        while not self._ended.is_set():
            self._woken.clear()
            try:
                messages = self.store.waiting(self.name, AT_ONCE)
                if messages:
                    self._deliver(messages)
                if self.problem:
                    log.info("%s: takes messages again", self.name)
                self.problem, pause = "", 0.1
                if len(messages) < AT_ONCE:
                    self._woken.wait(LOOK)
            except (InlierError, OSError, http.client.HTTPException) as error:
                if not self.problem:
                    log.warning("%s: takes no messages, which wait: %s", self.name, error)
                self.problem = str(error)
                self._ended.wait(pause)
                pause = min(2 * pause, SLOWEST)
            except Exception:
                log.exception("%s", self.name)
                self._ended.wait(SLOWEST)

    def _deliver(self, messages: Messages) -> None:
        taken: list[int] = []
        try:
            for number in self.deliver(messages):
                taken.append(number)
        finally:  # what was taken before one that is refused must not come again
            if taken:
                self.store.delivered(taken)


def outlets(config: StationConfig, store: Store, pictures: Pictures) -> dict[str, Outlet]:
    """The sinks of a station, by names that stay when an address changes; none has begun yet."""
    made = {}
    for number, sink in enumerate(config.sinks, 1):
        name = f"{config.name}/{sink.kind}-{number}"
        made[name] = Outlet(name, _delivery(sink, config, pictures), store)
    return made


def message(row: Row) -> bytes:
    """What a sink gets: the record, as JSON, without what may change later."""
    told = {key: value for key, value in public(row).items() if key not in CHANGING}
    return json.dumps(told, allow_nan=False).encode()


def _delivery(sink: Sink, config: StationConfig, pictures: Pictures) -> Delivery:
    if isinstance(sink, Webhook):
        return ByWebhook(sink)
    if isinstance(sink, Mqtt):
        return ByMqtt(sink, config.name)
    return IntoFolder(sink, config.source.folder if config.source else None, pictures)


class ByWebhook:
    """POST for each record, one after the other; any answer but 2xx means that it was not taken."""

    def __init__(self, config: Webhook):
        self.config, self.address = config, urlsplit(config.url)
        self._connection: http.client.HTTPConnection | None = None

    def __call__(self, messages: Messages) -> Iterator[int]:
        headers = {"Content-Type": "application/json"}
        if self.config.token:
            headers["Authorization"] = f"Bearer {self.config.token}"
        path = (self.address.path or "/") + (f"?{self.address.query}" if self.address.query else "")
        try:
            for number, row in messages:
                connection = self._connected()
                connection.request("POST", path, message(row), headers | {"Idempotency-Key": row["hash"]})
                answer = connection.getresponse()
                answer.read()
                if not 200 <= answer.status < 300:
                    raise Undelivered(
                        f"{self.config.url} answered {answer.status} {answer.reason} to record {row['id']}"
                    )
                yield number
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        if self._connection:
            self._connection.close()
        self._connection = None

    def _connected(self) -> http.client.HTTPConnection:
        if self._connection is None:
            host, port, timeout = self.address.hostname or "", self.address.port, self.config.timeout
            if self.address.scheme == "https":
                context = ssl.create_default_context()
                self._connection = http.client.HTTPSConnection(host, port, timeout=timeout, context=context)
            else:
                self._connection = http.client.HTTPConnection(host, port, timeout=timeout)
        return self._connection


class ByMqtt:
    """QoS 1: the broker confirms each message. A connection that failed is thrown away, with what it had queued."""

    timeout = 10.0  # seconds for the broker to answer

    def __init__(self, config: Mqtt, station: str):
        import paho.mqtt  # noqa: F401 (missing is said now, not by a thread while messages wait)

        self.config, self.topic = config, config.topic.replace("{station}", station)
        self._client: Any = None

    def __call__(self, messages: Messages) -> Iterator[int]:
        try:
            client = self._connected()
            sent = [client.publish(self.topic, message(row), qos=1) for _, row in messages]
            for (number, row), info in zip(messages, sent):
                info.wait_for_publish(self.timeout)
                if not info.is_published():
                    raise Undelivered(f"{self.config.host}: the broker did not confirm record {row['id']}")
                yield number
        except BaseException as error:
            self.close()
            if isinstance(error, (ValueError, RuntimeError)) and not isinstance(error, Undelivered):
                raise Undelivered(f"{self.config.host}: {error}") from None  # paho's, for a connection that was lost
            raise

    def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.disconnect()
            client.loop_stop()

    def _connected(self) -> Any:
        from paho.mqtt import client as mqtt
        from paho.mqtt.enums import CallbackAPIVersion

        if self._client is not None and self._client.is_connected():
            return self._client
        self.close()
        accepted = threading.Event()
        client = mqtt.Client(CallbackAPIVersion.VERSION2, reconnect_on_failure=False)
        answer: list[str] = []

        def connected(_: Any, __: Any, ___: Any, code: Any, ____: Any) -> None:
            answer.append("" if code == 0 else str(code))
            accepted.set()

        client.on_connect = connected
        client.max_inflight_messages_set(AT_ONCE)
        if self.config.user is not None:
            client.username_pw_set(self.config.user, self.config.password)
        if self.config.tls:
            client.tls_set()
        client.connect(self.config.host, self.config.port, keepalive=15)
        client.loop_start()
        self._client = client
        if not accepted.wait(self.timeout) or answer[0]:
            raise Undelivered(f"{self.config.host}: the broker refuses: {answer[0] if answer else 'no answer'}")
        return client


class IntoFolder:
    """Moves a watched picture to good/, defect/ or error/; a picture that came another way is written there."""

    def __init__(self, config: Folder, watched: Path | None, pictures: Pictures):
        self.config, self.watched, self.pictures = config, watched, pictures
        self._told = False

    def __call__(self, messages: Messages) -> Iterator[int]:
        for number, row in messages:
            self._move(row)
            yield number

    def close(self) -> None:
        return

    def _move(self, row: Row) -> None:
        verdict = "error" if row["error"] is not None else row["verdict"] or "unjudged"
        source, name = self._source(row)
        target = self.config.path / verdict / file_name(f"{row['id']:09}-{name}")
        if source is not None and source.is_file():
            artifact.write_bytes(target, source.read_bytes())
            source.unlink()
        elif target.is_file():
            return  # moved before a kill
        elif row["kept"] is not None:
            artifact.write_bytes(target, self.pictures.read(row["kept"]))
        elif not self._told:
            self._told = True
            log.warning("%s: pictures that are not kept cannot be put into folders", self.config.path)

    def _source(self, row: Row) -> tuple[Path | None, str]:
        """The watched file, if it was one, and what the picture is called."""
        if self.watched is not None and row["key"]:
            path = file_of(self.watched, row["key"]).resolve()
            if path.is_relative_to(self.watched.resolve()):
                return path, path.name
        suffix = Path(row["kept"] or "").suffix
        return None, f"{row['part'] or row['picture'][:16]}{suffix}"
