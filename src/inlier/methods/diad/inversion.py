"""Variant `inversion`: nothing is repainted; the diffusion model turns features into noise, and defects do not arrive.

Sakai et al., "InvAD: Inversion-based Reconstruction-Free Anomaly Detection with Diffusion Models", CVPR 2026, arXiv
2504.05662. A diffusion model learns the features of good parts. DDIM run backwards, in very few steps, takes a
picture's features to where pure noise would be. Those of good parts arrive at a normal distribution; those of defects,
for which the model predicts the wrong noise, lie beside it. The map is the squared length of what arrives at each
position (minus twice its log-likelihood, but for a constant), the score its highest value.

It needs no autoencoder, which limits DiAD where none is pretrained. What differs from the paper: the denoiser is the
U-Net of this method without its guide, where the authors take a diffusion transformer on EfficientNet-B4; each channel
is standardised on the good pictures; the score is the highest of the smoothed map alone.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from inlier import processes
from inlier.errors import InlierError
from inlier.features import Backbone
from inlier.gaussians import join
from inlier.good import Images
from inlier.machine import arithmetic
from inlier.maps import smooth_upsample_matrix, within
from inlier.methods.diad.denoiser import Denoiser, unet_config
from inlier.methods.diad.passes import before_passes, rate
from inlier.methods.diad.sampler import add_noise, ddim_timesteps, schedule
from inlier.methods.diad.settings import Settings
from inlier.training import Run, batches, fill, train


def invert(z: Tensor, predict: Callable[[Tensor, int], Tensor], timesteps: Sequence[int], abar: Tensor) -> Tensor:
    """Clean z (B, C, h, w) -> where noise would be; timesteps rise. predict(x, i): the noise in x, asked at
    timesteps[i], the level that the step goes to (as diffusers' DDIMInverseScheduler)."""
    x, a = z, torch.ones((), device=z.device)
    for i, t in enumerate(timesteps):
        eps = predict(x, i)
        z = (x - (1 - a).sqrt() * eps) / a.sqrt()
        a = abar[t]
        x = a.sqrt() * z + (1 - a).sqrt() * eps
    return x


def make_inverter(s: Settings, backbone: Backbone) -> tuple[Denoiser, tuple[int, int, int]]:
    """(denoiser, (channels, h, w) of the features that it knows)"""
    shapes = backbone.shapes(s.size)
    side, halvings = shapes[-1][-1], 2 ** (len(s.channels) - 1)
    if side % halvings:
        raise InlierError(
            f"settings 'size', 'taps', 'channels': features of {side} x {side} cannot be halved {len(s.channels) - 1} "
            "times"
        )
    width = sum(shape[0] for shape in shapes)
    config = unet_config((width, side), s.channels, s.attention, s.heads, s.groups, s.context_width)
    return Denoiser(config, s.context_tokens, None), (width, side, side)


class Inversion(nn.Module):
    """The pretrained features, and the diffusion model that knows good ones."""

    mean: Tensor  # (C, 1, 1) of the features of good pictures
    std: Tensor
    abar: Tensor
    smooth: Tensor

    def __init__(self, s: Settings):
        super().__init__()
        self.s = s
        self.backbone = Backbone(s.backbone, s.taps)
        self.denoiser, self.shape = make_inverter(s, self.backbone)
        self.timesteps = ddim_timesteps(s.start, s.ddim_steps, s.spacing)[::-1]
        self.register_buffer("mean", torch.zeros(self.shape[0], 1, 1))
        self.register_buffer("std", torch.ones(self.shape[0], 1, 1))
        self.register_buffer("abar", schedule(s.timesteps, s.beta_start, s.beta_end), persistent=False)
        self.register_buffer("smooth", smooth_upsample_matrix(self.shape[1], s.size, s.sigma), persistent=False)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def features(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> (B, C, h, w), all taps on the grid of the last."""
        return join(self.backbone(images), self.shape[1:])

    def arrive(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, C, h, w), normal noise if the parts are good."""
        embeddings = self.denoiser.time_embeddings(torch.tensor(self.timesteps, device=images.device))

        def predict(x: Tensor, i: int) -> Tensor:
            return self.denoiser.step(x, [e[i : i + 1].expand(x.shape[0], -1) for e in embeddings], None)

        return invert((self.features(images) - self.mean) / self.std, predict, self.timesteps, self.abar)

    def forward(self, images: Tensor, inspected: Tensor | None = None) -> tuple[Tensor, Tensor]:
        maps = self.smooth @ self.arrive(images).square().sum(1) @ self.smooth.T
        return within(maps, inspected).amax((1, 2)), maps


def learn_inversion(network: Inversion, images: Images, run: Run) -> None:
    """The noise in features of good pictures, at every level of noise."""
    s = network.s
    features = run.cache((len(images), *network.shape), torch.float32, "features")
    with torch.no_grad():
        fill(features, map(network.features, images.batches(8, run.device)), "computing features")
    sums = torch.stack([torch.stack([f.sum((1, 2)), f.square().sum((1, 2))]) for f in map(Tensor.double, features)])
    mean, square = sums.sum(0) / (len(features) * network.shape[1] * network.shape[2])
    network.mean.copy_(mean[:, None, None])
    network.std.copy_((square - mean.square()).clamp(min=1e-12).sqrt()[:, None, None])
    batch_of = batches(len(features), s.batch_size, run, before_passes)
    part, weight = processes.share(s.batch_size, "batch_size")

    def loss(model: nn.Module, i: int) -> Tensor:
        chosen = batch_of(i)[part]
        random = run.generator(i)
        noise = torch.randn(s.batch_size, *network.shape, generator=random)[part].to(run.device)
        t = torch.randint(s.start + 1, (s.batch_size,), generator=random)[part].to(run.device)
        z = (features[chosen].to(run.device) - network.mean) / network.std
        predicted = model(add_noise(z, noise, network.abar[t]), t, z)  # there is no guide that would look at z
        return weight * (predicted.float() - noise).square().mean()

    train(
        network.denoiser,
        [torch.optim.AdamW(network.denoiser.parameters(), lr=s.lr, weight_decay=s.weight_decay)],
        loss,
        s.steps,
        run,
        schedule=lambda step: rate(step, s.warm_up, s.steps, s.decay),
        accumulation=s.accumulation,
        precision=arithmetic(s.precision, run.device),
        ema=s.ema,
    )
