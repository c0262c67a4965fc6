"""The protocol: a fitted model on the test images of a dataset, category by category.

Pixel metrics are computed at the size of the network's input, as all papers do; masks follow the pictures' own resize
and crop (nearest neighbour). The share of defect pixels that a crop leaves out is reported. Nothing here feeds back
into the model: thresholds come from the model's own calibration on good parts.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inlier import trivial
from inlier.calibration import Rule
from inlier.data.check import check
from inlier.data.datasets import open_dataset
from inlier.data.datasets.sample import Dataset, Sample
from inlier.data.geometry import Geometry
from inlier.errors import InlierError
from inlier.inspection.inspector import Inspector
from inlier.metrics import PixelHistogram, PixelMetrics, bootstrap_interval, image_metrics, pixel_metrics
from inlier.names import counted
from inlier.progress import progress
from inlier.results import Case, CategoryResult, DefectResult, Results

log = logging.getLogger("inlier")
EXACT_PIXELS = 40_000_000  # 3 GB of memory; above, pixel metrics stream through a histogram and carry an error bound


def evaluate(
    inspector: Inspector,
    data: Any,
    *,
    categories: Sequence[str] = (),
    alpha: float | None = None,
    confidence: float | None = None,
    batch_size: int = 8,
    workers: int = 2,
) -> Results:
    """Score the test images of `data` and compare with the truth.

    categories: default, those that the model was fitted on. alpha: accepted false-alarm rate of the verdicts
    (default: 0.01, or the lowest that the calibration can promise); on average, or with `confidence`.
    Raises InlierError for unusable data.
    """
    inspector.check_fitted()
    dataset = _select(open_dataset(data), categories or inspector.categories_, bool(categories))
    if not dataset.test:
        raise InlierError(
            f"{dataset.name}: has no test pictures (looked for test/good and test/DEFECT; {dataset.layout})"
        )
    for note in dataset.notes:
        log.info("note: %s", note)
    for category in dataset.categories:  # what cannot be promised is said at once
        inspector.calibration_.rule(alpha, confidence, inspector.category_of(category))
    with progress("checking pictures", len(dataset.test)) as show:
        report = check(replace(dataset, samples=dataset.test), workers, show)
    for note in report.warnings:
        log.warning("%s", note)
    if fitted_on := inspector.n_known([look.digest for look in report.looks]):
        log.warning(
            "%d of these %s are ones that the model was fitted on, and it knows them: the figures are too good",
            fitted_on,
            counted(len(report.looks), "picture<|s>"),
        )
    results = {}
    total = 0.0
    for category in dataset.categories:
        pairs = [pair for pair in zip(dataset.test, report.looks, strict=True) if pair[0].category == category]
        if pairs:
            samples = [sample for sample, _ in pairs]
            train = [sample for sample in dataset.train if sample.category == category]
            defect = [sample.is_defect for sample in samples]
            baselines = trivial.of_category(train, [look.cues for _, look in pairs], defect, workers)
            known = inspector.category_of(category)
            truth = _Pixels(samples, inspector.geometry_for(known))
            asked: dict[str, Any] = {"alpha": alpha, "confidence": confidence, "category": known}
            start = time.perf_counter()
            cases = _score(inspector, category, samples, truth, asked, batch_size, workers)
            total += time.perf_counter() - start
            results[category] = _summary(category, cases, truth, inspector.calibration_.rule(**asked), baselines)
    return Results(inspector.header(), results, {"total": total, "per_image": total / len(dataset.test)})


def _score(
    inspector: Inspector,
    category: str,
    samples: Sequence[Sample],
    truth: "_Pixels",
    asked: dict[str, Any],
    batch_size: int,
    workers: int,
) -> list[Case]:
    cases = []
    # without masks nobody needs the maps; the report makes those it shows
    found = inspector.predict(
        [sample.source for sample in samples],
        **asked,
        batch_size=batch_size,
        workers=workers,
        maps=truth.has_masks,
    )
    with progress(f"evaluating {category}", len(samples)) as show:
        for sample, prediction in zip(samples, found):
            if prediction.network_maps is not None:
                truth.add(prediction.network_maps, sample, prediction.size)
            cases.append(Case(sample, replace(prediction.without_maps(), path=sample.name)))
            show(len(cases))
    return cases


def _summary(
    category: str,
    cases: Sequence[Case],
    truth: "_Pixels",
    rule: Rule | None,
    baselines: dict[str, trivial.Baseline],
) -> CategoryResult:
    scores = np.array([case.score for case in cases], np.float32)
    defect = np.array([case.sample.is_defect for case in cases])
    flagged = np.array([case.prediction.verdict == "defect" for case in cases]) if rule else None
    metrics, (pixel, note) = image_metrics(scores, defect), truth.metrics()
    defects = {}
    for name in sorted({case.sample.defect for case in cases if case.sample.defect is not None}):
        chosen = np.array([case.sample.defect == name for case in cases])
        part = chosen | ~defect
        auroc = image_metrics(scores[part], defect[part]).auroc
        defects[name] = DefectResult(int(chosen.sum()), auroc, _rate(flagged, chosen))
    return CategoryResult(
        category=category,
        n_good=int((~defect).sum()),
        n_defect=int(defect.sum()),
        image=metrics,
        intervals={} if metrics.reason else bootstrap_interval(scores, defect),
        pixel=pixel,
        pixel_note=note,
        rule=rule,
        false_alarm_rate=_rate(flagged, ~defect),
        detection_rate=_rate(flagged, defect),
        defects=defects,
        not_inspected=truth.not_inspected,
        trivial=baselines,
        cases=tuple(cases),
    )


class _Pixels:
    """Maps beside masks, and their metrics: exact where all fit into memory, else through a histogram."""

    def __init__(self, samples: Sequence[Sample], geometry: Geometry):
        self.geometry = geometry
        self.has_masks = any(sample.is_defect and sample.masks for sample in samples)
        self.maps: list[NDArray[np.float32]] = []
        self.masks: list[NDArray[np.bool_]] = []
        self.histogram = PixelHistogram() if len(samples) * self.geometry.size**2 > EXACT_PIXELS else None
        self.defect_pixels = self.outside = 0  # at the original size; outside crop and region
        self.rescued = 0  # defects smaller than a pixel of the map

    def add(self, maps: NDArray[np.float32], sample: Sample, size: tuple[int, int]) -> None:
        map_ = self.geometry.grid(maps, *size)
        mask = np.zeros(map_.shape, bool)
        if sample.is_defect:
            truth = sample.read_mask()
            original = np.zeros(size, bool) if truth is None else truth
            mask, rescued = self.geometry.mask_and_rescued(original)
            self.rescued += rescued
            self.defect_pixels += original.sum()
            self.outside += original.sum() - original[self.geometry.seen(*size)].sum()
        if self.histogram:
            self.histogram.update(map_, mask)
        else:
            self.maps.append(map_)
            self.masks.append(mask)

    @property
    def not_inspected(self) -> float:
        """Share of the defect pixels that the crop or the region of interest leaves out."""
        return float(self.outside / self.defect_pixels) if self.defect_pixels else 0.0

    def metrics(self) -> tuple[PixelMetrics | None, str]:
        if not self.has_masks:
            return None, "no masks: pixel metrics are not available"
        rescued = f"{self.rescued} defects fall between the map's pixels, and count by those they lie in"
        rescued = rescued if self.rescued else ""
        if not self.histogram:
            metrics = pixel_metrics(np.stack(self.maps), np.stack(self.masks))
            return metrics, "; ".join(filter(None, [metrics.reason, rescued]))
        bounds = ", ".join(f"{name} {bound:.1g}" for name, bound in self.histogram.error_bounds.items())
        note = f"computed from a histogram; error at most: {bounds}"
        return self.histogram.compute(), "; ".join(filter(None, [note, rescued]))


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


def _rate(flagged: NDArray[np.bool_] | None, chosen: NDArray[np.bool_]) -> float | None:
    return None if flagged is None or not chosen.any() else float(flagged[chosen].mean())
