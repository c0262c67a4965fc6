"""What is said about one picture."""

import functools
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import find_objects, label

from inlier import drawing
from inlier.calibration import Verdict
from inlier.data.geometry import Geometry
from inlier.data.images import ImageSource, read_image
from inlier.errors import InlierError

EIGHT_NEIGHBOURS = np.ones((3, 3), int)


class Box(NamedTuple):
    """A connected part of the region, in pixels of the original picture; right and bottom lie just outside."""

    left: int
    top: int
    right: int
    bottom: int
    peak: float  # highest value of the map inside
    area: int  # pixels of the region inside


@dataclass(frozen=True)
class Prediction:
    """What a model says about one picture. `error` is set, and all else None, for one that could not be read.

    Two predictions are equal when they say the same of the same path; maps are not compared.
    """

    path: str
    score: float | None = None  # raw anomaly score, higher = more anomalous; never clipped or rescaled
    p_value: float | None = None  # how often a good part scores at least this high; None without calibration
    threshold: float | None = None  # a score above it is a defect; None without calibration
    verdict: Verdict | None = None  # None without calibration
    alpha: float | None = None  # the false-alarm rate that threshold and verdict are for
    confidence: float | None = None  # with which alpha is kept; None: on average over calibrations
    pixel_threshold: float | None = None  # at most a share alpha of good parts has any map value above it
    error: str | None = None
    source: ImageSource | None = field(default=None, repr=False, compare=False)  # what was judged
    size: tuple[int, int] = field(default=(0, 0), repr=False, compare=False)  # (height, width) of the original
    # (views, size, size) raw scores, and (views, 3, size, size) about [0, 1] of methods that repaint, as the network
    # made them
    network_maps: NDArray[np.float32] | None = field(default=None, repr=False, compare=False)
    network_reconstructions: NDArray[np.float32] | None = field(default=None, repr=False, compare=False)
    geometry: Geometry | None = field(default=None, repr=False, compare=False)
    log_map: bool = field(default=False, repr=False, compare=False)  # people are shown logarithms of the map

    @functools.cached_property
    def map(self) -> NDArray[np.float32] | None:
        """(height, width) raw anomaly scores, registered to the original picture; NaN = not inspected."""
        if self.network_maps is None or self.geometry is None:
            return None
        return self.geometry.to_original(self.network_maps, *self.size)

    @functools.cached_property
    def reconstruction(self) -> NDArray[np.uint8] | None:
        """(height, width, 3) the picture repainted as good, registered to the original; black = not inspected.

        None for methods that repaint nothing.
        """
        if self.network_reconstructions is None or self.geometry is None:
            return None
        planes = [self.geometry.to_original(self.network_reconstructions[:, c], *self.size) for c in range(3)]
        return np.rint(255 * np.nan_to_num(np.stack(planes, -1)).clip(0, 1)).astype(np.uint8)

    @functools.cached_property
    def region(self) -> NDArray[np.bool_] | None:
        """(height, width) True where the map is above the pixel threshold; None without calibration or map."""
        if self.map is None or self.pixel_threshold is None:
            return None
        return np.nan_to_num(self.map, nan=-np.inf) > self.pixel_threshold

    def boxes(self) -> list[Box]:
        """The region's connected parts (corners touch), highest peak first. Empty without calibration or map."""
        if self.map is None or self.region is None:
            return []
        labels, _ = label(self.region, EIGHT_NEIGHBOURS)
        found = []
        for number, (rows, columns) in enumerate(find_objects(labels), 1):
            inside = labels[rows, columns] == number
            peak, area = float(self.map[rows, columns][inside].max()), int(inside.sum())
            found.append(Box(columns.start, rows.start, columns.stop, rows.stop, peak, area))
        return sorted(found, key=lambda box: -box.peak)

    def to_dict(self) -> dict[str, Any]:
        """Plain values that JSON can hold; `boxes` where there is a map."""
        names = ("path", "score", "p_value", "threshold", "verdict", "alpha", "confidence", "pixel_threshold", "error")
        boxes = {} if self.map is None else {"boxes": [box._asdict() for box in self.boxes()]}
        return {name: getattr(self, name) for name in names} | boxes

    def plot(self, picture: ImageSource | None = None) -> Image.Image:
        """Picture, heat map and overlay side by side, with the verdict above.

        picture: what was judged, where it cannot be read again from `path`. Raises InlierError without a map.
        """
        if self.map is None:
            raise InlierError(f"{self.path}: there is no map to draw; predict with maps=True")
        chosen = self.source if picture is None else picture
        image = drawing.to_rgb(read_image(self.path if chosen is None else chosen, self.path))
        map_ = drawing.drawable(self.map, self.log_map)
        limit = drawing.drawable(self.pixel_threshold, self.log_map)
        scale = drawing.colour_scale([map_], limit)
        pictures = [image, drawing.heat_map(map_, scale), drawing.overlay(image, map_, limit, scale)]
        return drawing.panels(pictures, ["picture", "heat map", "overlay"], self._words())

    def without_maps(self) -> Self:
        """The same without its arrays, for lists of thousands."""
        return replace(self, network_maps=None, network_reconstructions=None)

    def _words(self) -> str:
        judged = "" if self.p_value is None else f"{self.verdict}, p {self.p_value:.4g}, "
        return f"{judged}score {self.score:.4g}"
