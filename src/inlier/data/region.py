"""The region of interest: the part of a picture that is inspected."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from inlier.artifact import read_text
from inlier.data.images import at_home, read_mask
from inlier.errors import InlierError

ASPECT = 0.02  # a picture whose aspect ratio differs by more from the region's is another view of the part
FORMAT = (
    'expected {"width": 640, "height": 480, "polygons": [[[x, y], [x, y], [x, y], ...], ...]} in pixels, or a file of '
    "labelme"
)


@dataclass(frozen=True, eq=False)
class Region:
    """mask: bool (height, width) of the pictures that it was drawn on, True = inspected."""

    mask: NDArray[np.bool_]

    def __post_init__(self) -> None:
        if self.mask.ndim != 2 or self.mask.dtype != bool or not self.mask.any():
            raise InlierError(
                "a region of interest is a mask (height, width) of true and false; where nothing is true, or all of a "
                "picture is black, nothing would be inspected"
            )

    def of_size(self, height: int, width: int) -> NDArray[np.bool_]:
        """bool (height, width): the region in a picture of this size. Raises InlierError for another aspect ratio."""
        rows, columns = self.mask.shape
        if (height, width) == (rows, columns):
            return self.mask
        if abs(width * rows / (height * columns) - 1) > ASPECT:
            raise InlierError(
                f"has {width} x {height} pixels, but the region of interest was drawn for {columns} x {rows}: another "
                "shape of picture, so where the region lies is not known"
            )
        scaled: NDArray[np.bool_] = np.asarray(
            Image.fromarray(self.mask).resize((width, height), Image.Resampling.NEAREST)
        )
        if not scaled.any():
            raise InlierError(
                f"has {width} x {height} pixels, in which the region of interest, drawn for {columns} x {rows}, is "
                "smaller than a pixel"
            )
        return scaled


def read_region(path: Path | str) -> Region:
    """From a picture (not black = inspected) or a .json file of polygons. Raises InlierError."""
    path = at_home(path)
    if path.suffix.lower() != ".json":
        return _named(path, lambda: Region(read_mask(path)))
    text = read_text(path)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InlierError(f"{path}: cannot be read as a region of interest ({error})") from None
    return _named(path, lambda: Region(from_polygons(content)))


def _named(path: Path, make: Any) -> Region:
    try:
        region: Region = make()
    except InlierError as error:
        raise InlierError(str(error) if str(path) in str(error) else f"{path}: {error}") from None
    return region


def from_polygons(content: Any) -> NDArray[np.bool_]:
    """The union of polygons; pixels on their outlines belong to it."""
    try:
        if "shapes" in content:
            width, height = content["imageWidth"], content["imageHeight"]
            polygons = [shape["points"] for shape in content["shapes"]]
            kinds = {shape.get("shape_type", "polygon") for shape in content["shapes"]} - {"polygon"}
            if kinds:
                raise InlierError(f"holds shapes that are no polygons: {', '.join(sorted(kinds))}")
        else:
            width, height, polygons = content["width"], content["height"], content["polygons"]
        image = Image.new("1", (int(width), int(height)))
        for polygon in polygons:
            ImageDraw.Draw(image).polygon([(float(x), float(y)) for x, y in polygon], fill=1)
    except KeyError as error:
        raise InlierError(f"is no region of interest (it has no {error}); {FORMAT}") from None
    except (TypeError, ValueError) as error:
        raise InlierError(f"is no region of interest ({error}); {FORMAT}") from None
    return np.asarray(image)


def open_regions(roi: Any, categories: Sequence[str]) -> dict[str, Region]:
    """Regions by category, "" = of all: from None, a file, a mask, a Region, or any of these by category.

    Raises InlierError for what cannot be read, and for what is none of the `categories`.
    """
    if roi is None:
        return {}
    if not isinstance(roi, Mapping):
        return {"": _open(roi)}
    regions = {str(category): _open(one) for category, one in roi.items()}
    if unknown := sorted(set(regions) - {"", *categories}):
        raise InlierError(f"roi: the data has no category {', '.join(unknown)}, only: {', '.join(categories)}")
    return regions


def region_for(regions: Mapping[str, Region], category: str | None) -> Region | None:
    """The region of a category: its own, or that of all; None: everything is inspected."""
    return regions.get(category or "", regions.get(""))


def _open(roi: Any) -> Region:
    if isinstance(roi, Region):
        return roi
    return Region(roi.astype(bool)) if isinstance(roi, np.ndarray) else read_region(roi)
