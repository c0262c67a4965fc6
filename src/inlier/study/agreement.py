"""Attribute agreement: do appraisers agree with themselves, with one another and with the truth?

The figures are those of the attribute study in the AIAG's manual "Measurement Systems Analysis" (4th edition, 2010,
chapter III, section C). Kappa between two appraisers, or of one against the truth, is Cohen's ("A coefficient of
agreement for nominal scales", 1960) of all their decisions, trial beside trial, as the manual cross-tabulates them.
Kappa of more than two judgements of each part is Fleiss' ("Measuring nominal scale agreement among many raters", 1971).
Intervals of kappa are the usual asymptotic ones, over parts, since decisions on one part are not independent.

Ratings are bool (appraisers, parts, trials), True = judged a defect; the truth is bool (parts,).
"""

import itertools
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from inlier.metrics import exact_interval

Ratings = NDArray[np.bool_]
Grade = Literal["acceptable", "marginal", "unacceptable"]

# the manual's limits: (acceptable, marginal)
EFFECTIVENESS = 0.90, 0.80  # at least
MISS_RATE = 0.02, 0.05  # at most
FALSE_ALARM_RATE = 0.05, 0.10  # at most
KAPPA = 0.75, 0.40  # above is good, below is poor


@dataclass(frozen=True)
class Share:
    """k of n."""

    k: int
    n: int

    @property
    def value(self) -> float | None:
        return self.k / self.n if self.n else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 %, exact (Clopper and Pearson), where the n are independent."""
        return exact_interval(self.k, self.n) if self.n else None


@dataclass(frozen=True)
class Kappa:
    """Agreement beyond chance: 1 is all there can be, 0 what chance alone would give."""

    value: float | None  # None where chance explains everything
    interval: tuple[float, float] | None  # 95 %, over parts; None where there is nothing to tell it by


@dataclass(frozen=True)
class Appraiser:
    """What one appraiser's judgements come to. Rates count decisions, the other shares count parts."""

    name: str
    within: Share  # parts judged alike in all trials
    effectiveness: Share  # parts judged right in all trials
    miss_rate: Share  # decisions "good" on defects
    false_alarm_rate: Share  # decisions "defect" on good parts
    missed: Share  # defects missed in one trial or more: unlike trials, parts are independent
    false_alarms: Share  # good parts called a defect in one trial or more
    kappa_within: Kappa  # Fleiss', of the trials
    kappa_truth: Kappa  # Cohen's

    @property
    def grades(self) -> dict[str, Grade | None]:
        """The manual's verdict on each figure; None where there are no such parts."""
        return {
            "effectiveness": _grade(self.effectiveness.value, EFFECTIVENESS, -1),
            "miss rate": _grade(self.miss_rate.value, MISS_RATE, 1),
            "false-alarm rate": _grade(self.false_alarm_rate.value, FALSE_ALARM_RATE, 1),
        }

    @property
    def grade(self) -> Grade:
        """The worst of them."""
        found = set(self.grades.values())
        return "unacceptable" if "unacceptable" in found else "marginal" if "marginal" in found else "acceptable"


@dataclass(frozen=True)
class Agreement:
    appraisers: tuple[Appraiser, ...]
    between: Share  # parts judged alike by all appraisers in all trials
    effectiveness: Share  # parts judged right by all appraisers in all trials
    kappa_between: Kappa  # Fleiss', of all judgements
    pairs: dict[tuple[str, str], Kappa]  # Cohen's, of each two appraisers


def agreement(names: list[str], ratings: Ratings, truth: NDArray[np.bool_]) -> Agreement:
    """All figures of a study. Raises ValueError where names, ratings and truth do not fit together."""
    if ratings.ndim != 3 or ratings.shape[0] != len(names) or ratings.shape[1] != len(truth) or not ratings.size:
        raise ValueError(f"ratings {ratings.shape} are not those of {len(names)} appraisers and {len(truth)} parts")
    decisions = np.moveaxis(ratings, 1, 0).reshape(len(truth), -1)  # all of each part
    right = decisions == truth[:, None]
    return Agreement(
        tuple(_appraiser(name, own, truth) for name, own in zip(names, ratings, strict=True)),
        _share((decisions == decisions[:, :1]).all(1)),
        _share(right.all(1)),
        _fleiss(decisions),
        {(names[i], names[j]): _cohen(ratings[i], ratings[j]) for i, j in itertools.combinations(range(len(names)), 2)},
    )


def _appraiser(name: str, own: Ratings, truth: NDArray[np.bool_]) -> Appraiser:
    """own: (parts, trials)."""
    wrong = own != truth[:, None]
    return Appraiser(
        name,
        within=_share((own == own[:, :1]).all(1)),
        effectiveness=_share(~wrong.any(1)),
        miss_rate=_share(wrong[truth]),
        false_alarm_rate=_share(wrong[~truth]),
        missed=_share(wrong[truth].any(1)),
        false_alarms=_share(wrong[~truth].any(1)),
        kappa_within=_fleiss(own),
        kappa_truth=_cohen(own, np.broadcast_to(truth[:, None], own.shape)),
    )


def crosstab(one: ArrayLike, other: ArrayLike) -> NDArray[np.int64]:
    """(..., 2, 2) how often the first said good or defect (rows) where the second said good or defect (columns).

    Counted along the last axis: decisions (parts, trials) give a table for each part.
    """
    places = 2 * np.asarray(one, np.int64) + np.asarray(other, np.int64)
    return (places[..., None] == np.arange(4)).sum(-2).reshape(*places.shape[:-1], 2, 2)


def cohen_kappa(table: ArrayLike) -> float | None:
    """Cohen's kappa of a square table of counts; None where all lies in one cell, and chance explains everything.

    >>> round(cohen_kappa([[20, 5], [10, 15]]), 2)
    0.4
    """
    shares = np.asarray(table, np.float64)
    shares = shares / shares.sum()
    chance = float(shares.sum(0) @ shares.sum(1))
    return None if chance == 1 else float((np.trace(shares) - chance) / (1 - chance))


def cohen_interval(tables: ArrayLike) -> tuple[float, float] | None:
    """95 % interval of Cohen's kappa. tables: (parts, verdicts, verdicts) a table of counts for each part.

    With one decision a part it is that of Fleiss, Cohen and Everitt ("Large sample standard errors of kappa and
    weighted kappa", 1969). With several, what those of a part add to kappa is summed before it is squared, as by Yang
    and Zhou ("Kappa statistic for clustered matched-pair data", 2014; without their K / (K - 1) for K parts, so that
    both are one formula). Cut off at -1 and 1. None where kappa is None, and where the standard error would be 0 (all
    alike, or one always says the same): few parts prove no such thing.

    >>> [round(edge, 2) for edge in cohen_interval([[[1, 0], [0, 0]]] * 20 + [[[0, 1], [0, 0]]] * 5 +
    ...                                            [[[0, 0], [1, 0]]] * 10 + [[[0, 0], [0, 1]]] * 15)]
    [0.15, 0.65]
    """
    from scipy.special import ndtri

    tables = np.asarray(tables, np.float64)
    table = tables.sum(0)
    kappa = cohen_kappa(table)
    if kappa is None:
        return None
    shares = table / table.sum()
    rows, columns = shares.sum(1), shares.sum(0)
    adds = np.eye(len(shares)) - (1 - kappa) * (columns[:, None] + rows)  # of one decision in each place of the table
    adds = (adds - (shares * adds).sum()) / (1 - rows @ columns)
    of_parts = (tables * adds).sum((1, 2)) / table.sum()
    return _around(kappa, float(np.sqrt((of_parts**2).sum())), float(ndtri(0.975)))


def fleiss_kappa(counts: ArrayLike) -> float | None:
    """Fleiss' kappa. counts: (parts, verdicts) how many of the judgements of a part, as many for each, say which.

    None with one judgement a part, or where all judgements are the same. Raises ValueError for unequal numbers.

    >>> round(fleiss_kappa([[3, 0], [0, 3], [2, 1], [3, 0]]), 3)
    0.625
    """
    counts = np.asarray(counts, np.float64)
    judged = counts.sum(1)
    if len(set(judged.tolist())) != 1:
        raise ValueError("Fleiss' kappa needs as many judgements of each part")
    m = judged[0]
    chance = float((counts.sum(0) ** 2).sum() / counts.sum() ** 2)
    if m < 2 or chance == 1:
        return None
    alike = float(((counts**2).sum(1) - m).mean() / (m * (m - 1)))
    return (alike - chance) / (1 - chance)


def fleiss_interval(counts: ArrayLike) -> tuple[float, float] | None:
    """95 % interval of Fleiss' kappa. counts as for `fleiss_kappa`, which has the errors.

    By Gwet's variance ("Large-sample variance of Fleiss generalized kappa", 2021) and Student's t, as irrCAC does. Cut
    off at -1 and 1; None as `cohen_interval`, and with one part.

    >>> [round(edge, 3) for edge in fleiss_interval([[3, 0], [0, 3], [2, 1], [3, 0]])]
    [-0.641, 1.0]
    """
    from scipy.special import stdtrit

    kappa = fleiss_kappa(counts)
    counts = np.asarray(counts, np.float64)
    n, m = len(counts), counts[0].sum()
    if kappa is None or n < 2:
        return None
    shares = counts.sum(0) / counts.sum()
    chance = (shares**2).sum()
    alike = ((counts**2).sum(1) - m) / (m * (m - 1))
    of_parts = (alike - chance - 2 * (1 - kappa) * (counts @ shares / m - chance)) / (1 - chance)  # kappa is their mean
    error = np.sqrt(((of_parts - kappa) ** 2).sum() / (n * (n - 1)))
    return _around(kappa, float(error), float(stdtrit(n - 1, 0.975)))


def kappa_words(kappa: float | None) -> str:
    """The manual's words: above .75 good to excellent, below .40 poor agreement."""
    if kappa is None:
        return ""
    return "good" if kappa > KAPPA[0] else "poor" if kappa < KAPPA[1] else "fair"


def _cohen(one: Ratings, other: Ratings) -> Kappa:
    """Both (parts, trials)."""
    tables = crosstab(one, other)
    return Kappa(cohen_kappa(tables.sum(0)), cohen_interval(tables))


def _fleiss(decisions: Ratings) -> Kappa:
    """decisions: (parts, judgements)."""
    counts = _counts(decisions)
    return Kappa(fleiss_kappa(counts), fleiss_interval(counts))


def _around(kappa: float, error: float, quantile: float) -> tuple[float, float] | None:
    if error < 1e-9:  # 0 but for rounding: one of a million decisions makes more
        return None
    return max(kappa - quantile * error, -1.0), min(kappa + quantile * error, 1.0)


def _counts(decisions: Ratings) -> NDArray[np.int64]:
    """(parts, 2) judgements good and defect of decisions (parts, judgements)."""
    defects = decisions.sum(1)
    return np.stack([decisions.shape[1] - defects, defects], 1)


def _share(chosen: NDArray[np.bool_]) -> Share:
    return Share(int(chosen.sum()), chosen.size)


def _grade(value: float | None, limits: tuple[float, float], sign: int) -> Grade | None:
    """sign: 1 where less is better, -1 where more is."""
    if value is None:
        return None
    acceptable, marginal = (sign * value <= sign * limit + 1e-12 for limit in limits)
    return "acceptable" if acceptable else "marginal" if marginal else "unacceptable"
