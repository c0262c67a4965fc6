"""Good pictures as a method learns from them: what is known of each, batches of their views, all of them in memory."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from inlier.data.batches import read_batches
from inlier.data.geometry import Geometry
from inlier.data.images import ImageSource
from inlier.progress import Pace, progress
from inlier.training import Run

TOP = {torch.uint8: 255, torch.uint16: 65535}  # white, in the pictures that are kept for training


class Good(NamedTuple):
    """One good picture to learn from."""

    source: ImageSource
    category: str
    group: int  # pictures of one part or lot, and copies of one picture, have the same
    geometry: Geometry
    views: int  # inputs of the network that it gives: tiles, or 1


class Images:
    """Good pictures as the network sees them: a re-iterable source of batches of views; `len` counts views.

    For each view, in order: `categories`, `groups`, and `owners`, the number of its picture. deadline: of
    time.monotonic(), or None; where reading all views would end later, OutOfTime is raised, whatever a method does with
    them on the way.
    """

    def __init__(self, pictures: Sequence[Good], workers: int, deadline: float | None = None):
        self.pictures, self.workers, self.deadline = list(pictures), workers, deadline
        self.owners = [i for i, picture in enumerate(self.pictures) for _ in range(picture.views)]
        self.categories = [self.pictures[i].category for i in self.owners]
        self.groups = [self.pictures[i].group for i in self.owners]

    def __len__(self) -> int:
        return len(self.owners)

    def subset(self, indices: Sequence[int]) -> "Images":
        """Some of the pictures, with all their views."""
        return Images([self.pictures[i] for i in indices], self.workers, self.deadline)

    def batches(self, batch_size: int, device: torch.device) -> Iterator[Tensor]:
        """RGB batches (B, 3, size, size) in [0, 1], in order."""
        return (images for images, _ in self.batches_and_regions(batch_size, device))

    def batches_and_regions(self, batch_size: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor | None]]:
        """The same, with what shows the region of interest, bool (B, size, size); None: everything."""
        pace = Pace(self.deadline, len(self))
        done = 0
        for batch in read_batches(*self.sources_and_geometries(), batch_size, self.workers):
            inspected = None if batch.inspected is None else torch.from_numpy(batch.inspected).to(device)
            yield torch.from_numpy(batch.images).to(device), inspected
            done += len(batch.images)
            pace.check(done)

    def sources_and_geometries(self) -> tuple[list[ImageSource], list[Geometry]]:
        return [picture.source for picture in self.pictures], [picture.geometry for picture in self.pictures]

    def cache(self, run: Run) -> tuple[Tensor, Tensor | None]:
        """(N, size, size, 3) uint8, or uint16 where any has more than 8 bit: all views, read once.

        `to_input` makes batches of it, with the same bits for a picture of 8 bit either way. Then (N, size, size) bool,
        what shows the region of interest; None: everything.
        """
        size = self.pictures[0].geometry.size
        shape = (len(self), size, size, 3)
        pictures = run.cache(shape, torch.uint8, "pictures")
        done = 0
        limited = any(picture.geometry.region for picture in self.pictures)
        regions = run.cache(shape[:3], torch.bool, "regions of interest") if limited else None
        with progress("reading pictures", len(self)) as show:
            for batch, inspected in self.batches_and_regions(8, torch.device("cpu")):
                if pictures.dtype == torch.uint8 and not torch.equal(batch, (255 * batch).round() / 255):
                    deep = run.cache(shape, torch.uint16, "pictures of 16 bit")
                    for i in range(done):  # one by one: there may be more than fit into memory
                        deep[i] = (TOP[torch.uint16] // TOP[torch.uint8] * pictures[i].int()).to(torch.uint16)
                    pictures = deep
                part = slice(done, done + len(batch))
                levels = (TOP[pictures.dtype] * batch).round().to(pictures.dtype)
                pictures[part] = levels.permute(0, 2, 3, 1)
                if regions is not None:
                    regions[part] = True if inspected is None else inspected
                done += len(batch)
                show(done)
        return pictures, regions


def to_input(pictures: Tensor) -> Tensor:
    """(B, H, W, 3) uint8 or uint16 -> (B, 3, H, W) in [0, 1]"""
    return pictures.permute(0, 3, 1, 2).float() / TOP[pictures.dtype]


def to_8_bit(pictures: Tensor) -> Tensor:
    """(..., H, W, 3) uint8 or uint16 -> uint8"""
    scale = TOP[pictures.dtype] // 255
    return pictures if scale == 1 else (pictures.float() / scale).round().byte()


def groups_and_categories(images: Images) -> tuple[list[int], list[str]]:
    """Of each picture."""
    return [picture.group for picture in images.pictures], [picture.category for picture in images.pictures]
