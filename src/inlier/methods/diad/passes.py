"""What the trainings of DiAD have in common: the key of their order, and how the learning rate goes."""

from inlier.training import half_cosine


def before_passes(epoch: int) -> int:
    """The key of an epoch's order: those from 0 on are the passes', for their noise."""
    return -1 - epoch


def rate(step: int, warm_up: int, steps: int, decay: bool) -> float:
    """Share of the learning rate: rises in a straight line; then stays, or falls to zero as half a cosine."""
    if step < warm_up:
        return (step + 1) / warm_up
    return half_cosine(step - warm_up, max(1, steps - warm_up)) if decay else 1.0
