"""A new model is a proposal. It takes the old one's place where its calibration and what it says of good pictures that
neither was fitted on hold against it."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from inlier.bench import trial
from inlier.data.datasets.sample import Sample, evenly
from inlier.errors import InlierError
from inlier.inspection.inspector import Inspector

MOST = 40  # kept pictures that are looked at; two defects are planted in each
DOUBT = 0.01  # a promise is broken where so many false alarms are less likely than this
WORSE = 0.05  # one model is worse where the pictures on which both differ say so with this probability of error

Change = dict[str, Any]


def compare(
    new: Inspector, old: Inspector | None, kept: Sequence[Sample], alpha: float | None, seed: int = 0
) -> Change:
    """Numbers of both models: what they promise, and what they say of kept pictures, without and with planted defects.

    `alarms` and `found` hold a truth value for each kept picture and for each planted defect, by the model's own rule.
    """
    chosen = evenly(kept, MOST)
    return {
        "kept": len(chosen),
        "new": _said(new, chosen, alpha, seed),
        "old": None if old is None else _said(old, chosen, alpha, seed),
    }


def _said(model: Inspector, kept: Sequence[Sample], alpha: float | None, seed: int) -> Change:
    found: Change = {"alpha": None, "average": None, "confident": None, "n": len(model.calibration_), "error": None}
    found |= {"alarms": None, "found": None}
    try:
        rule = model.calibration_.rule(alpha)
    except InlierError as error:
        return found | {"error": str(error)}
    if rule is None:
        return found | {"error": "it has no calibration, so it gives no verdicts"}
    found |= {"alpha": rule.alpha, "average": rule.average, "confident": rule.confident}
    if not kept:
        return found
    categories = [model.category_of(sample.category) for sample in kept]
    limits = {name: model.calibration_.rule(alpha, category=name) for name in categories}
    thresholds = np.array([limit.threshold for name in categories if (limit := limits[name])])
    tried = trial.run(model, kept, seed, maps=False)
    alarms, detected = tried.good > thresholds, tried.defects > thresholds[tried.pictures]
    return found | {"alarms": alarms.tolist(), "found": detected.tolist()}


def objections(change: Change) -> list[str]:
    """What speaks against the new model; nothing: it may be promoted."""
    new, old = change["new"], change["old"]
    if new["error"]:
        return [f"its calibration does not hold: {new['error']}"]
    against = []
    if new["alarms"] is not None:
        alarms, n = sum(new["alarms"]), len(new["alarms"])
        if _at_least(alarms, n, new["average"]) < DOUBT:
            against.append(
                f"it raises {alarms} false alarms on {n} kept good pictures, where its calibration promises "
                f"{100 * new['average']:.3g} %"
            )
    if old is None or old["alarms"] is None or new["alarms"] is None:
        return against
    for key, what, worse in (
        ("alarms", "false alarms on kept good pictures", 1),
        ("found", "planted defects found", 0),
    ):
        pairs = list(zip(new[key], old[key], strict=True))
        lost = sum(is_new == worse and is_old != worse for is_new, is_old in pairs)
        won = sum(is_new != worse and is_old == worse for is_new, is_old in pairs)
        if _at_least(lost, lost + won, 0.5) < WORSE:
            against.append(f"{what}: {sum(new[key])} of {len(pairs)}, with the model in use {sum(old[key])}")
    return against


def _at_least(k: int, n: int, p: float) -> float:
    """Probability of k or more of n, each with probability p (for p = 1/2 the exact test of McNemar)."""
    from scipy.stats import binom

    return float(binom.sf(k - 1, n, p))
