"""The process: everything that `inlier serve` starts, and how it ends."""

import contextlib
import logging
import socket
import time
from collections.abc import Callable
from pathlib import Path

from inlier.errors import InlierError
from inlier.serve.config import Config
from inlier.serve.opcua import LineServer
from inlier.serve.plant import Plant
from inlier.serve.security import check_safe

log = logging.getLogger("inlier")
FILES = 65_536  # open at once, where the system lets us: each client is one


def run(read: Callable[[], Config], file: Path | None, say: Callable[[str], None]) -> None:
    """Serve until stopped. read: the config, again when `file` changes. Raises InlierError."""
    # missing is said now and by name: others would say it in their own words, or at the first defect
    import contourpy  # noqa: F401
    import jinja2  # noqa: F401
    import python_multipart  # noqa: F401
    import uvicorn

    from inlier.serve.app import make_app
    from inlier.serve.page import add_page

    started = time.monotonic()
    config = read()
    check_safe(config)
    more_files()
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(_socket(config.server.host, config.server.port))
        plant = Plant(config, read, file)
        stack.callback(plant.close)
        if config.opcua:
            stack.callback(LineServer(plant, config.opcua).close)
        app = make_app(plant)
        add_page(app, plant)
        server = uvicorn.Server(
            uvicorn.Config(
                app,
                log_level="warning",
                access_log=False,
                ssl_certfile=config.server.certificate,
                ssl_keyfile=config.server.key,
                timeout_keep_alive=30,
                timeout_graceful_shutdown=10,
                server_header=False,
                proxy_headers=False,
            )
        )
        scheme = "https" if config.server.certificate else "http"
        host, port = listening.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        took = time.monotonic() - started
        say(f"{', '.join(plant.stations)}: {scheme}://{shown}:{port} after {took:.1f} s; stop with Ctrl-C")
        server.run(sockets=[listening])


def more_files() -> None:
    """As many open files as the system allows this process."""
    try:
        import resource
    except ModuleNotFoundError:  # Windows has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _socket(host: str, port: int) -> socket.socket:
    """Before models are loaded: a port that is taken is said at once."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)[0]
        made = socket.socket(family, kind)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
        made.listen(2048)
    except OSError as error:
        raise InlierError(f"{host}:{port}: cannot be used ({error.strerror or error}); choose another --port") from None
    return made
