"""Which pictures are copies of one another: the same file, or the same shot saved again in another format or size.

Parts on a fixture look alike, and two shots under the same light may differ by less than a picture and its JPEG: what
tells a copy from another shot is the noise, which copies share. So a pair is a copy where both are true of two small
grey pictures: their distance is far below that of most pairs, and what is left of them without their common shape
agrees in the quiet half of the picture, where there is nothing but noise. Pairs that are not that near must differ in
the quiet half as much as elsewhere, as noisy copies do: two parts differ most at their edges. Where the pictures of a
category differ by their noise alone (a part on a fixture, under one light), they may be further apart. What JPEG has
taken all noise from is not found.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import uniform_filter

from inlier.data.datasets.sample import evenly

SIDE = 64  # of the small pictures: averages over more pixels would lose the noise, finer ones fit no other size
# of the median distance between two pictures: copies lie at .035 and below (JPEG of quality 60 to 95, 90 % of the size,
# there and back; screws, magnetic tiles, solar cells, 3 to 320 of them), the closest other pairs that agree at .057.
# Noisy pictures of parts that hardly differ need more room, to NEARLY
NEAR, NEARLY = 0.045, 0.1
# what the quiet half differs by, of the distance: copies of noisy pictures .6 to 1, other pairs as near .54 and below.
# With both, 1340 random subsets of each of those sets had no pair but the true one of the tiles, and all 4830 copies of
# each set were found
EVEN = 0.6
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
    sure, limit = _limits(_distances(sample, sample)[pairs], (fingerprints @ fingerprints.T)[pairs])
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
            apart = _distances(flat(left), flat(right))
            near = near[np.ix_(rows, columns)] & (apart <= limit)
            if near.any():
                one, two = noise(left)[:, quiet], noise(right)[:, quiet]
                near &= _unit(one) @ _unit(two).T >= AGREEMENT
                for a, b in np.argwhere(near & (apart > sure)):
                    near[a, b] = np.sqrt(np.mean((one[a] - two[b]) ** 2)) >= EVEN * apart[a, b]
            for i, j in ((left[a], right[b]) for a, b in np.argwhere(near)):
                if i not in found and j not in found:
                    found[j] = i
    return [(i, j) for j, i in found.items()]


def _limits(apart: NDArray[np.float32], agreement: NDArray[np.float32]) -> tuple[float, float]:
    """The distances up to which two pictures that agree are copies: at once, and if they differ evenly.

    From those of typical pairs.
    """
    median, other = float(np.median(apart)), apart[agreement < DISAGREE]
    little = np.mean((agreement >= DISAGREE) & (agreement < AGREEMENT))
    if other.size and little < LITTLE and np.quantile(other, 0.01) >= FAR * np.median(other):
        return NEAR * median, float(np.quantile(other, 0.01))
    return NEAR * median, NEARLY * median


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
