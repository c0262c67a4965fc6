"""From patch scores to an anomaly map: bilinear upsampling and gaussian smoothing, both as one matrix.

Both steps are linear and separable, so the map is `rows @ scores @ columns.T` with two small constant matrices. This
equals `interpolate(..., align_corners=False)` followed by `scipy.ndimage.gaussian_filter` (reflecting borders, cut at
4 sigma) up to rounding, costs two small matrix products, and exports to every format.
"""

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d
from torch import Tensor
from torch.nn import functional as F


def smooth_upsample_matrix(size_in: int, size_out: int, sigma: float, align_corners: bool = False) -> Tensor:
    """(size_out, size_in) float32: bilinear interpolation, then a gaussian of `sigma` output pixels.

    >>> smooth_upsample_matrix(2, 4, sigma=0)
    tensor([[1.0000, 0.0000],
            [0.7500, 0.2500],
            [0.2500, 0.7500],
            [0.0000, 1.0000]])
    """
    identity = torch.eye(size_in, dtype=torch.float64)[None]
    upsampled = F.interpolate(identity, size=size_out, mode="linear", align_corners=align_corners)[0].T.numpy()
    smooth = gaussian_filter1d(upsampled, sigma, axis=0, mode="reflect", truncate=4.0) if sigma > 0 else upsampled
    return torch.from_numpy(np.ascontiguousarray(smooth, dtype=np.float32))


def within(maps: Tensor, inspected: Tensor | None, outside: float = -torch.inf) -> Tensor:
    """Maps (B, h, w) with another value where nothing is inspected.

    inspected: bool (B, H, W), of the input; a place of a coarser map counts where any of its pixels does.
    """
    if inspected is None:
        return maps
    if inspected.shape != maps.shape:
        inspected = F.adaptive_max_pool2d(inspected[:, None].float(), maps.shape[1:])[:, 0] > 0
    return maps.masked_fill(~inspected, outside)
