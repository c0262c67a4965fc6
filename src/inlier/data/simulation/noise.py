"""Perlin noise, which gives simulated defects their shapes."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Noise = NDArray[np.floating]  # (H, W)


def perlin_noise(angles: NDArray[np.floating], height: int, width: int) -> Noise:
    """Perlin's gradient noise times sqrt 2, float64 (height, width), within about -1 and 1.

    angles: (rows + 1, columns + 1), direction of the gradient at each corner of the cells, in full turns.
    Cells need not hold a whole number of pixels.
    """
    # The value at a pixel is a sum over corners of weight x (gradient . offset), and both parts separate into rows and
    # columns: four small matrices instead of eight gathered pictures.
    (weight_y, lever_y), (weight_x, lever_x) = _lattice(angles.shape[0], height), _lattice(angles.shape[1], width)
    turn = 2 * np.pi * angles.astype(np.float64)
    noise: Noise = np.sqrt(2) * (lever_y @ np.cos(turn) @ weight_x.T + weight_y @ np.sin(turn) @ lever_x.T)
    return noise


def _lattice(corners: int, size: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(size, corners): each pixel's weight of each corner along one axis, and weight x distance from the corner."""
    position = np.arange(size) * (corners - 1) / size
    distance = position[:, None] - np.arange(corners)
    t = np.clip(1 - np.abs(distance), 0, 1)  # 1 at the corner, 0 from the next one on
    weight = t**3 * (t * (6 * t - 15) + 10)
    return weight, weight * distance


def draw_noise(rng: np.random.Generator, shape: tuple[int, ...], scales: tuple[int, int] = (0, 5)) -> Noise:
    """Perlin noise of 2**U{scales} cells per axis, turned by U(-90, 90) degrees, float32 of shape (H, W).

    Turned with Pillow, bilinear, about the centre, size kept; what comes in from outside is 0, so corners hold fewer
    defects (as in the released code).
    """
    rows, columns = 2 ** rng.integers(scales[0], scales[1] + 1, 2)
    noise = perlin_noise(rng.random((rows + 1, columns + 1)), *shape).astype(np.float32)
    return np.asarray(Image.fromarray(noise).rotate(rng.uniform(-90, 90), Image.Resampling.BILINEAR))
