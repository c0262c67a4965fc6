"""The protocol: a fitted detector on the test images of a dataset, category by category.

Pixel metrics are computed at the size of the network's input, as all papers do; masks follow the pictures' own resize
and crop (nearest neighbour). The share of defect pixels that a crop leaves out is reported. Nothing here feeds back
into the model: thresholds come from the model's own calibration on good parts.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inlier import calibration
from inlier.data.datasets import Dataset, Sample, check, open_dataset
from inlier.data.images import read_image, read_mask
from inlier.detector import Detector
from inlier.errors import InlierError
from inlier.metrics import (
    ImageMetrics,
    PixelHistogram,
    PixelMetrics,
    bootstrap_interval,
    image_metrics,
    pixel_metrics,
)
from inlier.progress import progress

log = logging.getLogger("inlier")
IMAGE, PIXEL = ("auroc", "ap", "f1_max"), ("auroc", "ap", "f1_max", "aupro")
EXACT_PIXELS = 40_000_000  # 3 GB of memory; above, pixel metrics stream through a histogram and carry an error bound


@dataclass(frozen=True)
class Case:
    """One test image and what the detector said about it."""

    path: str
    source: Any
    defect: str | None  # None = good
    score: float
    p_value: float | None
    verdict: str | None
    load: Callable[[], tuple[Any, ...]]
    """(picture as read_image gives it, mask or None, map), all at the original size; scores the picture again. Methods
    that repaint pictures add the reconstruction, (H, W, 3) uint8."""


@dataclass(frozen=True)
class DefectResult:
    n: int
    image_auroc: float | None
    detection_rate: float | None


@dataclass(frozen=True)
class CategoryResult:
    category: str
    n_good: int
    n_defect: int
    image: ImageMetrics
    intervals: dict[str, tuple[float, float]]  # 95 % bootstrap intervals of the image metrics
    pixel: PixelMetrics | None
    pixel_note: str  # why there are no pixel metrics, or how far they may be off
    alpha: float | None
    false_alarm_rate: float | None
    detection_rate: float | None
    threshold: float | None  # defect when the score is above it
    pixel_threshold: float | None  # predicted region: map above it
    defects: dict[str, DefectResult]
    not_inspected: float  # share of defect pixels that the crop leaves out
    cases: tuple[Case, ...]

    def to_json(self) -> dict[str, Any]:
        at_alpha = {
            "alpha": self.alpha,
            "false_alarm_rate": self.false_alarm_rate,
            "detection_rate": self.detection_rate,
        }
        image = {key: getattr(self.image, key) for key in (*IMAGE, "f1_threshold")}
        return {
            "n_good": self.n_good,
            "n_defect": self.n_defect,
            "image": image
            | {"interval_95": {key: list(pair) for key, pair in self.intervals.items()} or None}
            | ({"note": self.image.reason} if self.image.reason else {}),
            "pixel": self.pixel and {key: getattr(self.pixel, key) for key in (*PIXEL, "f1_threshold")},
            "pixel_note": self.pixel_note,
            "not_inspected": self.not_inspected,
            "at_alpha": at_alpha if self.alpha is not None else None,
            "defects": {
                name: {"n": d.n, "image_auroc": d.image_auroc, "detection_rate": d.detection_rate}
                for name, d in self.defects.items()
            },
        }


@dataclass(frozen=True)
class Results:
    model: dict[str, Any]
    categories: dict[str, CategoryResult]
    seconds: dict[str, float]

    @property
    def mean(self) -> dict[str, Any]:
        """Each metric's mean over the categories in which it is defined; None where it is in none."""
        results = self.categories.values()
        image = {key: _mean(getattr(r.image, key) for r in results) for key in IMAGE}
        pixel = {key: _mean(getattr(r.pixel, key, None) for r in results) for key in PIXEL}
        rates = {key: _mean(getattr(r, key) for r in results) for key in ("false_alarm_rate", "detection_rate")}
        return {"image": image, "pixel": pixel if any(r.pixel for r in results) else None, "at_alpha": rates}

    def to_json(self) -> dict[str, Any]:
        """The fixed layout of `inlier evaluate --json`."""
        return {
            "schema": 1,
            "model": self.model,
            "categories": {name: result.to_json() for name, result in self.categories.items()},
            "mean": self.mean,
            "seconds": self.seconds,
        }


def evaluate(
    detector: Detector,
    data: Any,
    *,
    categories: Sequence[str] = (),
    alpha: float | None = None,
    batch_size: int = 8,
    workers: int = 2,
) -> Results:
    """Score the test images of `data` and compare with the truth.

    categories: default, those that the detector was fitted on. alpha: accepted false-alarm rate of the verdicts
    (default: 0.01, or the lowest that the calibration can promise). Raises InlierError for unusable data.
    """
    dataset = _select(open_dataset(data), categories or detector.categories_, bool(categories))
    if not dataset.test:
        raise InlierError(
            f"{dataset.name}: has no test images (looked for test/good and test/DEFECT; {dataset.layout})"
        )
    with progress("checking images", len(dataset.test)) as show:
        report = check(replace(dataset, samples=dataset.test), workers, lambda done, _total: show(done))
    for note in report.warnings:
        log.warning("%s", note)
    alpha, start = detector.calibration_.alpha(alpha), time.perf_counter()
    results = {}
    for category in dataset.categories:
        samples = [sample for sample in dataset.test if sample.category == category]
        if samples:
            results[category] = _evaluate_category(detector, category, samples, alpha, batch_size, workers)
    total = time.perf_counter() - start
    seconds = {"total": total, "per_image": total / len(dataset.test)}
    return Results(detector.header(), results, seconds)


def _evaluate_category(
    detector: Detector, category: str, samples: list[Sample], alpha: float | None, batch_size: int, workers: int
) -> CategoryResult:
    has_masks = any(sample.mask for sample in samples)
    scores, pixels = np.empty(len(samples), np.float32), _Pixels(len(samples), detector.settings.size)
    outside = total = 0
    sources = [sample.source for sample in samples]
    with progress(f"evaluating {category}", len(samples)) as show:
        # without masks nobody needs the maps; the report makes those it shows
        for batch in detector.scores(sources, batch_size=batch_size, workers=workers, maps=has_masks):
            scores[batch.indices] = batch.scores
            for i, map_, size in zip(batch.indices, batch.maps, batch.sizes):
                if has_masks and not samples[i].is_defect:
                    pixels.add(map_, np.zeros(map_.shape, bool))
                elif has_masks:
                    mask = _mask(samples[i], size)
                    pixels.add(map_, detector.preprocess.mask(mask))
                    top, left, bottom, right = (round(edge) for edge in detector.preprocess.crop_box(*size))
                    total, outside = total + mask.sum(), outside + mask.sum() - mask[top:bottom, left:right].sum()
            show(batch.indices[-1] + 1)

    defect = np.array([sample.is_defect for sample in samples])
    metrics, (pixel, note) = image_metrics(scores, defect), pixels.metrics(has_masks)
    threshold = pixel_threshold = flagged = p_values = None
    if alpha is not None:
        threshold = calibration.threshold(detector.calibration_.scores, alpha)
        pixel_threshold = calibration.threshold(detector.calibration_.peaks, alpha)
        p_values = detector.calibration_.p_values(scores)
        flagged = p_values <= alpha

    types = sorted({sample.defect for sample in samples if sample.defect is not None})
    defects = {}
    for name in types:
        chosen = np.array([sample.defect == name for sample in samples])
        part = chosen | ~defect
        defects[name] = DefectResult(
            int(chosen.sum()), image_metrics(scores[part], defect[part]).auroc, _rate(flagged, chosen)
        )

    def case(i: int) -> Case:
        sample, p = samples[i], None if p_values is None else float(p_values[i])
        verdict = None if flagged is None else "defect" if flagged[i] else "good"
        return Case(
            sample.name,
            sample.source,
            sample.defect,
            float(scores[i]),
            p,
            verdict,
            lambda: _load(detector, sample, alpha),
        )

    return CategoryResult(
        category=category,
        n_good=int((~defect).sum()),
        n_defect=int(defect.sum()),
        image=metrics,
        intervals={} if metrics.reason else bootstrap_interval(scores, defect),
        pixel=pixel,
        pixel_note=note,
        alpha=alpha,
        false_alarm_rate=_rate(flagged, ~defect),
        detection_rate=_rate(flagged, defect),
        threshold=threshold,
        pixel_threshold=pixel_threshold,
        defects=defects,
        not_inspected=float(outside / total) if total else 0.0,
        cases=tuple(case(i) for i in range(len(samples))),
    )


class _Pixels:
    """Pixel metrics of a category: exact where all maps fit into memory, else through a histogram."""

    def __init__(self, n: int, size: int):
        self.maps: list[NDArray[np.float32]] = []
        self.masks: list[NDArray[np.bool_]] = []
        self.histogram = PixelHistogram() if n * size * size > EXACT_PIXELS else None

    def add(self, map_: NDArray[np.float32], mask: NDArray[np.bool_]) -> None:
        if self.histogram:
            self.histogram.update(map_, mask)
        else:
            self.maps.append(map_)
            self.masks.append(mask)

    def metrics(self, has_masks: bool) -> tuple[PixelMetrics | None, str]:
        if not has_masks:
            return None, "no masks: pixel metrics are not available"
        if not self.histogram:
            metrics = pixel_metrics(np.stack(self.maps), np.stack(self.masks))
            return metrics, metrics.reason
        bounds = ", ".join(f"{name} {bound:.1g}" for name, bound in self.histogram.error_bounds.items())
        return self.histogram.compute(), f"computed from a histogram; error at most: {bounds}"


def _select(dataset: Dataset, wanted: Sequence[str], asked: bool) -> Dataset:
    if asked:
        return dataset.select(wanted)
    known = [name for name in wanted if name in dataset.categories]
    if known:
        left_out = [name for name in dataset.categories if name not in known]
        if left_out:
            log.info("not evaluated, the model was not fitted on them: %s", ", ".join(left_out))
        return dataset.select(known)
    log.warning(
        "the model was fitted on %s; the data holds %s: evaluating on all of it",
        ", ".join(wanted),
        ", ".join(dataset.categories),
    )
    return dataset


def _mask(sample: Sample, size: tuple[int, int]) -> NDArray[np.bool_]:
    return np.asarray(read_mask(sample.mask)) if sample.mask else np.zeros(size, bool)


def _load(detector: Detector, sample: Sample, alpha: float | None) -> tuple[Any, ...]:
    prediction = next(detector.predict([sample.source], alpha=alpha))
    assert prediction.map is not None  # it was scored before
    mask = _mask(sample, prediction.map.shape) if sample.mask else None
    repainted = () if prediction.reconstruction is None else (prediction.reconstruction,)
    return read_image(sample.source), mask, prediction.map, *repainted


def _rate(flagged: NDArray[np.bool_] | None, chosen: NDArray[np.bool_]) -> float | None:
    return None if flagged is None or not chosen.any() else float(flagged[chosen].mean())


def _mean(values: Any) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
