"""Which pictures are copies of one another: the same file, or the same shot saved again in another format or size.

Parts on a fixture look alike, and two shots under the same light may differ by less than a picture and its JPEG: what
tells a copy from another shot is the noise, which copies share. So a pair is a copy where both are true of two small
grey pictures: their distance is far below that of most pairs, and what is left of them without their common shape
agrees in the quiet half of the picture, where there is nothing but noise. Where the pictures of a category differ by
their noise alone (a part on a fixture, under one light), agreement is enough. What JPEG has taken all noise from is not
found.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import uniform_filter

from inlier.data.datasets.sample import evenly

SIDE = 64  # of the small pictures: averages over more pixels would lose the noise, finer ones fit no other size
# of the median distance between two pictures: copies of real ones lie at .03 and below (JPEG of quality 60 to 95, WebP,
# 96 % of the size), the closest other pairs of 320 to 740 at .06 and above. Among fewer pictures chance brings fewer
# pairs so close, and noisy pictures of parts that hardly differ need the room.
NEAR, NEAR_OF_FEW, FEW = 0.05, 0.1, 60
AGREEMENT = 0.3  # correlation of the noise: other shots have 0 +- .05, copies .4 to 1
# noise alone: pairs that do not agree (.15) are all equally far apart (1 % quantile over median: .86 to .93 seen, of
# real pictures .24 to .41), and nearly none agree a little (of real ones some per cent)
DISAGREE, FAR, LITTLE = 0.15, 0.7, 0.001
BLOCK = 1024  # pictures compared at once
SAMPLE = 2000  # pictures that give mean and spread
TYPICAL = 500  # pictures of which all pairs give the limits


def small(image: Image.Image) -> NDArray[np.uint16]:
    """(SIDE, SIDE) grey of a picture of `read_image`, in units of 1/256 of a grey level: 8 KiB each."""
    if image.mode == "F":
        grey = Image.fromarray(np.asarray(image) * np.float32(255))
    else:
        grey = image.convert("L")
        factor = min(image.size) // (4 * SIDE)  # a picture of 24 MP in float would take 100 MB
        grey = (grey.reduce(factor) if factor > 1 else grey).convert("F")
    pixels = np.asarray(grey.resize((SIDE, SIDE), Image.Resampling.BILINEAR))
    return np.rint(pixels * 256).clip(0, 65535).astype(np.uint16)


def group(pictures: Sequence[NDArray[np.uint16]], digests: Sequence[str], categories: Sequence[str]) -> list[int]:
    """A number for each picture; copies of one another share it. Numbered from 0, in order of appearance.

    pictures: of `small`. digests: equal for equal files. Only pictures of one category are compared.
    """
    first: dict[str, int] = {}  # digest -> the first picture with it
    leader = [first.setdefault(digest, i) for i, digest in enumerate(digests)]
    for category in dict.fromkeys(categories):
        own = [i for i in first.values() if categories[i] == category]
        for i, j in _pairs([pictures[i] for i in own]):
            leader[own[j]] = own[i]
    leader = [leader[head] for head in leader]  # equal files follow their first
    numbers: dict[int, int] = {}
    return [numbers.setdefault(head, len(numbers)) for head in leader]


def _pairs(pictures: Sequence[NDArray[np.uint16]]) -> list[tuple[int, int]]:
    """(first, copy), each copy once. A first is no copy itself: likeness does not go from hand to hand."""
    n = len(pictures)
    if n < 3:
        return []  # two pictures have nothing to compare their distance with
    chosen = evenly(range(n), SAMPLE)
    centre = np.mean([pictures[i] for i in chosen], axis=0, dtype=np.float64)

    def flat(indices: Sequence[int] | range) -> NDArray[np.float32]:
        rows: NDArray[np.float32] = np.stack([(pictures[i] - centre).ravel() / 256 for i in indices]).astype(np.float32)
        return rows

    def noise(indices: Sequence[int] | range) -> NDArray[np.float32]:
        rest = flat(indices).reshape(-1, SIDE, SIDE)
        return (rest - uniform_filter(rest, (0, 5, 5), mode="nearest")).reshape(-1, SIDE * SIDE)

    spread = np.mean([np.abs(noise([i])[0]) for i in chosen], axis=0)
    quiet = spread <= np.median(spread)
    typical = chosen[:: -(-len(chosen) // TYPICAL)]
    sample, fingerprints = flat(typical), _unit(noise(typical)[:, quiet])
    pairs = np.triu_indices(len(typical), 1)
    limit = _limit(_distances(sample, sample)[pairs], (fingerprints @ fingerprints.T)[pairs], n)
    found: dict[int, int] = {}
    coarse = np.concatenate([_shrunk(flat(range(i, min(i + BLOCK, n)))) for i in range(0, n, BLOCK)])
    for start in range(0, n, BLOCK):
        for other in range(start, n, BLOCK):
            # averages are no further apart than what they are averages of: most pairs are told apart by them
            near = _distances(coarse[start : start + BLOCK], coarse[other : other + BLOCK]) <= limit
            near &= np.arange(start, start + len(near))[:, None] < np.arange(other, other + near.shape[1])
            rows, columns = np.flatnonzero(near.any(1)), np.flatnonzero(near.any(0))
            if not rows.size:
                continue
            left, right = (start + rows).tolist(), (other + columns).tolist()
            near = near[np.ix_(rows, columns)] & (_distances(flat(left), flat(right)) <= limit)
            if near.any():
                near &= _unit(noise(left)[:, quiet]) @ _unit(noise(right)[:, quiet]).T >= AGREEMENT
            for i, j in ((left[a], right[b]) for a, b in np.argwhere(near)):
                if i not in found and j not in found:
                    found[j] = i
    return [(i, j) for j, i in found.items()]


def _limit(apart: NDArray[np.float32], agreement: NDArray[np.float32], n: int) -> float:
    """The distance up to which two of n pictures that agree are copies; from those of typical pairs."""
    median, other = float(np.median(apart)), apart[agreement < DISAGREE]
    little = np.mean((agreement >= DISAGREE) & (agreement < AGREEMENT))
    if other.size and little < LITTLE and np.quantile(other, 0.01) >= FAR * np.median(other):
        return float(np.quantile(other, 0.01))
    return min(NEAR_OF_FEW, max(NEAR, NEAR_OF_FEW * (FEW / n) ** 0.5)) * median


def _distances(one: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n, m) root mean square differences, in grey levels."""
    squares = (one**2).sum(1)[:, None] + (other**2).sum(1)[None] - 2 * one @ other.T
    found: NDArray[np.float32] = np.sqrt(np.maximum(squares, 0) / np.float32(one.shape[1]))
    return found


def _shrunk(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n, SIDE^2) -> (n, SIDE^2 / 16): averages of 4 x 4."""
    averages: NDArray[np.float32] = rows.reshape(-1, SIDE // 4, 4, SIDE // 4, 4).mean((2, 4))
    return averages.reshape(len(rows), -1)


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    rest: NDArray[np.float32] = rows - rows.mean(1, keepdims=True)
    rest /= np.maximum(np.linalg.norm(rest, axis=1, keepdims=True), 1e-6)
    return rest
