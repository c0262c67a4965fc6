"""The first stage: pictures to latents and back, by diffusers' AutoencoderKL or AutoencoderTiny.

Trained with L1, a perceptual term and a Kullback-Leibler term; later, if asked for, against a discriminator. The
authors take LPIPS for the perceptual term. Its weights cannot be had everywhere, so here it is the same distance (unit
features, squared difference) on the layers of the method's own pretrained network, without LPIPS' learned weights.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from inlier import processes


class Autoencoder(nn.Module):
    """kind: "kl" or "tiny". channels: one for each level, every level but the last halves the size."""

    def __init__(self, kind: str, channels: Sequence[int], layers: int, latent: int, groups: int):
        super().__init__()
        from diffusers import AutoencoderKL, AutoencoderTiny

        self.net: Any

        self.kind, self.latent, self.factor = kind, latent, 2 ** (len(channels) - 1)
        if kind == "tiny":
            blocks = (layers,) * (len(channels) - 1)
            self.net = AutoencoderTiny(
                encoder_block_out_channels=tuple(channels),
                decoder_block_out_channels=tuple(channels),
                num_encoder_blocks=(1, *blocks),
                num_decoder_blocks=(*blocks, 1),
                latent_channels=latent,
            )
        else:
            self.net = AutoencoderKL(
                down_block_types=("DownEncoderBlock2D",) * len(channels),
                up_block_types=("UpDecoderBlock2D",) * len(channels),
                block_out_channels=tuple(channels),
                layers_per_block=layers,
                latent_channels=latent,
                norm_num_groups=groups,
            )

    def moments(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised pictures (B, 3, H, W) -> mean and deviation of their latents, (B, C, h, w) each."""
        encoded = self.net.encode(images)
        if self.kind == "tiny":  # it has no deviation
            return encoded.latents, torch.zeros_like(encoded.latents)
        return encoded.latent_dist.mean, encoded.latent_dist.std

    def decode(self, z: Tensor) -> Tensor:
        decoded: Tensor = self.net.decode(z).sample
        return decoded

    def forward(self, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """-> reconstruction, mean, deviation"""
        mean, std = self.moments(images)
        return self.decode(mean + std * noise), mean, std


class Pixels(nn.Module):
    """No autoencoder: diffusion on the pixels themselves, patches of them stacked into channels."""

    def __init__(self, patch: int):
        super().__init__()
        self.latent, self.factor = 3 * patch * patch, patch

    def moments(self, images: Tensor) -> tuple[Tensor, Tensor]:
        z = F.pixel_unshuffle(images, self.factor)
        return z, torch.zeros_like(z)

    def decode(self, z: Tensor) -> Tensor:
        return F.pixel_shuffle(z, self.factor)


def perceptual(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """(B,): squared difference of unit features, summed over channels and layers, mean over positions."""
    layers = [(F.normalize(x, dim=1) - F.normalize(y, dim=1)).square().sum(1).mean((1, 2)) for x, y in zip(a, b)]
    return torch.stack(layers).sum(0)


def divergence(mean: Tensor, std: Tensor) -> Tensor:
    """(B,): Kullback-Leibler divergence from the unit normal, summed over the latent."""
    return 0.5 * (mean.square() + std.square() - 1 - 2 * std.clamp(min=1e-15).log()).sum((1, 2, 3))


class Discriminator(nn.Sequential):
    """PatchGAN: three strided 4x4 convolutions, a value for each patch."""

    def __init__(self, width: int = 64):
        layers: list[nn.Module] = [nn.Conv2d(3, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        for i, stride in enumerate((2, 2, 1)):
            layers.append(nn.Conv2d(width * 2**i, width * 2 ** (i + 1), 4, stride, 1, bias=False))
            layers += [nn.GroupNorm(8, width * 2 ** (i + 1)), nn.LeakyReLU(0.2)]  # the code's batch norm mixes pictures
        super().__init__(*layers, nn.Conv2d(8 * width, 1, 4, 1, 1))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.02)


class FirstStage(nn.Module):
    """What the first stage trains: the autoencoder and, if asked for, a discriminator."""

    def __init__(self, autoencoder: nn.Module, discriminator: bool):
        super().__init__()
        self.autoencoder = autoencoder
        self.discriminator = Discriminator() if discriminator else None

    def forward(
        self, images: Tensor, noise: Tensor, is_adversarial: bool
    ) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, Tensor, Tensor] | None]:
        """-> reconstruction, mean, deviation, and the discriminator's values (generator's view, real, fake)

        One backward pass serves both sides: the generator's view goes through weights that learn nothing from it, the
        discriminator's own through a reconstruction that learns nothing from it.
        """
        reconstruction, mean, std = self.autoencoder(images, noise)
        if not self.discriminator or not is_adversarial:
            return reconstruction, mean, std, None
        still = {name: parameter.detach() for name, parameter in self.discriminator.named_parameters()}
        view = functional_call(self.discriminator, still, (reconstruction,))
        return (
            reconstruction,
            mean,
            std,
            (view, self.discriminator(images), self.discriminator(reconstruction.detach())),
        )


def adversarial_loss(
    values: tuple[Tensor, Tensor, Tensor], rest: Tensor, last: Tensor, weight: float, share: float = 1.0
) -> Tensor:
    """Hinge losses of both sides. The generator's is scaled so that its gradient at the decoder's last layer is as
    large as that of the rest of the loss, times `weight`. share: the weight of this process's part of the batch."""
    view, real, fake = values
    generator = -view.mean()
    gradients = (torch.autograd.grad(loss, last, retain_graph=True)[0] for loss in (rest, generator))
    of_rest, of_generator = (processes.average(share * gradient).norm() for gradient in gradients)
    scale = (of_rest / (of_generator + 1e-4)).clamp(0, 1e4).detach()
    return weight * scale * generator + 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())
