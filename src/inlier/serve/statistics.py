"""What a station's records say about it: pure functions of counts and columns."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from inlier.metrics import exact_interval

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
