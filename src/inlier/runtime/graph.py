"""What an exported graph takes and gives; the same for every runtime, without PyTorch.

Inputs, by name: `images`, always; `inspected`, bool (B, size, size), True where pixels count, of models with regions of
interest; `noise`, float32 (B, *shape), of a method that repaints (see `noise_of`). Outputs: `scores` (B,), `maps`
(B, size, size) and, of a method that repaints, `reconstructions` (B, 3, size, size). B is free.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from inlier.errors import InlierError
from inlier.inspection.inspector import Output

PIXELS = {
    "float": "float32 RGB (B, 3, size, size) in [0, 1]",
    "uint8": "uint8 RGB (B, size, size, 3)",
}
OUTPUTS = ("scores", "maps", "reconstructions")
NORMALS_AT_ONCE = 16  # torch draws so many normal numbers together


@dataclass(frozen=True)
class Graph:
    """Inputs and outputs of one exported file.

    pixels: "float" or "uint8", see PIXELS. noise: shape of a picture's noise; empty: none is taken. regions: it takes
    `inspected`. whole: its score is of the whole picture, whatever the region. repaints: it gives `reconstructions`.
    at_once: pictures in one pass that the memory is meant for.
    """

    size: int
    pixels: str = "float"
    regions: bool = False
    noise: tuple[int, ...] = ()
    repaints: bool = False
    at_once: int = 64
    whole: bool = False

    @property
    def inputs(self) -> list[str]:
        return ["images", *(["inspected"] if self.regions else []), *(["noise"] if self.noise else [])]

    @property
    def outputs(self) -> list[str]:
        return list(OUTPUTS if self.repaints else OUTPUTS[:2])

    def feed(self, images: NDArray[np.float32], inspected: NDArray[np.bool_] | None) -> dict[str, NDArray[Any]]:
        """Inputs by name, for float32 images (B, 3, size, size) in [0, 1]. Raises InlierError for a region of interest
        that the graph cannot heed."""
        fed: dict[str, NDArray[Any]] = {"images": images if self.pixels == "float" else to_bytes(images)}
        if self.regions:
            fed["inspected"] = np.ones((len(images), *images.shape[2:]), bool) if inspected is None else inspected
        elif inspected is not None and not self.whole and not inspected.all():
            raise InlierError(
                "this model was exported without a region of interest, so its score counts what lies outside of one, "
                "too: give the region to the .inlier file (train --roi, or the station's own region), and export that"
            )
        if self.noise:
            fed["noise"] = noise_of(images, self.noise)
        return fed

    def judge(
        self,
        compute: "Compute",
        images: NDArray[np.float32],
        inspected: NDArray[np.bool_] | None,
        maps: bool,
    ) -> Output:
        """Scores, and where they are wanted maps and reconstructions, by a runtime's `compute(inputs, outputs)`."""
        names = self.outputs if maps else self.outputs[:1]
        parts = []
        for start in range(0, len(images), self.at_once):
            part = slice(start, start + self.at_once)
            parts.append(compute(self.feed(images[part], None if inspected is None else inspected[part]), names))
        return Output(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    @classmethod
    def from_header(cls, stored: dict[str, Any]) -> "Graph":
        return replace(cls(**stored), noise=tuple(stored["noise"]))


Compute = Callable[[dict[str, NDArray[Any]], list[str]], Sequence[NDArray[Any]]]


class ExportedRuntime(Protocol):
    """Opens an exported file. `text` is the header in it, `rewrite` puts another one into a copy of the file.

    in_full: the same with all the precision that its weights have.
    """

    suffix: str  # of the files that it writes
    text: str
    graph: Graph
    network: Any

    def __call__(self, images: NDArray[np.float32], inspected: NDArray[np.bool_] | None, maps: bool) -> Output: ...
    def in_full(self, images: NDArray[np.float32], inspected: NDArray[np.bool_] | None, maps: bool) -> Output: ...
    def rewrite(self, target: Any, text: str) -> None: ...


def to_bytes(images: NDArray[np.float32]) -> NDArray[np.uint8]:
    """float32 (B, 3, H, W) in [0, 1] -> uint8 (B, H, W, 3). Raises InlierError where 8 bit would change the picture."""
    levels = np.rint(255 * images)
    if np.abs(levels - 255 * images).max() > 1e-3:
        raise InlierError("these images have more than 8 bit, and the graph takes uint8")
    return np.ascontiguousarray(levels.astype(np.uint8).transpose(0, 2, 3, 1))


def noise_of(images: NDArray[np.float32], shape: Sequence[int]) -> NDArray[np.float32]:
    """(B, *shape) normal noise that depends on each picture (B, 3, H, W) in [0, 1] alone, rounded to 8 bit.

    The noise of `methods.diad.sampler.noise_of`, up to rounding, for runtimes without PyTorch.
    """
    pictures = np.rint(255 * images).clip(0, 255).astype(np.uint8)
    return np.stack([normal(int.from_bytes(_digest(picture), "big"), shape) for picture in pictures])


def _digest(picture: NDArray[np.uint8]) -> bytes:
    return hashlib.blake2b(picture.tobytes(), digest_size=7).digest()


def normal(seed: int, shape: Sequence[int]) -> NDArray[np.float32]:
    """What `torch.randn(shape)` draws on a CPU from a generator of this seed, up to rounding; 16 numbers or more.

    A Mersenne twister; each block of 16 numbers in (0, 1] is turned into normal ones by Box and Muller, the first half
    gives the radius, the second the angle. The last 16 are drawn anew where the number is not divisible by 16.
    """
    n = int(np.prod(shape))
    twister = np.random.RandomState(seed % 2**32)

    def blocks(count: int) -> NDArray[np.float32]:
        drawn = twister.randint(0, 2**32, NORMALS_AT_ONCE * count, dtype=np.uint32) & (2**24 - 1)
        uniform = (drawn / np.float64(2**24)).reshape(count, 2, -1)
        radius, angle = np.sqrt(-2 * np.log(1 - uniform[:, 0])), 2 * np.pi * uniform[:, 1]
        return np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1).astype(np.float32).ravel()

    if n < NORMALS_AT_ONCE:
        raise ValueError(f"torch draws fewer than {NORMALS_AT_ONCE} numbers another way")
    whole, rest = divmod(n, NORMALS_AT_ONCE)
    if not rest:
        return blocks(whole).reshape(shape)
    # all numbers are drawn first, the incomplete block among them; then the last 16 again
    started = n - whole * NORMALS_AT_ONCE
    values = np.empty(n, np.float32)
    values[: whole * NORMALS_AT_ONCE] = blocks(whole)
    twister.randint(0, 2**32, started, dtype=np.uint32)
    values[-NORMALS_AT_ONCE:] = blocks(1)
    return values.reshape(shape)
