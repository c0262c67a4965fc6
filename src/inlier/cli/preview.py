"""`inlier preview`: what a training will see, before hours of it."""

import logging
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from inlier import artifact, methods
from inlier.cli.options import Categories, Changes, Data, Preset, Roi, Seed, Textures, regions, settings
from inlier.cli.outputs import protect, read_by, say
from inlier.errors import InlierError
from inlier.names import counted, file_name, shown

if TYPE_CHECKING:
    from inlier.data.datasets.sample import Sample
    from inlier.data.geometry import Geometry
    from inlier.data.region import Region

log = logging.getLogger("inlier")
MARKED = 4  # pictures that the region of interest is drawn on


def preview(
    data: Data,
    method: Annotated[
        str,
        typer.Option(help="The method to be trained: memseg (simulates defects) or differnet (turns pictures)."),
    ] = methods.PREVIEWED,
    preset: Preset = "light",
    set_: Changes = None,
    category: Categories = None,
    textures: Textures = None,
    foreground: Annotated[
        str | None, typer.Option(help="Where defects may lie: auto, whole, released, brighter, darker, darker:120, ...")
    ] = None,
    size: Annotated[int | None, typer.Option(help="Height and width of the pictures.")] = None,
    roi: Roi = None,
    seed: Seed = 0,
    out: Annotated[Path, typer.Option(help="Where to write the picture (.png, .jpg, .webp, ...).")] = Path(
        "preview.png"
    ),
) -> None:
    """Draw what a method (differnet, memseg) makes of the good pictures of DATA, before hours of training."""
    from PIL import Image

    from inlier.data.datasets import open_dataset
    from inlier.data.images import SUFFIX_LIST, SUFFIXES
    from inlier.data.region import open_regions, region_for
    from inlier.data.simulation.foreground import LOOKED_AT
    from inlier.detector import geometry_of
    from inlier.drawing import as_file, stacked

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
    files = regions(roi)
    drawn = open_regions(files, dataset.categories)
    several = len(dataset.categories) > 1
    targets = {
        name: out.with_name(file_name(f"{out.stem}-{name}{out.suffix}")) if several else out
        for name in dataset.categories
    }
    protect(targets.values(), read_by(data, dataset, detector, files))
    for target in targets.values():
        artifact.check_writable(target)
    sheets, failures = {}, list[str]()
    for name in dataset.categories:
        samples = [sample for sample in dataset.train if sample.category == name][:LOOKED_AT]
        if not samples:
            raise InlierError(f"{dataset.name}: {name} has no good training pictures")
        region = region_for(drawn, name)
        views, failed = _first_views(samples, replace(geometry_of(detector.settings), region=region), LOOKED_AT)
        failures += failed
        if not failures:
            sheet, description = detector.preview(name, *map(list, zip(*views, strict=True)))
            above = [] if region is None else [_marked(samples[:MARKED], region)]
            sheets[name] = stacked([*above, sheet]), description
    if failures:
        found = f"{counted(len(failures), 'picture<|s>')} cannot be used; mend or remove:"
        raise InlierError("\n  ".join([f"{dataset.name}: {found}", *failures]))
    for name, (sheet, description) in sheets.items():
        artifact.write_bytes(targets[name], as_file(sheet, Image.registered_extensions()[out.suffix.lower()]))
        say(f"{shown(targets[name])}: {shown(description)}")


class View(NamedTuple):
    """What a training sees of a picture."""

    pixels: Any  # uint8 (H, W, 3)
    inspected: Any  # bool (H, W), what shows the region of interest
    name: str  # of the picture's file


def _first_views(samples: "Sequence[Sample]", geometry: "Geometry", most: int) -> tuple[list[View], list[str]]:
    """The first views of pictures, several of each if they are tiled, and why pictures among them cannot be used."""
    import numpy as np

    from inlier.data.batches import read_batches

    views, failures = list[View](), list[str]()
    with closing(read_batches([sample.source for sample in samples], geometry, errors="keep")) as batches:
        for batch in batches:
            failures += [picture.error for picture in batch.pictures if picture.error]
            everything = np.ones((len(batch.images), geometry.size, geometry.size), bool)
            masks = everything if batch.inspected is None else batch.inspected
            for image, mask, owner in zip(batch.images, masks, batch.owners, strict=True):
                pixels = (255 * image).round().astype(np.uint8).transpose(1, 2, 0)
                views.append(View(pixels, mask, Path(samples[owner].name).name))
            if len(views) >= most:
                break
    return views[:most], failures


def _marked(samples: "Sequence[Sample]", region: "Region") -> Any:
    """Pictures as they are, with the region of interest drawn on them."""
    from inlier.data.images import read_image
    from inlier.drawing import marked, panels

    images = [read_image(sample.source) for sample in samples]
    drawn = [marked(image, region.of_size(image.height, image.width)) for image in images]
    return panels(drawn, [Path(sample.name).name for sample in samples], "region of interest: the rest is not seen")
