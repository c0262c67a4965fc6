"""Trivial baselines: how far brightness or the size of a file alone parts good pictures from defects.

A set in which they do tells little about a method. Each cue of a picture is taken twice:

- as a *detector*: how many deviations it lies from the mean of the good training pictures. That is what a method could
  learn from good pictures alone, and fair to compare with.
- as a *leak*: by its value, in whichever direction is better (the larger of AUROC and 1 - AUROC). Where that is high,
  good and defective test pictures were not taken alike, and whatever reacts to the cue gains or loses by it.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from inlier.data.datasets.sample import Sample
from inlier.data.images import decode_image, read_bytes, read_image
from inlier.metrics import image_metrics

CUES = ("brightness", "contrast", "sharpness", "picture area", "aspect ratio", "bytes of the file")
SUSPICIOUS = 0.8  # an AUROC above is worth a word
LOOKED_AT = 1_000_000  # pixels, evenly spread


class Seen(NamedTuple):
    """What one reading of a sample gave."""

    digest: str  # sha256, hexadecimal, of the bytes of the picture and its masks
    cues: tuple[float, ...]  # as CUES; NaN where there is none


class Baseline(NamedTuple):
    """AUROC of one cue; None where the cue or one of the two kinds of pictures is missing."""

    detector: float | None
    leak: float | None

    @property
    def is_suspicious(self) -> bool:
        return max(self.detector or 0, self.leak or 0) > SUSPICIOUS


def look(sample: Sample) -> Seen:
    """Read one picture. Raises ImageError if it, or a mask of it, cannot be read."""
    if isinstance(sample.source, Path):
        data = read_bytes(sample.source)
        image, size = decode_image(data, sample.name), float(len(data))
    else:
        image, size = read_image(sample.source, sample.name), np.nan
        data = f"{image.mode} {image.size} ".encode() + image.tobytes()
    digest = hashlib.sha256(data)
    for mask in sample.masks:
        digest.update(read_bytes(mask))
    return Seen(digest.hexdigest(), (*cues(image), size))


def cues(image: Image.Image) -> tuple[float, ...]:
    """All of CUES but the last, of a picture of `read_image`. The first three are grey levels in [0, 1]: mean,
    standard deviation, and mean difference of neighbours."""
    # 16-bit grey is mode F in [0, 1] already
    grey = np.asarray(image if image.mode == "F" else image.convert("L"), np.float32) / (
        1 if image.mode == "F" else 255
    )
    step = max(1, int(np.sqrt(grey.size / LOOKED_AT)))
    rows, columns = grey[::step], grey[:, ::step]
    steps = np.abs(np.diff(rows, axis=1)).sum() + np.abs(np.diff(columns, axis=0)).sum()
    pairs = rows[:, 1:].size + columns[1:].size
    width, height = image.size
    return (float(grey.mean()), float(grey.std()), float(steps / max(pairs, 1)), float(width * height), width / height)


def baselines(train: NDArray[Any], test: NDArray[Any], defect: Sequence[bool]) -> dict[str, Baseline]:
    """Cue -> how well it does. train: (n, cues) of good training pictures; test: (m, cues); defect: (m,).

    >>> found = baselines(np.ones((4, 6)), np.outer([1, 1, 3], np.ones(6)), [False, True, False])
    >>> found["brightness"]
    Baseline(detector=0.25, leak=0.75)
    """
    return {
        cue: _baseline(train[:, column], test[:, column], np.asarray(defect, bool)) for column, cue in enumerate(CUES)
    }


def _baseline(train: NDArray[Any], test: NDArray[Any], defect: NDArray[np.bool_]) -> Baseline:
    if not np.isfinite(test).all():
        return Baseline(None, None)
    above = image_metrics(test, defect).auroc
    leak = None if above is None else max(above, 1 - above)
    if not len(train) or not np.isfinite(train).all():
        return Baseline(None, leak)
    # in deviations, or where all training pictures are alike just the distance: an AUROC sees the order alone
    distance = np.abs(test - train.mean()) / (train.std() or 1.0)
    return Baseline(image_metrics(distance, defect).auroc, leak)
