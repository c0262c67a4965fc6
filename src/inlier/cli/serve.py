"""`inlier serve`: the inspection station."""

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from inlier.cli.options import Alpha, Confidence, Device, Runtime
from inlier.cli.outputs import say


def serve(
    models: Annotated[list[Path] | None, typer.Argument(help="A model file for each station.")] = None,
    config: Annotated[Path | None, typer.Option(help="Stations, tokens and limits: see docs/station.md.")] = None,
    db: Annotated[str | None, typer.Option(help="Records: a file of SQLite, or postgresql://USER@HOST/NAME.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of pictures and calibrated models.")] = None,
    host: Annotated[str | None, typer.Option(help="Default: 127.0.0.1, this machine alone.")] = None,
    port: Annotated[int | None, typer.Option(help="Default: 8000.")] = None,
    alpha: Alpha = None,
    confidence: Confidence = None,
    device: Device = "auto",
    runtime: Runtime = None,
) -> None:
    """Serve models as inspection stations: a page for operators, an API, records, and signals for the line."""
    from inlier.serve.config import Config, checked, read_toml
    from inlier.serve.running import run

    given = {"database": db, "data": data and str(data), "host": host, "port": port}
    options = {"alpha": alpha, "confidence": confidence, "device": device, "runtime": runtime}
    stations = [{"name": _name(path), "model": str(path)} | _told(options) for path in models or []]

    def read() -> Config:
        """Again, when the file changes."""
        content: dict[str, Any] = read_toml(config) if config else {}
        checked(content, str(config))  # before it is put together with the options
        checked({"server": _told(given), "stations": stations}, None)
        content["server"] = content.get("server", {}) | _told(given)
        content["stations"] = [*content.get("stations", []), *stations]
        return checked(content, str(config) if config else None)

    run(read, config, say)


def _name(path: Path) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]", "-", path.stem).lstrip("_.-")[:64] or "station"


def _told(options: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if value is not None}
