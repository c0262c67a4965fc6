"""A good picture gets a defect: a mask of noise within the foreground, filled from a source.

MemSeg: A semi-supervised method for image surface defect detection using differences and commonalities
(Yang, Wu, Liu, Feng, 2022, arXiv 2205.00908), section 3.2. Noise, blending and tiles are checked against numbers of the
unofficial code TooTouch/MemSeg at commit 836bd465. Unlike there a mask is never empty: that code trains now and then on
a "defect" without a defect pixel.

Whatever is random depends on the seed and the key of a picture only, never on workers or order.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from inlier.data.simulation.foreground import WHOLE, Foreground, Mask, Pixels, grey
from inlier.data.simulation.noise import Noise, draw_noise, perlin_noise
from inlier.data.simulation.sources import Textures, draw_structure
from inlier.errors import InlierError

Kind = Literal["texture", "structure", "slow"]

OPACITY = (0.15, 1.0)  # beta: how strongly the source covers the part
THRESHOLD = 0.5  # noise above it is defect
ATTEMPTS = 10  # masks drawn before the fallback
SLOW_SCALES = (0, 2)  # of the noise, below the sharp defects'
SLOW_CHANGE = (10, 60)  # grey levels
FALLBACK_SHARE = 0.02  # of the foreground, where the noise is highest


def blend(image: Pixels, source: Pixels, mask: Mask, opacity: float) -> Pixels:
    """(1 - M) I + opacity M S + (1 - opacity) M I in float64, cut (not rounded) to uint8; paper, section 3.2.

    Pixels outside the mask are those of the image.
    """
    out = image.copy()
    out[mask] = (opacity * source[mask].astype(np.float64) + (1 - opacity) * image[mask]).astype(np.uint8)
    return out


def is_grey(image: Pixels) -> bool:
    return bool((image == image[..., :1]).all())


class Simulated(NamedTuple):
    """A picture with a simulated defect, and the steps that led to it."""

    image: Pixels  # (H, W, 3)
    mask: Mask  # (H, W), where the defect is; never empty
    foreground: Mask  # (H, W), where it was allowed
    noise: Noise  # float32 (H, W)
    source: Pixels  # (H, W, 3), what was blended in
    kind: Kind
    whole_image: bool  # the rule found no foreground in what is inspected of this picture, so all of that was taken


@dataclass(frozen=True)
class Simulator:
    """Puts a defect into a good picture. Ranges are inclusive. Raises InlierError for numbers that make no sense."""

    seed: int = 0
    foreground: Foreground = WHOLE
    textures: Textures | None = None  # None: every defect is made of the part itself
    texture_share: float = 0.5  # of the defects
    grid: tuple[int, int] = (4, 8)  # rows and columns of shuffled tiles
    slow_share: float = 0.0  # of the defects: slow changes of brightness, which have no edge (ours, not the paper's)
    match_grey: bool = False  # what goes into a grey picture loses its colours, which would give the defect away

    def __post_init__(self) -> None:
        for name, valid, range in (
            ("seed", self.seed >= 0, "at least 0"),
            ("texture_share", 0 <= self.texture_share <= 1, "from 0 to 1"),
            ("slow_share", 0 <= self.slow_share <= 1, "from 0 to 1"),
            ("grid", min(self.grid) >= 1, "two numbers of at least 1"),
        ):
            if not valid:
                raise InlierError(f"{name}: must be {range}, got {getattr(self, name)}")

    def __call__(self, image: Pixels, key: Sequence[int], inspected: Mask | None = None) -> Simulated:
        """A defect in a good picture, uint8 (H, W, 3), which is not changed; equal for equal settings, seed and key.

        key: numbers >= 0 that tell this draw from others, such as (epoch, index); always as many. inspected: (H, W),
        the region of interest, outside of which no defect lies. Raises InlierError.
        """
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
            raise InlierError(f"expected a picture of uint8 (H, W, 3), got {image.dtype} {image.shape}")
        rng = np.random.default_rng([self.seed, *key])
        allowed = WHOLE(image) if inspected is None else inspected
        foreground = self.foreground(image) & allowed
        if whole_image := not foreground.any():
            foreground = allowed
        if self.slow_share and rng.random() < self.slow_share:
            return self._slow(rng, image, foreground, whole_image)
        mask, noise = self._draw_mask(rng, foreground)
        # drawn before the source, so that both kinds of defect share mask and opacity
        opacity = rng.uniform(*OPACITY)
        kind: Kind = "texture" if rng.random() < self.texture_share and self.textures else "structure"
        if kind == "texture" and self.textures:
            source = self.textures.draw(rng, *mask.shape)
        else:
            source = draw_structure(rng, image, self.grid)
        if self.match_grey and is_grey(image):
            source = np.repeat(grey(source)[..., None], 3, 2)
        return Simulated(blend(image, source, mask, opacity), mask, foreground, noise, source, kind, whole_image)

    def _slow(self, rng: np.random.Generator, image: Pixels, foreground: Mask, whole_image: bool) -> Simulated:
        """Brighter or darker, the colours a little unequally; strongest in the middle of hills of slow noise.

        The noise is not turned: what comes in at the corners would be an edge.
        """
        rows, columns = 2 ** rng.integers(SLOW_SCALES[0], SLOW_SCALES[1] + 1, 2)
        noise = np.abs(perlin_noise(rng.random((rows + 1, columns + 1)), *foreground.shape)).astype(np.float32)
        top = max(float(noise[foreground].max()), 1e-6)
        weight = np.clip(noise / top, 0, 1) ** 2 * foreground
        change = rng.uniform(*SLOW_CHANGE) * rng.choice([-1, 1])
        tint = np.ones(3) if is_grey(image) else rng.uniform(0.5, 1.5, 3)
        source = (image + change * tint).clip(0, 255).astype(np.uint8)
        made = image + weight[..., None] * (source - image.astype(np.float64))
        return Simulated(made.round().astype(np.uint8), weight >= 0.5, foreground, noise, source, "slow", whole_image)

    def _draw_mask(self, rng: np.random.Generator, foreground: Mask) -> tuple[Mask, Noise]:
        """A mask within a foreground that is not empty, and its noise."""
        for _ in range(ATTEMPTS):
            noise = draw_noise(rng, foreground.shape)
            mask: Mask = (noise > THRESHOLD) & foreground
            if mask.any():
                return mask, noise
        # small foregrounds may lie in a valley ten times: take the highest places of the last noise
        level = np.quantile(noise[foreground], 1 - FALLBACK_SHARE, method="lower")
        return (noise >= level) & foreground, noise

    def describe(self) -> str:
        """One sentence for people: where simulated defects lie, and what they are made of."""
        where = self.foreground.describe()
        pieces = "altered and shuffled pieces of the part itself"
        slow = f"; {100 * self.slow_share:.0f} % are slow changes of brightness instead" if self.slow_share else ""
        if not self.textures or not self.texture_share:
            return f"Simulated defects lie {where}; they are made of {pieces}{slow}."
        share = f"{100 * self.texture_share:.0f} % of them are made of foreign texture ({self.textures.origin})"
        return f"Simulated defects lie {where}; {share}, the others of {pieces}{slow}."
