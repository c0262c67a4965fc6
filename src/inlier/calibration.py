"""From the scores of good parts to p-values and thresholds with a stated false-alarm rate.

Split conformal prediction (Vovk et al., "Algorithmic Learning in a Random World", 2005; Bates et al., "Testing for
outliers with conformal p-values", 2023, arXiv 2104.08279). With n calibration scores of good parts that the detector
was not fitted on, p = (1 + #{calibration >= score}) / (n + 1). For a new good part, exchangeable with them,
P(p <= alpha) <= alpha whatever the method and the data.

`folds` scores every image by a model fitted without it and then fits on all images. A new part is scored by the final
model, so the theorem does not apply to the letter (it does, with 2 alpha, to cross-conformal prediction, which keeps
all the fold models). The final model has seen slightly more images than the models that made the calibration scores;
benchmarks/calibration.py measures what that does.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from inlier.errors import InlierError

KINDS = ("split", "folds", "none")
PROMISES = {
    "split": "at most this share of good parts raises a false alarm (conformal guarantee)",
    "folds": "about this share of good parts raises a false alarm (leave-out scores; close in practice, not a theorem)",
}
DEFAULT_ALPHA = 0.01
Verdict = Literal["good", "defect"]


def p_values(calibration: ArrayLike, scores: ArrayLike) -> NDArray[np.float64]:
    """p-value of every score: how often a good part scores at least this high. In [1 / (n + 1), 1].

    >>> p_values([1.0, 2.0, 3.0], [0.5, 2.0, 9.0])
    array([1.  , 0.75, 0.25])
    """
    ordered = np.sort(np.asarray(calibration, np.float64))
    at_least = len(ordered) - np.searchsorted(ordered, np.asarray(scores, np.float64), side="left")
    return (1 + at_least) / (len(ordered) + 1)


def smallest_alpha(n: int) -> float:
    """The lowest false-alarm rate that n calibration scores can promise.

    >>> smallest_alpha(99)
    0.01
    """
    return 1 / (n + 1)


def needed_scores(alpha: float) -> int:
    """Calibration scores needed to promise the false-alarm rate alpha.

    >>> needed_scores(0.01)
    99
    """
    return math.ceil(round(1 / alpha, 9)) - 1


def threshold(calibration: ArrayLike, alpha: float) -> float:
    """The score above which (strictly) p <= alpha, so a part is a defect.

    Raises ValueError if alpha is not in (0, 1) or lower than smallest_alpha(n).

    >>> threshold([1.0, 2.0, 3.0], alpha=0.5)
    2.0
    """
    ordered = np.sort(np.asarray(calibration, np.float64))[::-1]
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must lie between 0 and 1 (exclusive), not {alpha}")
    # p <= alpha  <=>  #{calibration >= score} <= alpha (n + 1) - 1; the rounding undoes 0.01 * 100 = 0.99999...
    allowed = math.floor(round(alpha * (len(ordered) + 1), 9)) - 1
    if allowed < 0:
        raise ValueError(
            f"{len(ordered)} calibration images can promise no false-alarm rate below "
            f"{smallest_alpha(len(ordered)):.4g}; "
            f"alpha {alpha:g} needs at least {needed_scores(alpha)}"
        )
    return float(ordered[allowed])


def split(n: int, seed: int) -> tuple[list[int], list[int]]:
    """(fitting, calibration) indices of n good images: a seeded fifth, at least 20 where there are 40 or more,
    is held out.

    >>> [len(part) for part in split(200, seed=0)], [len(part) for part in split(50, seed=0)]
    ([160, 40], [30, 20])
    """
    held_out = max(n // 5, min(20, n // 2))
    order = np.random.default_rng(seed).permutation(n)
    return sorted(order[held_out:].tolist()), sorted(order[:held_out].tolist())


def folds(n: int, seed: int, k: int = 5) -> Sequence[tuple[list[int], list[int]]]:
    """k seeded (fitting, held-out) pairs; every index is held out once."""
    order = np.random.default_rng(seed).permutation(n)
    parts = [sorted(order[i::k].tolist()) for i in range(min(k, n))]
    return [(sorted(set(range(n)) - set(part)), part) for part in parts]


@dataclass(frozen=True)
class Rule:
    """What turns a score into a verdict: the one place where that is decided."""

    alpha: float  # accepted false-alarm rate
    threshold: float  # a picture is a defect when its score is above this, which is when its p-value is at most alpha
    pixel_threshold: float  # at most a share alpha of good parts has any map value above this

    def verdict(self, score: float) -> Verdict:
        return "defect" if score > self.threshold else "good"


@dataclass(frozen=True)
class Calibration:
    """Scores of good pictures that the model was not fitted on, and what they can promise."""

    kind: str
    scores: NDArray[Any] = field(default_factory=lambda: np.empty(0, np.float32))  # (n,) image scores
    peaks: NDArray[Any] = field(default_factory=lambda: np.empty(0, np.float32))  # (n,) highest value of each map

    def rule(self, asked: float | None = None) -> Rule | None:
        """The rule for the false-alarm rate `asked`, or else for 0.01 or the lowest that can be promised.

        None without calibration. Raises InlierError if `asked` is no rate, or lower than can be promised.
        """
        n = len(self.scores)
        if n == 0:
            if asked is not None:
                raise InlierError(
                    "this model has no calibration, so no verdict can be given: train with --calibration split"
                )
            return None
        if asked is not None and (not isinstance(asked, Real) or isinstance(asked, bool)):
            raise InlierError(f"alpha must be a number between 0 and 1, not {asked!r}")
        alpha = max(DEFAULT_ALPHA, smallest_alpha(n)) if asked is None else float(asked)
        try:
            return Rule(alpha, threshold(self.scores, alpha), threshold(self.peaks, alpha))
        except ValueError as error:
            raise InlierError(str(error)) from error

    def note(self, asked: float | None) -> str:
        """What a person must be told about the false-alarm rate, if it is another than they may expect; or nothing."""
        n, lowest = len(self.scores), smallest_alpha(len(self.scores))
        if asked is not None or n == 0 or lowest <= DEFAULT_ALPHA:
            return ""
        return (
            f"{n} calibration images promise no false-alarm rate below {lowest:.4g}, so alpha is {lowest:.4g} instead "
            f"of {DEFAULT_ALPHA}; {needed_scores(DEFAULT_ALPHA)} would be needed"
        )

    def p_values(self, scores: ArrayLike) -> NDArray[np.float64]:
        return p_values(self.scores, scores)

    def map_scale(self, drawn: Callable[[Any], Any] = lambda values: values) -> tuple[float, float] | None:
        """(low, high) for drawing maps: the same colours for every picture. None without calibration.

        drawn: what is done to the values of a map first.
        """
        if not len(self.peaks):
            return None
        peaks = drawn(self.peaks)
        low, high = float(np.median(peaks)), float(peaks.max())
        return low - (high - low), high + 2 * (high - low)  # room below for quiet regions, above for defects

    def header(self) -> dict[str, Any]:
        """What a model file says of it."""
        return {"kind": self.kind, "n": len(self.scores)}

    def __str__(self) -> str:
        if not len(self.scores):
            return "none: raw scores only, no p-values and no verdicts"
        n = len(self.scores)
        return f"{self.kind}, {n} good images; alpha from {smallest_alpha(n):.4g}: {PROMISES[self.kind]}"
