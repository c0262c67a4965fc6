"""Where a pixel of the network's square input lies in the original picture; no other module knows."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image
from scipy.ndimage import label

from inlier.errors import InlierError

FILTERS = {name: Image.Resampling[name.upper()] for name in ("bilinear", "bicubic", "lanczos")}


@dataclass(frozen=True)
class Geometry:
    """How a picture becomes the network's input, and how a map goes back. The numbers are torchvision's conventions.

    size: the input is size x size pixels.
    shorter_side: None stretches the whole picture to size x size, nothing is cut off. A number: the shorter side is
        resized to so many pixels, the aspect ratio is kept, and the centre size x size is cut out.
    filter: Pillow's resampling, with antialias.
    Raises InlierError when these do not fit together.
    """

    size: int
    shorter_side: int | None = None
    filter: Literal["bilinear", "bicubic", "lanczos"] = "bilinear"

    def __post_init__(self) -> None:
        if self.size < 1:
            raise InlierError(f"size: must be at least 1 pixel, got {self.size}")
        if self.shorter_side is not None and self.shorter_side < self.size:
            raise InlierError(f"shorter_side: must be at least size ({self.size}), got {self.shorter_side}")
        if self.filter not in FILTERS:
            raise InlierError(f"filter: must be one of {', '.join(FILTERS)}, got {self.filter!r}")

    def __call__(self, image: Image.Image) -> np.ndarray:
        """An image of `read_image` -> float32 (3, size, size) in [0, 1]."""
        if image.mode not in ("RGB", "F"):
            raise InlierError(f"expected an image of read_image (mode RGB or F), got mode {image.mode}")
        pixels = np.asarray(self._resize_and_crop(image, FILTERS[self.filter]))
        if image.mode == "F":
            # lanczos overshoots at edges; Pillow clips 8-bit pictures itself, float ones not
            return np.repeat(pixels.clip(0, 1)[None], 3, axis=0)
        return np.ascontiguousarray(pixels.transpose(2, 0, 1)).astype(np.float32) / 255

    def mask(self, mask: np.ndarray) -> np.ndarray:
        """bool (H, W) -> bool (size, size), the same region, nearest neighbour as in published figures.

        A connected defect that would vanish so is kept: by each pixel here that a pixel's centre of it falls on.
        """
        seen, (y, x), _ = self._seen(mask)
        seen[y, x] = True
        return seen

    def rescued(self, mask: np.ndarray) -> int:
        """How many connected defects of bool (H, W) `mask` keeps though their nearest pixels miss them."""
        return self._seen(mask)[2]

    def _seen(self, mask: np.ndarray) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray], int]:
        """What nearest neighbour leaves, bool (size, size); rows and columns of the defects it misses; their number."""
        labels, n = label(mask, np.ones((3, 3)))
        small = np.asarray(self._resize_and_crop(Image.fromarray(labels.astype(np.int32)), Image.Resampling.NEAREST))
        missed = np.ones(n + 1, bool)
        missed[small] = missed[0] = False
        height, width = mask.shape
        rows, columns, top, left = self._place(height, width)
        y, x = np.nonzero(missed[labels])
        numbers = labels[y, x]
        y, x = (2 * y + 1) * rows // (2 * height) - top, (2 * x + 1) * columns // (2 * width) - left
        inside = (y >= 0) & (y < self.size) & (x >= 0) & (x < self.size)  # others are not inspected
        return small > 0, (y[inside], x[inside]), len(np.unique(numbers[inside]))

    def crop_box(self, height: int, width: int) -> tuple[float, float, float, float]:
        """The inspected region (top, left, bottom, right) in pixels of an original of height x width."""
        rows, columns, top, left = self._place(height, width)
        y, x = height / rows, width / columns
        return top * y, left * x, (top + self.size) * y, (left + self.size) * x

    def to_original(self, map: np.ndarray, height: int, width: int) -> np.ndarray:
        """float32 (size, size) -> float32 (height, width), registered to the original picture.

        NaN means not inspected: the pixel's centre lies outside `crop_box`.
        """
        top, left, bottom, right = self.crop_box(height, width)
        y, x = self.size / (bottom - top), self.size / (right - left)  # map pixels per original pixel
        y0, x0, y1, x1 = (math.ceil(edge - 0.5) for edge in (top, left, bottom, right))
        # the outermost pixels reach over the edge of the region by up to half a pixel
        pad = math.ceil(max(y, x) / 2)
        padded = Image.fromarray(np.pad(np.asarray(map, np.float32), pad, mode="edge"))
        box = ((x0 - left) * x + pad, (y0 - top) * y + pad, (x1 - left) * x + pad, (y1 - top) * y + pad)
        out = np.full((height, width), np.nan, np.float32)
        if y0 == y1 or x0 == x1:  # a picture of a pixel or two, its crop is smaller than one
            return out
        out[y0:y1, x0:x1] = np.asarray(padded.resize((x1 - x0, y1 - y0), Image.Resampling.BILINEAR, box=box))
        return out

    def _place(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Rows and columns after resizing, then top and left of the crop."""
        if self.shorter_side is None:
            return self.size, self.size, 0, 0
        short, long = min(height, width), max(height, width)
        resized = int(self.shorter_side * long / short)
        rows, columns = (self.shorter_side, resized) if height <= width else (resized, self.shorter_side)
        return rows, columns, round((rows - self.size) / 2), round((columns - self.size) / 2)

    def _resize_and_crop(self, image: Image.Image, resampling: Image.Resampling) -> Image.Image:
        rows, columns, top, left = self._place(image.height, image.width)
        limit = Image.MAX_IMAGE_PIXELS
        if limit and rows * columns > 2 * limit:  # a long thin strip of few pixels would fill the memory
            raise InlierError(f"{image.width} x {image.height} pixels: too long and thin for shorter_side; use None")
        resized = image.resize((columns, rows), resampling)
        return resized.crop((left, top, left + self.size, top + self.size))
