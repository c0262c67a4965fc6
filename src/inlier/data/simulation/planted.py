"""Defects of six kinds, planted in good pictures to see what a model would find. No method is trained on these.

Each kind stands for faults that parts have: a foreign texture, an altered piece of the part, a piece from elsewhere
(missing or deformed material), a scratch, a spot (pit, dirt, hole), a stain (a slow change of brightness without an
edge). Texture and altered pieces are those of MemSeg's section 3.2 (arXiv 2205.00908), the piece from elsewhere and the
scratch follow CutPaste (Li et al., CVPR 2021, arXiv 2104.04015). Sizes and contrasts are ours: areas from 0.2 to 5 %
of the part, every order of magnitude as likely as another.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter

from inlier.data.simulation.foreground import WHOLE, Foreground, Mask, Pixels, grey
from inlier.data.simulation.noise import draw_noise
from inlier.data.simulation.simulator import is_grey
from inlier.data.simulation.sources import Textures, draw_structure

AREA = 0.002, 0.05  # of the part
LEAST_AREA = 12  # pixels
CONTRAST = 0.5, 2.0  # of spot, scratch and stain, in deviations of the part's grey levels...
LEAST_CONTRAST = 12.0  # ...and at least so many grey levels
SEEN = 6.0  # grey levels: mean change below which a defect is drawn again
ATTEMPTS = 10

Weight = NDArray[np.floating]  # (H, W): how strongly the source covers the part, 0 to 1


class Planted(NamedTuple):
    """A picture with a planted defect."""

    image: Pixels  # (H, W, 3)
    mask: Mask  # (H, W): where the defect is; never empty
    kind: str


class Place(NamedTuple):
    """Where and how large a defect shall be."""

    image: Pixels
    part: Mask
    centre: tuple[int, int]  # row, column
    area: float  # pixels


def plant(
    image: Pixels,
    key: Sequence[int],
    foreground: Foreground = WHOLE,
    textures: Textures | None = None,
    inspected: Mask | None = None,
) -> Planted:
    """A defect in a good picture, uint8 (H, W, 3), which is not changed; equal for equal keys.

    key: numbers >= 0 that tell this draw from others; the last one chooses the kind, in turn. inspected: (H, W), the
    region of interest, which the defect keeps to.
    """
    rng = np.random.default_rng(key)
    allowed = np.ones(image.shape[:2], np.bool_) if inspected is None else inspected
    part = foreground(image) & allowed
    if not part.any():
        part = allowed
    kinds = [kind for kind in KINDS if textures or kind != "texture"]
    kind = kinds[key[-1] % len(kinds)]
    rows, columns = np.nonzero(part)
    for attempt in range(ATTEMPTS + 1):
        if attempt == ATTEMPTS:  # a flat part looks the same in another place, but a spot can be seen
            kind = "spot"
        i = rng.integers(len(rows))
        area = max(LEAST_AREA, len(rows) * np.exp(rng.uniform(*np.log(AREA))))
        place = Place(image, part, (int(rows[i]), int(columns[i])), float(area))
        source, weight = KINDS[kind](rng, place, textures)
        made = _blended(image, source, weight * part)
        mask = (weight >= 0.5 * weight.max()) & part
        if mask.any() and np.abs(made[mask].astype(np.int16) - image[mask]).mean() >= SEEN:
            break
    return Planted(made, mask, kind)


def _blended(image: Pixels, source: NDArray[np.floating] | Pixels, weight: Weight) -> Pixels:
    w = weight[..., None].astype(np.float32)
    values: Pixels = np.rint((1 - w) * image + w * source).clip(0, 255).astype(np.uint8)
    return values


def _texture(rng: np.random.Generator, place: Place, textures: Textures | None) -> tuple[Pixels, Weight]:
    assert textures is not None
    source = textures.draw(rng, *place.part.shape)
    return _like(source, place.image), rng.uniform(0.3, 1) * _blob(rng, place)


def _structure(rng: np.random.Generator, place: Place, textures: Textures | None) -> tuple[Pixels, Weight]:
    return _like(draw_structure(rng, place.image), place.image), rng.uniform(0.3, 1) * _blob(rng, place)


def _displaced(rng: np.random.Generator, place: Place, textures: Textures | None) -> tuple[Pixels, Weight]:
    """From another place of the part, so that the piece fits the part but not where it lies."""
    rows, columns = np.nonzero(place.part)
    i = rng.integers(len(rows))
    shift = place.centre[0] - int(rows[i]), place.centre[1] - int(columns[i])
    return np.roll(place.image, shift, (0, 1)), 1.0 * _blob(rng, place)


def _scratch(rng: np.random.Generator, place: Place, textures: Textures | None) -> tuple[NDArray[np.float32], Weight]:
    """A line of three bent pieces, thin against its length."""
    width = rng.uniform(1, 1 + max(place.part.shape) / 200)
    pieces = np.full(3, place.area / width / 3)
    angles = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, 0.35, 3))
    steps = np.stack([pieces * np.cos(angles), pieces * np.sin(angles)], 1)
    points = np.cumsum([np.zeros(2), *steps], axis=0)
    points += np.array(place.centre[::-1]) - points.mean(0)
    zoom = 4  # lines of Pillow have no soft edges
    top_left = np.floor(points.min(0)) - 4
    extent = np.ceil(points.max(0)) + 5 - top_left
    canvas = Image.new("L", tuple((zoom * extent).astype(int).tolist()))
    line = [tuple(p) for p in (zoom * (points - top_left)).tolist()]
    ImageDraw.Draw(canvas).line(line, 255, max(1, round(zoom * width)), "curve")
    drawn = np.asarray(canvas.reduce(zoom)).astype(np.float32) / np.float32(255)
    return _changed(rng, place), _put(drawn, (int(top_left[1]), int(top_left[0])), place.part.shape)


def _spot(rng: np.random.Generator, place: Place, textures: Textures | None) -> tuple[NDArray[np.float32], Weight]:
    return _changed(rng, place), _blob(rng, place)


def _stain(rng: np.random.Generator, place: Place, textures: Textures | None) -> tuple[NDArray[np.float32], Weight]:
    """Larger than the others, and without an edge."""
    wide = place._replace(area=4 * place.area)
    radius = np.sqrt(wide.area / np.pi)
    weight = gaussian_filter(_blob(rng, wide).astype(np.float32), 0.5 * radius, truncate=3)
    return _changed(rng, place), weight / max(float(weight.max()), 1e-6)


KINDS: dict[
    str,
    Callable[
        [np.random.Generator, Place, Textures | None],
        tuple[Pixels, Weight] | tuple[NDArray[np.float32], Weight],
    ],
] = {
    "texture": _texture,
    "structure": _structure,
    "displaced": _displaced,
    "scratch": _scratch,
    "spot": _spot,
    "stain": _stain,
}


def _like(source: Pixels, image: Pixels) -> Pixels:
    """What goes into a grey picture is grey: a colour would give it away."""
    return np.repeat(grey(source)[..., None], 3, 2) if is_grey(image) else source


def _changed(rng: np.random.Generator, place: Place) -> NDArray[np.float32]:
    """The picture, all of it darker or brighter; a coloured one tinted a little too."""
    deviation = float(grey(place.image)[place.part].std())
    change = max(LEAST_CONTRAST, rng.uniform(*CONTRAST) * deviation) * rng.choice([-1, 1])
    tint = np.ones(3) if is_grey(place.image) else rng.uniform(0.5, 1.5, 3)
    return np.clip(place.image + (change * tint).astype(np.float32), 0, 255)


def _blob(rng: np.random.Generator, place: Place) -> Weight:
    """A lump of about the area, its outline roughened by noise."""
    stretch = np.exp(rng.uniform(-0.7, 0.7))
    radius = np.sqrt(place.area / np.pi)
    half = int(np.ceil(2.2 * radius * max(stretch, 1 / stretch))) + 2
    y, x = np.mgrid[-half : half + 1, -half : half + 1]
    turn = rng.uniform(0, np.pi)
    along, across = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    distance = np.sqrt((along / stretch) ** 2 + (across * stretch) ** 2) / radius
    inside = distance + 0.5 * draw_noise(rng, distance.shape, (1, 3)) < 1
    drawn: NDArray[np.float32] = inside.astype(np.float32)
    return _put(drawn, (place.centre[0] - half, place.centre[1] - half), place.part.shape)


def _put(drawn: NDArray[np.float32], corner: tuple[int, int], shape: tuple[int, ...]) -> Weight:
    """A small drawing in an empty picture of this shape; what does not fit in is cut off."""
    out = np.zeros(shape, np.float32)
    top, left = corner
    above, before = max(0, -top), max(0, -left)
    cut = drawn[above : max(above, shape[0] - top), before : max(before, shape[1] - left)]
    out[top + above : top + above + cut.shape[0], left + before : left + before + cut.shape[1]] = cut
    return out
