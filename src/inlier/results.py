"""What an evaluation found, as records, and their JSON."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from inlier.calibration import Rule
from inlier.data.datasets.sample import Sample
from inlier.inspection.result import Prediction
from inlier.metrics import ImageMetrics, PixelMetrics, exact_interval
from inlier.names import counted
from inlier.trivial import Baseline

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

    @property
    def detection_interval(self) -> tuple[float, float] | None:
        """95 %, exact."""
        return _interval(self.detection_rate, self.n)


@dataclass(frozen=True)
class CategoryResult:
    category: str
    n_good: int
    n_defect: int
    image: ImageMetrics
    intervals: dict[str, tuple[float, float]]  # 95 % intervals of the image metrics, of those that have one
    pixel: PixelMetrics | None
    pixel_note: str  # why there are no pixel metrics, or how far they may be off
    rule: Rule | None  # of the verdicts
    false_alarm_rate: float | None
    detection_rate: float | None
    defects: dict[str, DefectResult]
    not_inspected: float  # share of defect pixels that the crop or the region of interest leaves out
    trivial: dict[str, Baseline]  # cue -> how well it alone does; none where not both kinds are tested
    cases: tuple[Case, ...]

    @property
    def false_alarm_interval(self) -> tuple[float, float] | None:
        """95 %, exact."""
        return _interval(self.false_alarm_rate, self.n_good)

    @property
    def detection_interval(self) -> tuple[float, float] | None:
        """95 %, exact."""
        return _interval(self.detection_rate, self.n_defect)

    @property
    def image_note(self) -> str:
        """Why there are no image metrics, or an interval for one of them alone."""
        if self.image.auroc not in (0, 1):
            return self.image.reason
        where = "above" if self.image.auroc else "below"
        pairs = min(self.n_good, self.n_defect)
        return (
            f"every defect scores {where} every good picture, so resampling them would change nothing: the interval of "
            f"the AUROC is the exact one of {counted(pairs, '<pair|pairs>')} of pictures, AP and F1-max have none"
        )

    def to_json(self) -> dict[str, Any]:
        at_alpha = self.rule and {
            "alpha": self.rule.alpha,
            "confidence": self.rule.confidence,
            "average": self.rule.average,
            "confident": self.rule.confident,
            "false_alarm_rate": self.false_alarm_rate,
            "false_alarm_interval_95": self.false_alarm_interval,
            "detection_rate": self.detection_rate,
            "detection_interval_95": self.detection_interval,
        }
        image = {key: getattr(self.image, key) for key in (*IMAGE, "f1_threshold")}
        return {
            "n_good": self.n_good,
            "n_defect": self.n_defect,
            "image": image
            | {"interval_95": {key: self.intervals.get(key) for key in IMAGE} if self.intervals else None}
            | ({"note": self.image_note} if self.image_note else {}),
            "pixel": self.pixel and {key: getattr(self.pixel, key) for key in (*PIXEL, "f1_threshold")},
            "pixel_note": self.pixel_note,
            "not_inspected": self.not_inspected,
            "at_alpha": at_alpha,
            "trivial": {cue: baseline._asdict() for cue, baseline in self.trivial.items()},
            "defects": {
                name: {
                    "n": d.n,
                    "image_auroc": d.image_auroc,
                    "detection_rate": d.detection_rate,
                    "detection_interval_95": d.detection_interval,
                }
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


def _interval(rate: float | None, n: int) -> tuple[float, float] | None:
    return None if rate is None else exact_interval(round(rate * n), n)


def _mean(values: Any) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
