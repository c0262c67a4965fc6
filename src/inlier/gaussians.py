"""A Gaussian for each position of a map: sums, inverse factors, and the joining of maps of several layers.

PaDiM fits them to features (arXiv 2011.08785, section III.B); DiAD's preset `light` to what its reconstruction leaves.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from inlier.errors import InlierError
from inlier.machine import in_double
from inlier.progress import Pace

CHUNK = 64  # positions whose covariance is factorised at once, in float64


def join(maps: list[Tensor], grid: tuple[int, int]) -> Tensor:
    """Maps of all taps on one grid, channels concatenated: finer ones averaged, coarser ones repeated."""
    return torch.cat(
        [F.adaptive_avg_pool2d(m, grid) if m.shape[-1] > grid[1] else F.interpolate(m, size=grid) for m in maps], dim=1
    )


class GaussianSums:
    """Running mean and scatter of a Gaussian per position; `scatter` (P, d, d) is the only large tensor.

    Batches are joined as Chan, Golub and LeVeque do ("Updating formulae and a pairwise algorithm for computing sample
    variances", 1979): each is centred by its own mean, and the distance of the means is one row more. Nothing is ever
    subtracted from the scatter, so float32 is enough however far the pictures lie from each other.
    """

    def __init__(self, scatter: Tensor):
        self.scatter, self.n = scatter.zero_(), 0
        self.mean = scatter.new_zeros(scatter.shape[:2])  # (P, d)

    def add(self, embedding: Tensor) -> None:
        """embedding: (P, B, d)"""
        m = embedding.shape[1]
        mean = embedding.mean(1)
        apart = mean - self.mean
        rows = torch.cat([embedding - mean[:, None], math.sqrt(self.n * m / (self.n + m)) * apart[:, None]], 1)
        self.scatter.baddbmm_(rows.mT, rows)
        self.n += m
        self.mean += m / self.n * apart

    def covariance(self, positions: slice) -> Tensor:
        """(chunk, d, d) float64, unbiased (n - 1), without the regularisation; zero where there is one picture"""
        return in_double(self.scatter[positions]) / max(1, self.n - 1)


def inverse_factor(covariance: Tensor, epsilon: float) -> Tensor:
    """(P, d, d) float64 -> W, lower triangular, with W' W the inverse of covariance + epsilon I.

    Raises InlierError where rounding leaves it no inverse.
    """
    identity = torch.eye(covariance.shape[-1], dtype=covariance.dtype, device=covariance.device)
    factor, failed = torch.linalg.cholesky_ex(covariance + epsilon * identity)
    if failed.any():
        raise InlierError(
            f"setting 'epsilon': {epsilon:g} is lost in the rounding of covariances as large as "
            f"{float(covariance.abs().max()):.3g}; make it larger"
        )
    return torch.linalg.solve_triangular(factor, identity.expand_as(factor), upper=False)


def inverse_factors(
    sums: GaussianSums, epsilon: float, deadline: float | None = None
) -> Iterator[tuple[slice, Tensor]]:
    """(positions, `inverse_factor` of theirs in float64), a chunk at a time, ascending; the scatter of what was given
    is not needed any more, so factors may take its place.

    deadline: of time.monotonic(); OutOfTime is raised as soon as it is clear that it would end later.
    """
    pace = Pace(deadline, len(sums.scatter))
    for start in range(0, len(sums.scatter), CHUNK):
        chunk = slice(start, start + CHUNK)
        yield chunk, inverse_factor(sums.covariance(chunk), epsilon)
        pace.check(chunk.stop)
