"""Where do picture and reconstruction differ, to the eye of a pretrained network?"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inlier.gaussians import GaussianSums, inverse_factors, join


def distances(features: Sequence[Tensor], reconstructed: Sequence[Tensor]) -> list[Tensor]:
    """For each layer (B, C, h, w): 1 - cosine over the channels, (B, h, w)."""
    return [1 - F.cosine_similarity(a, b, dim=1) for a, b in zip(features, reconstructed)]


def anomaly_map(distances: Sequence[Tensor], matrices: Sequence[Tensor]) -> Tensor:
    """(B, H, W): the sum of all layers, each upsampled and smoothed by its `maps.smooth_upsample_matrix`."""
    return torch.stack([m @ d @ m.T for d, m in zip(distances, matrices)]).sum(0)


def image_score(maps: Tensor, pool: int, times: int) -> Tensor:
    """(B,): the highest value after `times` average poolings of pool x pool pixels, stride 1, no padding."""
    x = maps[:, None]
    for _ in range(times):
        x = F.avg_pool2d(x, pool, stride=1)
    return x.amax((1, 2, 3))


class Residuals(nn.Module):
    """What the reconstruction leaves on good pictures: a Gaussian for each category and position. Ours.

    Autoencoder and denoiser err in the same places and channels on every good picture, which the cosine counts as
    defects. The difference of unit features, judged by its own mean and covariance, takes the systematic part out.
    Nobody tells the category of a picture: the one whose Gaussians make it likeliest judges.
    """

    mean: Tensor  # (K, P, d)
    whitening: Tensor  # (K, P, d, d)

    def __init__(self, grid: tuple[int, int]):
        super().__init__()
        self.grid = grid
        self.register_buffer("mean", torch.zeros(0))
        self.register_buffer("whitening", torch.zeros(0))

    def differences(self, features: Sequence[Tensor], reconstructed: Sequence[Tensor]) -> Tensor:
        """(P, B, d), of layers on one grid; unit features times the root of their number, so about 1 in size."""
        apart = [
            a.shape[1] ** 0.5 * (F.normalize(a, dim=1) - F.normalize(b, dim=1)) for a, b in zip(features, reconstructed)
        ]
        return join(apart, self.grid).flatten(2).permute(2, 0, 1).contiguous()

    def start(self, categories: int, width: int) -> list[GaussianSums]:
        """Empty sums for each category, in the place of the factors."""
        positions = self.grid[0] * self.grid[1]
        self.mean = self.mean.new_zeros(categories, positions, width)
        self.whitening = self.whitening.new_zeros(categories, positions, width, width)
        return [GaussianSums(scatter) for scatter in self.whitening]

    def finish(self, sums: Sequence[GaussianSums], epsilon: float) -> None:
        for k, of_category in enumerate(sums):
            self.mean[k] = of_category.mean
            for chunk, factors in inverse_factors(of_category, epsilon):
                self.whitening[k, chunk] = factors

    def forward(self, features: Sequence[Tensor], reconstructed: Sequence[Tensor]) -> Tensor:
        """(B, h, w): Mahalanobis distances."""
        differences = self.differences(features, reconstructed)
        squares, unlikely = [], []
        for mean, factor in zip(self.mean, self.whitening):
            squares.append(torch.bmm(factor, (differences - mean[:, None]).mT).square().sum(1))  # (P, B)
            unlikely.append(squares[-1].sum(0) - 2 * factor.diagonal(dim1=1, dim2=2).log().sum())
        own = torch.stack(unlikely).argmin(0)  # (B,)
        chosen = torch.stack(squares)[own, :, torch.arange(own.shape[0], device=own.device)]
        return chosen.sqrt().unflatten(1, self.grid)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        for name in ("mean", "whitening"):  # as many categories as were fitted
            if isinstance(stored := state_dict.get(prefix + name), Tensor):
                setattr(self, name, torch.empty_like(stored, device=self.get_buffer(name).device))
        super()._load_from_state_dict(state_dict, prefix, *rest)
