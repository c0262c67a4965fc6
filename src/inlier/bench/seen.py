"""What good pictures of a part are like, in numbers and words: what a choice among methods starts from."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.fft import dctn

from inlier.bench.trial import LOOKED_AT_SIDE, as_8_bit
from inlier.data.datasets.sample import Sample, evenly
from inlier.data.images import read_image
from inlier.data.simulation.foreground import LOOKED_AT, Pixels, choose_foreground, grey
from inlier.data.simulation.simulator import is_grey
from inlier.progress import progress

GRID = 32  # pixels a side of the small grey pictures that are compared
SIZES = 224, 256, 320, 384, 512  # pixels a side that a network may be shown; beyond that, tiles
ALIGNED = 0.5  # share of the variance that the mean picture explains, from which parts count as aligned
KEPT = 0.8  # share of the edges that must be left when a picture is made small


@dataclass(frozen=True)
class Seen:
    """What is seen in good pictures; all but `n` on at most LOOKED_AT of them, evenly spread."""

    n: int
    height: int  # median
    width: int
    sizes: int  # how many different ones
    is_grey: bool
    edges: Mapping[int, float]  # share of the edges that each of SIZES keeps, as far as the pictures are so large
    explained: float  # share of the variance of small grey pictures that the mean of the others explains
    part: str  # where the part is: "on what is darker than ..."; empty: no part stands out from a background

    @property
    def size(self) -> int | None:
        """Pixels a side that show what the pictures hold, no more than they have; None: they are smaller than that."""
        return next((size for size, kept in self.edges.items() if kept >= KEPT), max(self.edges, default=None))

    @property
    def is_aligned(self) -> bool:
        return self.explained >= ALIGNED

    def facts(self) -> list[tuple[str, str]]:
        """(what is seen, the measure that it rests on), for people."""
        several = "of several sizes, half of them at most " if self.sizes > 1 else ""
        colour = "grey" if self.is_grey else "colour"
        size = f"{self.size} x {self.size} pixels show what they hold" if self.size else "small pictures"
        kept = ", ".join(f"{100 * share:.0f} % at {side}" for side, share in self.edges.items())
        explained = f"the mean of the others explains {100 * self.explained:.0f} % of the variance of a small picture"
        return [
            (
                f"{self.n} good pictures",
                f"{several}{self.width} x {self.height} pixels, {colour}",
            ),
            (size, f"of the energy of edges is left: {kept}" if kept else f"less than {SIZES[0]} pixels a side"),
            ("aligned: all show the same at the same place" if self.is_aligned else "not aligned", explained),
            ("a part before a background", self.part)
            if self.part
            else ("a texture, or a part that fills the picture", "grey values show no part that keeps off the border"),
        ]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {
            "size": self.size,
            "aligned": self.is_aligned,
            "facts": [f"{what}: {measure}" for what, measure in self.facts()],
        }


def look(samples: Sequence[Sample]) -> Seen:
    """Read some good pictures of one category and say what they are like. Raises ImageError."""
    looked_at = evenly(samples, LOOKED_AT)
    sizes = Counter[tuple[int, int]]()
    greys, kept, small, grids = [], [], list[Pixels](), []
    with progress("looking at good pictures", len(looked_at)) as show:
        for done, sample in enumerate(looked_at, 1):
            picture = as_8_bit(read_image(sample.source))
            sizes[picture.shape[:2]] += 1
            greys.append(is_grey(picture))
            kept.append(edges_kept(grey(picture)))
            image = Image.fromarray(picture)
            image.thumbnail((LOOKED_AT_SIDE, LOOKED_AT_SIDE))
            small.append(np.asarray(image))
            grids.append(_shrunk(grey(picture), GRID))
            show(done)
    rule = choose_foreground(small)
    height, width = (int(np.median(sides)) for sides in zip(*sizes.elements(), strict=True))
    native = np.median([max(size) for size in sizes.elements()])
    return Seen(
        n=len(samples),
        height=height,
        width=width,
        sizes=len(sizes),
        is_grey=all(greys),
        edges={size: float(share) for size, share in zip(SIZES, np.mean(kept, 0)) if size <= native},
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


def edges_kept(values: NDArray[np.uint8], sizes: Sequence[int] = SIZES) -> list[float]:
    """Share of the energy of a grey picture's edges, (H, W), that is left when it is made so small, for each size.

    The energy is the sum of the squared differences of neighbours, part by part of the cosines that make the picture;
    N pixels hold the N slowest ones. It tells of fine structure what the variance, nearly all of it slow, can't.

    >>> [round(share, 2) for share in edges_kept(np.tile(np.array([[0, 0, 255, 255]], np.uint8), (4, 2)), [2, 4, 8])]
    [0.01, 0.5, 1.0]
    """
    power = np.square(dctn(values.astype(np.float32), norm="ortho"))
    of_y, of_x = (4 * np.square(np.sin(np.pi * np.arange(n) / (2 * n))) for n in values.shape)
    energy = power * (of_y[:, None] + of_x)
    total = float(energy.sum())
    is_flat = total < 1  # less than a single step of grey: rounding
    return [1.0 if is_flat else float(energy[:size, :size].sum()) / total for size in sizes]


def _shrunk(values: NDArray[np.uint8], side: int) -> NDArray[np.float32]:
    """(side, side)"""
    image = Image.fromarray(values.astype(np.float32))
    return np.asarray(image.resize((side, side), Image.Resampling.BILINEAR))
