"""Where the part is in a picture, and so where defects may lie.

Opening and closing are in the paper of MemSeg, but not in the unofficial code (see `simulator`). Their radius is ours:
the paper gives none.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter, minimum_filter

from inlier.errors import InlierError

Pixels = NDArray[np.uint8]  # (H, W, 3)
Mask = NDArray[np.bool_]  # (H, W)

SEPARABLE = 0.7  # share of the variance that the split explains: 0.64 for a bell-shaped histogram, 0.75 for a flat one
PART_SHARE = 0.02, 0.8  # of the picture. Below it is dust; above it there is no background worth a rule
AT_BORDER = 0.25  # the part's share of the border against its share of the picture: a texture has 1, a part in view 0
LOOKED_AT = 50  # good pictures are enough to choose a rule
AGREEMENT = 0.8  # share of the good pictures that must tell the same


@dataclass(frozen=True)
class Foreground:
    """Where defects may lie: pixels with grey > threshold, or <= threshold if `darker`; everywhere for None.

    threshold: 0-255, or "otsu" for the picture's own best split in two.
    radius: opening, then closing with a square of 2 radius + 1 pixels, which removes dust and fills pin holes; 0: none.
        More than 1 eats thin parts, such as the thread of a screw, at 256 pixels.
    """

    threshold: int | Literal["otsu"] | None = None
    darker: bool = False
    radius: int = 1

    def __post_init__(self) -> None:
        number = isinstance(self.threshold, int) and 0 <= self.threshold <= 255
        if not (number or self.threshold in ("otsu", None)):
            raise InlierError(f'threshold: must be 0 to 255, "otsu" or None, got {self.threshold!r}')
        if self.radius < 0:
            raise InlierError(f"radius: must be at least 0 pixels, got {self.radius}")

    def __call__(self, image: Pixels) -> Mask:
        """bool (H, W); may be empty."""
        if self.threshold is None:
            return np.ones(image.shape[:2], np.bool_)
        values = grey(image)
        threshold = otsu(values)[0] if self.threshold == "otsu" else self.threshold
        mask = (values <= threshold) if self.darker else (values > threshold)
        if self.radius:
            # beyond the border goes on what is at it, or parts that reach it would lose their edge
            size = 2 * self.radius + 1
            pixels = mask.view(np.uint8)
            opened = maximum_filter(minimum_filter(pixels, size, mode="nearest"), size, mode="nearest")
            closed = minimum_filter(maximum_filter(opened, size, mode="nearest"), size, mode="nearest")
            mask = closed.view(np.bool_)
        return mask

    def describe(self) -> str:
        """Where defects may lie, for people: "on what is darker than grey 120"."""
        if self.threshold is None:
            return "anywhere in the picture"
        threshold = "the picture's own threshold (Otsu)" if self.threshold == "otsu" else f"grey {self.threshold}"
        return f"on what is {'darker' if self.darker else 'brighter'} than {threshold}"


WHOLE = Foreground()

# Thresholds of the released code for MVTec AD, without its missing opening and closing. What it calls "reversed" is
# the brighter side. Looked at on screw only, resized to 512: "110, not reversed" is the screw and not the background,
# but just the dark half of it, without shine and bright flanks. Otsu's split, near 150, is all of it and its shadow.
# In between, "darker:130" leaves the shadow out and keeps most of the part.
RELEASED: Mapping[str, Foreground] = MappingProxyType(
    {name: Foreground(threshold, False, 0) for name, threshold in
     (("hazelnut", 50), ("metal_nut", 40), ("pill", 100), ("toothbrush", 30))}
    | {name: Foreground(threshold, True, 0) for name, threshold in
       (("capsule", 120), ("transistor", 90), ("bottle", 250), ("screw", 110), ("zipper", 100))}
    | dict.fromkeys(("leather", "tile", "wood", "grid", "carpet", "cable"), WHOLE)
)  # fmt: skip


def foreground_rule(choice: str, category: str, images: Sequence[Pixels]) -> Foreground:
    """The rule a user asks for: "auto" looks at the good pictures, "released" is the table for MVTec AD, "whole".

    Or by hand: "brighter" or "darker" (by Otsu's threshold), "brighter:120", "darker:120". Raises InlierError.
    """
    check_rule(choice)
    side, _, number = choice.partition(":")
    if choice == "auto":
        return choose_foreground(images)
    if choice == "whole":
        return WHOLE
    if choice == "released":
        if category not in RELEASED:
            known = ", ".join(sorted(RELEASED))
            raise InlierError(f"setting 'foreground': no released rule for '{category}', only for {known}")
        return RELEASED[category]
    return Foreground(int(number) if number else "otsu", side == "darker")


def check_rule(choice: str) -> None:
    """Raise InlierError if `foreground_rule` knows no such choice."""
    side, colon, number = choice.partition(":")
    by_hand = side in ("brighter", "darker") and (not colon or (number.isdecimal() and int(number) <= 255))
    if choice not in ("auto", "whole", "released") and not by_hand:
        raise InlierError(
            f"setting 'foreground': got '{choice}', expected auto, whole, released, brighter or darker, "
            "or a grey level from 0 to 255 with it, such as darker:120"
        )


def choose_foreground(images: Sequence[Pixels]) -> Foreground:
    """The rule that good pictures, uint8 (H, W, 3), suggest: Otsu's split, the part on the side that avoids the border.

    The whole picture where most images do not fall into two clear parts, or show both at the border (textures), or
    hardly show a background: little would be won, and dark details of the part lost.
    """
    votes = [_part_is_darker(grey(image)) for image in images]
    for darker in (False, True):
        if votes and votes.count(darker) >= AGREEMENT * len(votes):
            return Foreground("otsu", darker)
    return WHOLE


def _part_is_darker(values: NDArray[np.uint8]) -> bool | None:
    """Of the two sides of a picture's split the one that is the part; None if neither is."""
    threshold, separability = otsu(values)
    dark = values <= threshold
    share, at_border = dark.mean(), np.concatenate([dark[0], dark[-1], dark[1:-1, 0], dark[1:-1, -1]]).mean()
    for darker, part, border in ((True, share, at_border), (False, 1 - share, 1 - at_border)):
        if separability > SEPARABLE and PART_SHARE[0] <= part <= PART_SHARE[1] and border <= AT_BORDER * part:
            return darker
    return None


def grey(image: Pixels) -> NDArray[np.uint8]:
    """uint8 (H, W): ITU-R 601 luma in whole numbers of 15 bits, rounded: OpenCV's, for each of all colours."""
    red, green, blue = np.moveaxis(image.astype(np.int32), 2, 0)
    values: NDArray[np.uint8] = ((9798 * red + 19235 * green + 3735 * blue + 16384) >> 15).astype(np.uint8)
    return values


def otsu(values: NDArray[np.uint8]) -> tuple[int, float]:
    """Threshold of the best split in <= and >, and the share of the variance that it explains (Otsu, 1979).

    (value, 0) for a picture of one value. Between two far peaks all thresholds are as good: the middle one.
    """
    share = np.bincount(values.ravel(), minlength=256) / values.size
    level = np.arange(256)
    below, moment = np.cumsum(share), np.cumsum(share * level)
    mean = moment[-1]
    variance = float(np.sum(share * (level - mean) ** 2))
    if variance == 0:
        return int(values.flat[0]), 0.0
    between = np.zeros(256)
    inside = (below > 1e-12) & (below < 1 - 1e-12)
    between[inside] = (mean * below[inside] - moment[inside]) ** 2 / (below[inside] * (1 - below[inside]))
    best = np.flatnonzero(between >= between.max() * (1 - 1e-9))
    return int(best[len(best) // 2]), float(between.max()) / variance
