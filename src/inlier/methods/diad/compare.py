"""Where do picture and reconstruction differ, to the eye of a pretrained network?"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


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
