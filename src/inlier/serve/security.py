"""Who may ask for what, how much, and how fast: in front of everything that the server answers."""

import asyncio
import hashlib
import hmac
import ipaddress
import json
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import Any

from inlier.errors import InlierError
from inlier.serve.config import ROLES, Config, Role, Token

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

COOKIE = "inlier_token"
OPEN = ("/v1/health", "/health", "/healthz", "/login", "/_nicegui/", "/favicon.ico")  # what needs no token
CLIENTS = 10_000  # whose rate is remembered
API_POLICY = "default-src 'none'; img-src 'self'; frame-ancestors 'none'"
# the page's library compiles templates and places styles in the page; nothing comes from, or goes to, another server
PAGE_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; object-src 'none'; base-uri 'self'; "
    "form-action 'self'; frame-ancestors 'none'"
)


@dataclass(frozen=True)
class Person:
    name: str
    role: Role


LOCAL = Person("local", "engineer")  # on this machine, where no tokens are set


def check_safe(config: Config) -> None:
    """Raise InlierError where strangers could reach a server that asks nobody who they are."""
    server = config.server
    exposed = not is_loopback(server.host)
    if exposed and not config.tokens:
        raise InlierError(
            f"host {server.host}: others than this machine could use the station; add [[tokens]] to the config (name, "
            "role, token), or keep host 127.0.0.1"
        )
    for name, path in (("certificate", server.certificate), ("key", server.key)):
        if path is not None and not path.is_file():
            raise InlierError(f"server.{name}: {path}: no such file")


def is_loopback(host: str) -> bool:
    """
    >>> is_loopback("localhost"), is_loopback("127.0.0.1"), is_loopback("0.0.0.0"), is_loopback("::1")
    (True, True, False, True)
    """
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


class Rates:
    """A bucket for each client: `per_second` on average, twice as many at once."""

    def __init__(self) -> None:
        self._left: dict[str, tuple[float, float]] = {}

    def take(self, client: str, now: float, per_second: float) -> bool:
        """
        >>> rates = Rates()
        >>> [rates.take("a", 0.0, 1.0) for _ in range(3)], rates.take("a", 1.5, 1.0)
        ([True, True, False], True)
        """
        left, last = self._left.pop(client, (2 * per_second, now))
        left = min(2 * per_second, left + (now - last) * per_second)
        self._left[client] = (left - (left >= 1), now)
        while len(self._left) > CLIENTS:
            del self._left[next(iter(self._left))]
        return left >= 1


def person_of(headers: dict[bytes, bytes], tokens: tuple[Token, ...]) -> Person | None:
    """Who sends these headers; None: nobody who is known."""
    if not tokens:
        return LOCAL
    given = headers.get(b"authorization", b"")
    token = given[7:] if given[:7].lower() == b"bearer " else _cookie(headers.get(b"cookie", b""))
    return person_with(token, tokens)


def person_with(token: bytes, tokens: tuple[Token, ...]) -> Person | None:
    digest, found = hashlib.sha256(token.strip()).hexdigest(), None
    for one in tokens:  # all of them, so that the time tells nothing
        if hmac.compare_digest(digest, one.digest):
            found = Person(one.name, one.role)
    return found


def _cookie(header: bytes) -> bytes:
    try:
        cookies = SimpleCookie(header.decode("latin-1"))
    except CookieError:
        return b""
    return cookies[COOKIE].value.encode("latin-1", "replace") if COOKIE in cookies else b""


class Gate:
    """ASGI: refuses strangers, foreign pages, too much and too slow; sets scope["person"]; adds headers of safety.

    config: what holds at the moment; tokens and limits may change while the server runs.
    """

    def __init__(self, app: Any, config: Callable[[], Config]):
        self.app, self.config, self.rates = app, config, Rates()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        refusal = self._refusal(scope, headers)
        if refusal:
            await _refuse(scope, send, *refusal)
            return
        if scope["type"] == "websocket":
            await self.app(scope, receive, send)
            return
        limits = self.config().limits
        body = _Body(receive, limits.bytes, limits.upload_seconds)
        guarded = _Guarded(send, _policy(scope["path"]))
        try:
            await self.app(scope, body, guarded)
        except _TooMuch as error:
            if not guarded.started:
                await _refuse(scope, send, error.status, str(error))

    def _refusal(self, scope: Scope, headers: dict[bytes, bytes]) -> tuple[int, str] | None:
        """(status, words), and who it is into the scope."""
        config = self.config()
        host = headers.get(b"host", b"").decode("latin-1")
        if not _is_own(host, config):
            return 400, "this server is not known by that name; add it to server.names in the config"
        origin = headers.get(b"origin", b"").decode("latin-1")
        changes = scope["type"] == "websocket" or scope["method"] not in ("GET", "HEAD", "OPTIONS")
        if changes and origin and origin.split("://")[-1] != host:
            return 403, "another site's page may not ask this server for anything"
        client = (scope.get("client") or ("",))[0]
        if not self.rates.take(client, time.monotonic(), config.limits.per_second):
            return 429, "too many requests; send fewer a second"
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > config.limits.bytes:
            return 413, f"a request may have {config.limits.bytes} bytes"
        person = person_of(headers, config.tokens)
        scope["person"] = person
        path = scope["path"]
        if person is None and not any(path == one or (one.endswith("/") and path.startswith(one)) for one in OPEN):
            return 401, "say who you are: send Authorization: Bearer and your token"
        return None


def _is_own(host: str, config: Config) -> bool:
    """Without tokens a browser could be led here under a foreign name that points to this machine."""
    name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
    return bool(config.tokens) or is_loopback(name) or name in config.server.names


class _TooMuch(Exception):
    def __init__(self, status: int, words: str):
        super().__init__(words)
        self.status = status


class _Body:
    """Receives a body of a limited size within a limited time."""

    def __init__(self, receive: Receive, most: int, seconds: float):
        self.receive, self.most, self.end = receive, most, time.monotonic() + seconds
        self.bytes, self.complete = 0, False

    async def __call__(self) -> MutableMapping[str, Any]:
        if self.complete:
            return await self.receive()
        try:
            message = await asyncio.wait_for(self.receive(), max(0.0, self.end - time.monotonic()))
        except TimeoutError:
            raise _TooMuch(408, "the request took too long to arrive") from None
        self.bytes += len(message.get("body", b""))
        self.complete = not message.get("more_body", False)
        if self.bytes > self.most:
            raise _TooMuch(413, f"a request may have {self.most} bytes")
        return message


class _Guarded:
    """Adds headers to the answer."""

    def __init__(self, send: Send, policy: str):
        self.send, self.policy, self.started = send, policy, False

    async def __call__(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            message["headers"] = [*message.get("headers", []), *_safety(self.policy)]
        await self.send(message)


def _policy(path: str) -> str:
    return API_POLICY if path.startswith(("/v1/", "/metrics", "/openapi")) else PAGE_POLICY


def _safety(policy: str) -> list[tuple[bytes, bytes]]:
    return [
        (b"content-security-policy", policy.encode()),
        (b"x-content-type-options", b"nosniff"),
        (b"x-frame-options", b"DENY"),
        (b"referrer-policy", b"same-origin"),
    ]


async def _refuse(scope: Scope, send: Send, status: int, words: str) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
        return
    headers = [(b"content-type", b"application/json"), *_safety(API_POLICY)]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
        if b"text/html" in dict(scope["headers"]).get(b"accept", b""):  # a person with a browser
            status, headers = 303, [*headers, (b"location", b"/login")]
    if status in (408, 413):
        headers.append((b"connection", b"close"))
    if status == 429:
        headers.append((b"retry-after", b"1"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps({"error": words}).encode()})


def may(person: Person | None, needed: Role) -> bool:
    """
    >>> may(Person("Ada", "engineer"), "viewer"), may(Person("Bob", "viewer"), "operator"), may(None, "viewer")
    (True, False, False)
    """
    return person is not None and ROLES.index(person.role) >= ROLES.index(needed)
