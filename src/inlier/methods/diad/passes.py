"""Which pictures a training pass sees, and how the learning rate goes."""

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from inlier.training import Run


def batches(n: int, size: int, run: Run) -> Callable[[int], Tensor]:
    """The indices of pass i: every image once, in a new order, before any comes again."""

    @functools.lru_cache(4)
    def order(epoch: int) -> Tensor:
        return torch.randperm(n, generator=run.generator(-1 - epoch))

    def batch(i: int) -> Tensor:
        places = (divmod(place, n) for place in range(i * size, (i + 1) * size))
        return torch.stack([order(epoch)[place] for epoch, place in places])

    return batch


def rate(step: int, warm_up: int, steps: int, decay: bool) -> float:
    """Share of the learning rate: rises in a straight line; then stays, or falls to zero as half a cosine."""
    if step < warm_up:
        return (step + 1) / warm_up
    return (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up))) / 2 if decay else 1.0
