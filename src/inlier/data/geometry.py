"""Where a pixel of the network's square input lies in the original picture; no other module knows.

A picture is looked at in views, each of which becomes one input of the network: the whole picture, the box around its
region of interest, or tiles of either. What lies outside the region is painted over before anything is resized, so
that no pixel there can change a digit of a score.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import label

from inlier.data.region import Region
from inlier.errors import InlierError

FILTERS = {name: Image.Resampling[name.upper()] for name in ("bilinear", "bicubic", "lanczos")}


class View(NamedTuple):
    """A part of an original picture, whole pixels; right and bottom lie just outside."""

    top: int
    left: int
    bottom: int
    right: int


@dataclass(frozen=True)
class Geometry:
    """How a picture becomes inputs of the network, and how maps go back. The numbers are torchvision's conventions.

    size: an input is size x size pixels.
    shorter_side: None stretches the view to size x size, nothing is cut off. A number: the shorter side is resized to
        so many pixels, the aspect ratio is kept, and the centre size x size is cut out.
    filter: Pillow's resampling, with antialias.
    tile: None: a picture is one view. A number: it is cut into tiles of tile x tile original pixels, which overlap by
        at least the share `overlap`; a side that is shorter than a tile is one tile long.
    region: the part of pictures that is inspected; None: all of it.
    scaled_jpeg: JPEG files may be decoded smaller (see `least`), whole pictures only.
    eight_bit: pictures of more than 8 bit are refused: what judges takes bytes.
    Raises InlierError when these do not fit together.
    """

    size: int
    shorter_side: int | None = None
    filter: Literal["bilinear", "bicubic", "lanczos"] = "bilinear"
    tile: int | None = None
    overlap: float = 0.25
    region: Region | None = None
    scaled_jpeg: bool = False
    eight_bit: bool = False

    def __post_init__(self) -> None:
        if self.size < 1:
            raise InlierError(f"size: must be at least 1 pixel, got {self.size}")
        if self.shorter_side is not None and self.shorter_side < self.size:
            raise InlierError(f"shorter_side: must be at least size ({self.size}), got {self.shorter_side}")
        if self.filter not in FILTERS:
            raise InlierError(f"filter: must be one of {', '.join(FILTERS)}, got {self.filter!r}")
        if self.tile is not None and self.shorter_side is not None:
            raise InlierError("tile and shorter_side: a tile is never cropped; set shorter_side=none")
        if self.tile is not None and (self.tile < 1 or not 0 <= self.overlap < 1):
            raise InlierError(f"tile: must be at least 1 pixel and overlap in [0, 1), got {self.tile}, {self.overlap}")
        if self.scaled_jpeg and (self.tile is not None or self.region is not None):
            raise InlierError(
                "scaled_jpeg: tiles and regions of interest are cut from original pixels; set scaled_jpeg=false"
            )

    @property
    def least(self) -> tuple[int, int] | None:
        """Height and width of a decoded picture that are enough; None: only the original's are.

        Twice those of the input: the antialias filter then still averages over four pixels at least, and hides most of
        the difference between the decoder's way of making pictures smaller and Pillow's.
        """
        side = 2 * (self.shorter_side or self.size)
        return (side, side) if self.scaled_jpeg else None

    def __call__(self, image: Image.Image, size: tuple[int, int] | None = None) -> np.ndarray:
        """One view, an image of `read_image` or a part of it -> float32 (3, size, size) in [0, 1].

        size: height and width of the original, where the image was decoded smaller.
        """
        if image.mode not in ("RGB", "F"):
            raise InlierError(f"expected an image of read_image (mode RGB or F), got mode {image.mode}")
        pixels = np.asarray(self._resize_and_crop(image, FILTERS[self.filter], size))
        if image.mode == "F":
            # lanczos overshoots at edges; Pillow clips 8-bit pictures itself, float ones not
            return np.repeat(pixels.clip(0, 1)[None], 3, axis=0)
        return np.ascontiguousarray(pixels.transpose(2, 0, 1)).astype(np.float32) / 255

    def inputs(self, image: Image.Image, size: tuple[int, int] | None = None) -> Iterator[np.ndarray]:
        """float32 (3, size, size) of each of the `views` of an image of `read_image`, one after the other; or of
        `read_scaled`, with the size that it tells, which is one view."""
        views = self.views(image.height, image.width)
        image = self._painted(image)
        for view in views:
            is_whole = view == (0, 0, image.height, image.width)
            if is_whole:
                yield self(image, size)
            else:
                yield self(image.crop((view.left, view.top, view.right, view.bottom)))

    def views(self, height: int, width: int) -> list[View]:
        """Where the views of an original of height x width lie; tiles without an inspected pixel are left out."""
        region = None if self.region is None else self.region.of_size(height, width)
        whole = View(0, 0, height, width)
        if region is not None:
            rows, columns = (np.flatnonzero(region.any(axis)) for axis in (1, 0))
            whole = View(int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1)
        if self.tile is None:
            return [whole]
        tops, lefts = self._starts(whole.bottom - whole.top), self._starts(whole.right - whole.left)
        tiles = [
            View(y, x, min(y + self.tile, whole.bottom), min(x + self.tile, whole.right))
            for y in (whole.top + top for top in tops)
            for x in (whole.left + left for left in lefts)
        ]
        return [v for v in tiles if region is None or region[v.top : v.bottom, v.left : v.right].any()]

    def inspected(self, height: int, width: int) -> NDArray[np.bool_] | None:
        """(views, size, size): which pixels of the inputs show the region; None: all do."""
        if self.region is None:
            return None
        region = self.region.of_size(height, width)
        masks = [self._nearest(region[v.top : v.bottom, v.left : v.right]) for v in self.views(height, width)]
        # a part of less than half a pixel must not leave a view without any
        return np.stack([mask if mask.any() else np.ones_like(mask) for mask in masks])

    def seen(self, height: int, width: int) -> NDArray[np.bool_]:
        """(height, width): which pixels of an original are inspected: inside the region, not cropped off."""
        inside = np.zeros((height, width), bool)
        for view in self.views(height, width):
            top, left, bottom, right = (math.ceil(edge - 0.5) for edge in self.crop_box(view))
            inside[top:bottom, left:right] = True
        return inside if self.region is None else inside & self.region.of_size(height, width)

    def mask(self, mask: np.ndarray) -> np.ndarray:
        """bool (H, W) -> bool (size, size) of the whole inspected part, nearest neighbour as in published figures.

        A connected defect that would vanish so is kept: by each pixel here that a pixel's centre of it falls on.
        """
        return self.mask_and_rescued(mask)[0]

    def mask_and_rescued(self, mask: np.ndarray) -> tuple[np.ndarray, int]:
        """`mask`, and how many connected defects would have vanished."""
        whole = self._whole(*mask.shape)
        labels, n = label(mask[whole.top : whole.bottom, whole.left : whole.right], np.ones((3, 3)))
        near = np.asarray(self._resize_and_crop(Image.fromarray(labels.astype(np.int32)), Image.Resampling.NEAREST))
        missed = np.ones(n + 1, bool)
        missed[near] = missed[0] = False
        height, width = labels.shape
        rows, columns, top, left = self._place(height, width)
        y, x = np.nonzero(missed[labels])
        numbers = labels[y, x]
        y, x = (2 * y + 1) * rows // (2 * height) - top, (2 * x + 1) * columns // (2 * width) - left
        inside = (y >= 0) & (y < self.size) & (x >= 0) & (x < self.size)  # others are not inspected
        small = near > 0
        small[y[inside], x[inside]] = True
        return small, len(np.unique(numbers[inside]))

    def grid(self, maps: np.ndarray, height: int, width: int) -> np.ndarray:
        """Maps (views, size, size) of an original -> (size, size) of the whole inspected part, NaN outside the region.

        Tiles are put together and made smaller: averages over the original's pixels.
        """
        if len(maps) == 1 and self.region is None:
            return maps[0]
        whole = self._whole(height, width)
        if len(maps) == 1:
            found = maps[0].copy()
        else:
            stitched = self._stitched(maps, height, width)[whole.top : whole.bottom, whole.left : whole.right]
            filled = Image.fromarray(np.where(np.isnan(stitched), np.nanmin(stitched), stitched))
            found = np.array(filled.resize((self.size, self.size), Image.Resampling.BOX))
        if self.region is not None:
            found[~self.mask(self.region.of_size(height, width))] = np.nan
        return found

    def to_original(self, maps: np.ndarray, height: int, width: int) -> np.ndarray:
        """float32 (views, size, size) -> float32 (height, width), registered to the original picture.

        NaN means not inspected: outside the region, or the pixel's centre was cropped off.
        """
        out = self._stitched(maps, height, width)
        if self.region is not None:
            out[~self.region.of_size(height, width)] = np.nan
        return out

    def _stitched(self, maps: np.ndarray, height: int, width: int) -> np.ndarray:
        """(height, width); where tiles overlap each counts the more the deeper a pixel lies in it, so no seam shows."""
        views = self.views(height, width)
        if len(views) == 1:
            place, part = self._enlarged(maps[0], views[0])
            out = np.full((height, width), np.nan, np.float32)  # now, as enlarging takes its own share of the memory
            out[place] = part
            return out
        weights, out = np.zeros((height, width), np.float32), np.zeros((height, width), np.float32)
        for view, map_ in zip(views, maps, strict=True):
            place, part = self._enlarged(map_, view)
            depth = np.minimum.outer(_depth(part.shape[0]), _depth(part.shape[1]))
            out[place] += depth * part
            weights[place] += depth
        out[weights == 0] = np.nan
        return np.divide(out, weights, out=out, where=weights > 0)

    def _enlarged(self, map_: np.ndarray, view: View) -> tuple[tuple[slice, slice], np.ndarray]:
        """Which pixels of the original one view's map covers, and its values there."""
        top, left, bottom, right = self.crop_box(view)
        y, x = self.size / (bottom - top), self.size / (right - left)  # map pixels per original pixel
        y0, x0, y1, x1 = (math.ceil(edge - 0.5) for edge in (top, left, bottom, right))
        place = slice(y0, y1), slice(x0, x1)
        if y0 == y1 or x0 == x1:  # a picture of a pixel or two, its crop is smaller than one
            return place, np.empty((y1 - y0, x1 - x0), np.float32)
        # the outermost pixels reach over the edge of the region by up to half a pixel
        pad = math.ceil(max(y, x) / 2)
        padded = Image.fromarray(np.pad(np.asarray(map_, np.float32), pad, mode="edge"))
        part = ((x0 - left) * x + pad, (y0 - top) * y + pad, (x1 - left) * x + pad, (y1 - top) * y + pad)
        return place, np.asarray(padded.resize((x1 - x0, y1 - y0), Image.Resampling.BILINEAR, box=part))

    def _whole(self, height: int, width: int) -> View:
        """The box around everything that is inspected, before a crop."""
        views = self.views(height, width)
        return View(*(min(side) for side in list(zip(*views))[:2]), *(max(side) for side in list(zip(*views))[2:]))

    def crop_box(self, view: View) -> tuple[float, float, float, float]:
        """What the network sees of a view (top, left, bottom, right), in pixels of the original."""
        rows, columns, top, left = self._place(view.bottom - view.top, view.right - view.left)
        y, x = (view.bottom - view.top) / rows, (view.right - view.left) / columns
        return (
            view.top + top * y,
            view.left + left * x,
            view.top + (top + self.size) * y,
            view.left + (left + self.size) * x,
        )

    def _starts(self, length: int) -> list[int]:
        """Where tiles begin along a side: evenly spread, the last one ends with it."""
        assert self.tile is not None
        if length <= self.tile:
            return [0]
        n = math.ceil((length - self.tile) / max(1, math.floor(self.tile * (1 - self.overlap)))) + 1
        return [round(i * (length - self.tile) / (n - 1)) for i in range(n)]

    def _painted(self, image: Image.Image) -> Image.Image:
        """Everything outside the region has the mean colour of the inside."""
        if self.region is None:
            return image
        region, pixels = self.region.of_size(image.height, image.width), np.array(image)
        mean = pixels[region].mean(0, dtype=np.float64)
        pixels[~region] = mean if image.mode == "F" else np.rint(mean).astype(np.uint8)
        return Image.fromarray(pixels)

    def _place(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Rows and columns after resizing, then top and left of the crop."""
        if self.shorter_side is None:
            return self.size, self.size, 0, 0
        short, long = min(height, width), max(height, width)
        resized = int(self.shorter_side * long / short)
        rows, columns = (self.shorter_side, resized) if height <= width else (resized, self.shorter_side)
        return rows, columns, round((rows - self.size) / 2), round((columns - self.size) / 2)

    def _nearest(self, mask: np.ndarray) -> NDArray[np.bool_]:
        """bool (H, W) of one view -> bool (size, size)"""
        return np.asarray(self._resize_and_crop(Image.fromarray(mask.astype(np.uint8)), Image.Resampling.NEAREST)) > 0

    def _resize_and_crop(
        self, image: Image.Image, resampling: Image.Resampling, size: tuple[int, int] | None = None
    ) -> Image.Image:
        rows, columns, top, left = self._place(*(size or (image.height, image.width)))
        limit = Image.MAX_IMAGE_PIXELS
        if limit and rows * columns > 2 * limit:  # a long thin strip of few pixels would fill the memory
            raise InlierError(f"{image.width} x {image.height} pixels: too long and thin for shorter_side; use None")
        resized = image.resize((columns, rows), resampling)
        return resized.crop((left, top, left + self.size, top + self.size))


def _depth(n: int) -> NDArray[np.float32]:
    """(n,) how far each pixel lies from the nearer end, from 0.5."""
    place = np.arange(n, dtype=np.float32) + 0.5
    return np.minimum(place, n - place)
