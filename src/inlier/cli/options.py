"""Arguments and options that several commands share."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from inlier import methods
from inlier.errors import WRITTEN, InlierError


def share(name: str) -> Callable[[str | float], float]:
    """A parser of a share, such as alpha, that tells people who write percent or a comma what is meant."""

    def parsed(text: str | float) -> float:
        with contextlib.suppress(ValueError):
            if 0 < (value := float(text)) < 1:
                return value
        raise typer.BadParameter(f"{text} is not a number between 0 and 1 (exclusive); {WRITTEN[name]}")

    return parsed


Data = Annotated[
    str,
    typer.Argument(
        help="Folder of good pictures, dataset folder (MVTec AD and its kin, VisA, ...), .csv table, or 'elpv'."
    ),
]
Model = Annotated[Path, typer.Argument(help="A .inlier file that `inlier train` wrote, or what `inlier export` made.")]
Categories = Annotated[list[str] | None, typer.Option("--category", help="Repeat for several. Default: all.")]
Alpha = Annotated[
    float | None,
    typer.Option(
        parser=share("alpha"),
        metavar="FLOAT",
        help="Accepted false-alarm rate. Default: 0.01, or the lowest that can be promised.",
    ),
]
Confidence = Annotated[
    float | None,
    typer.Option(
        parser=share("confidence"),
        metavar="FLOAT",
        help="Keep alpha with this confidence, e.g. 0.95, for this very calibration; default: on average.",
    ),
]
Group = Annotated[
    str | None,
    typer.Option(
        help="Regular expression that finds in a picture's path what part, lot or board it shows, e.g. 'board(\\d+)': "
        "such pictures are held out together and count as one."
    ),
]
Preset = Annotated[str, typer.Option(help="light (two CPU cores, minutes), paper, ...: see `inlier methods`.")]
Changes = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a setting; repeat for several.")
]
Roi = Annotated[
    list[str] | None,
    typer.Option(
        metavar="[CATEGORY=]FILE",
        help="Region of interest: a picture (not black = inspected) or a .json file of polygons; nothing outside "
        "counts. Repeat for several categories.",
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")]
Runtime = Annotated[
    str | None,
    typer.Option(help="torch, onnx, openvino; auto: the fastest here whose scores agree. Default: the file's own."),
]
Textures = Annotated[
    Path | None, typer.Option(help="Folder of pictures that simulated defects take foreign texture from, e.g. DTD.")
]
Seed = Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Decides everything random.")]
Workers = Annotated[int, typer.Option(min=1, max=64, help="Threads that read pictures.")]


def settings(method: str, preset: str, texts: list[str] | None, **options: Any) -> dict[str, Any]:
    """What `--set` changes, and the options that have names of their own. Raises InlierError for what does not fit."""
    presets = methods.get(method).presets
    if preset not in presets:
        raise InlierError(f"{method} has no preset '{preset}'. Known: {', '.join(presets)}")
    values: dict[str, Any] = type(presets[preset]).parse(texts or [])
    for name, value in options.items():
        if value is None:
            continue
        if name not in vars(presets[preset]):
            raise InlierError(f"--{name}: {method} has no such setting; `inlier methods {method}` shows what it has")
        if name in values:
            raise InlierError(f"--{name} and --set {name}={values[name]} are given; leave one out")
        values[name] = value
    return values


def regions(texts: list[str] | None) -> dict[str, str] | None:
    """`["bottle=bottle.png", "all.json"]` -> files by category, "" = of all."""
    if not texts:
        return None
    found: dict[str, str] = {}
    for text in texts:
        category, equals, file = text.partition("=")
        key, path = (category, file) if equals and not Path(text).exists() else ("", text)
        if not path:
            raise InlierError(f"--roi {text}: names no file")
        if key in found:
            raise InlierError(f"--roi: two regions for {key or 'all categories'}; draw them into one file")
        found[key] = path
    return found
