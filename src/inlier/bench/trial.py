"""How well a model finds planted defects on good pictures that it was not fitted on: a choice without a test set.

Choices of method, settings and size need something to compare. The test set must stay unseen, real defects are not at
hand, and how well good pictures are modelled says little of how defects are found. So good pictures are held out, a
defect of a known kind and size is planted in each (data/simulation/planted.py), and both are scored.
"""

import itertools
import time
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from inlier import calibration
from inlier.data.check import check, grouped
from inlier.data.datasets.sample import Dataset, Sample
from inlier.data.images import read_image
from inlier.data.simulation.foreground import LOOKED_AT, Foreground, Mask, Pixels, choose_foreground
from inlier.data.simulation.planted import Planted, plant
from inlier.data.simulation.sources import open_textures
from inlier.inspection.inspector import Inspector
from inlier.metrics import image_metrics, pixel_metrics
from inlier.progress import Pace, progress

ALPHA = 0.05  # false alarms at which what is found is shown
UP_TO = 0.2  # false alarms of the partial AUROC
MOST = 100  # held-out pictures of a category, at most
PLANTED = 2  # defects planted in each held-out picture, one at a time
TIMED = 15  # pictures whose time is taken
LOOKED_AT_SIDE = 256  # the foreground is looked for on small pictures


@dataclass(frozen=True)
class Trial:
    """What a model made of n held-out good pictures and of m planted defects."""

    good: NDArray[np.float32]  # (n,) scores
    defects: NDArray[np.float32]  # (m,) scores
    pictures: NDArray[np.int64]  # (m,) which of the n the defect was planted in
    kinds: tuple[str, ...]  # of the m defects
    areas: NDArray[np.float64]  # (m,) share of the picture
    pixel_ap: float | None  # average precision of the pixels of the m pictures, in [0, 1]; None where no maps were made

    @property
    def auroc(self) -> float:
        return image_metrics(*self._labelled()).auroc or 0.0

    @property
    def ap(self) -> float:
        return image_metrics(*self._labelled()).ap or 0.0

    @property
    def partial_auroc(self) -> float:
        """Share of the defects that is found, mean over false-alarm rates up to UP_TO."""
        return float(areas(self, np.ones((1, len(self.good)), np.int64))[1, 0])

    @property
    def quality(self) -> float:
        """What candidates are ranked by."""
        return (self.auroc + self.partial_auroc) / 2

    def found(self) -> NDArray[np.bool_]:
        """(m,): which defects score above all but a share ALPHA of the good pictures."""
        return self.defects > np.quantile(self.good, 1 - ALPHA, method="higher")

    def detection(self) -> float:
        return float(self.found().mean())

    def by_kind(self) -> dict[str, float]:
        """Share of each kind that is found."""
        found = self.found()
        kinds = np.array(self.kinds)
        return {kind: float(found[kinds == kind].mean()) for kind in sorted(set(self.kinds))}

    def _labelled(self) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        scores = np.concatenate([self.good, self.defects])
        return scores, np.arange(len(scores)) >= len(self.good)


def areas(trial: Trial, drawn: NDArray[np.int64]) -> NDArray[np.float64]:
    """(2, resamples): AUROC and partial AUROC, when the n pictures count as often as `drawn` (resamples, n) says.

    The second is the area below the ROC curve up to UP_TO false alarms, divided by UP_TO (McClish, "Analyzing a portion
    of the ROC curve", 1989). Candidates are ranked by the mean of the two: what is found at one rate alone hangs on one
    or two of a hundred good pictures, so that two halves of the pictures hardly agree on it (docs/experiments.md).
    """
    order = np.argsort(-trial.good, kind="stable")
    good, limits = trial.good[order], drawn[:, order]
    pairs = (trial.defects[:, None] > good) + 0.5 * (trial.defects[:, None] == good)  # (m, n)
    of_defects = drawn[:, trial.pictures]  # (resamples, m)
    found = of_defects @ pairs / of_defects.sum(1, keepdims=True)  # (resamples, n): share above each good picture
    alarms = UP_TO * drawn.sum(1, keepdims=True)
    within = np.clip(alarms - (limits.cumsum(1) - limits), 0, limits)
    return np.stack([(found * counted).sum(1) / counted.sum(1) for counted in (limits, within)])


def deviates(trial: Trial) -> tuple[float, float]:
    """(mean, deviation) of the scores of good pictures."""
    return float(trial.good.mean()), max(float(trial.good.std()), 1e-12)


def together(one: Trial, other: Trial) -> Trial:
    """What two models make of the same pictures, joined as in methods/joined.py; without maps.

    Means and deviations are of the very pictures that are judged, two numbers of each method of up to a hundred.
    """
    units = [(found, *deviates(found)) for found in (one, other)]
    good = sum((found.good - mean) / deviation for found, mean, deviation in units) / np.sqrt(2)
    defects = sum((found.defects - mean) / deviation for found, mean, deviation in units) / np.sqrt(2)
    return replace(one, good=good.astype(np.float32), defects=defects.astype(np.float32), pixel_ap=None)


class Shares(NamedTuple):
    """A data set, shared out among the uses of its good training pictures."""

    fitted_on: Dataset  # with all that is not for training
    held_out: list[Sample]  # to plant defects in
    unseen: list[Sample]  # by any trial


def hold_out(dataset: Dataset, seed: int, group: str | None = None, aside: bool = False) -> Shares:
    """Hold out a fifth of each category, and at most MOST; groups are never split.

    aside: first leave out the fifth that a fit on the whole data set with this seed would calibrate on, so that the
    promise of a model that is chosen here owes nothing to the choice.
    """
    with progress("checking pictures", len(dataset.samples)) as show:
        report = check(dataset, show=show, training=True)
    samples = dataset.train
    groups = grouped(samples, report.groups, group)
    categories = [sample.category for sample in samples]
    usable = calibration.split(groups, categories, seed)[0] if aside else list(range(len(samples)))
    kept, held_out = calibration.split([groups[i] for i in usable], [categories[i] for i in usable], seed)
    chosen: list[int] = []
    for category in dataset.categories:
        chosen += [usable[i] for i in held_out if categories[usable[i]] == category][:MOST]
    fitted = [usable[i] for i in kept]
    others = tuple(sample for sample in dataset.samples if sample.split != "train")
    unseen = sorted({*range(len(samples))} - {*fitted, *chosen})
    return Shares(
        replace(dataset, samples=tuple(samples[i] for i in fitted) + others),
        [samples[i] for i in chosen],
        [samples[i] for i in unseen],
    )


def planted_defects(
    samples: Sequence[Sample],
    inspector: Inspector,
    seed: int,
    each: int = PLANTED,
    only: Container[int] | None = None,
) -> Iterator[tuple[int, Pixels, Planted]]:
    """(number of the picture, the picture, what was planted in it), picture by picture: the same for every model.

    Pictures of more than 8 bit are brought down to 8 for both, or the coarser steps would give the defect away. only:
    some of the defects, by their numbers in the order of all.
    """
    rules = _foregrounds(samples)
    textures = open_textures()
    for i, sample in enumerate(samples):
        wanted = [k for k in range(each) if only is None or i * each + k in only]
        if not wanted:
            continue
        picture = as_8_bit(read_image(sample.source))
        region: Mask | None = None
        geometry = inspector.geometry_for(inspector.category_of(sample.category))
        if geometry.region is not None or geometry.shorter_side is not None:
            region = geometry.seen(*picture.shape[:2])
        for k in wanted:
            key = (seed, i, i * each + k)
            yield i, picture, plant(picture, key, rules[sample.category], textures, region)


def run(
    inspector: Inspector,
    samples: Sequence[Sample],
    seed: int = 0,
    deadline: float | None = None,
    maps: bool = True,
) -> Trial:
    """Score held-out good pictures with and without planted defects.

    deadline: of time.monotonic(); OutOfTime is raised as soon as it is clear that scoring would end later. maps: make
    those of defects, too, for the metric of the pixels.
    """
    good: dict[int, float] = {}
    defects: list[tuple[int, str, float, float]] = []
    drawn, masks = [], []
    pace = Pace(deadline, PLANTED * len(samples))
    with progress("scoring planted defects", PLANTED * len(samples)) as show:
        for i, picture, made in planted_defects(samples, inspector, seed):
            category = inspector.category_of(samples[i].category)
            geometry = inspector.geometry_for(category)
            if i not in good:
                alone = inspector.inspect(picture, category=category, maps=False).score
                assert alone is not None  # the picture was read before
                good[i] = alone
            found = inspector.inspect(made.image, category=category, maps=maps)
            assert found.score is not None
            if found.network_maps is not None:
                drawn.append(geometry.grid(found.network_maps, *made.mask.shape))
                masks.append(geometry.mask(made.mask))
            defects.append((i, made.kind, float(made.mask.mean()), found.score))
            show(len(defects))
            pace.check(len(defects))
    pictures, kinds, areas, scores = zip(*defects, strict=True)
    return Trial(
        np.array(list(good.values()), np.float32),
        np.array(scores, np.float32),
        np.array(pictures),
        kinds,
        np.array(areas),
        pixel_metrics(np.stack(drawn), np.stack(masks)).ap or 0.0 if drawn else None,
    )


def milliseconds(inspector: Inspector, samples: Sequence[Sample]) -> float:
    """Median time from a picture's file to its verdict, one picture at a time, without a map."""
    times = []
    for sample in samples[: TIMED + 1]:
        start = time.perf_counter()
        inspector.inspect(sample.source, category=inspector.category_of(sample.category), maps=False)
        times.append(time.perf_counter() - start)
    return 1000 * float(np.median(times[1:] or times))  # the first one warms up


def as_8_bit(image: Image.Image) -> Pixels:
    """uint8 (H, W, 3) of a picture of `read_image`."""
    if image.mode == "F":
        image = Image.fromarray(np.rint(np.asarray(image) * 255).astype(np.uint8))
    return np.asarray(image.convert("RGB"))


def _foregrounds(samples: Sequence[Sample]) -> dict[str, Foreground]:
    """Where the part is, for each category."""
    rules = {}
    for category in dict.fromkeys(sample.category for sample in samples):
        own = itertools.islice((s for s in samples if s.category == category), LOOKED_AT)
        small = [as_8_bit(_shrunk(read_image(sample.source))) for sample in own]
        rules[category] = choose_foreground(small)
    return rules


def _shrunk(image: Image.Image) -> Image.Image:
    image = image.copy()
    image.thumbnail((LOOKED_AT_SIDE, LOOKED_AT_SIDE))
    return image
