"""`inlier train`: from good pictures to a model file."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from inlier import artifact, methods
from inlier.cli.options import (
    Categories,
    Changes,
    Data,
    Device,
    Group,
    Preset,
    Roi,
    Seed,
    Textures,
    Workers,
    regions,
    settings,
)
from inlier.cli.outputs import hint_at_outlines, in_place, protect, read_by, say_model
from inlier.errors import InlierError
from inlier.names import shorten

if TYPE_CHECKING:
    from inlier.detector import Detector


def train(
    data: Data,
    method: Annotated[
        str | None, typer.Option(help=f"One of: {', '.join(methods.names())}. Must be given; padim to start.")
    ] = None,
    preset: Preset = "light",
    category: Categories = None,
    backbone: Annotated[str | None, typer.Option(help="Pretrained network, e.g. resnet18 or timm:NAME.")] = None,
    weights: Annotated[Path | None, typer.Option(help="File with the backbone's weights.")] = None,
    set_: Changes = None,
    calibration: Annotated[str | None, typer.Option(help="split, folds or none. Default: the method's own.")] = None,
    roi: Roi = None,
    tile: Annotated[
        int | None, typer.Option(help="Cut pictures into tiles of so many of their own pixels: for small defects.")
    ] = None,
    overlap: Annotated[
        float | None, typer.Option(help="Share of a tile that overlaps the next. Default: 0.25.")
    ] = None,
    group: Group = None,
    keep: Annotated[
        int, typer.Option(min=0, help="Keep so many good pictures in the model, to compare and quantise exports by.")
    ] = 0,
    textures: Textures = None,
    seed: Seed = 0,
    device: Device = "auto",
    out: Annotated[Path, typer.Option(help="Where to write the model.")] = Path("model.inlier"),
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where a stopped run of the same command was.")
    ] = False,
    log_with: Annotated[
        str | None, typer.Option("--log", help="tensorboard: loss and learning rate as event files in OUT.run.")
    ] = None,
    workers: Workers = 2,
) -> None:
    """Learn from the good pictures in DATA and write a model."""
    if method is None:
        raise InlierError("--method is missing: padim to start; `inlier methods` lists them, `inlier auto` chooses")
    changed = settings(method, preset, set_, backbone=backbone, textures=textures, tile=tile, overlap=overlap)
    detector = methods.create(method, preset, seed=seed, device=device, weights=weights, **changed)
    hint_at_outlines(detector.settings.size)
    start, replaced = time.monotonic(), in_place(out)
    fit_and_save(
        detector,
        data,
        category or [],
        out,
        calibration=calibration,
        roi=regions(roi),
        group=group,
        keep=keep,
        resume=resume,
        workers=workers,
        log_with=log_with,
    )
    say_model(detector, out, f"fitted in {time.monotonic() - start:.0f} s{replaced}")


def fit_and_save(detector: "Detector[Any, Any]", data: str, categories: list[str], out: Path, **options: Any) -> None:
    """Check where the model goes, fit, and write it. options: of `Detector.fit`."""
    from inlier.data.datasets import open_dataset

    artifact.check_name(out)
    dataset = open_dataset(data, categories)
    protect([out], read_by(data, dataset, detector, options.get("roi")))
    artifact.check_writable(out)
    run_folder = out.with_name(shorten(out.name + ".run"))
    if detector.trains:  # pictures of the training go to the run folder
        protect([run_folder / "look.png"], {Path(sample.name).parent for sample in dataset.samples})
    detector.fit(dataset, run_folder=run_folder, **options)
    detector.save(out)
