"""Changes of light, camera and position, of stated size: what a station's pictures may go through after training.

Pictures are float32 (H, W, 3) or, with more than 8 bit, (H, W), in [0, 1]. Where a change of position uncovers what the
picture does not show, the picture is mirrored at its edge.
"""

import io
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import affine_transform, gaussian_filter

Values = NDArray[np.float32]


class Change(NamedTuple):
    """A kind of change, and the sizes at which it is tried, from weak to strong."""

    unit: str  # of the sizes
    sizes: tuple[float, ...]
    apply: Callable[[Values, float, np.random.Generator], Values]  # the generator decides directions and noise


def values_of(image: Image.Image) -> Values:
    """A picture of `read_image`."""
    values = np.asarray(image)
    return values if image.mode == "F" else values.astype(np.float32) / np.float32(255)


def picture_of(values: Values) -> NDArray[np.uint8] | Values:
    """What models take: 8-bit colour, or deep grey as it is."""
    clipped = values.clip(0, 1)
    return clipped if values.ndim == 2 else np.rint(clipped * 255).astype(np.uint8)


def brightness(values: Values, percent: float) -> Values:
    """Values times 1 + percent / 100; what is brighter than white is white."""
    return (values * np.float32(1 + percent / 100)).clip(0, 1)


def contrast(values: Values, percent: float) -> Values:
    """Distances to the picture's mean times 1 + percent / 100."""
    mean = values.mean(dtype=np.float64).astype(np.float32)
    return (mean + (values - mean) * np.float32(1 + percent / 100)).clip(0, 1)


def cast(values: Values, percent: float) -> Values:
    """Red times 1 + percent / 100 and blue times 1 - percent / 100: warmer light, or with percent < 0 colder."""
    gains = np.array([1 + percent / 100, 1, 1 - percent / 100], np.float32)
    return values if values.ndim == 2 else (values * gains).clip(0, 1)


def blur(values: Values, sigma: float) -> Values:
    """Out of focus: a Gaussian of so many pixels' deviation."""
    return gaussian_filter(values, (sigma, sigma, 0)[: values.ndim], mode="mirror")


def noise(values: Values, levels: float, rng: np.random.Generator) -> Values:
    """Gaussian noise of so many grey levels' (of 255) deviation; the same in all channels of a grey picture."""
    shape = values.shape if not is_grey(values) or values.ndim == 2 else (*values.shape[:2], 1)
    drawn = rng.standard_normal(shape, np.float32) * np.float32(levels / 255)
    return (values + drawn).clip(0, 1)


def jpeg(values: Values, quality: float) -> Values:
    """Written as JPEG of this quality and read again, with 8 bit."""
    content = io.BytesIO()
    image = Image.fromarray(np.rint(values.clip(0, 1) * 255).astype(np.uint8))
    (image.convert("L") if is_grey(values) else image).save(content, "JPEG", quality=round(quality))
    with Image.open(content) as read:
        return np.asarray(read.convert("L" if values.ndim == 2 else "RGB")).astype(np.float32) / np.float32(255)


def moved(values: Values, right: float = 0, down: float = 0, degrees: float = 0, scale: float = 1) -> Values:
    """Shifted by pixels, turned clockwise about the centre, and made larger by a factor; bilinear."""
    angle = np.deg2rad(degrees)
    matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / scale
    centre = (np.array(values.shape[:2]) - 1) / 2
    offset = centre - matrix @ (centre + [down, right])
    planes = values[..., None] if values.ndim == 2 else values
    out = np.stack(
        [affine_transform(planes[..., c], matrix, offset, order=1, mode="mirror") for c in range(planes.shape[-1])], -1
    )
    return out[..., 0] if values.ndim == 2 else out


def shift(values: Values, percent: float, rng: np.random.Generator) -> Values:
    """By a share of the longer side, in a random direction."""
    angle, far = rng.uniform(0, 2 * np.pi), percent / 100 * max(values.shape[:2])
    return moved(values, far * np.cos(angle), far * np.sin(angle))


def rotation(values: Values, degrees: float, rng: np.random.Generator) -> Values:
    """To the one side or to the other."""
    return moved(values, degrees=float(degrees * rng.choice([-1, 1])))


def is_grey(values: Values) -> bool:
    """No pixel has a colour."""
    return values.ndim == 2 or bool((values == values[..., :1]).all())


PERCENT = 2.0, 5.0, 10.0, 20.0, 40.0
CHANGES: dict[str, Change] = {
    "brighter": Change("%", PERCENT, lambda values, size, _: brightness(values, size)),
    "darker": Change("%", PERCENT, lambda values, size, _: brightness(values, -size)),
    "more contrast": Change("%", PERCENT, lambda values, size, _: contrast(values, size)),
    "less contrast": Change("%", PERCENT, lambda values, size, _: contrast(values, -size)),
    "warmer": Change("%", PERCENT, lambda values, size, _: cast(values, size)),
    "colder": Change("%", PERCENT, lambda values, size, _: cast(values, -size)),
    "blur": Change("px", (0.5, 1.0, 1.5, 2.0, 3.0), lambda values, size, _: blur(values, size)),
    "noise": Change("grey levels", (1.0, 2.0, 5.0, 10.0, 20.0), noise),
    "JPEG": Change("quality", (95.0, 80.0, 60.0, 40.0, 20.0), lambda values, size, _: jpeg(values, size)),
    "shift": Change("% of the longer side", (0.5, 1.0, 2.0, 5.0, 10.0), shift),
    "rotation": Change("degrees", (0.5, 1.0, 2.0, 5.0, 10.0), rotation),
    "larger": Change("%", (1.0, 2.0, 5.0, 10.0, 20.0), lambda values, size, _: moved(values, scale=1 + size / 100)),
    "smaller": Change("%", (1.0, 2.0, 5.0, 10.0, 20.0), lambda values, size, _: moved(values, scale=1 - size / 100)),
}
COLOURS = "warmer", "colder"  # what grey pictures cannot become
