"""Trivial baselines: how far brightness or the size of a file alone parts good pictures from defects.

A set in which they do tells little about a method. Each cue of a picture is taken twice:

- as a *detector*: how far it lies from the mean of good training pictures. That is what a method could learn from good
  pictures alone, and fair to compare with.
- as a *leak*: by its value, in whichever direction is better (the larger of AUROC and 1 - AUROC). Where that is high,
  good and defective test pictures were not taken alike, and whatever reacts to the cue gains or loses by it.
"""

import logging
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from inlier.data.batches import read_ahead
from inlier.data.cues import CUES, cues
from inlier.data.datasets.sample import Sample, evenly
from inlier.data.images import decode_image, read_bytes, read_image
from inlier.errors import ImageError
from inlier.metrics import image_metrics

log = logging.getLogger("inlier")
SUSPICIOUS = 0.8  # an AUROC above is worth a word
ENOUGH = 50  # training pictures: their mean is then known to a seventh of a deviation, and no set takes long to read


class Baseline(NamedTuple):
    """AUROC of one cue; None where the cue or one of the two kinds of pictures is missing."""

    detector: float | None
    leak: float | None

    @property
    def is_suspicious(self) -> bool:
        return max(self.detector or 0, self.leak or 0) > SUSPICIOUS


def of_category(
    train: Sequence[Sample], test: Sequence[tuple[float, ...]], defect: Sequence[bool], workers: int = 2
) -> dict[str, Baseline]:
    """Cue -> how well it does; none where not both kinds are tested. test: cues of each; defect: which are defects.

    train: good pictures, of which ENOUGH are read, evenly spread.
    """
    if all(defect) or not any(defect):
        return {}
    with closing(read_ahead(_look, evenly(train, ENOUGH), workers, 4 * workers)) as looks:
        seen = [look for look in looks if look]
    return baselines(np.reshape(seen, (-1, len(CUES))), np.reshape(test, (-1, len(CUES))), defect)


def baselines(train: NDArray[Any], test: NDArray[Any], defect: Sequence[bool]) -> dict[str, Baseline]:
    """Cue -> how well it does. train: (n, cues) of good training pictures; test: (m, cues); defect: (m,).

    >>> found = baselines(np.ones((4, 6)), np.outer([1, 1, 3], np.ones(6)), [False, True, False])
    >>> found["brightness"]
    Baseline(detector=0.25, leak=0.75)
    """
    return {
        cue: _baseline(train[:, column], test[:, column], np.asarray(defect, bool)) for column, cue in enumerate(CUES)
    }


def suspicious(found: Mapping[str, Baseline]) -> list[str]:
    """The cues that part good from defect too well."""
    return [cue for cue, baseline in found.items() if baseline.is_suspicious]


def strongest(found: Mapping[str, Baseline]) -> tuple[str, float] | None:
    """The cue that is the best detector, and its AUROC; None where there is none."""
    detectors = {cue: baseline.detector for cue, baseline in found.items() if baseline.detector is not None}
    return max(detectors.items(), key=lambda item: item[1], default=None)


def warning(name: str, found: Mapping[str, Baseline]) -> str:
    """What a reader of the set's figures must know; "" where no cue parts good from defect."""
    told = [f"{cue} (AUROC {_figures(found[cue])})" for cue in suspicious(found)]
    if not told:
        return ""
    return (
        f"{name}: good test pictures and defects differ in {', '.join(told)}; where a cue alone reaches "
        f"{100 * SUSPICIOUS:.0f} %, figures say little about methods"
    )


def _figures(baseline: Baseline) -> str:
    values = (baseline.leak, "by itself"), (baseline.detector, "as a detector")
    return ", ".join(f"{100 * value:.1f} % {words}" for value, words in values if value is not None)


def _look(sample: Sample) -> tuple[float, ...] | None:
    """The cues of a training picture; None, and a warning, where it cannot be read: no evaluation needs it."""
    try:
        if isinstance(sample.source, Path):
            data = read_bytes(sample.source)
            return cues(decode_image(data, sample.name), len(data))
        return cues(read_image(sample.source, sample.name))
    except ImageError as error:
        log.warning("%s; trivial baselines are computed without it", error)
        return None


def _baseline(train: NDArray[Any], test: NDArray[Any], defect: NDArray[np.bool_]) -> Baseline:
    if not np.isfinite(test).all():
        return Baseline(None, None)
    above = image_metrics(test, defect).auroc
    leak = None if above is None else max(above, 1 - above)
    if not len(train) or not np.isfinite(train).all():
        return Baseline(None, leak)
    return Baseline(image_metrics(np.abs(test - train.mean()), defect).auroc, leak)
