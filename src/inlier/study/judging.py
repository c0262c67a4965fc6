"""A model as an appraiser: it judges each part several times, and defects of known size planted in the good ones.

A model says the same of the same picture. Where a part has a picture for each trial, those are judged. Where it has
fewer, further trials are simulated: its first picture in slightly other light, position and focus, by ranges that the
user takes from the station. What is simulated says so.
"""

import logging
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from inlier import artifact
from inlier.bench.trial import planted_defects
from inlier.data.datasets.sample import Sample, evenly
from inlier.data.images import ImageSource, read_image
from inlier.data.perturbations import blur, brightness, picture_of, shift, values_of
from inlier.errors import InlierError
from inlier.inspection.inspector import Inspector
from inlier.names import file_name
from inlier.progress import progress
from inlier.study.judgements import Judgement
from inlier.study.parts import Part, diameter, read_table

log = logging.getLogger("inlier")

FOLDER = "detection"
COLUMNS = ("model", "part", "kind", "size", "contrast", "found")


class Surroundings(NamedTuple):
    """How much light, position and focus differ between two pictures of one part, at most."""

    light: float = 3.0  # % brighter or darker
    position: float = 1.0  # % of the longer side
    focus: float = 0.5  # pixels of blur

    def __str__(self) -> str:
        return f"light ±{self.light:g} %, position ±{self.position:g} % of the longer side, blur to {self.focus:g} px"


class Detection(NamedTuple):
    """A defect of known size, and whether a model found it."""

    model: str
    part: str
    kind: str  # of a planted defect; "" of a real one
    size: float  # pixels, of a disc of its area
    contrast: float  # grey levels
    found: bool


def judge(
    inspector: Inspector,
    name: str,
    parts: Sequence[Part],
    trials: int,
    around: Surroundings,
    seed: int = 0,
    *,
    alpha: float | None = None,
    confidence: float | None = None,
) -> list[Judgement]:
    """The model's judgements, under a name. alpha, confidence: as for `Inspector.predict`.

    Raises InlierError for a model without calibration.
    """
    category = inspector.category_of(parts[0].category)
    if inspector.calibration_.rule(alpha, confidence, category) is None:
        raise InlierError(f"{name}: has no calibration, so it gives no verdicts")
    if inspector.geometry_.scaled_jpeg and trials > min(len(part.pictures) for part in parts):
        log.warning("%s: judges JPEG files decoded smaller (scaled_jpeg), but simulated pictures whole", name)
    judged = inspector.predict(
        _pictures(parts, trials, around, seed), alpha=alpha, confidence=confidence, category=category, maps=False
    )
    found = []
    with progress(f"judging by {name}", trials * len(parts)) as show:
        for number, prediction in enumerate(judged):
            part, trial = parts[number // trials], number % trials
            simulated = "" if trial < len(part.pictures) else f"repeated pictures: {around}"
            found.append(Judgement(name, trial + 1, part.name, prediction.verdict == "defect", simulated))
            show(len(found))
    return found


def _pictures(parts: Sequence[Part], trials: int, around: Surroundings, seed: int) -> Iterator[ImageSource]:
    """Of each part, for each trial."""
    for number, part in enumerate(parts):
        for trial in range(trials):
            if trial < len(part.pictures):
                yield part.pictures[trial]
                continue
            rng = np.random.default_rng((seed, number, trial))
            values = values_of(read_image(part.pictures[0]))
            values = shift(values, rng.uniform(0, around.position), rng)
            values = blur(values, rng.uniform(0, around.focus))
            yield picture_of(brightness(values, rng.uniform(-around.light, around.light)))


def detect(
    inspector: Inspector,
    name: str,
    parts: Sequence[Part],
    judgements: Sequence[Judgement],
    planted: int,
    seed: int = 0,
    *,
    alpha: float | None = None,
    confidence: float | None = None,
) -> list[Detection]:
    """Real defects of known size as judged in the first trial, and so many planted in the good parts, or a few more:
    as many in each.

    A good part that is a false alarm by itself cannot tell whether a defect in it is found, and gets none.
    """
    category = inspector.category_of(parts[0].category)
    first = {j.part: j.is_defect for j in judgements if j.trial == 1}
    found = [
        Detection(name, part.name, "", part.size, part.contrast, first[part.name])
        for part in parts
        if part.size and part.contrast is not None
    ]
    good = evenly([part for part in parts if not part.is_defect and not first[part.name]], planted)
    if not good:
        return found
    samples = [Sample(part.pictures[0], part.category, "test", None) for part in good]
    each = math.ceil(planted / len(good))
    with progress(f"planting defects for {name}", each * len(good)) as show:
        for i, picture, made in planted_defects(samples, inspector, seed, each=each):
            p = inspector.inspect(made.image, alpha=alpha, confidence=confidence, category=category, maps=False)
            change = float(np.abs(made.image.astype(np.int16) - picture)[made.mask].mean())
            found.append(Detection(name, good[i].name, made.kind, diameter(made.mask), change, p.verdict == "defect"))
            show(len(found))
    return found


def keep_detections(folder: Path, name: str, detections: Sequence[Detection]) -> Path:
    path = folder / FOLDER / file_name(f"{name}.csv")
    rows = [(*d[:3], f"{d.size:.6g}", f"{d.contrast:.6g}", "yes" if d.found else "no") for d in detections]
    artifact.write_table(path, COLUMNS, rows)
    return path


def kept_detections(folder: Path) -> list[Detection]:
    """All that is kept in the folder. Raises InlierError for what was not written by us."""
    found = []
    for file in sorted((folder / FOLDER).glob("*.csv")):
        for where, row in read_table(file, COLUMNS):
            try:
                numbers = float(row["size"]), float(row["contrast"])
            except ValueError:
                numbers = 0.0, 0.0
            if not all(0 < number < math.inf for number in numbers):
                raise InlierError(f"{where}: size and contrast must be numbers above 0")
            found.append(Detection(row["model"], row["part"], row["kind"], *numbers, row["found"] == "yes"))
    return found
