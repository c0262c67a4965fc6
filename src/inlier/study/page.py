"""The report of a study: a page and a table of all its figures."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from inlier import artifact, drawing
from inlier.bench.card import chart as card_chart
from inlier.bench.stress import Card
from inlier.data.images import read_image
from inlier.report.charts import data_uri, detection
from inlier.report.pages import percent, render
from inlier.study import agreement, plan
from inlier.study.agreement import Agreement, Appraiser, Kappa, Share, kappa_words
from inlier.study.detection import LEAST, Curve, fit, why_not
from inlier.study.judgements import Table
from inlier.study.judging import Detection
from inlier.study.parts import Part

FILES = ("index.html", "study.csv")
SIDE = 260  # pixels
FAR = 3.0  # times the largest size
SHOWN = 24  # parts that disagree
LEVELS = np.concatenate([np.linspace(0.02, 0.88, 25), np.linspace(0.9, 0.99, 10)])  # at which the bound is drawn
COLUMNS = ("about", "figure", "count", "of", "value", "low", "high", "verdict")


def write(
    parts: Sequence[Part], table: Table, detections: Sequence[Detection], card: Card | None, folder: Path
) -> list[Path]:
    """Write FILES into the folder, and return their paths. card: what `inlier stress` found out, if it was asked.

    Raises ArtifactError if they cannot be written.
    """
    truth = np.array([part.is_defect for part in parts])
    found = agreement.agreement(table.names, table.ratings, truth)
    apart = _apart(parts, table, truth)
    curves = [curve for name in dict.fromkeys(d.model for d in detections) for curve in _curves(name, detections)]
    html = render(
        "study.html.j2",
        "inlier.study",
        parts=parts,
        drawn={kind: sum(p.drawn_as == kind for p in parts) for kind in ("good", "defect", "borderline")},
        n_defects=int(truth.sum()),
        trials=table.ratings.shape[2],
        found=found,
        reasons={a.name: _reasons(a) for a in found.appraisers},
        apart=apart,
        escapes={a.name: _limits(a.missed) for a in found.appraisers},
        simulated=table.simulated,
        kappa_words=kappa_words,
        matrix=_matrix(found),
        limits=agreement,
        curves=curves,
        least=LEAST,
        card=card,
        chart=card and card_chart(card),
        disagreeing=[_shown(parts[i], table, i) for i in disagreeing(table, truth)[:SHOWN]],
        n_disagreeing=len(disagreeing(table, truth)),
    )
    artifact.write_bytes(folder / FILES[0], html.encode(errors="backslashreplace"))
    figures = [*_rows(found), *_rows_apart(apart), *(row for curve in curves for row in curve["rows"])]
    artifact.write_table(folder / FILES[1], COLUMNS, figures)
    return [folder / name for name in FILES]


def disagreeing(table: Table, truth: np.ndarray) -> list[int]:
    """Parts on which not all judgements are right, those with the most wrong ones first."""
    wrong = (table.ratings != truth[None, :, None]).sum((0, 2))
    return [int(i) for i in np.argsort(-wrong, kind="stable") if wrong[i]]


def _apart(parts: Sequence[Part], table: Table, truth: np.ndarray) -> dict[str, Agreement]:
    """The figures of clear and of borderline parts, where both were drawn."""
    borderline = np.array([part.drawn_as == "borderline" for part in parts])
    if borderline.all() or not borderline.any():
        return {}
    chosen = {"clear parts": ~borderline, "borderline parts": borderline}
    return {
        kind: agreement.agreement(table.names, table.ratings[:, those], truth[those]) for kind, those in chosen.items()
    }


def _reasons(a: Appraiser) -> list[str]:
    """The figures that are not acceptable."""
    shares = {"effectiveness": a.effectiveness, "miss rate": a.miss_rate, "false-alarm rate": a.false_alarm_rate}
    return [
        f"{name} {percent(shares[name].value)} %"
        for name, grade in a.grades.items()
        if grade not in ("acceptable", None)
    ]


def _limits(missed: Share) -> tuple[float, float] | None:
    """With 95 % confidence, and by Bayes with 95 % probability, at most such a share of defects is missed."""
    if not missed.n:
        return None
    return plan.upper_limit(missed.k, missed.n), plan.upper_limit_bayes(missed.k, missed.n)


def _matrix(found: Agreement) -> list[list[Kappa | None]]:
    """Cohen's kappa of each two appraisers, and in the last column against the truth."""
    names = [a.name for a in found.appraisers]
    both = found.pairs | {(b, a): kappa for (a, b), kappa in found.pairs.items()}
    return [[*(both.get((a.name, name)) for name in names), a.kappa_truth] for a in found.appraisers]


def _curves(model: str, detections: Sequence[Detection]) -> list[dict[str, Any]]:
    """Detection over size and over contrast: of real defects, and of planted ones."""
    curves = []
    for origin in ("real", "planted"):
        own = [d for d in detections if d.model == model and bool(d.kind) == (origin == "planted")]
        if own:
            about, found = f"{model}, {origin} defects", [d.found for d in own]
            curves += [
                _curve(f"{about}, by size", "diameter of a disc of its area, pixels", [d.size for d in own], found),
                _curve(f"{about}, by contrast", "contrast, grey levels of 255", [d.contrast for d in own], found),
            ]
    return curves


def _curve(about: str, x: str, sizes: Sequence[float], found: Sequence[bool]) -> dict[str, Any]:
    reason = why_not(sizes, found)
    curve = None if reason else fit(sizes, found)
    a90, bound = (curve.size(), curve.bound()) if curve else (None, None)
    known = {name: value for name, value in (("a90", a90), ("a90/95", bound)) if value is not None}
    # what lies far beyond the judged sizes would leave them no room in the chart
    marks = [(f"{name} = {value:.3g}", value) for name, value in known.items() if value <= FAR * max(sizes)]
    share = Share(sum(found), len(found))
    return {
        "about": about,
        "reason": reason,
        "a90": a90,
        "bound": bound,
        "extrapolated": any(value > max(sizes) for value in known.values()),
        "found": share,
        "chart": detection(sizes, found, _points(curve, sizes), marks, x, about),
        "rows": [
            (about, "found", share.k, share.n, *_numbers(share), reason),
            *((about, name, "", "", f"{value:.6g}", "", "", "") for name, value in known.items()),
        ],
    }


def _points(curve: Curve | None, sizes: Sequence[float]) -> list[tuple[float, float, float | None]]:
    """The curve over the sizes that were judged, and its bound."""
    if curve is None or curve.slope <= 0:
        return []
    points = []
    for level in LEVELS:
        size = curve.size(float(level))
        if size is not None and min(sizes) / 1.2 <= size <= FAR * max(sizes):
            points.append((size, float(level), curve.bound(float(level))))
    return points


def _shown(part: Part, table: Table, number: int) -> dict[str, Any]:
    image = drawing.to_rgb(read_image(part.pictures[0]))
    image.thumbnail((SIDE, SIDE))
    return {
        "part": part,
        "picture": data_uri(image),
        "said": [
            (name, [("defect" if said else "good", bool(said) == part.is_defect) for said in table.ratings[a, number]])
            for a, name in enumerate(table.names)
        ],
    }


def _rows(found: Agreement) -> Iterator[tuple[Any, ...]]:
    """All figures of the agreement, one a line."""
    for a in found.appraisers:
        name, grades = a.name, a.grades
        for figure, share in (
            ("within appraiser", a.within),
            ("effectiveness", a.effectiveness),
            ("miss rate", a.miss_rate),
            ("false-alarm rate", a.false_alarm_rate),
            ("defects missed once or more", a.missed),
            ("good parts called a defect once or more", a.false_alarms),
        ):
            yield name, figure, share.k, share.n, *_numbers(share, "rate" not in figure), grades.get(figure) or ""
        yield name, "Fleiss' kappa of the trials", "", "", *_kappa(a.kappa_within)
        yield name, "Cohen's kappa against the truth", "", "", *_kappa(a.kappa_truth)
        if limits := _limits(a.missed):
            for words, limit in zip(("Clopper-Pearson", "Bayes"), limits, strict=True):
                figure = f"missed at most, 95 %, {words}"
                yield name, figure, a.missed.k, a.missed.n, "", "", f"{limit:.6g}", ""
    for (one, other), kappa in found.pairs.items():
        yield f"{one} and {other}", "Cohen's kappa", "", "", *_kappa(kappa)
    for figure, share in (("between appraisers", found.between), ("effectiveness", found.effectiveness)):
        yield "all", figure, share.k, share.n, *_numbers(share), ""
    yield "all", "Fleiss' kappa of all judgements", "", "", *_kappa(found.kappa_between)


def _rows_apart(apart: dict[str, Agreement]) -> Iterator[tuple[Any, ...]]:
    for kind, found in apart.items():
        for a in found.appraisers:
            for figure, share in (("miss rate", a.miss_rate), ("false-alarm rate", a.false_alarm_rate)):
                yield f"{a.name}, {kind}", figure, share.k, share.n, *_numbers(share, independent=False), ""


def _numbers(share: Share, independent: bool = True) -> tuple[str, str, str]:
    """Value and exact interval; none where decisions on one part are counted as several."""
    value, edges = share.value, share.interval if independent else None
    low, high = ("", "") if edges is None else (f"{edge:.6g}" for edge in edges)
    return "" if value is None else f"{value:.6g}", low, high


def _kappa(kappa: Kappa) -> tuple[str, str, str, str]:
    value, low, high = ("" if x is None else f"{x:.6g}" for x in (kappa.value, *(kappa.interval or (None, None))))
    return value, low, high, kappa_words(kappa.value)
