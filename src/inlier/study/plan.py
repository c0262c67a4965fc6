"""How many parts a statement needs, and which parts are drawn.

A rate (of escapes, of false alarms) is judged by k failures among n parts. With confidence c it is at most the upper
limit of Clopper and Pearson (1934). Beside it stands Bayes' answer: where every rate was as likely as any other before
the study (Laplace's uniform prior), it is at most that with probability c afterwards. The two ask for nearly the same:
Bayes for one part less.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, betaincinv

from inlier.calibration import confident_rate


def parts_needed(rate: float, confidence: float = 0.95, failures: int = 0) -> int:
    """Parts to judge, of which so many may fail, to state that at most such a share of all fails.

    >>> parts_needed(0.05), parts_needed(0.01), parts_needed(0.10), parts_needed(0.05, failures=1)
    (59, 299, 29, 93)
    """
    low, high = failures, failures + 1
    while bdtr(failures, high, rate) > 1 - confidence:
        low, high = high, 2 * high
    while high - low > 1:  # more parts make so few failures less likely
        middle = (low + high) // 2
        low, high = (middle, high) if bdtr(failures, middle, rate) > 1 - confidence else (low, middle)
    return high


def parts_needed_bayes(rate: float, confidence: float = 0.95, failures: int = 0) -> int:
    """`parts_needed` by Bayes' rule and a uniform prior."""
    return max(parts_needed(rate, confidence, failures) - 1, failures)


def upper_limit(failures: int, n: int, confidence: float = 0.95) -> float:
    """The rate that is at most so high, with this confidence (Clopper and Pearson, one-sided).

    >>> round(upper_limit(0, 59), 4), round(upper_limit(0, 50), 4)
    (0.0495, 0.0582)
    """
    return confident_rate(failures + 1, n, confidence)


def upper_limit_bayes(failures: int, n: int, confidence: float = 0.95) -> float:
    """The rate that is at most so high, with this probability, after a uniform prior."""
    return float(betaincinv(failures + 1, n - failures + 1, confidence))


def chance(rate: float, n: int, failures: int = 0) -> float:
    """How likely the study comes out well where the true rate is this: at most so many failures among n.

    >>> round(chance(0.01, 59), 3), round(chance(0.01, 93, 1), 3)
    (0.553, 0.762)
    """
    return float(bdtr(failures, n, rate))


def draw(
    is_defect: Sequence[bool],
    scores: Sequence[float] | None,
    threshold: float | None,
    wanted: tuple[int, int, int],
    seed: int,
) -> tuple[NDArray[np.int64], list[str]]:
    """(numbers of the drawn parts in a random order, what each was drawn as: "good", "defect" or "borderline").

    wanted: how many of each. Borderline are those whose scores lie nearest to the threshold, half of them good, half
    defects; the others are drawn at random among what is left. Raises ValueError where there are too few.
    """
    defect, rng = np.asarray(is_defect, np.bool_), np.random.default_rng(seed)
    n_good, n_defect, n_borderline = wanted
    left = np.ones(len(defect), np.bool_)
    chosen: list[tuple[int, str]] = []

    def take(numbers: NDArray[np.int64], n: int, kind: str) -> None:
        if len(numbers) < n:
            raise ValueError(f"{n} {kind} parts are wanted, there are only {len(numbers)} left to draw from")
        left[numbers[:n]] = False
        chosen.extend((int(i), kind) for i in numbers[:n])

    if n_borderline:
        if scores is None or threshold is None:
            raise ValueError("borderline parts are known by their scores: give a calibrated model, or want none")
        distance = np.abs(np.asarray(scores, np.float64) - threshold)
        nearest = np.argsort(distance, kind="stable")
        half = n_borderline // 2
        take(nearest[~defect[nearest]], n_borderline - half, "borderline")
        take(nearest[defect[nearest]], half, "borderline")
    for kind, n, those in (("good", n_good, ~defect), ("defect", n_defect, defect)):
        take(rng.permutation(np.flatnonzero(those & left)), n, kind)
    order = rng.permutation(len(chosen))
    return np.array([chosen[i][0] for i in order], np.int64), [chosen[i][1] for i in order]
