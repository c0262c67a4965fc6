"""The process: everything that `inlier serve` starts, and how it ends."""

import logging
import socket
import time
from collections.abc import Callable
from pathlib import Path

from inlier.errors import InlierError
from inlier.serve.config import Config
from inlier.serve.opcua import LineServer
from inlier.serve.plant import Part, Parts, Plant
from inlier.serve.security import check_safe
from inlier.serve.sinks import outlets
from inlier.serve.station import Station
from inlier.serve.watch import Camera, FolderWatch

log = logging.getLogger("inlier")
FILES = 65_536  # open at once, where the system lets us: each client is one


def run(read: Callable[[], Config], file: Path | None, say: Callable[[str], None]) -> None:
    """Serve until stopped. read: the config, again when `file` changes. Raises InlierError."""
    import uvicorn

    from inlier.serve.app import make_app
    from inlier.serve.page import add_page

    started = time.monotonic()
    config = read()
    check_safe(config)
    more_files()
    with _socket(config.server.host, config.server.port) as listening:
        plant = Plant(config, read, file, start_parts)
        line = None
        try:
            line = LineServer(plant, config.opcua) if config.opcua else None
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
        finally:
            if line:
                line.close()
            plant.close()


def start_parts(plant: Plant, station: Station) -> Parts:
    """The sinks of a station, then its source."""
    sinks = outlets(station, plant.store, plant.pictures)
    parts: list[Part] = [*sinks.values()]
    source = station.config.source
    try:
        if source and source.folder:
            parts.append(FolderWatch(station, source.folder))
        elif source and source.camera is not None:
            parts.append(Camera(station, source.camera, source.every, source.trigger))
    except InlierError:
        for part in parts:
            part.close()
        raise
    return Parts(parts, sinks)


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
