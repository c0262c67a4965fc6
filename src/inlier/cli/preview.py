"""`inlier preview`: what a training will see, before hours of it."""

import io
import logging
from pathlib import Path
from typing import Annotated

import typer

from inlier import artifact, methods
from inlier.cli.options import Categories, Changes, Data, Preset, Seed, Textures, settings
from inlier.cli.outputs import protect, read_by, say
from inlier.errors import InlierError
from inlier.names import file_name, shown

log = logging.getLogger("inlier")


def preview(
    data: Data,
    method: Annotated[
        str, typer.Option(help="The method to be trained, one that simulates defects or turns pictures.")
    ] = methods.PREVIEWED,
    preset: Preset = "light",
    set_: Changes = None,
    category: Categories = None,
    textures: Textures = None,
    foreground: Annotated[
        str | None, typer.Option(help="Where defects may lie: auto, whole, released, brighter, darker, darker:120, ...")
    ] = None,
    size: Annotated[int | None, typer.Option(help="Height and width of the pictures.")] = None,
    seed: Seed = 0,
    out: Annotated[Path, typer.Option(help="Where to write the picture (.png, .jpg, .webp, ...).")] = Path(
        "preview.png"
    ),
) -> None:
    """Draw what a method makes of the good pictures of DATA, before hours of training."""
    from PIL import Image

    from inlier.data.batches import read_batches
    from inlier.data.datasets import open_dataset
    from inlier.data.images import SUFFIX_LIST, SUFFIXES
    from inlier.data.simulation.foreground import LOOKED_AT
    from inlier.detector import geometry_of

    if not methods.get(method).previews:
        able = ", ".join(name for name in methods.names() if methods.get(name).previews)
        raise InlierError(f"there is nothing to preview for '{method}', only for: {able}")
    changed = settings(method, preset, set_, textures=textures, foreground=foreground, size=size)
    detector = methods.create(method, preset, seed=seed, **changed)
    detector.complete()
    if out.suffix.lower() not in SUFFIXES:
        raise InlierError(f"{out}: a preview is a picture, its name ends in one of {SUFFIX_LIST}")
    dataset = open_dataset(data, category or [])
    log.info("data: %s", dataset.layout)
    several = len(dataset.categories) > 1
    targets = {
        name: out.with_name(file_name(f"{out.stem}-{name}{out.suffix}")) if several else out
        for name in dataset.categories
    }
    protect(targets.values(), read_by(data, dataset, detector))
    for target in targets.values():
        artifact.check_writable(target)
    sheets, failures = {}, list[str]()
    for name in dataset.categories:
        samples = [sample for sample in dataset.train if sample.category == name][:LOOKED_AT]
        if not samples:
            raise InlierError(f"{dataset.name}: {name} has no good training images")
        sources = [sample.source for sample in samples]
        batches = list(read_batches(sources, geometry_of(detector.settings), errors="keep"))
        failures += [p.error for batch in batches for p in batch.pictures if p.error]
        if not failures:
            pictures = [(255 * image).round().astype("uint8").transpose(1, 2, 0) for b in batches for image in b.images]
            sheets[name] = detector.preview(name, pictures, [Path(sample.name).name for sample in samples])
    if failures:
        found = f"{len(failures)} picture{'s'[: len(failures) > 1]} cannot be read; mend or remove:"
        raise InlierError("\n  ".join([f"{dataset.name}: {found}", *failures]))
    for name, (sheet, description) in sheets.items():
        content = io.BytesIO()
        sheet.save(content, Image.registered_extensions()[out.suffix.lower()])
        artifact.write_bytes(targets[name], content.getvalue())
        say(f"{shown(targets[name])}: {shown(description)}")
