"""The page and the table of a robustness card."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from inlier import artifact, drawing
from inlier.bench.stress import Card, Ladder, rows
from inlier.data.datasets.sample import Sample
from inlier.data.images import read_image
from inlier.data.perturbations import CHANGES, picture_of, values_of
from inlier.report import calibration_words
from inlier.report.charts import data_uri, ladders
from inlier.report.pages import render

if TYPE_CHECKING:
    from markupsafe import Markup

FILES = ("stress.html", "stress.csv")
SIDE = 200  # pixels of the examples


def write(card: Card, sample: Sample, model: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write FILES into the folder, and return their paths. sample: a picture that the page shows changed.

    Raises ArtifactError if they cannot be written.
    """
    html = render(
        "stress.html.j2",
        "inlier.bench",
        card=card,
        model=model,
        chart=chart(card),
        pictures=[(ladder, _examples(card, ladder, sample)) for ladder in card.ladders],
        calibration=calibration_words(dict(model)),
    )
    lines = list(rows(card))
    artifact.write_bytes(folder / FILES[0], html.encode(errors="backslashreplace"))
    artifact.write_table(folder / FILES[1], list(lines[0]), [list(line.values()) for line in lines])
    return [folder / name for name in FILES]


def chart(card: Card) -> "Markup":
    """False alarms and defects found, a panel for each kind of change."""
    panels = []
    for ladder in card.ladders:
        steps = (card.unchanged, *ladder.steps)
        alarms = [step.false_alarms / card.n_good for step in steps]
        found = [step.found / card.n_defect for step in steps] if card.n_defect else None
        sizes = ["0", *(f"{step.size:g}" for step in ladder.steps)]
        kept = card.kept(ladder) + (card.unchanged.false_alarms < card.limit)
        panels.append((f"{ladder.name}, {ladder.unit}", sizes, alarms, found, kept))
    return ladders(panels, card.limit / card.n_good, f"False alarms under changes of {card.category}")


def _examples(card: Card, ladder: Ladder, sample: Sample) -> list[tuple[str, str]]:
    """(words, picture inside a URI) at the largest size that keeps the promise, and at the next one."""
    values = values_of(read_image(sample.source))
    kept = card.kept(ladder)
    found = []
    for number, word in ((kept - 1, "kept"), (kept, "broken")):
        if 0 <= number < len(ladder.steps):
            size = ladder.steps[number].size
            assert size is not None
            changed = CHANGES[ladder.name].apply(values, size, np.random.default_rng(0))
            image = drawing.to_rgb(read_image(picture_of(changed)))
            image.thumbnail((SIDE, SIDE))
            found.append((f"{size:g} {ladder.unit}: {word}", data_uri(image)))
    return found
