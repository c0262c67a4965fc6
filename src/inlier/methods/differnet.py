"""DifferNet: a normalizing flow over multi-scale features judges whole images.

Rudolph, Wandt, Rosenhahn, "Same Same But DifferNet: Semi-Supervised Defect Detection with Normalizing Flows", WACV
2021, arXiv 2008.12577. Checked against numbers made with the authors' code (marco-rudolph/differnet, commit 9bdf026).

Same mathematics, other computation: smaller scales are strided slices where the size divides (the code's nearest
interpolation, bit for bit); gradients are turned back by splines on tensors (as scipy's in the code, up to rounding);
the log-determinant comes with the training pass and not at all when scoring; all views of a batch are scored together,
a bounded number at a time; views are turned on tensors, by the very pixels that Pillow picks.

What differs: the last step is the model, where the code also reports its best epoch on the test set; scoring views lie
at fixed angles, so that a picture has one score. Flips are ours. The preset `light` trains on cached features of four,
two or one view, at right angles, where no corner is missing, and scores these: as many as leave good pictures looking
like good ones (`choose_views`). Its features are means and deviations of channels, whitened: the flow starts from what
a Gaussian knows, so few steps do.

`inlier preview DATA --method differnet` shows the views. The map is a picture for people (section 3.4 of the paper):
where the gradient of the likelihood is large. The paper gives no pixel metrics.
"""

import itertools
import logging
import math
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import spline_filter1d
from torch import Tensor, nn
from torch.nn import functional as F

from inlier import processes, settings
from inlier.data.batches import read_ahead
from inlier.detector import Detector, Images, to_input
from inlier.errors import InlierError
from inlier.features import Backbone
from inlier.maps import smooth_upsample_matrix
from inlier.progress import progress
from inlier.settings import setting
from inlier.training import Run, train

log = logging.getLogger("inlier")
# Views in one pass bound the memory, whatever the batch and the number of views. At 448 pixels and EfficientNet-Lite0
VIEWS_AT_ONCE = 16  # take about 1 GiB,
GRADIENTS_AT_ONCE = 4  # about 1.5 GiB.
LARGEST = 1e6  # bound of a block's output, as in the released code
REPORTS = 10  # lines about the likelihood during training
NUMBERS = 4, 2, 1  # of views to choose from, the most that are harmless: more find more (docs/experiments.md)
LOOKED_AT = 200  # pictures, at most, for that choice
SMALL, GRID = 128, 8  # pixels a side that they are made for it, cells a side in which their edges are measured
NEAR, FAR, MOST = 0.1, 0.95, 0.5  # see `share_unlike`; a turn that makes more than MOST of them unlike is not taken
PREVIEWED, SHOWN, GAP = 4, 6, 6  # pictures and views of each in a preview, pixels between them


@dataclass(frozen=True, kw_only=True)
class Settings(settings.Settings):
    taps: tuple[int | str, ...] = setting((32,), "layers whose channel means are the features")
    deviations: bool = setting(False, "the features are deviations of the channels, too")
    size: int = setting(448, "height and width of the largest scale, pixels", low=32, high=4096)
    scales: int = setting(3, "each half as large as the one before (section 3.2)", low=1, high=6)
    whiten: float | None = setting(
        None,
        "decorrelate the features on the fitted images, this much noise (a variance) added; new views (view_pool 0) "
        "need 0.1 or more; none: as they are",
        low=1e-9,
        high=1.0,
    )
    rotation: float = setting(180.0, "views are turned by up to so many degrees, either way", low=0.0, high=180.0)
    mirror: bool = setting(False, "views in training are flipped left to right, every second one on average")
    flip: bool = setting(False, "views in training are flipped top to bottom, every second one on average")
    brightness: float = setting(0.0, "views in training are up to this share brighter or darker", low=0.0, high=1.0)
    contrast: float = setting(0.0, "views in training have up to this share more or less contrast", low=0.0, high=1.0)
    fill: str = setting("black", "what lies outside the picture when it is turned", choices=("black", "reflect"))
    views: int = setting(4, "views of each image in a step", low=1, high=1024)
    test_views: int | None = setting(
        64, "views that are scored, at evenly spaced angles; none: as many as are trained on", low=1, high=1024
    )
    view_pool: int | None = setting(
        0,
        "train on so many views an image, at evenly spaced angles, features cached; 0: new ones; none: the most of 4, "
        "2 and 1 at which good pictures look like good ones",
        low=0,
        high=1024,
    )
    blocks: int = setting(8, "coupling blocks (section 4.2)", low=1, high=64)
    width: int = setting(2048, "hidden units of the networks inside a block", low=1, high=16384)
    clamp: float = setting(3.0, "bound of a block's log scale, softly (equation 5; times 0.636 pi / 2)", low=1e-3)
    epochs: int = setting(192, "passes over the good images (the code's 24 x 8)", low=1)
    steps: int | None = setting(None, "training steps, instead of epochs", low=1, instead_of="epochs")
    batch_size: int = setting(24, "images in a step", low=1)
    lr: float = setting(2e-4, "Adam learning rate", low=1e-9, high=1.0)
    weight_decay: float = setting(1e-5, "Adam weight decay", low=0.0)
    sigma: float = setting(3.0, "gaussian smoothing of the gradients, pixels", low=0.0, high=100.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.view_pool and self.view_pool < self.views:
            raise InlierError(f"setting 'views': {self.views} in a step, but only {self.view_pool} in 'view_pool'")


# -- views ------------------------------------------------------------------------------------------------------------


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


# -- choice of views --------------------------------------------------------------------------------------------------


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


# -- network ----------------------------------------------------------------------------------------------------------


def subnet(inputs: int, outputs: int, width: int) -> nn.Sequential:
    """Scale and shift of one half of the features, from the other half."""
    sizes = (inputs, width, width, width, outputs)
    layers = [part for i, o in itertools.pairwise(sizes) for part in (nn.Linear(i, o), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


class Block(nn.Module):
    """A fixed permutation, then the affine coupling of Glow: each half is scaled and shifted by the other."""

    order: Tensor

    def __init__(self, dim: int, seed: int, s: Settings):
        super().__init__()
        self.halves, self.clamp = (dim // 2, dim - dim // 2), s.clamp
        first, second = self.halves
        self.register_buffer("order", torch.from_numpy(np.random.RandomState(seed).permutation(dim).astype(np.int64)))
        self.s1 = subnet(first, 2 * second, s.width)
        self.s2 = subnet(second, 2 * first, s.width)

    def forward(self, x: Tensor, log_scales: list[Tensor] | None = None) -> Tensor:
        """(N, dim) -> (N, dim). Two logarithms of scales, (N, half) each, are appended to `log_scales`."""
        x1, x2 = x[:, self.order].split(self.halves, 1)
        y1, log_scale1 = self.transform(x1, self.s2(x2))
        y2, log_scale2 = self.transform(x2, self.s1(y1))
        if log_scales is not None:
            log_scales += [log_scale1, log_scale2]
        return F.hardtanh(torch.cat([y1, y2], 1), -LARGEST, LARGEST)

    def transform(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        scale, shift = parameters.chunk(2, 1)
        log_scale = self.clamp * 0.636 * torch.atan(scale / self.clamp)  # 0.636, not 2 / pi: as released
        return log_scale.exp() * x + shift, log_scale


class Flow(nn.Module):
    """Features (N, dim) to z (N, dim), which is standard normal for good parts."""

    def __init__(self, dim: int, s: Settings):
        super().__init__()
        self.blocks = nn.ModuleList(Block(dim, k, s) for k in range(s.blocks))

    def forward(self, x: Tensor, log_scales: list[Tensor] | None = None) -> Tensor:
        for block in self.blocks:
            x = block(x, log_scales)
        return x

    def with_logdet(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """z (N, dim), and the logarithm of the Jacobian's determinant (N,)"""
        log_scales: list[Tensor] = []
        z = self(x, log_scales)
        return z, torch.cat(log_scales, 1).sum(1)


def negative_log_likelihood(z: Tensor, logdet: Tensor) -> Tensor:
    """(N,) in nats a dimension, less the constant log(2 pi) / 2 (equation 7)"""
    return (z.square().sum(1) / 2 - logdet) / z.shape[1]


def count_features(s: Settings, backbone: Backbone) -> int:
    return s.scales * sum(backbone.channels) * (2 if s.deviations else 1)


class Network(nn.Module):
    """Features of three scales, and the flow."""

    mean: Tensor
    whitening: Tensor
    splines: Tensor
    smooth: Tensor

    def __init__(self, s: Settings):
        super().__init__()
        self.s = s
        self.backbone = Backbone(s.backbone, s.taps)
        self.strides = [2**i for i in range(s.scales)]
        smallest = s.size // self.strides[-1]
        try:
            with torch.no_grad():
                self.backbone(torch.zeros(1, 3, smallest, smallest))
        except RuntimeError as error:
            raise InlierError(
                f"setting 'size': {s.size} is too small, the last of {s.scales} scales has {smallest} pixels, of which "
                f"{s.backbone} leaves nothing at the tap {s.taps[-1]}"
            ) from error
        dim = count_features(s, self.backbone)
        self.deviations = s.deviations
        if dim < 2:
            raise InlierError("setting 'taps': a flow needs two features at least")
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("whitening", torch.eye(dim))
        self.flow = Flow(dim, s)
        self.register_buffer("splines", spline_matrix(s.size), persistent=False)
        self.register_buffer("smooth", smooth_upsample_matrix(s.size, s.size, s.sigma), persistent=False)

    @property
    def angles(self) -> list[float]:
        """Of the views that are scored."""
        return fixed_angles(self.s.test_views or self.s.view_pool or self.s.views, self.s.rotation)

    def features(self, views: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, dim): channel means of every scale, largest first, and of every tap; then deviations."""
        maps = [m for stride in self.strides for m in self.backbone(smaller(views, stride))]
        found = [m.mean((2, 3)) for m in maps]
        if self.deviations:  # the small number gives a channel that is constant a gradient
            found += [(m.var((2, 3), correction=0) + 1e-10).sqrt() for m in maps]
        return (torch.cat(found, 1) - self.mean) @ self.whitening

    def views(self, images: Tensor, at_once: int = VIEWS_AT_ONCE) -> Iterator[Tensor]:
        """The scoring views of (B, 3, H, W), image by image, at most so many in a batch."""
        pairs = iter([(image, degrees) for image in images for degrees in self.angles])
        while chunk := list(itertools.islice(pairs, at_once)):
            yield torch.stack([rotate(image, degrees, self.s.fill) for image, degrees in chunk])

    def mean_square(self, z: Tensor) -> Tensor:
        """(B * views, dim) -> scores (B,)"""
        return z.square().mean(1).unflatten(0, (-1, len(self.angles))).mean(1)

    def scores(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B,). Without maps there is no backward pass and no log-determinant."""
        # image by image: what else lies in the batch must not change a digit of the score
        z = [self.flow(torch.cat([self.features(views) for views in self.views(image[None])])) for image in images]
        return self.mean_square(torch.cat(z))

    def forward(self, images: Tensor, inspected: Tensor | None = None) -> tuple[Tensor, Tensor]:
        # what is not inspected is one flat colour: the score of a whole picture has nothing to leave out
        scores, maps = [], []
        for image in images:  # the gradients of one image's views in memory, not of all
            z, gradients = self.input_gradients(image[None])
            scores.append(self.mean_square(z))
            maps.append(self.picture(gradients))
        return torch.cat(scores), torch.stack(maps)

    def input_gradients(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """z (B * views, dim), and each view's gradient of the mean loss of an image's views, (B * views, 3, H, W)"""
        with torch.inference_mode(False), torch.enable_grad():
            parts = [self._view_gradients(views) for views in self.views(images.clone(), GRADIENTS_AT_ONCE)]
        z, gradients = (torch.cat(column) for column in zip(*parts))
        return z, gradients

    def _view_gradients(self, views: Tensor) -> tuple[Tensor, Tensor]:
        z, logdet = self.flow.with_logdet(self.features(views.requires_grad_()))
        loss = negative_log_likelihood(z, logdet).sum() / len(self.angles)
        return z.detach(), torch.autograd.grad(loss, views)[0]

    def picture(self, gradients: Tensor) -> Tensor:
        """Gradients of views (..., views, 3, H, W) -> map (..., H, W): turned back, smoothed, mean size, squared."""
        views = zip(gradients.unbind(-4), self.angles)
        turned = torch.stack([turn(gradient, -degrees, self.splines) for gradient, degrees in views], -4)
        return (self.smooth @ turned @ self.smooth.T).abs().mean((-4, -3)).square()


class WithGradients(nn.Module):
    """The network for an exported graph, which cannot differentiate: its gradients are operations of the graph."""

    def __init__(self, network: Network):
        from inlier.runtime.backward import with_backward  # parts of torch that take a second to import

        super().__init__()
        self.network, self.at_once = network, max(1, GRADIENTS_AT_ONCE // len(network.angles))

        def step(views: Tensor) -> tuple[Tensor, Tensor]:
            return network._view_gradients(views.detach())

        side = network.splines.shape[0]
        self.step = with_backward(step, torch.rand(6, 3, side, side))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        network, n = self.network, len(self.network.angles)
        views = torch.stack([rotate(images, degrees, network.s.fill) for degrees in network.angles], 1)
        z, gradients = self.step(views.flatten(0, 1))
        return network.mean_square(z), network.picture(gradients.unflatten(0, (-1, n)))


class DifferNet(Detector[Settings, Network]):
    """A normalizing flow that knows how likely the features of a whole image are."""

    name = "differnet"
    light_seconds = 120.0
    log_maps = True
    maps_cost_extra = True
    maps_jump = True
    previews = True
    presets = {
        "paper": Settings(backbone="alexnet"),
        "light": Settings(
            taps=("blocks.3", "blocks.4", "blocks.5", "blocks.6"),
            deviations=True,
            scales=2,
            whiten=1e-3,
            fill="reflect",
            views=2,
            test_views=None,
            view_pool=None,
            width=128,
            steps=200,
            lr=5e-4,
        ),
    }

    def build(self, s: Settings) -> Network:
        return Network(s)

    def export_graph(self) -> nn.Module:
        return WithGradients(self.network_)

    def preview(
        self,
        category: str,
        pictures: Sequence[NDArray[np.uint8]],
        inspected: Sequence[NDArray[np.bool_]],
        names: Sequence[str],
    ) -> tuple[Image.Image, str]:
        s, why = self.settings, ""
        if s.view_pool is None:
            s, why = choose_views(s, map(to_picture, pictures), [category] * len(pictures))
        told = ("rotation", "mirror", "flip", "brightness", "contrast", "fill", "view_pool")
        shown = ", ".join(f"{name}={getattr(s, name)}" for name in told)
        words = f"the picture, then views of it: {shown}" + (f"; {why}" if why else "")
        return view_sheet(pictures[:PREVIEWED], s, self.seed), words

    def memory_needed(self, s: Settings, n_images: int) -> int:
        with torch.device("meta"):
            flow = Flow(count_features(s, Backbone(s.backbone, s.taps)), s)
        # weights, gradients and Adam's two moments; the views of a step, twice read ahead; half a GiB for the rest
        views = 0 if s.view_pool != 0 else 3 * 4 * s.batch_size * s.views * 3 * s.size**2
        matrices = 5 * 8 * count_features(s, Backbone(s.backbone, s.taps)) ** 2 if s.whiten else 0
        return 16 * sum(parameter.numel() for parameter in flow.parameters()) + views + matrices + 2**29

    def learn(self, network: Network, images: Images, run: Run) -> None:
        s = network.s
        if s.view_pool is None:
            order = torch.randperm(len(images.pictures), generator=run.generator())
            looked_at = images.subset(order[:LOOKED_AT].sort().values.tolist())
            pictures = (picture for batch in looked_at.batches(8, torch.device("cpu")) for picture in batch)
            s, why = choose_views(s, pictures, looked_at.categories)
            self.settings_ = network.s = s
            log.info("%s", why)
        steps = s.steps or math.ceil(s.epochs * len(images) / s.batch_size)
        pool = pool_features(network, images, s, run) if s.view_pool or s.whiten else torch.empty(0)
        if s.whiten:
            log.info("whitening %d features of %d views", pool.shape[2], pool.shape[0] * pool.shape[1])
            mean, matrix, disturbance = whitening(pool.flatten(0, 1), s.whiten)
            network.mean.copy_(mean)
            network.whitening.copy_(matrix)
            pool = (pool - mean) @ matrix
        pixels = torch.empty(0) if s.view_pool else images.cache(run)[0]
        n_views = s.batch_size * s.views
        part, weight = run.share(n_views)  # what this process does of a step's views

        def chosen(step: int) -> list[int]:
            """The images of a step: shuffled anew in every epoch."""
            places = range(step * s.batch_size, (step + 1) * s.batch_size)
            orders = {
                epoch: torch.randperm(len(images), generator=run.generator(epoch))
                for epoch in {place // len(images) for place in places}
            }
            return [int(orders[place // len(images)][place % len(images)]) for place in places]

        def new_views(step: int) -> Tensor:
            """(part of batch_size * views, 3, H, W)"""
            pairs = list(itertools.product(enumerate(chosen(step)), range(s.views)))[part]
            drawn = [(i, draw_view(s, run.generator(step, place, k))) for (place, i), k in pairs]
            return torch.stack([look(to_input(pixels[i : i + 1])[0], view, s.fill) for i, view in drawn])

        def pool_views(step: int) -> Tensor:
            """(part of batch_size * views, dim) features"""
            members = torch.rand(s.batch_size, pool.shape[1], generator=run.generator(step, 0)).argsort(1)[:, : s.views]
            return pool[torch.tensor(chosen(step))[:, None], members].flatten(0, 1)[part]

        stream: Generator[Tensor] | None = None

        def loss(model: nn.Module, step: int) -> Tensor:
            nonlocal stream
            if s.view_pool:
                x = pool_views(step).to(run.device)
            else:
                stream = stream or read_ahead(new_views, range(step, steps), run.workers, run.workers)
                with torch.no_grad():
                    parts = next(stream).split(VIEWS_AT_ONCE)
                    x = torch.cat([network.features(views.to(run.device)) for views in parts])
            if s.whiten:
                noise = torch.randn(n_views, x.shape[1], generator=run.generator(step, 1))[part]
                x = x + (disturbance * noise).to(run.device)
            z, logdet = network.flow.with_logdet(x)
            value = weight * negative_log_likelihood(z, logdet).mean()
            at_bound = weight * (z.abs().amax(1) >= LARGEST).float().mean()
            if processes.average(at_bound) > 0.5:  # nothing is learned there any more
                value = value * torch.inf
            if (step + 1) % math.ceil(steps / REPORTS) == 0:
                reached = bits(processes.average(value.item()))
                log.info("step %d of %d: %.3f bits per dimension", step + 1, steps, reached)
            return value

        optimizer = torch.optim.Adam(
            network.flow.parameters(), lr=s.lr, betas=(0.8, 0.8), eps=1e-4, weight_decay=s.weight_decay
        )
        try:
            train(network.flow, [optimizer], loss, steps, run, rates="lr, or raise whiten" if s.whiten else "lr")
        finally:
            if stream:
                stream.close()


def bits(loss: float) -> float:
    """The loss as bits per dimension of the (whitened) features; it leaves out a constant of the likelihood."""
    return (loss + math.log(2 * math.pi) / 2) / math.log(2)


def whitening(features: Tensor, noise: float) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (dim,), matrix (dim, dim) and deviations of noise (dim,).

    (features - mean) @ matrix + noise has the covariance 1, where the noise is as if this much variance had been added
    to each feature at deviation 1. Without it the flow would find directions in which all fitted images agree, always
    there when images are fewer than features, and make them infinitely likely.
    """
    x = features.double()
    std, mean = torch.std_mean(x, 0, correction=0)
    std = torch.where(std > 1e-6, std, 1.0)
    x = (x - mean) / std
    values, vectors = torch.linalg.eigh(x.T @ x / len(x))
    raised = values.clamp(min=0) + noise
    matrix = vectors / raised.sqrt() / std[:, None]
    return mean.float(), matrix.float(), (noise / raised).sqrt().float()


def pool_features(network: Network, images: Images, s: Settings, run: Run) -> Tensor:
    """(N, view_pool, dim) float32, before whitening; without a pool as many random views of each image as in a step."""
    angles = fixed_angles(s.view_pool, s.rotation) if s.view_pool else [None] * s.views
    pool = run.cache((len(images), len(angles), len(network.mean)), torch.float32, "features")
    done = 0
    with progress("computing features", len(images)) as show, torch.no_grad():
        for batch in images.batches(8, run.device):
            for image in batch:
                drawn = [draw_view(s, run.generator(done, k), degrees) for k, degrees in enumerate(angles)]
                views = torch.stack([look(image, view, s.fill) for view in drawn])
                pool[done] = torch.cat([network.features(part) for part in views.split(VIEWS_AT_ONCE)])
                done += 1
            show(done)
    return pool


def training_views(image: Tensor, s: Settings, seed: int, n: int) -> list[Tensor]:
    """n views (3, H, W) of a picture as training may see them, for people to look at."""
    angles: Sequence[float | None] = fixed_angles(s.view_pool, s.rotation) if s.view_pool else [None]
    run = Run(seed)
    return [look(image, draw_view(s, run.generator(k), angles[k % len(angles)]), s.fill) for k in range(n)]


def to_picture(picture: NDArray[np.uint8]) -> Tensor:
    """(H, W, 3) -> (3, H, W) in [0, 1]"""
    return torch.from_numpy(picture).permute(2, 0, 1) / 255


def view_sheet(pictures: Sequence[NDArray[np.uint8]], s: Settings, seed: int) -> Image.Image:
    """A row for each picture (H, W, 3): itself, then views of it as training may see them."""
    rows, n = [], min(s.view_pool or SHOWN, SHOWN)  # a pool has no more than those
    for row, picture in enumerate(pictures):
        views = training_views(to_picture(picture), s, seed + row, n)
        panels = [picture, *((255 * view).byte().permute(1, 2, 0).numpy() for view in views)]
        rows.append(np.concatenate([np.pad(p, ((0, GAP), (0, GAP), (0, 0)), constant_values=255) for p in panels], 1))
    return Image.fromarray(np.concatenate(rows))
