"""A station's model calibrated on what people called good, and what that would change."""

import logging
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from inlier.data.region import Region
from inlier.errors import InlierError
from inlier.serve.models import Model, adopt, recalibrated
from inlier.serve.plant import Plant
from inlier.serve.station import Station
from inlier.serve.store import Filter, Store

log = logging.getLogger("inlier")
FEWEST = 2
TRIED = 40  # kept pictures that are judged again where the region changes


def calibrate(
    plant: Plant, name: str, who: str, *, region: Region | None = None, apply: bool = False
) -> dict[str, Any]:
    """What calibration on the kept pictures of records labelled good would change; apply: let it. Raises InlierError.

    region: another region of interest. Scores are made anew, so this takes a while.
    """
    station = plant.station(name)
    model, config = station.model, station.config
    good = good_pictures(plant, name)
    if region is not None and len(good) < FEWEST and config.good is not None:
        good = [path for path in sorted(config.good.rglob("*")) if path.is_file()]
    if len(good) < FEWEST:
        raise InlierError(
            f"station {name}: {len(good)} kept pictures are labelled good; label more, at least {FEWEST}: with n of "
            "them no false-alarm rate below 1 / (n + 1) can be promised"
        )
    inspector = recalibrated(config, model.path, good, region)
    new = replace(model, inspector=inspector)  # opened anew: the station's own is asked by its judge alone
    alpha = _promised(new)
    new_rule = new.rule_at(alpha) if alpha is not None else None
    told = {
        "pictures": len(good),
        "before": _rule(model),
        "now": None if new_rule is None else asdict(new_rule) | {"scores": len(inspector.calibration_)},
        "note": inspector.calibration_.note(model.alpha, model.confidence, model.known_category),
        "changes": _changes(plant.store, station, new, region is not None, alpha),
        "applied": apply,
    }
    if apply:
        _ = new.rule  # an alpha that cannot be promised any more is refused before anything changes
        path = adopt(inspector, config, plant.folder / "models")
        plant.reload(name, who)
        details = {key: told[key] for key in ("pictures", "before", "now", "changes")}
        plant.store.act(who, "calibrate", details | {"station": name, "file": path.name, "region": region is not None})
    return told


def good_pictures(plant: Plant, name: str) -> list[Path]:
    """Files of pictures whose last label is good, each content once."""
    rows = plant.store.all(Filter(name, label="good", kept=True))
    names = {row["picture"]: row["kept"] for row in rows}
    return [path for kept in names.values() if (path := plant.pictures.path(kept)).is_file()]


def _promised(model: Model) -> float | None:
    """The station's alpha, or the lowest that is left to be promised."""
    try:
        rule = model.rule
    except InlierError:
        rule = model.inspector.calibration_.rule(None, model.confidence, model.known_category)
    return None if rule is None else rule.alpha


def _rule(model: Model) -> dict[str, Any] | None:
    rule = model.rule
    return None if rule is None else asdict(rule) | {"scores": len(model.inspector.calibration_)}


def _changes(store: Store, station: Station, new: Model, scores_change: bool, alpha: float | None) -> dict[str, int]:
    """How many verdicts of the station's records would be others."""
    chosen = Filter(station.name, model=new.sha256)
    rule = None if alpha is None else new.rule_at(alpha)
    if rule is None:
        return {"records": 0, "to_defect": 0, "to_good": 0}
    if not scores_change:
        return store.changed_verdicts(chosen, new.sha256, rule.alpha, rule.threshold)
    rows = [row for row in store.page(Filter(station.name, kept=True), limit=TRIED) if row["verdict"]]
    paths = [station.pictures.path(row["kept"]) for row in rows]
    if not rows:
        return {"records": 0, "to_defect": 0, "to_good": 0}
    told = [(row["verdict"], p.verdict) for row, p in zip(rows, new.inspector.predict(
        paths, alpha=alpha, confidence=new.confidence, category=new.category, errors="keep", maps=False))]  # fmt: skip
    return {
        "records": len(rows),
        "to_defect": told.count(("good", "defect")),
        "to_good": told.count(("defect", "good")),
    }
