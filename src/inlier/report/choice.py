"""The page of a choice: what was seen, what was tried, what won and why, and what the winner finds and misses."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from inlier import artifact, drawing
from inlier.bench.choice import Choice, Row, able, difference
from inlier.bench.examples import Example
from inlier.bench.trial import ALPHA, UP_TO
from inlier.inspection.inspector import Inspector
from inlier.report import calibration_words, flat
from inlier.report.charts import data_uri
from inlier.report.pages import render

NAMED = 12  # candidates with one reason for taking no part


def write_choice(choice: Choice, inspector: Inspector, path: Path) -> None:
    """Write the page, one file without any reference to another. inspector: the winner, fitted on all pictures.

    Raises ArtifactError when it cannot be written.
    """
    model = inspector.header()
    winner = choice.rows[choice.winner]
    page = render(
        "choice.html.j2",
        choice=choice,
        winner=winner,
        model=model,
        rows=_rows(choice),
        left_out={reason: _named(rows) for reason, of in choice.left_out.items() if (rows := _not_judged(of))},
        kinds=sorted({kind for row in choice.rows if row.trial for kind in row.trial.kinds}),
        alpha=ALPHA,
        up_to=UP_TO,
        rule=inspector.calibration_.rule(),
        calibration=calibration_words(model),
        log_maps=inspector.log_maps,
        details=list(flat(model)),
        bar=data_uri(drawing.colour_bar()),
        **_gallery(winner.examples),
    )
    artifact.write_bytes(path, page.encode(errors="backslashreplace"))


def _rows(choice: Choice) -> list[dict[str, Any]]:
    """The candidates that were judged, the best first."""
    rows = []
    best = max(able(choice.rows), key=lambda i: choice.rows[i].quality)
    top = choice.rows[best].trial
    for i in choice.ranked:
        row = choice.rows[i]
        assert row.trial is not None and top is not None
        behind = None if row.reason or i == best else difference(top, row.trial)
        is_equal = behind is not None and behind[0] <= 0
        kinds = row.trial.by_kind()
        rows.append({"row": row, "wins": i == choice.winner, "kinds": kinds, "behind": behind, "is_equal": is_equal})
    return rows


def _not_judged(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if not row.trial]


def _named(rows: Sequence[Row]) -> list[str]:
    """The first candidates of a long grid, and how many more there are."""
    names = [row.name for row in rows[:NAMED]]
    return [*names, f"and {len(rows) - NAMED} more"] if len(rows) > NAMED else names


def _gallery(examples: Sequence[Example]) -> dict[str, Any]:
    scale = drawing.colour_scale([example.map for example in examples])
    return {
        "scale": scale,
        "found": [_panels(e, scale) for e in examples if e.is_found],
        "missed": [_panels(e, scale) for e in examples if not e.is_found],
    }


def _panels(example: Example, scale: drawing.Scale) -> dict[str, Any]:
    return {
        "example": example,
        "size": example.image.size,
        "panels": [
            ("picture", data_uri(example.image)),
            ("what was planted", data_uri(drawing.outlined(example.image, example.mask))),
            ("map", data_uri(drawing.heat_map(example.map, scale))),
        ],
    }
