"""SimpleNet: a feature adapter, noise in feature space, and a small discriminator between the two.

Liu et al., "SimpleNet: A Simple Network for Image Anomaly Detection and Localization", CVPR 2023, arXiv 2303.15140.
Checked against numbers made with the authors' code (DonaldRR/SimpleNet, MIT, commit 351a2b8).

Same mathematics, other computation. Training: features of the fitted images never change, so they are computed once
and kept. Scoring: patch features are a fixed grouped 3x3 convolution per layer; adapter, first linear layer and batch
norm are one matrix, whose part for a layer works where there are fewer positions, as resizing commutes with it.

What differs: the authors keep the epoch that is best on the test set; here the last step is the model and the test set
is never seen. The preset `light` standardises every feature on the fitted images and states the noise in standard
deviations, because the paper's 0.015 has a meaning only at the scale of the paper's backbone. It takes many small steps
on patches of all images in place of few large ones on whole images, and lets the rates fall: what counts is that the
loss comes near zero (docs/experiments.md).
"""

import logging
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inlier import processes, settings
from inlier.detector import Detector
from inlier.errors import InlierError
from inlier.features import Backbone
from inlier.good import Images
from inlier.machine import arithmetic, in_double
from inlier.maps import smooth_upsample_matrix, within
from inlier.settings import setting
from inlier.training import Run, fill, half_cosine, train

log = logging.getLogger("inlier")
RECENT = 20  # steps whose mean loss tells how a training ended
LEARNED = 0.5  # of the loss of a head that has learned nothing: above it the model is hardly worth its file
NARROW = 256  # channels of a layer at most: to bring these to the grid takes less time than what the head makes of them


@dataclass(frozen=True, kw_only=True)
class Settings(settings.Settings):
    taps: tuple[int | str, ...] = setting((8, 16), "layers that make the patch features, shallow to deep")
    features: int | None = setting(
        1536, "length of a patch feature (section 4.2); none: the 3x3 mean of every channel", low=2, high=16384
    )
    hidden: int = setting(1024, "width of a discriminator", low=1, high=16384)
    heads: int = setting(1, "heads that are trained apart; their mean judges", low=1, high=64)
    standardise: bool = setting(False, "scale every feature to mean 0, deviation 1 on the fitted images")
    noise: float = setting(0.015, "deviation of the noise added to good features (section 3.3)", low=1e-6)
    margin: float = setting(0.5, "margin of the truncated L1 loss (equation 6)", low=0.0)
    epochs: int = setting(160, "passes over the good pictures (the code's 40 x 4)", low=1)
    batch_size: int = setting(8, "images in a step", low=1)
    patches: int | None = setting(
        None,
        "patches in a step, drawn from all good pictures, instead of whole images",
        low=2,
        instead_of="batch_size",
    )
    steps: int | None = setting(None, "training steps, instead of epochs", low=1, instead_of="epochs")
    decay: bool = setting(False, "let both learning rates fall to zero as half a cosine")
    precision: str = setting(
        "fp32",
        "of the training: fp32, autocast to bf16, or auto: bf16 where the processor multiplies it by itself",
        choices=("fp32", "bf16", "auto"),
    )
    adapter_lr: float = setting(1e-4, "AdamW learning rate of the adapter", low=1e-9, high=1.0)
    adapter_decay: float = setting(0.01, "weight decay of the adapter", low=0.0)
    discriminator_lr: float = setting(2e-4, "Adam learning rate of the discriminator", low=1e-9, high=1.0)
    discriminator_decay: float = setting(1e-5, "weight decay of the discriminator", low=0.0)
    sigma: float = setting(4.0, "gaussian smoothing of the map, pixels", low=0.0, high=100.0)


class PatchFeatures(nn.Module):
    """One layer's share of the patch features: a fixed grouped 3x3 convolution.

    The paper pools the 9 C numbers of a zero-padded 3x3 patch, ordered (channel, row, column), to `features`, stacks
    the layers, and pools again to `features`. Both are averages over runs of that order, so an output depends on few
    neighbouring channels: the convolution splits into gcd(C, outputs) groups. `features` None: the plain mean of the
    patch's pixels inside the map, channel by channel.
    """

    weight: Tensor

    def __init__(self, channels: int, features: int | None, layers: int):
        super().__init__()
        self.is_mean = features is None
        if features is None:
            return
        pool = F.adaptive_avg_pool1d(torch.eye(9 * channels, dtype=torch.float64)[None], features)[0].T
        outputs = features // layers
        pool = pool.unflatten(0, (outputs, layers)).mean(1)  # (outputs, 9 C)
        self.groups = math.gcd(channels, outputs)
        blocks = pool.view(self.groups, outputs // self.groups, self.groups, -1)
        weight = torch.cat([blocks[g, :, g] for g in range(self.groups)])
        self.register_buffer("weight", weight.view(outputs, -1, 3, 3).float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, features / layers, h, w), or (B, C, h, w)"""
        if self.is_mean:
            return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
        return F.conv2d(x, self.weight, padding=1, groups=self.groups)


class Head(nn.Module):
    """What is trained: the adapter and the discriminator, on patch features (N, features)."""

    def __init__(self, features: int, hidden: int):
        super().__init__()
        self.adapter = nn.Linear(features, features)
        self.discriminator = nn.Sequential(
            nn.Linear(features, hidden), nn.BatchNorm1d(hidden), nn.LeakyReLU(0.2), nn.Linear(hidden, 1, bias=False)
        )
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_normal_(module.weight)

    def forward(self, features: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Discriminator values of good and of disturbed features; one pass, so batch norm sees both."""
        good = self.adapter(features)
        return self.discriminator(torch.cat([good, good + noise])).chunk(2)


def truncated_l1(good: Tensor, disturbed: Tensor, margin: float) -> Tensor:
    """Equation 6: good features should score above the margin, disturbed ones below minus the margin."""
    return F.relu(margin - good).mean() + F.relu(margin + disturbed).mean()


def make_optimizers(head: Head, s: Settings) -> list[torch.optim.Optimizer]:
    return [
        torch.optim.AdamW(head.adapter.parameters(), lr=s.adapter_lr, weight_decay=s.adapter_decay),
        torch.optim.Adam(head.discriminator.parameters(), lr=s.discriminator_lr, weight_decay=s.discriminator_decay),
    ]


class Network(nn.Module):
    """The fused form: hidden = leaky_relu(sum of each layer's matrix times its patch features + bias)."""

    matrix: Tensor
    bias: Tensor
    tail: Tensor
    smooth_y: Tensor
    smooth_x: Tensor

    def __init__(self, s: Settings):
        super().__init__()
        if s.features and s.features % len(s.taps):
            raise InlierError(f"setting 'features': {s.features} cannot be divided by the {len(s.taps)} taps")
        self.backbone = Backbone(s.backbone, s.taps)
        self.patches = nn.ModuleList(PatchFeatures(c, s.features, len(s.taps)) for c in self.backbone.channels)
        self.grid = tuple(self.backbone.shapes(s.size)[0][1:])
        # each layer's part of the patch feature
        self.shares = [s.features // len(s.taps) if s.features else channels for channels in self.backbone.channels]
        self.register_buffer("matrix", torch.zeros(s.heads * s.hidden, sum(self.shares)))
        self.register_buffer("bias", torch.zeros(s.heads * s.hidden))
        self.register_buffer("tail", torch.zeros(s.heads * s.hidden))
        for axis, n in zip("yx", self.grid):
            self.register_buffer(f"smooth_{axis}", smooth_upsample_matrix(n, s.size, s.sigma), persistent=False)

    def features(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, h * w, features), as the head is trained on"""
        return self.joined(self.layers(images)).flatten(2).mT

    def layers(self, images: Tensor) -> list[Tensor]:
        """Patch features (B, C, h, w) of each tap"""
        return [patches(m) for patches, m in zip(self.patches, self.backbone(images))]

    def joined(self, layers: Sequence[Tensor]) -> Tensor:
        return torch.cat([self.to_grid(x) for x in layers], 1)

    def to_grid(self, x: Tensor) -> Tensor:
        return x if tuple(x.shape[-2:]) == self.grid else F.interpolate(x, size=self.grid, mode="bilinear")

    def fuse(self, heads: Sequence[Head], mean: Tensor, std: Tensor) -> None:
        """Fold standardisation, adapters, first linear layers and batch norms into `matrix` and `bias`, and the mean of
        the heads into `tail`: several heads are one that is so much wider."""
        fused = zip(*(self._fused(head, in_double(mean), in_double(std)) for head in heads), strict=True)
        for buffer, parts in zip((self.matrix, self.bias, self.tail), fused, strict=True):
            buffer.copy_(torch.cat(parts))
        self.tail /= len(heads)

    @staticmethod
    def _fused(head: Head, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        w = {name: in_double(tensor) for name, tensor in head.state_dict().items()}
        first, running_var = w["discriminator.0.weight"], w["discriminator.1.running_var"]
        scale = w["discriminator.1.weight"] / (running_var + head.discriminator[1].eps).sqrt()  # type: ignore[operator]
        matrix = scale[:, None] * (first @ w["adapter.weight"]) / std
        hidden = first @ w["adapter.bias"] + w["discriminator.0.bias"] - w["discriminator.1.running_mean"]
        return matrix, scale * hidden + w["discriminator.1.bias"] - matrix @ mean, w["discriminator.3.weight"][0]

    def patch_scores(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, h, w)"""
        layers, matrix = self.layers(images), self.matrix[:, :, None, None]
        if max(self.shares) <= NARROW:
            hidden = F.conv2d(self.joined(layers), matrix, self.bias)
        else:
            matrices = matrix.split(self.shares, 1)
            biases = (self.bias, *[None] * (len(matrices) - 1))
            hidden, *others = (self.product(x, m, bias) for x, m, bias in zip(layers, matrices, biases))
            for product in others:
                hidden += product
        return -F.conv2d(F.leaky_relu_(hidden, 0.2), self.tail[None, :, None, None])[:, 0]

    def product(self, x: Tensor, matrix: Tensor, bias: Tensor | None) -> Tensor:
        """The matrix times every position of a layer, on the grid. Resizing commutes with it: fewer positions first."""
        if x.shape[-1] > self.grid[1]:
            x = self.to_grid(x)
        return self.to_grid(F.conv2d(x, matrix, bias))

    def forward(self, images: Tensor, inspected: Tensor | None = None) -> tuple[Tensor, Tensor]:
        patch_scores = self.patch_scores(images)
        return within(patch_scores, inspected).amax((1, 2)), self.smooth_y @ patch_scores @ self.smooth_x.T


class SimpleNet(Detector[Settings, Network]):
    """A feature adapter and a discriminator trained to tell good features from disturbed ones."""

    name = "simplenet"
    light_seconds = 100.0
    presets = {
        "paper": Settings(backbone="wide_resnet50_2", size=288, shorter_side=329),
        "light": Settings(
            taps=(16, 8, "blocks.5"),  # the first tap gives the grid; blocks.5 is the shallower layer of stride 32
            features=None,
            hidden=512,
            heads=4,
            standardise=True,
            noise=0.12,
            patches=512,
            steps=1600,
            decay=True,
            precision="auto",
            adapter_lr=1e-3,
            discriminator_lr=2e-3,
        ),
    }

    def build(self, s: Settings) -> Network:
        return Network(s)

    def learn(self, network: Network, images: Images, run: Run) -> None:
        s = self.settings
        cache = cache_features(network, images, run)
        width = cache.shape[-1]
        mean, std = standardisation(cache) if s.standardise else (torch.zeros(width), torch.ones(width))
        cache = run.nearby(cache)
        heads = [learn_head(cache, mean, std, s, run.member(k, s.heads)) for k in range(s.heads)]
        with torch.no_grad():
            network.fuse(heads, mean.to(run.device), std.to(run.device))


def learn_head(cache: Tensor, mean: Tensor, std: Tensor, s: Settings, run: Run) -> Head:
    """A head trained on patch features (N, h * w, features) of good pictures."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed)
        head = Head(cache.shape[-1], s.hidden)
    head, mean, std = head.to(run.device), mean.to(run.device), std.to(run.device)

    rows = cache.flatten(0, 1)
    per_epoch = math.ceil(len(rows) / s.patches) if s.patches else math.ceil(len(cache) / s.batch_size)
    steps = s.steps or s.epochs * per_epoch

    def drawn(step: int) -> Tensor:
        """The patches of a step, (N, features), in half precision."""
        if s.patches:
            return rows[torch.randint(len(rows), (s.patches,), generator=run.generator(step, 1)).sort().values]
        epoch, i = divmod(step, per_epoch)
        order = torch.randperm(len(cache), generator=run.generator(epoch))
        chosen = order[i * s.batch_size : (i + 1) * s.batch_size].sort().values
        return cache[chosen].flatten(0, 1)

    def loss(model: nn.Module, step: int) -> Tensor:
        patches = drawn(step)
        part, weight = processes.share(len(patches), "batch_size")
        features = patches[part].to(run.device).float()
        key = (step,) if s.patches else divmod(step, per_epoch)
        noise = run.noise(patches.shape, *key)[part]
        good, disturbed = model((features - mean) / std, s.noise * noise)
        value = truncated_l1(good.float(), disturbed.float(), s.margin)
        recent.append(value.detach())
        return weight * value

    recent: deque[Tensor] = deque(maxlen=RECENT)
    train(
        head,
        make_optimizers(head, s),
        loss,
        steps,
        run,
        schedule=(lambda step: half_cosine(step, steps)) if s.decay else None,
        precision=arithmetic(s.precision, run.device),
        rates="adapter_lr or discriminator_lr",
    )
    if recent and (ended := float(torch.stack(list(recent)).mean())) > LEARNED * 2 * s.margin:
        log.warning(
            "the loss ended at %.2f, where nothing learned is %.2f: the head hardly tells good features from disturbed "
            "ones; more 'steps' or a larger 'noise' helps",
            ended,
            2 * s.margin,
        )
    return head


def cache_features(network: Network, images: Images, run: Run) -> Tensor:
    """(N, h * w, features) float16 patch features of all images."""
    cache = run.cache((len(images), math.prod(network.grid), network.matrix.shape[1]), torch.float16, "features")
    with torch.inference_mode():
        fill(cache, map(network.features, images.batches(8, run.device)), "computing features")
    return cache


def standardisation(cache: Tensor) -> tuple[Tensor, Tensor]:
    """(mean, deviation) of every feature over all patches, image by image in float64; constant ones get deviation 1."""
    sums = torch.zeros(2, cache.shape[-1], dtype=torch.float64)
    for image in cache:
        values = image.double()
        sums += torch.stack([values.sum(0), values.square().sum(0)])
    mean, square = sums / (cache.shape[0] * cache.shape[1])
    std = (square - mean.square()).clamp(min=0).sqrt()
    return mean.float(), torch.where(std > 1e-6, std, 1.0).float()
