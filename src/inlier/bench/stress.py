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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtrc

from inlier import artifact, drawing
from inlier.calibration import Rule
from inlier.data.datasets.sample import Dataset, Sample
from inlier.data.images import read_image
from inlier.data.perturbations import CHANGES, COLOURS, Change, Values, is_grey, picture_of, values_of
from inlier.errors import InlierError
from inlier.inspection.inspector import Inspector
from inlier.metrics import exact_interval
from inlier.progress import progress
from inlier.report import calibration_words
from inlier.report.charts import data_uri, ladders
from inlier.report.pages import render

MOST = 50  # good pictures and as many defects, evenly spread
CHANCE = 0.05
FILES = ("stress.html", "stress.csv")
SIDE = 200  # pixels of the examples


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
    change: Change
    steps: tuple[Step, ...]
    held: float | None  # the largest size up to which the promise is kept; None: it is broken by the smallest


@dataclass(frozen=True)
class Card:
    category: str
    rule: Rule
    n_good: int
    n_defect: int
    unchanged: Step
    ladders: tuple[Ladder, ...]
    left_out: str = ""  # what was not tried, and why

    @property
    def limit(self) -> int:
        """False alarms from which on the promise is broken."""
        return next(k for k in itertools.count() if is_broken(k, self.n_good, self.rule.alpha))

    def interval(self, k: int) -> tuple[float, float]:
        """Of the false-alarm rate, 95 %, exact."""
        return exact_interval(k, self.n_good)


def is_broken(k: int, n: int, alpha: float) -> bool:
    """Whether k false alarms among n good pictures are too many for a rate of at most alpha.

    >>> is_broken(5, 50, 0.05), is_broken(6, 50, 0.05)
    (False, True)
    """
    return k > 0 and bool(bdtrc(k - 1, n, alpha) < CHANCE)


def held(sizes: Sequence[float], broken: Sequence[bool]) -> float | None:
    """The last of the sizes before the first at which the promise is broken."""
    kept = len(list(itertools.takewhile(lambda b: not b, broken)))
    return sizes[kept - 1] if kept else None


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
    known = names[0] if names[0] in inspector.categories_ else None
    rule = inspector.calibration_.rule(alpha, confidence, known)
    if rule is None:
        raise InlierError("the model has no calibration, so it makes no promise that a change could break")
    test = [sample for sample in dataset.test if sample.category == names[0]]
    good = _spread([sample for sample in test if not sample.is_defect], most)
    defects = _spread([sample for sample in test if sample.is_defect], most)
    if not good:
        raise InlierError(f"{names[0]}: there are no good test pictures, and the promise is about those")

    samples = [*good, *defects]
    has_colour = any(not is_grey(values_of(read_image(sample.source))) for sample in samples)
    changes = {name: change for name, change in CHANGES.items() if has_colour or name not in COLOURS}
    sizes = [(None, 0.0), *((change, size) for change in changes.values() for size in change.sizes)]
    found = inspector.predict(
        _changed(samples, sizes, seed), alpha=alpha, confidence=confidence, category=known, maps=False
    )
    scores = np.empty((len(sizes), len(samples)))
    with progress(f"stressing {names[0]}", len(samples)) as show:
        for place, prediction in enumerate(found):
            scores[place % len(sizes), place // len(sizes)] = prediction.score
            show(place // len(sizes))

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

    unchanged, numbers, tried = step(0, None), itertools.count(1), []
    is_kept = not is_broken(unchanged.false_alarms, len(good), rule.alpha)
    for name, change in changes.items():
        steps = tuple(step(next(numbers), size) for size in change.sizes)
        broken = [is_broken(s.false_alarms, len(good), rule.alpha) for s in steps]
        tried.append(Ladder(name, change, steps, held(change.sizes, broken) if is_kept else None))
    left_out = "" if has_colour else f"{' and '.join(COLOURS)}: grey pictures have no colour"
    return Card(names[0], rule, len(good), len(defects), unchanged, tuple(tried), left_out)


def rows(card: Card) -> Iterator[dict[str, Any]]:
    """All steps as plain rows, the unchanged pictures first."""
    for ladder in (None, *card.ladders):
        for step in ladder.steps if ladder else (card.unchanged,):
            low, high = card.interval(step.false_alarms)
            yield {
                "change": ladder.name if ladder else "unchanged",
                "size": step.size,
                "unit": ladder.change.unit if ladder else None,
                "good": card.n_good,
                "false alarms": step.false_alarms,
                "false-alarm rate": step.false_alarms / card.n_good,
                "low": low,
                "high": high,
                "promise broken": is_broken(step.false_alarms, card.n_good, card.rule.alpha),
                "defects": card.n_defect,
                "found": step.found,
                "drift": step.drift,
            }


def _changed(
    samples: Sequence[Sample], sizes: Sequence[tuple[Change | None, float]], seed: int
) -> Iterator[NDArray[np.uint8] | Values]:
    """Each picture with one change after the other."""
    for number, sample in enumerate(samples):
        values = values_of(read_image(sample.source))
        for change, size in sizes:
            rng = np.random.default_rng((seed, number))
            yield picture_of(values if change is None else change.apply(values, size, rng))


def _spread(samples: Sequence[Sample], most: int) -> list[Sample]:
    places = np.linspace(0, len(samples) - 1, min(most, len(samples))).round().astype(int)
    return [samples[i] for i in places]


def write(card: Card, sample: Sample, model: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write FILES into the folder, and return their paths. sample: a picture that the page shows changed.

    Raises ArtifactError if they cannot be written.
    """
    text = io.StringIO()
    lines = list(rows(card))
    table = csv.DictWriter(text, list(lines[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(lines)
    html = render(
        "stress.html.j2",
        "inlier.bench",
        card=card,
        model=model,
        chart=_chart(card),
        pictures=[(ladder, _examples(ladder, sample)) for ladder in card.ladders],
        calibration=calibration_words(dict(model)),
    )
    for name, content in zip(FILES, (html, text.getvalue()), strict=True):
        artifact.write_bytes(folder / name, content.encode(errors="backslashreplace"))
    return [folder / name for name in FILES]


def _chart(card: Card) -> Any:
    panels = []
    for ladder in card.ladders:
        steps = (card.unchanged, *ladder.steps)
        alarms = [step.false_alarms / card.n_good for step in steps]
        found = [step.found / card.n_defect for step in steps] if card.n_defect else None
        kept = 0 if ladder.held is None else 1 + ladder.change.sizes.index(ladder.held)
        sizes = ["0", *(f"{size:g}" for size in ladder.change.sizes)]
        whole = 0 if is_broken(card.unchanged.false_alarms, card.n_good, card.rule.alpha) else kept + 1
        panels.append((f"{ladder.name}, {ladder.change.unit}", sizes, alarms, found, whole))
    return ladders(panels, card.limit / card.n_good, f"False alarms under changes of {card.category}")


def _examples(ladder: Ladder, sample: Sample) -> list[tuple[str, str]]:
    """(words, picture inside a URI) at the largest size that keeps the promise, and at the next one."""
    sizes = ladder.change.sizes
    kept = 0 if ladder.held is None else 1 + sizes.index(ladder.held)
    shown = [(size, words) for size, words in ((sizes[kept - 1] if kept else None, "kept"),
             (sizes[kept] if kept < len(sizes) else None, "broken")) if size is not None]  # fmt: skip
    values = values_of(read_image(sample.source))
    found = []
    for size, words in shown:
        changed = picture_of(ladder.change.apply(values, size, np.random.default_rng(0)))
        image = drawing.to_rgb(read_image(changed))
        image.thumbnail((SIDE, SIDE))
        found.append((f"{size:g} {ladder.change.unit}: {words}", data_uri(image)))
    return found
