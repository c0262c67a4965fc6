"""The robustness card: how far light, camera and position may change before a model breaks its promise.

Good pictures that the model was not fitted on are changed step by step and judged. The promise is about good parts: of
them at most a share alpha raises a false alarm. It is taken for broken at the first step where so many do that chance
would explain it in fewer than 5 of 100 such sets of pictures (exact binomial test). Few pictures can break nothing but
a gross change's promise, so each step carries its counts. What the same changes do to the share of defects found is
said beside: a change may leave false alarms alone because it hides everything.
"""

import csv
import io
import itertools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtrc

from inlier.artifact import read_text
from inlier.data.datasets.sample import Dataset, Sample, evenly
from inlier.data.images import read_image
from inlier.data.perturbations import CHANGES, COLOURS, Change, Values, is_grey, picture_of, values_of
from inlier.errors import InlierError
from inlier.inspection.inspector import Inspector
from inlier.metrics import exact_interval
from inlier.progress import progress

log = logging.getLogger("inlier")
MOST = 50  # good pictures and as many defects, evenly spread
CHANCE = 0.05


@dataclass(frozen=True)
class Step:
    """What a model says of pictures changed by one size. size: None for pictures as they are."""

    size: float | None
    false_alarms: int  # of the good pictures
    found: int  # of the defects
    drift: float  # the median score of good pictures: 0 as unchanged, 1 at the threshold


@dataclass(frozen=True)
class Ladder:
    """One kind of change, from weak to strong."""

    name: str
    unit: str  # of the sizes
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Card:
    category: str
    alpha: float  # the promised false-alarm rate
    n_good: int
    n_defect: int
    unchanged: Step
    ladders: tuple[Ladder, ...]

    @property
    def limit(self) -> int:
        """False alarms from which on the promise is broken."""
        return next(k for k in itertools.count() if is_broken(k, self.n_good, self.alpha))

    def kept(self, ladder: Ladder) -> int:
        """How many of its sizes, from the weakest on, keep the promise; none where it is broken without a change."""
        steps = itertools.takewhile(lambda step: step.false_alarms < self.limit, (self.unchanged, *ladder.steps))
        return max(0, len(list(steps)) - 1)

    def interval(self, k: int) -> tuple[float, float]:
        """Of the false-alarm rate, 95 %, exact."""
        return exact_interval(k, self.n_good)


def is_broken(k: int, n: int, alpha: float) -> bool:
    """Whether k false alarms among n good pictures are too many for a rate of at most alpha.

    >>> is_broken(5, 50, 0.05), is_broken(6, 50, 0.05)
    (False, True)
    """
    return k > 0 and bool(bdtrc(k - 1, n, alpha) < CHANCE)


def stress(
    inspector: Inspector,
    dataset: Dataset,
    *,
    category: str | None = None,
    alpha: float | None = None,
    confidence: float | None = None,
    most: int = MOST,
    seed: int = 0,
) -> Card:
    """Change and judge test pictures of one category of the data set, at most so many good ones and so many defects.

    alpha, confidence: of the verdicts, as for `Inspector.predict`. seed: of directions and noise; each picture goes the
    same way at every size. Raises InlierError without calibration or good test pictures.
    """
    names = [name for name in dataset.categories if category in (None, name)]
    if len(names) != 1:
        raise InlierError(f"{dataset.name}: one category at a time; choose one of {', '.join(dataset.categories)}")
    known = inspector.category_of(names[0])
    rule = inspector.calibration_.rule(alpha, confidence, known)
    if rule is None:
        raise InlierError("the model has no calibration, so it makes no promise that a change could break")
    test = [sample for sample in dataset.test if sample.category == names[0]]
    good = evenly([sample for sample in test if not sample.is_defect], most)
    defects = evenly([sample for sample in test if sample.is_defect], most)
    if not good:
        raise InlierError(f"{names[0]}: there are no good test pictures, and the promise is about those")

    if inspector.geometry_.scaled_jpeg:
        log.warning("the model judges JPEG files decoded smaller (scaled_jpeg), but changed pictures are judged whole")
    samples = [*good, *defects]
    has_colour = any(not is_grey(values_of(read_image(sample.source))) for sample in samples)
    if not has_colour:
        log.info("grey pictures: %s are left out", " and ".join(COLOURS))
    changes = {name: change for name, change in CHANGES.items() if has_colour or name not in COLOURS}
    sizes = [(None, 0.0), *((change, size) for change in changes.values() for size in change.sizes)]
    found = inspector.predict(
        _changed(samples, sizes, seed), alpha=alpha, confidence=confidence, category=known, maps=False
    )
    scores = np.empty((len(sizes), len(samples)))
    with progress(f"stressing {names[0]}", len(samples)) as show:
        for place, prediction in enumerate(found):
            scores[place % len(sizes), place // len(sizes)] = prediction.score
            show((place + 1) // len(sizes))

    middle = np.median(scores[:, : len(good)], axis=1)
    way = rule.threshold - float(middle[0])
    if way <= 0:
        raise InlierError(
            f"{names[0]}: more than half of the good test pictures are false alarms before anything is changed; these "
            "pictures are not like those of the calibration"
        )

    def step(number: int, size: float | None) -> Step:
        flagged = [rule.verdict(score) == "defect" for score in scores[number]]
        drift = float(middle[number] - middle[0]) / way
        return Step(size, sum(flagged[: len(good)]), sum(flagged[len(good) :]), drift)

    numbers = itertools.count(1)
    ladders = tuple(
        Ladder(name, change.unit, tuple(step(next(numbers), size) for size in change.sizes))
        for name, change in changes.items()
    )
    return Card(names[0], rule.alpha, len(good), len(defects), step(0, None), ladders)


def rows(card: Card) -> Iterator[dict[str, Any]]:
    """All steps as plain rows, the unchanged pictures first; `read` takes them back."""
    for ladder in (Ladder("unchanged", "", (card.unchanged,)), *card.ladders):
        for step in ladder.steps:
            low, high = card.interval(step.false_alarms)
            yield {
                "category": card.category,
                "alpha": card.alpha,
                "change": ladder.name,
                "size": step.size,
                "unit": ladder.unit,
                "good": card.n_good,
                "false alarms": step.false_alarms,
                "false-alarm rate": step.false_alarms / card.n_good,
                "low": low,
                "high": high,
                "promise": "broken" if step.false_alarms >= card.limit else "kept",
                "defects": card.n_defect,
                "found": step.found,
                "drift": step.drift,
            }


def read(path: Path) -> Card:
    """A card from the table of its rows. Raises InlierError for another file."""
    ladders: dict[tuple[str, str], list[Step]] = {}
    text = read_text(path)
    try:
        row: dict[str, str] = {}
        for row in csv.DictReader(io.StringIO(text), strict=True):
            size = float(row["size"]) if row["size"] else None
            step = Step(size, int(row["false alarms"]), int(row["found"]), float(row["drift"]))
            ladders.setdefault((row["change"], row["unit"]), []).append(step)
        ((unchanged,), *others) = ladders.values()
        tried = tuple(Ladder(*key, tuple(steps)) for key, steps in zip(list(ladders)[1:], others, strict=True))
        counts = int(row["good"]), int(row["defects"])
        return Card(row["category"], float(row["alpha"]), *counts, unchanged, tried)
    except (ValueError, KeyError, TypeError, csv.Error) as error:  # TypeError: a row was cut
        raise InlierError(f"{path}: is no table that `inlier stress` wrote ({error})") from None


def _changed(
    samples: Sequence[Sample], sizes: Sequence[tuple[Change | None, float]], seed: int
) -> Iterator[NDArray[np.uint8] | Values]:
    """Each picture with one change after the other."""
    for number, sample in enumerate(samples):
        values = values_of(read_image(sample.source))
        for change, size in sizes:
            rng = np.random.default_rng((seed, number))
            yield picture_of(values if change is None else change.apply(values, size, rng))
