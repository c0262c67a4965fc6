"""The report: one self-contained HTML page with numbers, charts and a gallery, for people who look at parts."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from inlier import artifact, drawing
from inlier.calibration import HOWS
from inlier.data.cues import CUES
from inlier.data.images import read_image
from inlier.inspection.inspector import Inspector
from inlier.names import agreeing, counted, shown
from inlier.progress import progress
from inlier.report.charts import data_uri, histogram, roc
from inlier.report.pages import interval, percent, render
from inlier.results import Case, CategoryResult, Results
from inlier.trivial import SUSPICIOUS, strongest, suspicious, warning

ROWS = 6  # pictures per gallery group


class Gallery(NamedTuple):
    """The cases that are shown."""

    misses: list[Case]  # defects with the lowest scores, those judged good first
    false_alarms: list[Case]  # good parts with the highest scores, those judged defect first
    hits: list[Case]  # found defects around the median score, none of the misses


def write_report(results: Results, inspector: Inspector, folder: Path) -> Path:
    """Write folder/index.html, one file without any reference to another, and return its path.

    inspector: judges the pictures of the gallery again, for their maps. Raises ArtifactError when the page cannot be
    written.
    """
    galleries = {name: choose(result.cases) for name, result in results.categories.items()}
    sections: list[dict[str, Any]] = []
    drawn = itertools.count(1)
    with progress("drawing report", sum(len(group) for gallery in galleries.values() for group in gallery)) as show:
        for name, result in results.categories.items():
            sections.append(_section(result, inspector, galleries[name], len(sections), lambda: show(next(drawn))))

    page = render(
        "page.html.j2",
        results=results,
        model=results.model,
        sections=sections,
        trivial=[(name, result.trivial) for name, result in results.categories.items() if result.trivial],
        cues=CUES,
        suspicious=SUSPICIOUS,
        warnings=list(filter(None, (warning(name, result.trivial) for name, result in results.categories.items()))),
        calibration=calibration_words(results.model),
        details=list(flat(results.model)),
        bar=data_uri(drawing.colour_bar()),
    )
    path = Path(folder) / "index.html"
    artifact.write_bytes(path, page.encode())
    return path


def choose(cases: Sequence[Case]) -> Gallery:
    """The cases worth looking at, at most ROWS of each kind."""
    defects = sorted(
        (c for c in cases if c.sample.is_defect), key=lambda c: (c.prediction.verdict == "defect", c.score)
    )
    good = sorted(
        (c for c in cases if not c.sample.is_defect), key=lambda c: (c.prediction.verdict == "good", -c.score)
    )
    found = [c.score for c in defects if c.prediction.verdict != "good"]
    typical = found[len(found) // 2] if found else 0.0
    others = (c for c in defects[ROWS:] if c.prediction.verdict != "good")
    hits = sorted(others, key=lambda c: abs(c.score - typical))[:ROWS]
    return Gallery(defects[:ROWS], good[:ROWS], sorted(hits, key=lambda c: -c.score))


def _section(
    result: CategoryResult, inspector: Inspector, gallery: Gallery, number: int, loaded: Callable[[], None]
) -> dict[str, Any]:
    """Everything of one category that needs drawing."""
    log_maps = inspector.log_maps
    good = [c.score for c in result.cases if not c.sample.is_defect]
    defect = [c.score for c in result.cases if c.sample.is_defect]
    charts = []
    if good or defect:
        threshold = None if result.rule is None else (result.rule.threshold, result.rule.alpha)
        charts.append(histogram(good, defect, threshold, shown(result.category)))
    if good and defect:
        label = f"AUROC {percent(result.image.auroc)} %"
        if "auroc" in result.intervals:
            label += f" (95 % interval {interval(result.intervals['auroc'])} %)"
        point = None
        if result.false_alarm_rate is not None and result.detection_rate is not None:
            point = result.false_alarm_rate, result.detection_rate
        scores, is_defect = [c.score for c in result.cases], [c.sample.is_defect for c in result.cases]
        charts.append(roc(scores, is_defect, label, point, shown(result.category)))

    panels: dict[int, tuple[Any, ...]] = {}
    for case in itertools.chain(*gallery):
        p = inspector.inspect(case.sample.source, category=inspector.category_of(case.sample.category))
        assert p.map is not None
        mask = case.sample.read_mask()
        # at once: all pictures at full size would fill the memory
        image, mask, map = drawing.shrink(read_image(case.sample.source), mask, p.map)
        repainted = [] if p.reconstruction is None else [Image.fromarray(p.reconstruction).resize(image.size)]
        panels[id(case)] = (image, mask, drawing.drawable(map, log_maps), *repainted)
        loaded()
    pixel_threshold = drawing.drawable(result.rule and result.rule.pixel_threshold, log_maps)
    scale = drawing.colour_scale([map for _, _, map, *_ in panels.values()], pixel_threshold)
    rows = {
        name: [_row(case, panels[id(case)], pixel_threshold, scale) for case in group]
        for name, group in gallery._asdict().items()
    }
    judged = result.rule is not None
    return {
        "result": result,
        "anchor": f"category-{number}",
        "charts": charts,
        "gallery": rows,
        "strongest": strongest(result.trivial),
        "leaks": suspicious(result.trivial),
        "scale": [10**end for end in scale] if log_maps else scale,
        "log_maps": log_maps,
        "mark": None if pixel_threshold is None else 100 * (pixel_threshold - scale[0]) / (scale[1] - scale[0]),
        "missed": sum(c.prediction.verdict == "good" for c in result.cases if c.sample.is_defect) if judged else None,
        "alarms": sum(c.prediction.verdict == "defect" for c in result.cases if not c.sample.is_defect)
        if judged
        else None,
        "hatched": any(np.isnan(map).any() for _, _, map, *_ in panels.values()),
    }


def _row(case: Case, panels: tuple[Any, ...], pixel_threshold: float | None, scale: drawing.Scale) -> dict[str, Any]:
    """One line of the gallery: a case's words and its panels (label, URI or None, words instead)."""
    image, mask, map, *repainted = panels
    is_defect, verdict = case.sample.is_defect, case.prediction.verdict
    outcomes = {"defect": "found" if is_defect else "false alarm", "good": "missed" if is_defect else "correct"}
    truth = "" if mask is not None else "no mask" if is_defect else "nothing to mark"
    drawn = [
        ("picture", image, ""),
        *(("reconstruction", picture, "") for picture in repainted),
        ("ground truth", None if mask is None else Image.fromarray(mask), truth),
        ("heat map", drawing.heat_map(map, scale), ""),
        ("overlay", drawing.overlay(image, map, pixel_threshold, scale), ""),
    ]
    return {
        "name": "/".join(PurePath(case.sample.name).parts[-2:]),
        "case": case,
        "outcome": verdict and outcomes[verdict],
        "panels": [(label, picture and data_uri(picture), words) for label, picture, words in drawn],
        "size": image.size,
        "unseen": 0 if mask is None or not mask.any() else np.isnan(map[mask]).mean(),
    }


def calibration_words(model: dict[str, Any]) -> str:
    """What the model may promise, in a sentence."""
    known = model.get("calibration") or {}
    kind, n = known.get("kind", "none"), known.get("n", 0)
    if not n:
        return "The model has no calibration: there are raw scores only, no p-values, no verdicts and no thresholds."
    groups = known.get("groups", n)
    of = agreeing(groups, "group<, which|s, each of which> counts as one")
    together = f" in {groups} {of}" if groups < n else ""
    return f"Calibrated on {counted(n, 'good picture<|s>')}{together}, {HOWS.get(kind, kind)}."


def flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """("calibration.kind", "split") ... of nested settings."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
