"""The noise schedule, the noise of a picture, and DDIM.

A dozen lines of arithmetic instead of diffusers' DDIMScheduler, which knows neither a first step below the last of the
schedule nor coefficients computed once; a test holds the two equal.
"""

import hashlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from inlier.errors import InlierError


def schedule(timesteps: int, beta_start: float, beta_end: float) -> Tensor:
    """(timesteps,) abar: the share of the signal's variance that is left at each timestep. Betas even in their root."""
    betas = torch.linspace(beta_start**0.5, beta_end**0.5, timesteps, dtype=torch.float64).square()
    return (1 - betas).cumprod(0).float()


def add_noise(z: Tensor, noise: Tensor, abar: Tensor) -> Tensor:
    """z (B, C, h, w) at the noise level abar (B,)"""
    abar = abar.view(-1, 1, 1, 1)
    return abar.sqrt() * z + (1 - abar).sqrt() * noise


def ddim_timesteps(start: int, steps: int, spacing: str) -> list[int]:
    """The timesteps at which the network is asked, from noisy to clean.

    leading: as the released code; its first step believes the noise of `start` to be a little less than it is.
    trailing: the first step is `start` itself.

    >>> ddim_timesteps(999, 10, "leading")[:2], ddim_timesteps(999, 10, "trailing")[-2:]
    ([901, 801], [199, 99])
    """
    if steps > start + 1:
        raise InlierError(
            f"setting 'ddim_steps': {steps} steps, but only {start + 1} timesteps up to 'start' ({start})"
        )
    if spacing == "trailing":
        return [round((start + 1) * (steps - i) / steps) - 1 for i in range(steps)]
    stride = (start + 1) // steps
    return [min(i * stride + 1, start) for i in reversed(range(steps))]  # from 1, as Stable Diffusion does


def ddim(x: Tensor, predict: Callable[[Tensor, int], Tensor], timesteps: Sequence[int], abar: Tensor) -> Tensor:
    """Remove noise without drawing any (eta 0); predict(x, i) gives the noise in x at timesteps[i]."""
    for i, t in enumerate(timesteps):
        eps = predict(x, i)
        a, a_next = abar[t], abar[timesteps[i + 1] if i + 1 < len(timesteps) else 0]
        z = (x - (1 - a).sqrt() * eps) / a.sqrt()
        x = a_next.sqrt() * z + (1 - a_next).sqrt() * eps
    return x


def noise_of(images: Tensor, shape: Sequence[int]) -> Tensor:
    """(B, *shape) normal noise that depends on each picture (B, 3, H, W) in [0, 1] alone, rounded to 8 bit."""
    pictures = (255 * images).round().clamp(0, 255).byte().cpu()
    noise = []
    for picture in pictures:
        digest = hashlib.blake2b(picture.numpy().tobytes(), digest_size=7).digest()
        noise.append(torch.randn(*shape, generator=torch.Generator().manual_seed(int.from_bytes(digest, "big"))))
    return torch.stack(noise).to(images.device)
