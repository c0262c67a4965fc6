"""What good pictures of a part are like, in numbers and words: what a choice among methods starts from."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from inlier.bench.trial import LOOKED_AT_SIDE, as_8_bit
from inlier.data.datasets.sample import Sample
from inlier.data.images import read_image
from inlier.data.simulation.foreground import LOOKED_AT, Pixels, choose_foreground, grey
from inlier.data.simulation.simulator import is_grey
from inlier.progress import progress

GRID = 32  # pixels a side of the small grey pictures that are compared
NETWORK = 256  # pixels a side of what most networks are shown
ALIGNED = 0.5  # share of the variance that the mean picture explains, from which parts count as aligned
KEPT = 0.95  # share of a picture's variance that must be left when it is made small
FINE = 32  # pixels a side: a picture that needs more to keep this share is finely structured


@dataclass(frozen=True)
class Seen:
    """What is seen in good pictures; all but `n` on at most LOOKED_AT of them, evenly spread."""

    n: int
    height: int  # of most
    width: int
    sizes: int  # how many different ones
    is_grey: bool
    detail: int  # pixels a side, a power of two, in which the share KEPT of the grey variance is left
    explained: float  # share of the variance of small grey pictures that the mean of the others explains
    part: str  # where the part is: "on what is darker than ..."; empty: no part stands out from a background

    @property
    def structure(self) -> str:
        if self.detail > NETWORK:
            return f"more finely structured than {NETWORK} x {NETWORK} pixels show"
        return f"{'finely' if self.detail > FINE else 'coarsely'} structured"

    @property
    def is_aligned(self) -> bool:
        return self.explained >= ALIGNED

    def facts(self) -> list[tuple[str, str]]:
        """(what is seen, the measure that it rests on), for people."""
        sizes = f"most of them {self.width} x {self.height}" if self.sizes > 1 else f"{self.width} x {self.height}"
        left = f"{100 * KEPT:.0f} % of a picture's variance are left in {self.detail} x {self.detail} pixels"
        explained = f"the mean of the others explains {100 * self.explained:.0f} % of the variance of a small picture"
        return [
            (f"{self.n} good pictures", f"{sizes} pixels, {'grey' if self.is_grey else 'colour'}"),
            (self.structure, left),
            ("aligned: all show the same at the same place" if self.is_aligned else "not aligned", explained),
            ("a part before a background", self.part)
            if self.part
            else ("a texture, or a part that fills the picture", "grey values show no part that keeps off the border"),
        ]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {
            "aligned": self.is_aligned,
            "facts": [f"{what}: {measure}" for what, measure in self.facts()],
        }


def look(samples: Sequence[Sample]) -> Seen:
    """Read some good pictures of one category and say what they are like. Raises ImageError."""
    places = np.linspace(0, len(samples) - 1, min(LOOKED_AT, len(samples))).round().astype(int)
    sizes, greys, details, small, grids = Counter[tuple[int, int]](), [], [], list[Pixels](), []
    with progress("looking at good pictures", len(places)) as show:
        for done, place in enumerate(places, 1):
            picture = as_8_bit(read_image(samples[place].source))
            sizes[picture.shape[:2]] += 1
            greys.append(is_grey(picture))
            details.append(detail(grey(picture)))
            image = Image.fromarray(picture)
            image.thumbnail((LOOKED_AT_SIDE, LOOKED_AT_SIDE))
            small.append(np.asarray(image))
            grids.append(_shrunk(grey(picture), GRID))
            show(done)
    rule = choose_foreground(small)
    (height, width), _ = sizes.most_common(1)[0]
    return Seen(
        n=len(samples),
        height=height,
        width=width,
        sizes=len(sizes),
        is_grey=all(greys),
        detail=int(np.median(details)),
        explained=explained_by_mean(np.stack(grids)),
        part="" if rule.threshold is None else rule.describe(),
    )


def explained_by_mean(pictures: NDArray[np.floating]) -> float:
    """Share of the variance of pictures (N, h, w) that the mean of the others explains; at most 1, 0 if N is 1.

    Each picture's own mean is taken off first: brighter light moves no part.

    >>> explained_by_mean(np.array([[[0.0, 1.0]], [[1.0, 2.0]]]))
    1.0
    """
    n = len(pictures)
    centred = pictures - pictures.mean((1, 2), keepdims=True)
    variance = float(np.square(centred).mean())
    if n < 2 or variance == 0:
        return 0.0
    of_others = n / (n - 1) * (centred - centred.mean(0))  # a picture less the mean of all but it
    return max(0.0, 1 - float(np.square(of_others).mean()) / variance)


def detail(values: NDArray[np.uint8]) -> int:
    """Pixels a side, a power of two, in which the share KEPT of the variance of a grey picture (H, W) is left.

    >>> detail(np.repeat(np.array([[0, 255]], np.uint8), 2, axis=0)), detail(np.zeros((64, 64), np.uint8))
    (2, 1)
    """
    variance, side = float(values.var(dtype=np.float64)), 1
    while variance and side < max(values.shape):
        rough = Image.fromarray(_shrunk(values, side)).resize(values.shape[::-1], Image.Resampling.BILINEAR)
        lost = float(np.square(values - np.asarray(rough)).mean(dtype=np.float64))
        if lost <= (1 - KEPT) * variance:
            break
        side *= 2
    return side


def _shrunk(values: NDArray[np.uint8], side: int) -> NDArray[np.float32]:
    """(side, side)"""
    image = Image.fromarray(values.astype(np.float32))
    return np.asarray(image.resize((side, side), Image.Resampling.BILINEAR))
