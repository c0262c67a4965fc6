"""Views of a picture: turned by the very pixels that Pillow picks, flipped; and how many of them do no harm."""

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.ndimage import spline_filter1d
from torch import Tensor
from torch.nn import functional as F

from inlier.methods.differnet.settings import Settings

NUMBERS = 4, 2, 1  # of views to choose from, the most that are harmless: more find more (docs/experiments.md)
SMALL, GRID = 128, 8  # pixels a side that they are made for it, cells a side in which their edges are measured
NEAR, FAR, MOST = 0.1, 0.95, 0.5  # see `share_unlike`; a turn that makes more than MOST of them unlike is not taken


class View(NamedTuple):
    """How a picture is changed, in this order."""

    degrees: float = 0.0  # counter-clockwise
    mirror: bool = False
    flip: bool = False
    brightness: float = 1.0
    contrast: float = 1.0


def fixed_angles(n: int, rotation: float) -> list[float]:
    """The middles of n equal parts of -rotation to rotation; a full turn starts upright (as the released evaluation).

    Without rotation all views are one.
    """
    if rotation == 0:
        return [0.0]
    if rotation == 180:
        return [360 * i / n for i in range(n)]
    return [rotation * ((2 * i + 1) / n - 1) for i in range(n)]


def draw_view(s: Settings, generator: torch.Generator, degrees: float | None = None) -> View:
    """A random view, or one at this angle that is random in everything else."""
    turn, mirror, flip, brightness, contrast = torch.rand(5, generator=generator, dtype=torch.float64).tolist()
    return View(
        s.rotation * (2 * turn - 1) if degrees is None else degrees,
        s.mirror and mirror < 0.5,
        s.flip and flip < 0.5,
        1 + s.brightness * (2 * brightness - 1),
        1 + s.contrast * (2 * contrast - 1),
    )


def look(image: Tensor, view: View, fill: str) -> Tensor:
    """(3, H, W) in [0, 1] -> the view of it, same shape and range."""
    image = rotate(image, view.degrees, fill)
    flipped = [axis for axis, wanted in ((2, view.mirror), (1, view.flip)) if wanted]
    image = image.flip(flipped) if flipped else image
    if view.brightness != 1:
        image = (image * view.brightness).clamp(0, 1)
    if view.contrast != 1:
        grey = (image * image.new_tensor((0.299, 0.587, 0.114)).view(3, 1, 1)).sum(0).mean()
        image = (grey + (image - grey) * view.contrast).clamp(0, 1)
    return image


def rotate(images: Tensor, degrees: float, fill: str = "black") -> Tensor:
    """(..., H, W) turned counter-clockwise about the centre, every pixel one of the source's or black.

    Equal to Pillow's Image.rotate without resampling, which counts source positions in 1/65536 pixel. fill "reflect"
    mirrors the picture at its borders instead (the border itself is not repeated).
    """
    height, width = images.shape[-2:]
    if degrees % 360 == 0:
        return images
    angle = -math.radians(degrees % 360)
    cos, sin = round(math.cos(angle), 15), round(math.sin(angle), 15)
    top, left = cos * -height / 2 - sin * -width / 2 + height / 2, cos * -width / 2 + sin * -height / 2 + width / 2
    y, x = (torch.arange(n, dtype=torch.int32, device=images.device) for n in (height, width))
    y = y[:, None]
    across, down = _fixed(cos), _fixed(sin)
    column = (_fixed(left + cos * 0.5 + sin * 0.5) + across * x + down * y) >> 16
    row = (_fixed(top - sin * 0.5 + cos * 0.5) + _fixed(-sin) * x + across * y) >> 16
    if fill == "reflect":
        column, row = _mirrored(column, width), _mirrored(row, height)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    index = (row * width + column) * inside
    turned = images.flatten(-2).index_select(-1, index.flatten()).view(images.shape)
    return turned if fill == "reflect" else turned * inside


def spline_matrix(n: int) -> Tensor:
    """(n, n) float32: from values to coefficients of the cubic spline through them, mirrored at the ends."""
    return torch.from_numpy(spline_filter1d(np.eye(n), 3, axis=0, mode="mirror").astype(np.float32))


def turn(images: Tensor, degrees: float, splines: Tensor) -> Tensor:
    """(..., n, n) turned counter-clockwise about the centre, cubic splines between the pixels, 0 outside.

    Equal to scipy.ndimage.rotate up to rounding. splines: `spline_matrix(n)`.
    """
    if degrees % 90 == 0:  # every pixel falls on another one
        return rotate(images, degrees)
    n, angle = images.shape[-1], math.radians(degrees)
    centred = torch.arange(n, dtype=torch.float64).sub((n - 1) / 2)
    y = math.cos(angle) * centred[:, None] + math.sin(angle) * centred + (n - 1) / 2
    x = math.cos(angle) * centred - math.sin(angle) * centred[:, None] + (n - 1) / 2
    inside = (y >= 0) & (y <= n - 1) & (x >= 0) & (x <= n - 1)
    rows, columns = (_spline_taps(place * inside, n) for place in (y, x))
    coefficients = (splines @ images @ splines.T).flatten(-2)
    turned = torch.zeros_like(coefficients)
    for (row, of_row), (column, of_column) in itertools.product(rows, columns):
        index, weight = (row * n + column).flatten(), (of_row * of_column * inside).flatten()
        turned.addcmul_(coefficients.index_select(-1, index.to(images.device)), weight.to(images))
    return turned.view(images.shape)


def _spline_taps(place: Tensor, n: int) -> list[tuple[Tensor, Tensor]]:
    """Four (index, weight) of the cubic B-spline at each place in 0 to n - 1."""
    first = place.floor()
    t = (place - first).float()
    s = 1 - t
    weights = s * s * s / 6, 2 / 3 - t * t * (1 - t / 2), 2 / 3 - s * s * (1 - s / 2), t * t * t / 6
    return [(_mirrored(first.int() + k - 1, n), weight) for k, weight in enumerate(weights)]


def smaller(views: Tensor, stride: int) -> Tensor:
    """(..., H, W) -> (..., H // stride, W // stride), the nearest pixels that torch's interpolation takes."""
    if views.shape[-2] % stride == views.shape[-1] % stride == 0:
        return views[..., ::stride, ::stride]
    return F.interpolate(views, size=[side // stride for side in views.shape[-2:]])


def _fixed(value: float) -> int:
    return math.floor(value * 65536 + 0.5)


def _mirrored(index: Tensor, n: int) -> Tensor:
    """Positions outside 0 to n - 1, by less than n - 1, reflected at the first and the last."""
    return n - 1 - (n - 1 - index.abs()).abs()


def choose_views(s: Settings, pictures: Iterable[Tensor], categories: Sequence[str]) -> tuple[Settings, str]:
    """The settings with the number of views filled in, and why so many. pictures: (3, H, W) of good parts.

    Parts that lie at any angle show it: turned good pictures look like good ones. Where parts lie one way up, a turned
    one is a defect, and a model that scores a picture upright and turned gives both the very same score.
    """
    degrees = sorted({angle for n in NUMBERS for angle in fixed_angles(n, s.rotation)})
    seen = torch.stack([edges(picture, [0.0, *degrees], s.fill) for picture in pictures])
    unlike = dict.fromkeys(degrees, 0.0)
    for category in dict.fromkeys(categories):
        of = seen[[i for i, name in enumerate(categories) if name == category]]
        for k, angle in enumerate(degrees, 1):
            unlike[angle] = max(unlike[angle], share_unlike(of[:, 0], of[:, k]))
    harmless = (n for n in NUMBERS if all(unlike[angle] <= MOST for angle in fixed_angles(n, s.rotation)))
    angles = fixed_angles(next(harmless, 1), s.rotation)
    turned = {f"{angle:g}": f"{100 * share:.0f}" for angle, share in unlike.items() if angle}
    measured = (
        f"of good pictures turned by {', '.join(turned)} degrees {', '.join(turned.values())} % look unlike good ones, "
        f"at most {100 * MOST:.0f} % may"
    )
    why = f"views at {', '.join(f'{angle:g}' for angle in angles)} degrees: "
    why += measured if turned else "'rotation' allows no other"
    return s.replace(view_pool=len(angles), views=min(s.views, len(angles))), why


def edges(image: Tensor, degrees: Sequence[float], fill: str) -> Tensor:
    """(len(degrees), cells) how strong the edges are in each cell of turned views of (3, H, W), relative to their mean.

    Unlike grey values they tell how a part lies, whatever side the light comes from.
    """
    grey = F.adaptive_avg_pool2d(image.mean(0, keepdim=True), min(SMALL, *image.shape[1:]))
    views = torch.stack([rotate(grey, angle, fill) for angle in degrees])
    steps = torch.hypot(views[..., 1:, :-1] - views[..., :-1, :-1], views[..., :-1, 1:] - views[..., :-1, :-1])
    cells = F.adaptive_avg_pool2d(steps, GRID).sqrt().flatten(1)
    return cells / cells.mean(1, keepdim=True).clamp(min=1e-6)


def share_unlike(upright: Tensor, turned: Tensor) -> float:
    """Share of turned pictures (N, cells) that lie farther from the upright others than FAR of these do themselves.

    How far a picture lies: the distance within which are NEAR of the others. The nearest one alone says too much of
    pictures that were taken twice.
    """
    n = len(upright)
    if n < 2:
        return 0.0
    others = ~torch.eye(n, dtype=torch.bool)

    def distances(pictures: Tensor) -> Tensor:
        exact = torch.cdist(pictures, upright, compute_mode="donot_use_mm_for_euclid_dist")
        return exact[others].view(n, n - 1).quantile(NEAR, 1)

    limit = distances(upright).quantile(FAR) + 1e-3  # rounding is no difference
    return (distances(turned) > limit).float().mean().item()
