"""From the scores of good parts to p-values and thresholds with a stated false-alarm rate.

Split conformal prediction (Vovk et al., "Algorithmic Learning in a Random World", 2005; Bates et al., "Testing for
outliers with conformal p-values", 2023, arXiv 2104.08279). With n calibration scores of good parts that the detector
was not fitted on, p = (1 + #{calibration >= score}) / (n + 1). For a new good part, exchangeable with them,
P(p <= alpha) <= alpha whatever the method and the data.

That probability is over calibrations, too: it holds *on average*. A station has one calibration, and with the k-th
highest of its n scores as threshold its own false-alarm rate follows Beta(k, n + 1 - k), or lies below. So *with
confidence* c the rate of this very calibration is at most the c-quantile of that distribution (Vovk, "Conditional
validity of inductive conformal predictors", 2012, arXiv 1209.2673, proposition 2a). `Rule` knows both numbers.

Pictures of one part, lot or board, and copies of one picture, form a group. Groups are exchangeable, the pictures in
them are not, so each group weighs the same: a picture counts 1 / (pictures of its group), and the lowest alpha is
1 / (groups + 1) (hierarchical conformal prediction: Lee, Barber and Willett, "Distribution-free inference with
hierarchical data", 2023, arXiv 2306.06342, for one new picture of a new group). With confidence, a group stands for
its highest score, which can only be stricter.

`folds` scores every picture by a model fitted without its group and then fits on all pictures. A new part is scored by
the final model, so the theorem does not apply to the letter (it does, with 2 alpha, to cross-conformal prediction,
which keeps all the fold models). The final model has seen slightly more pictures than the models that made the
calibration scores; benchmarks/calibration.py measures what that does.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from numbers import Real
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaincinv

from inlier.errors import WRITTEN, InlierError
from inlier.names import agreeing, counted

KINDS = ("split", "folds", "none")
HOWS = {  # for people: what pictures a calibration consists of
    "split": "held out from fitting",
    "folds": "each scored by a model fitted without it: close to the promise in practice, no theorem",
}
DEFAULT_ALPHA = 0.01
CONFIDENCE = 0.95  # of the second number where nobody asks for another
Verdict = Literal["good", "defect"]


def p_values(calibration: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None) -> NDArray[np.float64]:
    """p-value of every score: how often a good part scores at least this high. In [1 / (n + 1), 1].

    weights: of the calibration scores, those of a group add up to 1; default: each is a group of its own.

    >>> p_values([1.0, 2.0, 3.0], [0.5, 2.0, 9.0])
    array([1.  , 0.75, 0.25])
    """
    ordered, above = _descending(calibration, weights)
    # how many of the calibration scores, highest first, are at least as high
    at_least = len(ordered) - np.searchsorted(ordered[::-1], np.asarray(scores, np.float64), side="left")
    p: NDArray[np.float64] = (1 + above[at_least]) / (round(above[-1]) + 1)
    return p


def smallest_alpha(n: int, confidence: float | None = None) -> float:
    """The lowest false-alarm rate that n calibration scores can promise, on average or with confidence.

    >>> smallest_alpha(99), round(smallest_alpha(99, 0.95), 4)
    (0.01, 0.0298)
    """
    return 1 / (n + 1) if confidence is None else confident_rate(1, n, confidence)


def needed_scores(alpha: float, confidence: float | None = None) -> int:
    """Calibration scores needed to promise the false-alarm rate alpha, on average or with confidence.

    >>> needed_scores(0.01), needed_scores(0.01, 0.95)
    (99, 299)
    """
    if confidence is None:
        return math.ceil(round(1 / alpha, 9)) - 1
    return math.ceil(round(math.log1p(-confidence) / math.log1p(-alpha), 9))


def confident_rate(k: int, n: int, confidence: float) -> float:
    """With this confidence, at most such a share of good parts scores above the k-th highest of n scores.

    1 where k > n: nothing is promised.

    >>> round(confident_rate(1, 40, 0.95), 4), round(confident_rate(5, 99, 0.95), 4)
    (0.0722, 0.0901)
    """
    return 1.0 if k > n else float(betaincinv(k, n + 1 - k, confidence))


def rank(n: int, alpha: float, confidence: float | None = None) -> int:
    """k, if the k-th highest of n scores is the threshold that promises alpha, on average or with confidence.

    0 where that can't be promised.

    >>> rank(99, 0.05), rank(99, 0.05, 0.95)
    (5, 2)
    """
    if confidence is None:
        return math.floor(round(alpha * (n + 1), 9))  # rounded: 0.01 * 100 = 0.99999...
    k = np.arange(1, n + 1)
    return int((betaincinv(k, n + 1 - k, confidence) <= alpha * (1 + 1e-9)).sum())


def threshold(
    calibration: ArrayLike, alpha: float, weights: ArrayLike | None = None, confidence: float | None = None
) -> float:
    """The score above which (strictly) a part is a defect: on average that is p <= alpha.

    weights: as for `p_values`, for the promise on average. Raises ValueError if alpha is not in (0, 1) or lower than
    can be promised.

    >>> threshold([1.0, 2.0, 3.0], alpha=0.5), threshold(range(299), alpha=0.01, confidence=0.95)
    (2.0, 298.0)
    """
    ordered, above = _descending(calibration, weights)
    n = round(above[-1])
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must lie between 0 and 1 (exclusive), not {alpha}; {WRITTEN['alpha']}")
    k = rank(n, alpha, confidence)
    if k == 0:
        surely = "" if confidence is None else f" with {100 * confidence:g} % confidence"
        of = "picture<|s>" if weights is None else "group<|s>"
        raise ValueError(
            f"{counted(n, f'calibration {of}')} can promise no false-alarm rate below "
            f"{smallest_alpha(n, confidence):.4g}{surely}; alpha {alpha:g} needs at least "
            f"{needed_scores(alpha, confidence)}"
        )
    if weights is None:
        return float(ordered[k - 1])
    # p <= alpha  <=>  the scores at least as high weigh at most alpha (n + 1) - 1
    return float(ordered[np.flatnonzero(above[1:] > alpha * (n + 1) - 1 + 1e-9)[0]])


def split(groups: Sequence[int], categories: Sequence[str], seed: int) -> tuple[list[int], list[int]]:
    """(fitting, calibration) indices of good pictures, whose groups and categories are given.

    Of each category a seeded fifth of the groups, at least 20 where there are 40 or more, is held out as a whole.

    >>> [len(part) for part in split(range(200), 200 * ["bolt"], seed=0)]
    [160, 40]
    """
    drawn = _drawn(groups, categories, seed)
    held_out = [i for order in drawn for part in order[: _fifth(len(order))] for i in part]
    return sorted(set(range(len(groups))) - set(held_out)), sorted(held_out)


def folds(
    groups: Sequence[int], categories: Sequence[str], seed: int, k: int = 5
) -> Sequence[tuple[list[int], list[int]]]:
    """k seeded (fitting, held-out) pairs; every picture is held out once, its group with it."""
    parts: list[list[int]] = [[] for _ in range(k)]
    for order in _drawn(groups, categories, seed):
        for place, part in enumerate(order):
            parts[place % k] += part
    everything = set(range(len(groups)))
    return [(sorted(everything - set(part)), sorted(part)) for part in parts if part]


def _drawn(groups: Sequence[int], categories: Sequence[str], seed: int) -> list[list[list[int]]]:
    """For each category its groups, as lists of indices, in a seeded order."""
    found: dict[str, dict[int, list[int]]] = {}
    for i, (group, category) in enumerate(zip(groups, categories, strict=True)):
        found.setdefault(category, {}).setdefault(group, []).append(i)
    drawn = []
    for _, members in sorted(found.items()):
        lists = list(members.values())
        drawn.append([lists[i] for i in np.random.default_rng(seed).permutation(len(lists))])
    return drawn


def _fifth(n: int) -> int:
    return max(n // 5, min(20, n // 2))


def _descending(scores: ArrayLike, weights: ArrayLike | None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Scores, highest first, and (n + 1,) the weight of the first 0, 1, ... n of them."""
    values = np.asarray(scores, np.float64)
    order = np.argsort(-values, kind="stable")
    weight = np.ones(len(values)) if weights is None else np.asarray(weights, np.float64)[order]
    return values[order], np.concatenate([[0.0], np.cumsum(weight)])


@dataclass(frozen=True)
class Rule:
    """What turns a score into a verdict: the one place where that is decided."""

    alpha: float  # accepted false-alarm rate
    confidence: float | None  # None: alpha holds on average over calibrations; else of this one with such confidence
    threshold: float  # a picture is a defect when its score is above this; on average, when its p-value is <= alpha
    pixel_threshold: float  # as many good parts as raise a false alarm have any map value above this
    average: float  # false-alarm rate that the threshold keeps on average over calibrations
    confident: float  # false-alarm rate that it keeps with `confidence`, or 95 %, whatever the luck of this calibration

    def verdict(self, score: float) -> Verdict:
        return "defect" if score > self.threshold else "good"

    def __str__(self) -> str:
        surely = 100 * (self.confidence or CONFIDENCE)
        return (
            f"of good parts, {100 * self.average:.3g} % raise a false alarm on average over calibrations, "
            f"with {surely:g} % confidence at most {100 * self.confident:.3g} %"
        )


@dataclass(frozen=True)
class Calibration:
    """Scores of good pictures that the model was not fitted on, and what they can promise.

    Each category judges by its own. Where the category of a picture is not known, its p-value is the largest of all.
    """

    kind: str
    scores: NDArray[Any] = field(default_factory=lambda: np.empty(0, np.float32))  # (n,) image scores
    peaks: NDArray[Any] = field(default_factory=lambda: np.empty(0, np.float32))  # (n,) highest value of each map
    categories: NDArray[Any] = None  # type: ignore[assignment]  # (n,) names; default: one pool without a name
    groups: NDArray[Any] = None  # type: ignore[assignment]  # (n,) equal where pictures belong together; default: alone

    def __post_init__(self) -> None:
        n = len(self.scores)
        for name, default in (("categories", np.full(n, "")), ("groups", np.arange(n))):
            given = getattr(self, name)
            object.__setattr__(self, name, default if given is None else np.asarray(given))
        if any(len(values) != n for values in (self.peaks, self.categories, self.groups)):
            raise ValueError("scores, peaks, categories and groups differ in length")

    def __len__(self) -> int:
        return len(self.scores)

    def pools(self, category: str | None = None) -> "list[Calibration]":
        """The part of the category, or each category's part where it is not known."""
        names = sorted(set(self.categories.tolist()))
        if category is not None and names != [""]:  # a nameless pool stands for all
            if category not in names:
                raise InlierError(f"the calibration knows no category {category!r}, only: {', '.join(names)}")
            names = [category]
        return [self._part(self.categories == name) for name in names]

    def _part(self, chosen: NDArray[np.bool_]) -> Self:
        arrays = {name: getattr(self, name)[chosen] for name in ("scores", "peaks", "categories", "groups")}
        return replace(self, **arrays)

    @property
    def n_groups(self) -> int:
        return len(set(self.groups.tolist()))

    @property
    def weights(self) -> NDArray[np.float64] | None:
        """(n,) share of each picture in its group; None where each is alone."""
        _, group, size = np.unique(self.groups, return_inverse=True, return_counts=True)
        return None if len(size) == len(self) else 1 / size[group]

    def maxima(self, values: NDArray[Any]) -> NDArray[Any]:
        """(groups,) the highest of each group's values (n,)."""
        _, group = np.unique(self.groups, return_inverse=True)
        highest = np.full(self.n_groups, -np.inf)
        np.maximum.at(highest, group, values)
        return highest

    def rule(
        self, alpha: float | None = None, confidence: float | None = None, category: str | None = None
    ) -> Rule | None:
        """The rule for the false-alarm rate `alpha`, or else for 0.01 or the lowest that can be promised.

        confidence: alpha shall be kept with it (such as 0.95), not on average. category: of the pictures to be judged.
        None without calibration. Raises InlierError if alpha or confidence are none, or can't be promised.
        """
        if not len(self):
            if alpha is not None or confidence is not None:
                raise InlierError(
                    "this model has no calibration, so no verdict can be given: train with --calibration split"
                )
            return None
        for name, value in (("alpha", alpha), ("confidence", confidence)):
            if value is not None and (not isinstance(value, Real) or isinstance(value, bool) or not 0 < value < 1):
                raise InlierError(
                    f"{name} must be a number between 0 and 1 (exclusive), not {value!r}; {WRITTEN[name]}"
                )
        pools = self.pools(category)
        if alpha is None:
            alpha = max(DEFAULT_ALPHA, *(smallest_alpha(pool.n_groups, confidence) for pool in pools))
        rules = [pool._own_rule(float(alpha), confidence) for pool in pools]
        return Rule(
            float(alpha),
            confidence,
            *(
                max(getattr(rule, name) for rule in rules)
                for name in ("threshold", "pixel_threshold", "average", "confident")
            ),
        )

    def _own_rule(self, alpha: float, confidence: float | None) -> Rule:
        """Of one category."""
        n, weights = self.n_groups, self.weights

        def limit(values: NDArray[Any]) -> float:
            if confidence is not None:
                return threshold(self.maxima(values), alpha, confidence=confidence)
            return threshold(values, alpha, weights)

        try:
            score, peak = limit(self.scores), limit(self.peaks)
        except ValueError as error:
            name = str(self.categories[0])
            raise InlierError(f"{name}: {error}" if name else str(error)) from error
        sure = confidence or CONFIDENCE
        k = rank(n, alpha, confidence)
        if weights is None or confidence is not None:
            return Rule(alpha, confidence, score, peak, k / (n + 1), confident_rate(k, n, sure))
        # the scores decide how many groups reach above the threshold: all numbers that can come out are allowed for
        # (Bonferroni). Of a group that reaches above, at least its smallest share does, at most all of it.
        allowed = round(alpha * (n + 1) - 1, 9)
        fewest, most = math.floor(allowed), min(n - 1, math.floor(round(allowed / weights.min(), 9)))
        k = max(fewest, int((self.maxima(self.scores) > score).sum())) + 1
        return Rule(alpha, confidence, score, peak, alpha, confident_rate(k, n, 1 - (1 - sure) / (most - fewest + 1)))

    def note(self, alpha: float | None, confidence: float | None = None, category: str | None = None) -> str:
        """What a person must be told about the false-alarm rate, if it is another than they may expect; or nothing."""
        if alpha is not None or not len(self):
            return ""
        few = min(self.pools(category), key=lambda pool: pool.n_groups)
        lowest = smallest_alpha(few.n_groups, confidence)
        if lowest <= DEFAULT_ALPHA:
            return ""
        name = str(few.categories[0])
        surely = "" if confidence is None else f" with {100 * confidence:g} % confidence"
        promise = f"{few._counted()} {agreeing(len(few), '<promises|promise>')}"
        return (
            f"{name and name + ': '}{promise} no false-alarm rate below {lowest:.4g}{surely}, so alpha "
            f"is {lowest:.4g} instead of {DEFAULT_ALPHA}; {needed_scores(DEFAULT_ALPHA, confidence)} would be needed"
        )

    def p_values(self, scores: ArrayLike, category: str | None = None) -> NDArray[np.float64]:
        """How often a good part of the category scores at least this high; of the kindest category if none is given."""
        of_pools = [p_values(pool.scores, scores, pool.weights) for pool in self.pools(category)]
        highest: NDArray[np.float64] = np.max(of_pools, axis=0)
        return highest

    def extended(self, more: "Calibration") -> "Calibration":
        """With the scores of further good pictures, whose groups are others."""
        if not len(self):
            return more
        joined = {name: np.concatenate([getattr(self, name), getattr(more, name)]) for name in ("scores", "peaks")}
        first = 1 + max(self.groups, default=-1) - min(more.groups, default=0)
        return Calibration(
            self.kind if self.kind == more.kind else "folds",  # of two promises the weaker one
            **joined,
            categories=np.concatenate([self.categories, more.categories]),
            groups=np.concatenate([self.groups, more.groups + first]),
        )

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
        names = sorted(set(self.categories.tolist()))
        return {"kind": self.kind, "n": len(self), "groups": self.n_groups, "categories": names}

    def _counted(self) -> str:
        n, groups = len(self), self.n_groups
        return counted(n, "calibration picture<|s>") + (f" in {counted(groups, 'group<|s>')}" if groups < n else "")

    def __str__(self) -> str:
        """What it consists of; what it promises is the matter of its rule."""
        if not len(self):
            return "none: raw scores only, no p-values and no verdicts"
        pools = self.pools()
        few = min(pools, key=lambda pool: pool.n_groups)
        of = f", the fewest in one category {few.n_groups}" if len(pools) > 1 else ""
        return f"{self.kind}, {self._counted()}{of} ({HOWS[self.kind]})"
