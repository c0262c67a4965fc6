"""What a detector says about a picture, and what its calibration scores can promise."""

import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from inlier import calibration
from inlier.data.images import Preprocess
from inlier.errors import InlierError

log = logging.getLogger("inlier")
DEFAULT_ALPHA = 0.01


@dataclass(frozen=True)
class Prediction:
    """What a detector says about one picture. `error` is set, and all else None, for a picture it could not read."""

    path: str
    score: float | None = None  # raw anomaly score, higher = more anomalous; never clipped or rescaled
    p_value: float | None = None  # how often a good part scores at least this high; None without calibration
    verdict: Literal["good", "defect"] | None = None  # "defect" when p_value <= alpha; None without calibration
    error: str | None = None
    pixel_threshold: float | None = None  # at most a share alpha of good parts has any map value above it
    _network_map: NDArray[np.float32] | None = field(default=None, repr=False)
    _network_reconstruction: NDArray[np.float32] | None = field(default=None, repr=False)
    _size: tuple[int, int] = field(default=(0, 0), repr=False)
    _preprocess: Preprocess | None = field(default=None, repr=False)

    @functools.cached_property
    def map(self) -> NDArray[np.float32] | None:
        """(height, width) raw anomaly scores, registered to the original picture; NaN = not inspected (cropped off)."""
        if self._network_map is None or self._preprocess is None:
            return None
        return self._preprocess.to_original(self._network_map, *self._size)

    @functools.cached_property
    def reconstruction(self) -> NDArray[np.uint8] | None:
        """(height, width, 3) the picture repainted as good, registered to the original; black = cropped off.

        None for methods that repaint nothing.
        """
        if self._network_reconstruction is None or self._preprocess is None:
            return None
        planes = [self._preprocess.to_original(plane, *self._size) for plane in self._network_reconstruction]
        return np.rint(255 * np.nan_to_num(np.stack(planes, -1)).clip(0, 1)).astype(np.uint8)

    @property
    def region(self) -> NDArray[np.bool_] | None:
        """(height, width) True where the map is above the pixel threshold; None without calibration."""
        if self.map is None or self.pixel_threshold is None:
            return None
        return np.nan_to_num(self.map, nan=-np.inf) > self.pixel_threshold


class Scores(NamedTuple):
    """Raw output for a batch of pictures; `failures` are (index, reason) of those that could not be read."""

    indices: list[int]
    scores: NDArray[np.float32]  # (B,)
    maps: NDArray[np.float32]  # (B, size, size), or (B, 0, 0) where none were asked for
    sizes: list[tuple[int, int]]  # (height, width) of the originals
    failures: list[tuple[int, str]]
    reconstructions: NDArray[np.float32] | None = None  # (B, 3, size, size) about [0, 1], of methods that repaint


@dataclass(frozen=True)
class Calibration:
    """Scores of good images that the detector was not fitted on, and what they can promise."""

    kind: str
    scores: NDArray[Any] = field(default_factory=lambda: np.empty(0, np.float32))  # (n,) image scores
    peaks: NDArray[Any] = field(default_factory=lambda: np.empty(0, np.float32))  # (n,) highest value of each map

    def alpha(self, asked: float | None = None) -> float | None:
        """The false-alarm rate to judge by: `asked`, or else 0.01 or the lowest that can be promised.

        None without calibration. Raises InlierError if `asked` is lower than can be promised.
        """
        n = len(self.scores)
        if n == 0:
            if asked is not None:
                raise InlierError(
                    "this model has no calibration, so no verdict can be given: train with --calibration split"
                )
            return None
        if asked is None:
            lowest = calibration.smallest_alpha(n)
            if lowest > DEFAULT_ALPHA:
                log.warning(
                    f"{n} calibration images promise no false-alarm rate below {lowest:.4g}, so alpha is {lowest:.4g} "
                    f"instead of {DEFAULT_ALPHA}; {calibration.needed_scores(DEFAULT_ALPHA)} would be needed"
                )
            return max(DEFAULT_ALPHA, lowest)
        try:
            calibration.threshold(self.scores, asked)
        except (ValueError, TypeError) as error:
            raise InlierError(str(error)) from error
        return asked

    def p_values(self, scores: Any) -> NDArray[np.float64]:
        return calibration.p_values(self.scores, scores)

    def map_scale(self, drawn: Callable[[Any], Any] = lambda values: values) -> tuple[float, float] | None:
        """(low, high) for drawing maps: the same colours for every picture. None without calibration.

        drawn: what is done to the values of a map first.
        """
        if not len(self.peaks):
            return None
        peaks = drawn(self.peaks)
        low, high = float(np.median(peaks)), float(peaks.max())
        return low - (high - low), high + 2 * (high - low)  # room below for quiet regions, above for defects

    def __str__(self) -> str:
        if not len(self.scores):
            return "none: raw scores only, no p-values and no verdicts"
        n = len(self.scores)
        lowest = calibration.smallest_alpha(n)
        return f"{self.kind}, {n} good images; alpha from {lowest:.4g}: {calibration.PROMISES[self.kind]}"
