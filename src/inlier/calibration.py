"""From the scores of good parts to p-values and thresholds with a stated false-alarm rate.

Split conformal prediction (Vovk et al., "Algorithmic Learning in a Random World", 2005; Bates et al., "Testing for
outliers with conformal p-values", 2023, arXiv 2104.08279). With n calibration scores of good parts that the detector
was not fitted on, p = (1 + #{calibration >= score}) / (n + 1). For a new good part, exchangeable with them,
P(p <= alpha) <= alpha whatever the method and the data.

`folds` scores every image by a model fitted without it and then fits on all images. A new part is scored by the final
model, so the theorem does not apply to the letter (it does, with 2 alpha, to cross-conformal prediction, which keeps
all the fold models). The final model has seen slightly more images than the models that made the calibration scores,
which makes it a little stricter about false alarms than promised, not looser; benchmarks/calibration.py measures it.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

KINDS = ("split", "folds", "none")
PROMISES = {
    "split": "at most this share of good parts raises a false alarm (conformal guarantee)",
    "folds": "about this share of good parts raises a false alarm (leave-out scores; close in practice, not a theorem)",
}


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
