"""What can be wrong with a picture that was read: nothing to see in it, or a small part of its range used."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

LEAST_DEEP = 1 / 16  # of the range, that 16-bit pictures should span: 12-bit data in 16-bit files spans less
LEAST = 4 / 255  # 8-bit pictures of less contrast show next to nothing; parts of one material may have little
DARK = 17 / 255  # 8-bit pictures whose bright parts are below: 12-bit colour in 16-bit files, read with 8 bit
LOOKED_AT = 250_000  # pixels, evenly spread


class Levels(NamedTuple):
    """How bright a picture is. In [0, 1]; single dead or hot pixels do not count."""

    low: float  # 1 % of the values are below
    high: float  # 1 % are above
    is_deep: bool  # more than 8 bit
    is_flat: bool  # one colour, every pixel

    @property
    def contrast(self) -> float:
        return self.high - self.low


def levels(image: Image.Image) -> Levels:
    """The `Levels` of a picture of `read_image`."""
    is_deep = image.mode == "F"
    extrema = np.reshape(image.getextrema(), (-1, 2))
    step = max(1, int(np.sqrt(image.width * image.height / LOOKED_AT)))
    values = np.asarray(image)[::step, ::step]
    low, high = np.quantile(values, (0.01, 0.99)) / (1 if is_deep else 255)
    return Levels(float(low), float(high), is_deep, bool((extrema[:, 0] == extrema[:, 1]).all()))


def doubts(seen: Sequence[Levels]) -> Iterator[str]:
    """What is odd about most of these pictures, and what to do."""
    deep, shallow = [s for s in seen if s.is_deep], [s for s in seen if not s.is_deep]
    if deep and np.median([s.contrast for s in deep]) < LEAST_DEEP:
        low, high = (round(65535 * float(np.median(values))) for values in zip(*(s[:2] for s in deep)))
        share = 100 * (high - low) / 65535
        yield (
            f"the 16-bit pictures use {share:.2g} % of their range, {low} to {high} of 65535 (12-bit data in 16-bit "
            "files look so, and temperatures): the network sees next to nothing; stretch what matters to the full "
            "range, all pictures by the same two numbers"
        )
    if shallow and np.median([s.high for s in shallow]) < DARK:
        yield (
            "the pictures are nearly black (12-bit colour in 16-bit files is read so): the network sees next to "
            "nothing; stretch them to the full range, all by the same factor"
        )
    elif shallow and np.median([s.contrast for s in shallow]) < LEAST:
        yield "the pictures have next to no contrast: the network sees next to nothing; check light and exposure"
