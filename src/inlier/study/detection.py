"""Probability of detection (POD) over the size of a defect, from hits and misses.

As in non-destructive testing (MIL-HDBK-1823A, 2009, appendix G): logit POD(a) = intercept + slope log a, fitted by
maximum likelihood. a90 is the size that is found in 90 % of cases, a90/95 its upper 95 % confidence bound, here by
profile likelihood: the size at which the likelihood, maximized over all curves with that a90, is just too low
(one-sided, chi-squared with one degree of freedom). Wald's bound takes the estimate for normal, which it is not where
misses are few.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq, minimize
from scipy.special import chdtri, expit, log_expit, logit

Floats = NDArray[np.float64]
LEAST = 60  # hits and misses that the handbook asks for
FARTHEST = 50.0  # of a90 from the sizes, and of its bound from a90, in logarithms: no size at all


@dataclass(frozen=True)
class Curve:
    """POD over a size; `x` and `found` are what it was fitted to."""

    intercept: float
    slope: float
    log_likelihood: float
    x: Floats  # (n,) natural logarithms of the sizes
    found: NDArray[np.bool_]  # (n,)

    def probability(self, sizes: ArrayLike) -> Floats:
        """In [0, 1], of sizes above 0."""
        pod: Floats = expit(self.intercept + self.slope * np.log(np.asarray(sizes, np.float64)))
        return pod

    def size(self, pod: float = 0.9) -> float | None:
        """a90: the size found with this probability; None where larger defects are hardly found more often."""
        x = (float(logit(pod)) - self.intercept) / self.slope if self.slope > 0 else np.inf
        return float(np.exp(x)) if abs(x - self.x.mean()) < FARTHEST else None

    def bound(self, pod: float = 0.9) -> float | None:
        """a90/95: with 95 % confidence, defects from this size on are found with this probability or a higher one.

        None where no size can be named, because the data leave open whether size matters at all.
        """
        estimate = self.size(pod)
        if estimate is None:
            return None
        start = float(np.log(estimate))
        allowed = float(chdtri(1, 2 * 0.05)) / 2  # one-sided

        def excess(distance: float) -> float:
            return self.log_likelihood - self._profile(start + distance, pod) - allowed

        step = 0.1
        while excess(step) < 0:
            step *= 2
            if step > FARTHEST:
                return None
        return float(np.exp(start + brentq(excess, 0, step, xtol=1e-9)))

    def _profile(self, x90: float, pod: float) -> float:
        """The highest log-likelihood of all curves that pass through (x90, pod)."""
        target = float(logit(pod))
        away = self.x - x90

        def gradient(slope: float) -> float:
            return float(away @ (self.found - expit(target + slope * away)))

        width = 1.0  # the likelihood is concave in the slope, so its gradient falls
        while gradient(-width) < 0 or gradient(width) > 0:
            width *= 2
        return _log_likelihood(target + brentq(gradient, -width, width, xtol=1e-12) * away, self.found)


def why_not(sizes: ArrayLike, found: ArrayLike) -> str:
    """Why no curve can be fitted; "" if one can. Without overlap of hits and misses the slope is infinite."""
    sizes, found = np.asarray(sizes, np.float64), np.asarray(found, np.bool_)
    if not len(sizes):
        return "no defect of known size was judged"
    if found.all():
        return f"all {len(found)} defects were found, so nothing tells which size would be missed"
    if not found.any():
        return f"none of {len(found)} defects was found"
    if sizes[~found].max() <= sizes[found].min() or sizes[found].max() <= sizes[~found].min():
        return "the sizes of found and missed defects do not overlap, so any steep curve would do"
    return ""


def fit(sizes: ArrayLike, found: ArrayLike) -> Curve:
    """The most likely curve. sizes: (n,) above 0; found: (n,). Raises ValueError for what `why_not` names."""
    x, found = np.log(np.asarray(sizes, np.float64)), np.asarray(found, np.bool_)
    if not np.isfinite(x).all():
        raise ValueError("sizes must be above 0")
    if reason := why_not(sizes, found):
        raise ValueError(reason)
    centre = x.mean()
    columns = np.stack([np.ones(len(x)), x - centre], 1)  # centred, the two parameters hardly depend on each other

    def information(parameters: Floats) -> Floats:
        p = expit(columns @ parameters)
        return (columns.T * (p * (1 - p))) @ columns

    result = minimize(
        lambda parameters: -_log_likelihood(columns @ parameters, found),
        np.zeros(2),
        method="trust-exact",
        jac=lambda parameters: columns.T @ (expit(columns @ parameters) - found),
        hess=information,
        options={"gtol": 1e-9},
    )
    at_centre, slope = map(float, result.x)
    return Curve(at_centre - slope * float(centre), slope, -float(result.fun), x, found)


def _log_likelihood(logits: Floats, found: NDArray[np.bool_]) -> float:
    return float(log_expit(np.where(found, logits, -logits)).sum())
