"""What a station says of itself, and what its records say about it."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from inlier.errors import InlierError
from inlier.metrics import exact_interval
from inlier.serve.store import Filter, now

if TYPE_CHECKING:
    from inlier.serve.plant import Plant
    from inlier.serve.station import Station

QUANTILES = (0.5, 0.95, 0.99)


def share(k: int, n: int) -> dict[str, Any]:
    """k of n, with its exact 95 % interval; None where nothing was seen.

    >>> round(share(0, 50)["high"], 4), share(0, 0)["share"]
    (0.0711, None)
    """
    low, high = exact_interval(k, n) if n else (None, None)
    return {"count": k, "of": n, "share": k / n if n else None, "low": low, "high": high}


def verdicts(counts: Mapping[tuple[str | None, str | None], int]) -> dict[str, Any]:
    """From counts by (verdict or "error", label)."""
    total = {v: sum(n for (verdict, _), n in counts.items() if verdict == v) for v in ("good", "defect", "error", None)}
    judged = total["good"] + total["defect"]
    return {
        "records": sum(total.values()),
        "good": total["good"],
        "defect": total["defect"],
        "errors": total["error"],
        "without_verdict": total[None],
        "defects": share(total["defect"], judged),
    }


def agreement(counts: Mapping[tuple[str | None, str | None], int]) -> dict[str, Any]:
    """How labels and verdicts agree. People label what they look at, so these are rates of what was labelled."""

    def of(verdict: str, label: str) -> int:
        return counts.get((verdict, label), 0)

    good = of("good", "good") + of("defect", "good")
    defect = of("good", "defect") + of("defect", "defect")
    right = of("good", "good") + of("defect", "defect")
    return {
        "labelled": good + defect,
        "agree": share(right, good + defect),
        "false_alarms": share(of("defect", "good"), good),
        "missed": share(of("good", "defect"), defect),
    }


def latencies(milliseconds: Sequence[float]) -> dict[str, float | None]:
    """
    >>> latencies([1.0, 2.0, 3.0])["p50"]
    2.0
    """
    if not len(milliseconds):
        return {f"p{100 * q:.0f}": None for q in QUANTILES}
    found = np.quantile(np.asarray(milliseconds, float), QUANTILES)
    return {f"p{100 * q:.0f}": round(float(value), 3) for q, value in zip(QUANTILES, found)}


def throughput(times: Sequence[int], until: int) -> dict[str, float]:
    """Records a minute, over the last minute and the last hour before `until`; times in microseconds."""
    ago = (until - np.asarray(times, np.int64)) / 1e6
    return {
        "last_minute": float((ago < 60).sum()),
        "last_hour_mean": round(float((ago < 3600).sum()) / 60, 3),
    }


def status(plant: "Plant", station: "Station") -> dict[str, Any]:
    """What it judges with, and whether all is well."""
    model = station.model
    return {
        "name": station.name,
        "model": {"sha256": model.sha256, "file": model.path.name},
        "settings": model.settings,
        "promise": str(model.rule) if model.rule else None,
        "threshold": model.rule.threshold if model.rule else None,
        "repaints": model.inspector.repaints,
        "waiting": station.waiting,
        "sinks": plant.sinks_of(station.name),
        "refusal": station.refusal(),
        "problem": station.problem,
        "drift": _drift(station),
    }


def _drift(station: "Station") -> dict[str, Any] | None:
    stream = station.drift.stream
    if stream is None:
        return None
    return {
        "pictures": stream.pictures,
        "watched": stream.strongest.what,
        "evidence": stream.strongest.evidence,
        "limit": stream.strongest.limit,
        "alarm": stream.alarm and str(stream.alarm),
    }


def summary(plant: "Plant", name: str, since: int | None = None, until: int | None = None) -> dict[str, Any]:
    """Of the records of some time: microseconds since 1970."""
    station = plant.station(name)
    chosen = Filter(name, since, until)
    counts = plant.store.counts(chosen)
    recent = plant.store.columns(chosen, ("latency", "time"), limit=10_000)
    return {
        "verdicts": verdicts(counts),
        "agreement": agreement(counts),
        "latency_ms": latencies([row[0] for row in recent]) | {"of": len(recent)},
        "throughput": throughput([row[1] for row in recent], until or now()),
        "drift": _drift(station),
    }


def rejudged(station: "Station", alpha: float) -> dict[str, Any]:
    """Raises InlierError where calibration cannot promise that alpha."""
    rule = station.model.rule_at(alpha)
    if rule is None:
        raise InlierError("this station's model has no calibration, so there are no verdicts")
    changed = station.store.changed_verdicts(Filter(station.name), station.model.sha256, alpha, rule.threshold)
    return {"alpha": alpha, "threshold": rule.threshold, "promise": str(rule), **changed}
