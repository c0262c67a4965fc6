"""All parts together: a picture is encoded, noised, repainted under guidance, decoded, and compared with itself."""

import torch
from torch import Tensor, nn

from inlier.errors import InlierError
from inlier.features import IMAGENET_MEAN, IMAGENET_STD, Backbone
from inlier.maps import smooth_upsample_matrix, within
from inlier.methods.diad.autoencoder import Autoencoder, Pixels
from inlier.methods.diad.compare import Residuals, anomaly_map, distances, image_score
from inlier.methods.diad.denoiser import Denoiser, unet_config
from inlier.methods.diad.guide import Guide
from inlier.methods.diad.sampler import add_noise, ddim, ddim_timesteps, noise_of, schedule
from inlier.methods.diad.settings import Settings

DARKEST = 1e-9  # share of the signal's variance that must be left at the start; 0 divides by zero


def make_autoencoder(s: Settings) -> Autoencoder | Pixels:
    if s.variant == "ddpm":
        return Pixels(s.patch)
    if s.autoencoder_kind == "tiny" and len(set(s.autoencoder_channels)) > 1:
        raise InlierError(
            "setting 'autoencoder_channels': a tiny autoencoder has the same width at all levels; autoencoder_kind=kl "
            "may have others"
        )
    if s.autoencoder_kind == "kl":  # the tiny one has no group norm
        _divide("autoencoder_groups", s.autoencoder_groups, "autoencoder_channels", s.autoencoder_channels)
    return Autoencoder(
        s.autoencoder_kind, s.autoencoder_channels, s.autoencoder_layers, s.latent_channels, s.autoencoder_groups
    )


def make_denoiser(s: Settings, latent: int, factor: int) -> Denoiser:
    """latent: its channels; factor: how much smaller than the picture it is."""
    if len(s.channels) < 3:
        raise InlierError(f"setting 'channels': {len(s.channels)} levels, the guide needs at least 3")
    multiple = factor * 2 ** len(s.channels)  # the deepest map has at least 2 x 2 positions, or it has no deviation
    if s.size % (multiple // 2) or s.size < multiple:
        raise InlierError(
            f"setting 'size': {s.size} pixels do not fit an autoencoder of factor {factor} and a U-Net of "
            f"{len(s.channels)} levels; it must be a multiple of {multiple // 2}, at least {multiple}"
        )
    if max(s.attention) >= len(s.channels):
        raise InlierError(f"setting 'attention': level {max(s.attention)}, but the last of 'channels' is number "
                          f"{len(s.channels) - 1}")  # fmt: skip
    _divide("groups", s.groups, "channels", s.channels)
    _divide("heads", s.heads, "channels", s.channels)
    config = unet_config((latent, s.size // factor), s.channels, s.attention, s.heads, s.groups, s.context_width)
    guide = None
    if s.variant.startswith("sg"):
        if 2 ** (len(s.hint_channels) - 1) != factor:
            raise InlierError(
                f"setting 'hint_channels': {len(s.hint_channels)} widths halve the size {len(s.hint_channels) - 1} "
                f"times, the autoencoder's factor is {factor}"
            )
        guide = Guide(config, s.hint_channels, fuse=s.variant == "sg+sff")
    return Denoiser(config, s.context_tokens, guide)


def _divide(name: str, value: int, of: str, widths: tuple[int, ...]) -> None:
    if any(width % value for width in widths):
        raise InlierError(f"setting '{name}': {value} does not divide all of {of}={','.join(map(str, widths))}")


class Network(nn.Module):
    """Autoencoder, denoiser with guide, and the pretrained network that compares."""

    mean: Tensor
    std: Tensor
    abar: Tensor
    latent_scale: Tensor

    def __init__(self, s: Settings):
        super().__init__()
        self.s = s
        if s.start >= s.timesteps:
            raise InlierError(f"setting 'start': {s.start}, but the schedule has {s.timesteps} timesteps (from 0)")
        abar = schedule(s.timesteps, s.beta_start, s.beta_end)
        if abar[s.start] < DARKEST:
            raise InlierError(
                f"settings 'beta_start', 'beta_end', 'timesteps': at the start, timestep {s.start}, nothing is left of "
                "the picture"
            )
        self.timesteps = ddim_timesteps(s.start, s.ddim_steps, s.spacing)
        if s.size <= s.pools * (s.pool - 1):
            raise InlierError(f"settings 'pool' and 'pools': nothing is left of {s.size} pixels; make them smaller")
        self.backbone = Backbone(s.backbone, s.taps)
        self.autoencoder = make_autoencoder(s)
        self.denoiser = make_denoiser(s, self.autoencoder.latent, self.autoencoder.factor)
        self.latent_shape = (self.autoencoder.latent, *(s.size // self.autoencoder.factor,) * 2)
        mean, std = (IMAGENET_MEAN, IMAGENET_STD) if s.input == "imagenet" else ((0.5,) * 3, (0.5,) * 3)
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("abar", abar, persistent=False)
        self.register_buffer("latent_scale", torch.tensor(s.latent_scale or 1.0))
        grids = [shape[-1] for shape in self.backbone.shapes(s.size)]
        self.residuals = Residuals((grids[-1], grids[-1])) if s.judge == "gaussian" else None
        for i, n in enumerate(grids[-1:] if self.residuals else grids):
            matrix = smooth_upsample_matrix(n, s.size, s.sigma, align_corners=True)
            self.register_buffer(f"smooth{i}", matrix, persistent=False)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def normalise(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.std

    def latent(self, moments: tuple[Tensor, Tensor], noise: Tensor) -> Tensor:
        mean, std = moments
        return self.latent_scale * (mean if self.s.posterior == "mode" else mean + std * noise)

    def decode(self, z: Tensor) -> Tensor:
        """Latents (B, C, h, w) -> pictures (B, 3, H, W), about [0, 1]; not clipped."""
        return self.autoencoder.decode(z / self.latent_scale) * self.std + self.mean

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """Of the normal numbers that repainting a picture takes."""
        return 2, *self.latent_shape

    def reconstruct(self, images: Tensor, noise: Tensor | None = None) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> the same repainted as good; not clipped. noise: (B, *noise_shape), or its own."""
        seen = self.normalise(images)
        posterior, noise = (noise_of(images, self.noise_shape) if noise is None else noise).unbind(1)
        z = self.latent(self.autoencoder.moments(seen), posterior)
        x = add_noise(z, noise, self.abar[self.s.start].expand(z.shape[0]))
        hint = self.denoiser.hint(seen)
        embeddings = self.denoiser.time_embeddings(torch.tensor(self.timesteps, device=x.device))

        def predict(x: Tensor, i: int) -> Tensor:
            return self.denoiser.step(x, [e[i : i + 1].expand(x.shape[0], -1) for e in embeddings], hint)

        return self.decode(ddim(x, predict, self.timesteps, self.abar))

    def compare(
        self, images: Tensor, reconstructions: Tensor, inspected: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """(scores (B,), maps (B, H, W))"""
        features, reconstructed = self.backbone(images), self.backbone(reconstructions)
        apart = [self.residuals(features, reconstructed)] if self.residuals else distances(features, reconstructed)
        maps = anomaly_map(apart, [self.get_buffer(f"smooth{i}") for i in range(len(apart))])
        return image_score(within(maps, inspected, 0.0), self.s.pool, self.s.pools), maps

    def inspect(
        self, images: Tensor, inspected: Tensor | None = None, noise: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Scores, maps, and reconstructions (B, 3, H, W), about [0, 1]."""
        reconstructions = self.reconstruct(images, noise)
        return *self.compare(images, reconstructions, inspected), reconstructions

    def forward(self, images: Tensor, inspected: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.inspect(images, inspected)[:2]


class Repainting(nn.Module):
    """The network for an exported graph, which cannot hash pictures: their noise is an input."""

    def __init__(self, network: Network):
        super().__init__()
        self.network, self.noise_shape = network, network.noise_shape

    def forward(self, images: Tensor, noise: Tensor, inspected: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        return self.network.inspect(images, inspected, noise)
