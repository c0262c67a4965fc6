"""Planted defects that a model found or missed, as people are shown them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from inlier import drawing
from inlier.bench.trial import Trial, planted_defects
from inlier.data.datasets.sample import Sample
from inlier.inspection.inspector import Inspector

SHOWN = 6  # found, and as many missed


@dataclass(frozen=True)
class Example:
    """A planted defect, at the size of a panel."""

    name: str
    kind: str
    area: float  # share of the picture
    is_found: bool
    score: float
    image: Image.Image
    mask: NDArray[np.bool_]
    map: NDArray[np.float32]  # as it is drawn


def examples(inspector: Inspector, samples: Sequence[Sample], trial: Trial, seed: int) -> tuple[Example, ...]:
    """Some of the defects of a trial, planted again and judged with maps: found ones first, kinds in turn."""
    found = trial.found()
    chosen = [i for is_found in (True, False) for i in _in_turn(np.flatnonzero(found == is_found), trial.kinds)]
    made = dict(zip(sorted(chosen), planted_defects(samples, inspector, seed, only=set(chosen))))
    return tuple(_example(inspector, samples, trial, i, made[i], bool(found[i])) for i in chosen)


def _example(
    inspector: Inspector, samples: Sequence[Sample], trial: Trial, number: int, made: tuple, is_found: bool
) -> Example:
    picture, _, planted = made
    sample = samples[picture]
    map_ = inspector.inspect(planted.image, category=inspector.category_of(sample.category)).map
    assert map_ is not None
    image, mask, small = drawing.shrink(Image.fromarray(planted.image), planted.mask, map_)
    assert mask is not None
    return Example(
        "/".join(PurePath(sample.name).parts[-2:]),
        planted.kind,
        float(trial.areas[number]),
        is_found,
        float(trial.defects[number]),
        image,
        mask,
        drawing.drawable(small, inspector.log_maps),
    )


def _in_turn(numbers: NDArray[np.int64], kinds: Sequence[str]) -> list[int]:
    """SHOWN of them, one of each kind first."""
    seen: dict[str, int] = {}
    order = []
    for number in numbers.tolist():
        order.append((seen.get(kinds[number], 0), number))
        seen[kinds[number]] = seen.get(kinds[number], 0) + 1
    return [number for _, number in sorted(order)[:SHOWN]]
