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
from collections.abc import Generator, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from inlier import processes
from inlier.data.batches import read_ahead
from inlier.detector import Detector
from inlier.errors import InlierError
from inlier.features import Backbone
from inlier.good import Images, to_input
from inlier.maps import smooth_upsample_matrix
from inlier.methods.differnet.settings import Settings
from inlier.methods.differnet.views import (
    choose_views,
    draw_view,
    fixed_angles,
    look,
    rotate,
    smaller,
    spline_matrix,
    turn,
)
from inlier.progress import progress
from inlier.training import Run, batches, train

log = logging.getLogger("inlier")
# Views in one pass: they bound the memory, whatever the batch and the number of views.
VIEWS_AT_ONCE = 16  # about 1 GiB at 448 pixels with EfficientNet-Lite0
GRADIENTS_AT_ONCE = 4  # with their gradients: about 1.5 GiB
LARGEST = 1e6  # bound of a block's output, as in the released code
REPORTS = 10  # lines about the likelihood during training
LOOKED_AT = 200  # pictures, at most, by which `choose_views` chooses
PREVIEWED, SHOWN, GAP = 4, 6, 6  # pictures and views of each in a preview, pixels between them


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
            self.backbone.shapes(smallest)
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

    def turned(self, images: Tensor) -> Tensor:
        """The scoring views of (B, 3, H, W) at once, (B * views, 3, H, W), for graphs: a loop would fix B."""
        return torch.stack([rotate(images, degrees, self.s.fill) for degrees in self.angles], 1).flatten(0, 1)

    def scores_together(self, images: Tensor) -> Tensor:
        """`scores`, up to rounding, for graphs."""
        return self.mean_square(self.flow(self.features(self.turned(images))))

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
        z, gradients = self.step(network.turned(images))
        return network.mean_square(z), network.picture(gradients.unflatten(0, (-1, n)))


class DifferNet(Detector[Settings, Network]):
    """A normalizing flow that knows how likely the features of a whole image are."""

    name = "differnet"
    light_seconds = 150.0  # two views and four, in the mean
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
            # a block multiplies by e at most: with the paper's e^3 the scores of odd pictures reach 1e11, on which
            # runtimes that compute with float32 do not agree (docs/experiments.md)
            clamp=1.0,
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

    def memory_needed(self, s: Settings) -> int:
        with torch.device("meta"):
            dim = count_features(s, Backbone(s.backbone, s.taps))
            flow = Flow(dim, s)
        # weights, gradients and Adam's two moments; the views of a step, twice read ahead; half a GiB for the rest
        views = 0 if s.view_pool != 0 else 3 * 4 * s.batch_size * s.views * 3 * s.size**2
        matrices = 5 * 8 * dim**2 if s.whiten else 0
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
        part, weight = processes.share(n_views, "batch_size")  # what this process does of a step's views
        chosen = batches(len(images), s.batch_size, run)

        def new_views(step: int) -> Tensor:
            """(part of batch_size * views, 3, H, W)"""
            pairs = list(itertools.product(enumerate(chosen(step).tolist()), range(s.views)))[part]
            drawn = [(i, draw_view(s, run.generator(step, place, k))) for (place, i), k in pairs]
            return torch.stack([look(to_input(pixels[i : i + 1])[0], view, s.fill) for i, view in drawn])

        def pool_views(step: int) -> Tensor:
            """(part of batch_size * views, dim) features"""
            members = torch.rand(s.batch_size, pool.shape[1], generator=run.generator(step, 0)).argsort(1)[:, : s.views]
            return pool[chosen(step)[:, None], members].flatten(0, 1)[part]

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
    rows = []
    n = min(s.view_pool or SHOWN, SHOWN)  # a pool has no more than those
    for row, picture in enumerate(pictures):
        views = training_views(to_picture(picture), s, seed + row, n)
        panels = [picture, *((255 * view).byte().permute(1, 2, 0).numpy() for view in views)]
        rows.append(np.concatenate([np.pad(p, ((0, GAP), (0, GAP), (0, 0)), constant_values=255) for p in panels], 1))
    return Image.fromarray(np.concatenate(rows))
