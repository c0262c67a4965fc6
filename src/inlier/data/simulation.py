"""Simulated defects: foreign texture, or altered pieces of the part itself, blended into a good picture.

MemSeg: A semi-supervised method for image surface defect detection using differences and commonalities
(Yang, Wu, Liu, Feng, 2022, arXiv 2205.00908), section 3.2. Noise, blending and tiles are checked against numbers of the
unofficial code TooTouch/MemSeg at commit 836bd465. Our choices:
- Opening and closing of the foreground, in the paper but not in that code. The radius is ours, the paper gives none.
- The grid of 4 rows x 8 columns is the paper's; that code has 8 x 8.
- A mask is never empty. That code trains now and then on a "defect" without a defect pixel.
- Ranges of sharpness, posterize and autocontrast are ours.

Whatever is random depends on the seed and the key of a picture only, never on workers or order.
"""

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps
from scipy.ndimage import maximum_filter, minimum_filter

from inlier.data.images import FORMATS, list_images, read_image
from inlier.errors import InlierError

Pixels = NDArray[np.uint8]  # (H, W, 3)
Mask = NDArray[np.bool_]  # (H, W)
Noise = NDArray[np.floating]  # (H, W)
Kind = Literal["texture", "structure"]

ATTEMPTS = 10  # masks drawn before the fallback
FALLBACK_SHARE = 0.02  # of the foreground, where the noise is highest
SEPARABLE = 0.7  # share of the variance that the split explains: 0.64 for a bell-shaped histogram, 0.75 for a flat one
PART_SHARE = 0.02, 0.8  # of the picture. Below it is dust; above it there is no background worth a rule
AT_BORDER = 0.25  # the part's share of the border against its share of the picture: a texture has 1, a part in view 0
LOOKED_AT = 50  # good images are enough to choose a rule
AGREEMENT = 0.8  # share of the good pictures that must tell the same


# --- Perlin noise


def perlin_noise(angles: NDArray[np.floating], height: int, width: int) -> Noise:
    """Perlin's gradient noise times sqrt 2, float64 (height, width), within about -1 and 1.

    angles: (rows + 1, columns + 1), direction of the gradient at each corner of the cells, in full turns.
    Cells need not hold a whole number of pixels.
    """
    # The value at a pixel is a sum over corners of weight x (gradient . offset), and both parts separate into rows and
    # columns: four small matrices instead of eight gathered pictures.
    (weight_y, lever_y), (weight_x, lever_x) = _lattice(angles.shape[0], height), _lattice(angles.shape[1], width)
    turn = 2 * np.pi * angles.astype(np.float64)
    noise: Noise = np.sqrt(2) * (lever_y @ np.cos(turn) @ weight_x.T + weight_y @ np.sin(turn) @ lever_x.T)
    return noise


def _lattice(corners: int, size: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(size, corners): each pixel's weight of each corner along one axis, and weight x distance from the corner."""
    position = np.arange(size) * (corners - 1) / size
    distance = position[:, None] - np.arange(corners)
    t = np.clip(1 - np.abs(distance), 0, 1)  # 1 at the corner, 0 from the next one on
    weight = t**3 * (t * (6 * t - 15) + 10)
    return weight, weight * distance


def draw_noise(rng: np.random.Generator, shape: tuple[int, ...], scales: tuple[int, int] = (0, 5)) -> Noise:
    """Perlin noise of 2**U{scales} cells per axis, turned by U(-90, 90) degrees, float32 of shape (H, W).

    Turned with Pillow, bilinear, about the centre, size kept; what comes in from outside is 0, so corners hold fewer
    defects (as in the released code).
    """
    rows, columns = 2 ** rng.integers(scales[0], scales[1] + 1, 2)
    noise = perlin_noise(rng.random((rows + 1, columns + 1)), *shape).astype(np.float32)
    return np.asarray(Image.fromarray(noise).rotate(rng.uniform(-90, 90), Image.Resampling.BILINEAR))


# --- Foreground: where the part is


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
            size, pixels = 2 * self.radius + 1, mask.view(np.uint8)
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
    """The rule a user asks for: "auto" looks at the good images, "released" is the table for MVTec AD, "whole".

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
    """The rule that good images, uint8 (H, W, 3), suggest: Otsu's split, the part on the side that avoids the border.

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
    """uint8 (H, W): ITU-R 601 luma in whole numbers, rounded, as OpenCV computes it."""
    red, green, blue = np.moveaxis(image.astype(np.int32), 2, 0)
    values: NDArray[np.uint8] = ((4899 * red + 9617 * green + 1868 * blue + 8192) >> 14).astype(np.uint8)
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


# --- Source 1: foreign textures


@dataclass(frozen=True)
class Textures:
    """Pictures that foreign texture is taken from. `origin` names them for people."""

    paths: tuple[Path, ...]
    origin: str

    def draw(self, rng: np.random.Generator, height: int, width: int) -> Pixels:
        """One of them at random, stretched to (height, width, 3), bilinear. Raises ImageError if it is damaged."""
        image = read_image(self.paths[rng.integers(len(self.paths))])
        image = image.resize((width, height), Image.Resampling.BILINEAR)
        if image.mode == "F":  # 16-bit grey in [0, 1]; Pillow's own conversion would turn it black
            image = Image.fromarray(np.rint(np.asarray(image) * 255).astype(np.uint8)).convert("RGB")
        return np.asarray(image)


def open_textures(folder: Path | str | None = None) -> Textures | None:
    """The pictures in a folder and its subfolders, such as the Describable Textures Dataset.

    Without a folder: brick, grass and gravel, three grey pictures (CC0) inside scikit-image, where that is installed
    (`pip install "inlier[textures]"`); None where not. Nothing is ever downloaded.
    Only headers are read here, of every file. Raises InlierError that lists all files that are no pictures.
    """
    if folder is None:
        package = importlib.util.find_spec("skimage")  # found, not imported: that would take a second
        if package is None or package.origin is None:
            return None
        data = Path(package.origin).parent / "data"
        bundled = tuple(data / f"{name}.png" for name in ("brick", "grass", "gravel"))
        return Textures(bundled, "brick, grass and gravel of scikit-image") if all(map(_opens, bundled)) else None
    paths = tuple(list_images(folder)) if Path(folder).is_dir() else ()
    if not paths:
        found = "holds no pictures" if Path(folder).is_dir() else "is a file" if Path(folder).exists() else "not found"
        raise InlierError(f"{folder}: {found}; --textures (setting 'textures') takes a folder of pictures, such as DTD")
    if bad := [str(path) for path in paths if not _opens(path)]:
        names = "\n  ".join(bad)
        raise InlierError(f"{folder}: {len(bad)} of {len(paths)} textures cannot be read; remove:\n  {names}")
    return Textures(paths, f"{len(paths)} pictures in {folder}")


def _opens(path: Path) -> bool:
    try:
        with Image.open(path, formats=FORMATS) as image:
            image.verify()
    except Exception:  # Pillow's readers raise all kinds
        return False
    return True


# --- Source 2: the part itself, altered and shuffled


def _look_up(image: Image.Image, tables: Sequence[NDArray[Any]]) -> Image.Image:
    """Each channel through its table of 256 values."""
    return image.point(np.rint(np.concatenate(tables)).clip(0, 255).astype(int).tolist())


def _gamma(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return _look_up(image, [255 * (np.arange(256) / 255) ** gamma for gamma in rng.uniform(0.5, 2, 3)])


def _brightness(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return _look_up(image, [np.arange(256) * rng.uniform(0.8, 1.2) + rng.uniform(-30, 30)] * 3)


def _sharpness(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return ImageEnhance.Sharpness(image).enhance(rng.uniform(0, 3))  # below 1 it blurs


def _hue_and_saturation(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    hue, saturation = rng.integers(-50, 51, 2)
    level = np.arange(256)
    return _look_up(image.convert("HSV"), [(level + hue) % 256, level + saturation, level]).convert("RGB")


def _solarize(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    threshold = int(rng.integers(32, 129))
    return ImageOps.solarize(image, threshold) if rng.random() < 0.5 else image


def _posterize(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return ImageOps.posterize(image, int(rng.integers(1, 8)))  # bits that stay


def _invert(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return ImageOps.invert(image)


def _autocontrast(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return ImageOps.autocontrast(image, cutoff=rng.uniform(0, 20))  # per cent, at either end


def _equalize(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return ImageOps.equalize(image)


def _rotate(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return image.rotate(rng.uniform(-45, 45), Image.Resampling.BILINEAR)  # black comes in at the corners


OPERATIONS: tuple[Callable[[Image.Image, np.random.Generator], Image.Image], ...] = (
    _gamma, _brightness, _sharpness, _hue_and_saturation, _solarize,
    _posterize, _invert, _autocontrast, _equalize, _rotate,
)  # fmt: skip


def draw_structure(rng: np.random.Generator, image: Pixels, grid: tuple[int, int] = (4, 8)) -> Pixels:
    """The picture (H, W, 3) after three different OPERATIONS, its tiles shuffled."""
    altered = Image.fromarray(image)
    for index in rng.choice(len(OPERATIONS), 3, replace=False):
        altered = OPERATIONS[index](altered, rng)
    return shuffle_tiles(np.asarray(altered), grid, rng.permutation(grid[0] * grid[1]))


def shuffle_tiles(image: Pixels, grid: tuple[int, int], order: Sequence[int] | NDArray[np.integer]) -> Pixels:
    """Cut (H, W, 3) into grid = (rows, columns) of tiles, counted row by row; tile k becomes tile order[k] of before.

    A side that does not divide is first extended at its end by mirroring, and cut back afterwards.
    """
    height, width, _ = image.shape
    rows, columns = grid
    padded = np.pad(image, ((0, -height % rows), (0, -width % columns), (0, 0)), mode="symmetric")
    tiles = padded.reshape(rows, len(padded) // rows, columns, -1, 3).swapaxes(1, 2)  # (rows, columns, h, w, 3)
    shuffled = tiles.reshape(-1, *tiles.shape[2:])[np.asarray(order)].reshape(tiles.shape)
    return np.ascontiguousarray(shuffled.swapaxes(1, 2).reshape(padded.shape)[:height, :width])


# --- All together


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
    whole_image: bool  # the rule found no foreground in this picture, so the whole of it was taken


@dataclass(frozen=True)
class Simulator:
    """Puts a defect into a good picture. Ranges are inclusive. Raises InlierError for numbers that make no sense."""

    seed: int = 0
    foreground: Foreground = WHOLE
    textures: Textures | None = None  # None: every defect is made of the part itself
    texture_share: float = 0.5  # of the defects
    grid: tuple[int, int] = (4, 8)  # rows and columns of shuffled tiles
    opacity: tuple[float, float] = (0.15, 1.0)  # beta: how strongly the source covers the part
    scales: tuple[int, int] = (0, 5)  # the noise has 2**scale cells along an axis
    threshold: float = 0.5  # noise above it is defect
    match_grey: bool = False  # what goes into a grey picture loses its colours, which would give the defect away

    def __post_init__(self) -> None:
        for name, valid, range in (
            ("seed", self.seed >= 0, "at least 0"),
            ("texture_share", 0 <= self.texture_share <= 1, "from 0 to 1"),
            ("grid", min(self.grid) >= 1, "two numbers of at least 1"),
            ("opacity", 0 < self.opacity[0] <= self.opacity[1] <= 1, "low and high, above 0 and at most 1"),
            ("scales", 0 <= self.scales[0] <= self.scales[1] <= 8, "low and high, from 0 to 8"),
            ("threshold", 0 <= self.threshold < 1, "at least 0 and below 1"),
        ):
            if not valid:
                raise InlierError(f"{name}: must be {range}, got {getattr(self, name)}")

    def __call__(self, image: Pixels, key: Sequence[int]) -> Simulated:
        """A defect in a good picture, uint8 (H, W, 3), which is not changed; equal for equal settings, seed and key.

        key: numbers >= 0 that tell this draw from others, such as (epoch, index); always as many. Raises InlierError.
        """
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
            raise InlierError(f"expected a picture of uint8 (H, W, 3), got {image.dtype} {image.shape}")
        rng = np.random.default_rng([self.seed, *key])
        foreground = self.foreground(image)
        if whole_image := not foreground.any():
            foreground = WHOLE(image)
        mask, noise = self._draw_mask(rng, foreground)
        # drawn before the source, so that both kinds of defect share mask and opacity
        opacity = rng.uniform(*self.opacity)
        kind: Kind = "texture" if rng.random() < self.texture_share and self.textures else "structure"
        if kind == "texture" and self.textures:
            source = self.textures.draw(rng, *mask.shape)
        else:
            source = draw_structure(rng, image, self.grid)
        if self.match_grey and is_grey(image):
            source = np.repeat(grey(source)[..., None], 3, 2)
        return Simulated(blend(image, source, mask, opacity), mask, foreground, noise, source, kind, whole_image)

    def _draw_mask(self, rng: np.random.Generator, foreground: Mask) -> tuple[Mask, Noise]:
        """A mask within a foreground that is not empty, and its noise."""
        for _ in range(ATTEMPTS):
            noise = draw_noise(rng, foreground.shape, self.scales)
            mask: Mask = (noise > self.threshold) & foreground
            if mask.any():
                return mask, noise
        # small foregrounds may lie in a valley ten times: take the highest places of the last noise
        level = np.quantile(noise[foreground], 1 - FALLBACK_SHARE, method="lower")
        return (noise >= level) & foreground, noise

    def describe(self) -> str:
        """One sentence for people: where simulated defects lie, and what they are made of."""
        where, pieces = self.foreground.describe(), "altered and shuffled pieces of the part itself"
        if not self.textures or not self.texture_share:
            return f"Simulated defects lie {where}; they are made of {pieces}."
        share = f"{100 * self.texture_share:.0f} % of them are made of foreign texture ({self.textures.origin})"
        return f"Simulated defects lie {where}; {share}, the others of {pieces}."
