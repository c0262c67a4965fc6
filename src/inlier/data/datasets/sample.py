"""What a dataset is made of: samples with a category, a split and a defect."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from inlier.data.images import source_name
from inlier.errors import InlierError

Split = Literal["train", "test"]


@dataclass(frozen=True)
class Sample:
    """One picture and what is known about it."""

    source: Path | np.ndarray | Image.Image
    category: str
    split: Split
    defect: str | None  # None: good; else the name of the type of defect
    mask: Path | None = None
    number: int = 0  # place in the list the user passed, counted from 0

    @property
    def is_defect(self) -> bool:
        return self.defect is not None

    @property
    def name(self) -> str:
        """The path, or "image 3" for an array."""
        return source_name(self.source, self.number)


@dataclass(frozen=True)
class Dataset:
    """Samples, and how they were found."""

    name: str
    layout: str  # for people, such as "MVTec-AD layout, 1 category"
    samples: tuple[Sample, ...]
    notes: tuple[str, ...] = ()  # decisions worth printing

    @property
    def categories(self) -> tuple[str, ...]:
        return tuple(sorted({sample.category for sample in self.samples}))

    @property
    def train(self) -> tuple[Sample, ...]:
        """The good samples of the train split."""
        return tuple(s for s in self.samples if s.split == "train" and not s.is_defect)

    @property
    def test(self) -> tuple[Sample, ...]:
        return tuple(s for s in self.samples if s.split == "test")

    def select(self, categories: Sequence[str]) -> "Dataset":
        """The samples of some categories only. Raises InlierError for an unknown name."""
        wanted = (categories,) if isinstance(categories, str) else tuple(categories)
        known = self.categories
        for name in wanted:
            if name not in known:
                close = difflib.get_close_matches(name, known, n=1)
                hint = f" Did you mean {close[0]!r}?" if close else ""
                raise InlierError(f"{self.name}: no category {name!r}.{hint} There are: {', '.join(known)}")
        return replace(self, samples=tuple(s for s in self.samples if s.category in wanted))


def count_categories(samples: Sequence[Sample]) -> str:
    """For people: "1 category" or "15 categories"."""
    n = len({sample.category for sample in samples})
    return f"{n} category" if n == 1 else f"{n} categories"


def first_names(names: Sequence[str]) -> str:
    """Three names, and how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
