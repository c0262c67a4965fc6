"""What an evaluation found, as records, and their JSON."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from inlier.data.datasets.sample import Sample
from inlier.inspection.result import Prediction
from inlier.metrics import ImageMetrics, PixelMetrics

IMAGE, PIXEL = ("auroc", "ap", "f1_max"), ("auroc", "ap", "f1_max", "aupro")


@dataclass(frozen=True)
class Case:
    """One test picture and what the model said about it, without maps."""

    sample: Sample
    prediction: Prediction

    @property
    def score(self) -> float:
        assert self.prediction.score is not None  # one that cannot be read ends an evaluation
        return self.prediction.score


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


def _mean(values: Any) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
