"""How well scores and maps separate good from defect: pure functions on arrays, exact, one sort.

Everything follows from one curve: sort the scores once, falling, and count good (`fp`) and defect (`tp`) at or above
every unique score; equal scores are one step. A prediction is `score >= threshold`. With P defects and N good:

- AUROC = P(defect > good) + P(equal) / 2: the trapezoid under tp / P over fp / N.
- AP = sum of (R_k - R_{k-1}) * precision_k (scikit-learn's); F1-max = largest 2 tp / (P + tp + fp), with the lowest
  threshold that reaches it.
- AUPRO (Bergmann et al., "The MVTec Anomaly Detection Dataset", IJCV 2021): PRO = share of a defect component that
  is found, averaged over all 8-connected components; FPR over all defect-free pixels of all images, good ones too;
  area under PRO over FPR up to `fpr_limit`, linear at the limit, divided by the limit.

Pixels are pooled over all images. What is not defined (no defect, or nothing good) is None and `reason` says why.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[Any]
Floats = NDArray[np.float64]
Maps = Array | Sequence[ArrayLike]


@dataclass(frozen=True)
class ImageMetrics:
    """Metrics of N image scores. The first three lie in [0, 1]; all are None where `reason` is not empty."""

    auroc: float | None = None
    ap: float | None = None
    f1_max: float | None = None
    f1_threshold: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class PixelMetrics:
    """Metrics of the pixels of N maps. All but the threshold lie in [0, 1]; all are None where `reason` is set."""

    auroc: float | None = None
    ap: float | None = None
    f1_max: float | None = None
    f1_threshold: float | None = None
    aupro: float | None = None
    reason: str = ""


def image_metrics(scores: ArrayLike, labels: ArrayLike) -> ImageMetrics:
    """AUROC, AP and F1-max of image scores (N,), higher = more anomalous; labels (N,), true = defect.
    Raises ValueError for other shapes, labels that are not boolean (or 0 / 1) and scores that are not finite.

    >>> image_metrics([0.1, 0.4, 0.35, 0.8], [False, False, True, True])
    ImageMetrics(auroc=0.75, ap=0.8333333333333333, f1_max=0.8, f1_threshold=0.35, reason='')
    >>> image_metrics([0.1, 0.4], [False, False]).reason
    'no defect picture among the test pictures: the metrics need defects and good ones'
    """
    scores, defect, reason = _scores_and_labels(scores, labels)
    if reason:
        return ImageMetrics(reason=reason)
    return ImageMetrics(*_summary(*_curve(scores, ~defect, defect)))


def pixel_metrics(maps: Maps, masks: Maps, fpr_limit: float = 0.3) -> PixelMetrics:
    """AUROC, AP, F1-max and AUPRO over the pixels of maps (N, H, W) with masks (N, H, W), true = defect.

    Both may also be sequences of (H, W) arrays of different sizes. NaN in a map marks a pixel that was not inspected:
    it counts nowhere, not in the size of its component either, and a component without inspected pixels is dropped.
    Takes about 80 bytes per pixel; `PixelHistogram` is the form for data that does not fit. Raises ValueError for
    unequal shapes, masks that are not boolean (or 0 / 1), infinite scores, and a limit outside (0, 1].

    >>> maps, masks = np.zeros((2, 4, 4), np.float32), np.zeros((2, 4, 4), bool)
    >>> maps[0, :2, :2], masks[0, :2, :2] = 1, True
    >>> pixel_metrics(maps, masks)
    PixelMetrics(auroc=1.0, ap=1.0, f1_max=1.0, f1_threshold=1.0, aupro=1.0, reason='')
    """
    if not 0 < fpr_limit <= 1:
        raise ValueError(f"fpr_limit must lie in (0, 1], not {fpr_limit}")
    if len(maps) != len(masks):
        raise ValueError(f"{len(maps)} maps but {len(masks)} masks: one mask per map is needed")
    pairs = [(np.empty(0, np.float32), np.empty(0))]  # so that no map at all is a case like any other
    pairs += [_pixels(m, k, f"map {i}") for i, (m, k) in enumerate(zip(maps, masks, strict=True))]
    scores, share = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
    defect = share > 0
    if reason := _one_class(~defect, defect, "pixel"):
        return PixelMetrics(reason=reason)
    thresholds, fp, tp, found = _curve(scores, ~defect, defect, share)
    return PixelMetrics(*_summary(thresholds, fp, tp), _aupro(fp, found, fpr_limit))


def roc_curve(scores: ArrayLike, labels: ArrayLike) -> tuple[Floats, Floats, Floats]:
    """(fpr, tpr, thresholds), each (K + 1,), of scores (N,) with K unique values; starts at (0, 0) with threshold inf.

    Raises ValueError as `image_metrics` does, and where it would give a reason instead of numbers.

    >>> fpr, tpr, thresholds = roc_curve([1, 2, 2, 3], [False, False, True, True])
    >>> fpr.tolist(), tpr.tolist(), thresholds.tolist()
    ([0.0, 0.0, 0.5, 1.0], [0.0, 0.5, 1.0, 1.0], [inf, 3.0, 2.0, 1.0])
    """
    scores, defect, reason = _scores_and_labels(scores, labels)
    if reason:
        raise ValueError(reason)
    thresholds, fp, tp = _curve(scores, ~defect, defect)
    return np.append(0, fp / fp[-1]), np.append(0, tp / tp[-1]), np.append(np.inf, thresholds)


def bootstrap_interval(
    scores: ArrayLike, labels: ArrayLike, confidence: float = 0.95, resamples: int = 1000, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """(low, high) of "auroc", "ap" and "f1_max" for scores (N,) and labels (N,): how far the test images decide them.

    Percentile bootstrap (Efron, 1979), stratified: good and defect are drawn apart, so the ratio stays. It says nothing
    of another training seed. Where all defects score above all good pictures (or below) no resample differs, and it
    would say 1 to 1 however few they are. Then "auroc" alone is there, from pairs of a good picture and a defect that
    share no picture: all are in order, `exact_interval` says how probable that is for one, and the AUROC is no less.
    Raises as `roc_curve`.

    >>> bootstrap_interval([0.1, 0.4, 0.35, 0.8], [False, False, True, True])["auroc"]
    (0.0, 1.0)
    >>> [round(edge, 3) for edge in bootstrap_interval([0.1, 0.2, 0.3], [False, False, True])["auroc"]]
    [0.025, 1.0]
    """
    if not 0 < confidence < 1 or resamples < 1:
        raise ValueError(f"confidence must lie in (0, 1), not {confidence}; resamples at 1 or more, not {resamples}")
    scores, defect, reason = _scores_and_labels(scores, labels)
    if reason:
        raise ValueError(reason)
    pairs = int(min(defect.sum(), (~defect).sum()))
    if scores[defect].min() > scores[~defect].max():
        return {"auroc": exact_interval(pairs, pairs, confidence)}
    if scores[defect].max() < scores[~defect].min():
        return {"auroc": exact_interval(0, pairs, confidence)}
    unique, rank = np.unique(-scores, return_inverse=True)  # rank 0 = highest score
    rng = np.random.default_rng(seed)
    steps = len(unique)

    def drawn(ranks: Array, rows: int) -> Floats:  # (rows, steps): drawn images at or above every unique score
        draws = rng.choice(ranks, (rows, len(ranks))) + steps * np.arange(rows)[:, None]
        return np.bincount(draws.ravel(), minlength=rows * steps).reshape(rows, steps).cumsum(1, dtype=np.float64)

    found = []
    chunk = max(1, 2**20 // len(scores))  # some megabytes at a time, however many images
    for start in range(0, resamples, chunk):
        rows = min(chunk, resamples - start)
        auroc, ap, f1 = _values(drawn(rank[~defect], rows), drawn(rank[defect], rows))
        found.append(np.stack([auroc, ap, f1.max(-1)]))
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(found, axis=1), [tail, 1 - tail], axis=1).tolist()
    return dict(zip(("auroc", "ap", "f1_max"), zip(low, high, strict=True), strict=True))


def exact_interval(k: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """(low, high) of a rate of which k of n were seen (Clopper and Pearson, "The use of confidence or fiducial limits
    illustrated in the case of the binomial", 1934). None of 50 means at most 7.1 % two-sided.

    >>> [round(edge, 4) for edge in exact_interval(0, 50)], [round(edge, 4) for edge in exact_interval(5, 10)]
    ([0.0, 0.0711], [0.1871, 0.8129])
    """
    from scipy.special import betaincinv

    if not 0 <= k <= n or n == 0:
        raise ValueError(f"{k} of {n}: must be from 0 to n, n at least 1")
    tail = (1 - confidence) / 2
    low = 0.0 if k == 0 else float(betaincinv(k, n - k + 1, tail))
    return low, 1.0 if k == n else float(betaincinv(k + 1, n - k, 1 - tail))


class PixelHistogram:
    """`pixel_metrics` image by image, in memory that does not grow: 24 * 2**bits bytes (25 MB for 20 bits).

    A score falls into a bin by the first `bits` (9..26) bits of its float32 pattern, ordered like the number itself:
    sign, 8 bits of exponent, the rest mantissa. Scores are told apart down to a relative 2**(9 - bits) (0.05 % for 20),
    inside a bin they count as equal, and `error_bounds` says how far off that can be. `f1_threshold` is the lower edge
    of a bin and `f1_max` the F1 it really reaches (scores in float32). float16 values lose nothing from 19 bits on,
    bfloat16 from 16. Raises ValueError as `pixel_metrics` does, and for scores that float32 cannot hold.

    >>> pixels = PixelHistogram()
    >>> pixels.update(np.float32([[1, 1.25], [1.5, 2]]), np.array([[False, True], [False, True]]))
    >>> pixels.compute().auroc, pixels.error_bounds["auroc"]
    (0.75, 0.0)
    """

    def __init__(self, bits: int = 20, fpr_limit: float = 0.3) -> None:
        if not 9 <= bits <= 26 or not 0 < fpr_limit <= 1:
            raise ValueError(f"bits must lie in 9..26, not {bits}; fpr_limit in (0, 1], not {fpr_limit}")
        self.bits, self.fpr_limit = bits, fpr_limit
        self._dropped = np.uint32(2 ** (32 - bits) - 1)  # the bits that bins do not see
        self._lossless = True  # ... and that were zero so far: every bin holds one value, nothing is lost
        self._good, self._defect = np.zeros(2**bits, np.int64), np.zeros(2**bits, np.int64)
        self._share = np.zeros(2**bits)

    def update(self, map: ArrayLike, mask: ArrayLike) -> None:
        """Counts the pixels of one map (H, W), NaN = not inspected, with its mask (H, W), true = defect."""
        scores, share = _pixels(map, mask, "the map")
        if (np.abs(scores) > np.finfo(np.float32).max).any():
            raise ValueError("the map holds scores beyond the range of float32 (3.4e38)")
        narrow = scores.astype(np.float32) + np.float32(0)  # -0.0 and 0.0 are one score
        pattern = narrow.view(np.uint32)
        # Rounding to float32 and dropping bits both keep the order (<=), which is all the error bounds rest on.
        self._lossless &= bool((narrow == scores).all()) and not (pattern & self._dropped).any()
        ordered = np.where(pattern >> 31, ~pattern, pattern | np.uint32(2**31))
        bins, defect = ordered >> np.uint32(32 - self.bits), share > 0
        np.add.at(self._good, bins[~defect], 1)
        np.add.at(self._defect, bins[defect], 1)
        np.add.at(self._share, bins[defect], share[defect])

    def compute(self) -> PixelMetrics:
        """The metrics of all pixels so far."""
        if reason := _one_class(self._good, self._defect, "pixel"):
            return PixelMetrics(reason=reason)
        bins, fp, tp, found = self._steps()
        return PixelMetrics(*_summary(self._edges(bins // 2), fp, tp), _aupro(fp, found, self.fpr_limit))

    @property
    def error_bounds(self) -> dict[str, float]:
        """|computed - exact| is at most this, for "auroc", "ap", "f1_max" and "aupro"; {} where they are None.
        Proven (rounding of float64 aside) by best and worst order inside every bin; 0 where the bins lost no bits."""
        if _one_class(self._good, self._defect, "pixel"):
            return {}
        if self._lossless:
            return dict.fromkeys(("auroc", "ap", "f1_max", "aupro"), 0.0)
        values = []
        for defects_first in (True, False):
            _, fp, tp, found = self._steps(defects_first)
            auroc, ap, f1 = _values(fp, tp)
            values.append(np.array([auroc, ap, f1.max(), _aupro(fp, found, self.fpr_limit)]))
        high, value = values
        bounds = np.maximum(high - value, 0)
        # Good first is no farther off for AUROC and AUPRO (a bin's line halves its box, or less if cut at the limit),
        # and F1 is reached by a threshold. AP is lowest if a bin's defects come last and are no ties: the k-th has
        # tp = before + k; tp / (tp + fp) is concave in tp, so its mean is at least that of the first and the last.
        first = tp - (new := np.diff(tp, prepend=0)) + 1
        lowest_ap = (new * (first / (first + fp) + tp / (tp + fp))).sum() / (2 * tp[-1])
        bounds[1] = max(bounds[1], value[1] - lowest_ap)
        return dict(zip(("auroc", "ap", "f1_max", "aupro"), bounds.tolist(), strict=True))

    def _steps(self, defects_first: bool = False) -> tuple[Array, ...]:
        """`_curve` of the bins, doubled; inside a bin defect and good are equal, or all defects come first."""
        bins = np.flatnonzero(self._good + self._defect)
        n = len(bins)
        scores = np.append(2 * bins, 2 * bins + int(defects_first))
        defects, share = np.pad(self._defect[bins], (n, 0)), np.pad(self._share[bins], (n, 0))
        return _curve(scores, np.pad(self._good[bins], (0, n)), defects, share)

    def _edges(self, bins: Array) -> Array:
        """Lowest float32 score of every bin; its only score, if nothing was lost."""
        ordered = bins.astype(np.uint32) << np.uint32(32 - self.bits)
        pattern = np.where(ordered >> 31, ordered & np.uint32(2**31 - 1), ~ordered)
        return (pattern & ~self._dropped if self._lossless else pattern).view(np.float32)


def _curve(scores: Array, *weights: Array) -> tuple[Array, ...]:
    """(thresholds, cumulated, ...), each (K,): the K unique scores, falling, and for each row of non-negative weights
    (N,) its sum over all scores >= threshold, in float64 (counts are exact below 2**53). The one sort."""
    order = np.argsort(scores)[::-1]
    ordered = scores[order]
    last = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))  # the last of equal scores stands for all
    return ordered[last], *(np.cumsum(row[order], dtype=np.float64)[last] for row in weights)


def _values(fp: Floats, tp: Floats) -> tuple[Floats, Floats, Floats]:
    """AUROC (...), AP (...), and F1 (..., K) at every threshold, of cumulated counts (..., K) that end above 0."""
    rise, defects = np.diff(tp, prepend=0), tp[..., -1]
    auroc = (np.diff(fp, prepend=0) * (tp - rise / 2)).sum(-1) / (fp[..., -1] * defects)
    ap = (rise * tp / np.maximum(tp + fp, 1)).sum(-1) / defects  # the 1 is for steps of weight 0: they add nothing
    return auroc, ap, 2 * tp / (defects[..., None] + tp + fp)


def _summary(thresholds: Array, fp: Floats, tp: Floats) -> tuple[float, float, float, float]:
    """(AUROC, AP, F1-max, lowest threshold that reaches it) of one curve."""
    auroc, ap, f1 = _values(fp, tp)
    best = len(f1) - 1 - int(np.argmax(f1[::-1]))
    return float(auroc), float(ap), float(f1[best]), float(thresholds[best])


def _aupro(fp: Floats, found: Floats, limit: float) -> float:
    fpr, pro = np.append(0, fp / fp[-1]), np.append(0, found / found[-1])
    k = int(np.searchsorted(fpr, limit, side="right"))  # points up to the limit; at least the 0
    at_limit = np.interp(limit, fpr[k - 1 : k + 1], pro[k - 1 : k + 1])
    x, y = np.append(fpr[:k], limit), np.append(pro[:k], at_limit)
    return float((np.diff(x) * (y[1:] + y[:-1])).sum() / (2 * limit))


def _one_class(good: Array, defect: Array, unit: str) -> str:
    """Why there is nothing to measure; "" if there are both classes."""
    missing = [f"no {kind} {unit}" for kind, there in (("defect", defect.any()), ("good", good.any())) if not there]
    return f"{' and '.join(missing)} among the test pictures: the metrics need defects and good ones" if missing else ""


def _pixels(map: ArrayLike, mask: ArrayLike, name: str) -> tuple[Array, Floats]:
    """(scores (n,), share (n,)) of the n inspected pixels; share = 1 / inspected size of a pixel's component, 0 = good,
    so that a sum of shares counts components."""
    from scipy import ndimage

    map, mask = _floating(map), _boolean(mask, f"the mask of {name}")
    if map.ndim != 2 or map.shape != mask.shape:
        raise ValueError(f"{name} has shape {map.shape} and its mask {mask.shape}: both must be the same (H, W)")
    if np.isinf(map).any():
        raise ValueError(f"{name} holds infinite scores (only NaN is allowed: a pixel that was not inspected)")
    share, inspected = np.zeros(map.shape), ~np.isnan(map)
    if mask.any():
        parts, count = ndimage.label(mask, np.ones((3, 3)))
        sizes = np.bincount(parts[inspected], minlength=count + 1)
        sizes[0] = 0
        share = np.divide(1, sizes, out=np.zeros(count + 1), where=sizes > 0)[parts]
    return map[inspected], share[inspected]


def _scores_and_labels(scores: ArrayLike, labels: ArrayLike) -> tuple[Array, NDArray[np.bool_], str]:
    scores, defect = _floating(scores), _boolean(labels, "labels")
    if scores.ndim != 1 or scores.shape != defect.shape:
        raise ValueError(f"scores have shape {scores.shape} and labels {defect.shape}: both must be the same (N,)")
    if not np.isfinite(scores).all():
        raise ValueError(f"scores: {(~np.isfinite(scores)).sum()} of {len(scores)} are NaN or infinite")
    return scores, defect, _one_class(~defect, defect, "picture")


def _floating(values: ArrayLike) -> Array:
    values = np.asarray(values)  # float32 stays (it sorts fastest), float16 becomes float32, all else float64
    return values.astype(np.float32 if values.dtype in (np.float16, np.float32) else np.float64, copy=False)


def _boolean(values: ArrayLike, name: str) -> NDArray[np.bool_]:
    values = np.asarray(values)
    if values.dtype != bool and not ((values == 0) | (values == 1)).all():
        raise ValueError(f"{name}: must be boolean or hold 0 and 1 only (255 = defect? pass `mask > 0`)")
    return values.astype(bool, copy=False)
