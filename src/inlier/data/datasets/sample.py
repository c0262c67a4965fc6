"""What a dataset is made of: samples with a category, a split and a defect."""

import difflib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

import numpy as np
from PIL import Image

from inlier.data.images import inspect_mask, source_name
from inlier.errors import ImageError, InlierError
from inlier.names import agreeing, counted, first_names

Item = TypeVar("Item")
Split = Literal["train", "validation", "test"]
# what folders and labels of good parts are called, in lower case
GOOD = frozenset(("good", "ok", "normal", "gut", "gutteile", "io", "i.o", "i.o.", "良品", "合格", "合格品", "正常"))


@dataclass(frozen=True)
class Sample:
    """One picture and what is known about it."""

    source: Path | np.ndarray | Image.Image
    category: str
    split: Split
    defect: str | None  # None: good; else the name of the type of defect
    masks: tuple[Path, ...] = ()  # together they show the defect
    number: int = 0  # place in the list the user passed, counted from 0

    @property
    def is_defect(self) -> bool:
        return self.defect is not None

    @property
    def name(self) -> str:
        """The path, or "image 3" for an array."""
        return source_name(self.source, self.number)

    def inspect_mask(self) -> tuple[np.ndarray | None, tuple[str, ...]]:
        """(bool (H, W), True where any of its masks shows the defect, or None without masks; notes of the masks).

        Raises ImageError.
        """
        joined: np.ndarray | None = None
        notes = []
        for path in self.masks:
            mask, note = inspect_mask(path, self.source)
            if joined is not None and joined.shape != mask.shape:
                sizes = f"{mask.shape[1]} x {mask.shape[0]} pixels, {self.masks[0].name} has"
                raise ImageError(f"{path}: {sizes} {joined.shape[1]} x {joined.shape[0]}")
            joined = mask if joined is None else joined | mask
            notes += [f"{path}: {note}"] if note else []
        return joined, tuple(notes)

    def read_mask(self) -> np.ndarray | None:
        """`inspect_mask` without its notes."""
        return self.inspect_mask()[0]


class LeftOut(NamedTuple):
    """Files of a dataset that serve nothing, and why."""

    reason: str  # goes on after a number above one: "pictures are not used: ..."
    paths: tuple[Path, ...]


@dataclass(frozen=True)
class Dataset:
    """Samples, and how they were found."""

    name: str
    layout: str  # for people, such as "MVTec-AD layout, 1 category"
    samples: tuple[Sample, ...]
    notes: tuple[str, ...] = ()  # decisions worth printing, and what was left out
    left_out: tuple[LeftOut, ...] = ()

    @property
    def categories(self) -> tuple[str, ...]:
        return tuple(sorted({sample.category for sample in self.samples}))

    @property
    def train(self) -> tuple[Sample, ...]:
        """The good samples of the train split."""
        return self._of("train")

    @property
    def validation(self) -> tuple[Sample, ...]:
        """The good samples of the validation split: not fitted on, not tested on, fit for `inlier calibrate`."""
        return self._of("validation")

    @property
    def test(self) -> tuple[Sample, ...]:
        return tuple(s for s in self.samples if s.split == "test")

    def _of(self, split: Split) -> tuple[Sample, ...]:
        return tuple(s for s in self.samples if s.split == split and not s.is_defect)

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

    def leaving_out(self, reason: str, paths: Iterable[Path]) -> "Dataset":
        """The same, with a note of files that are not used; without any, the same. reason: as `counted` takes it."""
        left = LeftOut(agreeing(2, reason), tuple(paths))
        if not left.paths:
            return self
        note = f"{counted(len(left.paths), reason)}: {first_names([str(path) for path in left.paths])}"
        return replace(self, notes=(*self.notes, note), left_out=(*self.left_out, left))


class Row(NamedTuple):
    """What a table says of a picture."""

    table: Path
    place: str  # "line 3"
    sample: Sample


def join_rows(rows: Sequence[Row]) -> tuple[tuple[Sample, ...], tuple[str, ...]]:
    """(samples, those of one picture and split joined; notes).

    Raises InlierError for a picture that is good and a defect, or of two categories.
    """
    samples: dict[tuple[str, Split], Sample] = {}
    seen: dict[str, Row] = {}  # the first row of each picture
    for table, place, sample in rows:
        path = os.path.normpath(sample.name)
        first = seen.setdefault(path, Row(table, place, sample))
        see = first.place if first.table == table else f"{first.table}, {first.place}"
        for differs, what in (
            (first.sample.is_defect != sample.is_defect, "good and a defect"),
            (first.sample.category != sample.category, "of two categories"),
        ):
            if differs:
                name = os.path.basename(path)
                raise InlierError(f"{table}, {place}: {name} is {what}, see {see}; keep one of the two")
        one = samples.setdefault((path, sample.split), sample)
        kinds = dict.fromkeys(kind for s in (one, sample) if s.defect for kind in s.defect.split("+"))
        masks = tuple(dict.fromkeys(one.masks + sample.masks))
        samples[path, sample.split] = replace(one, defect="+".join(kinds) or None, masks=masks)
    found = tuple(samples.values())
    n = len(rows)
    if n == len(found):
        return found, ()
    return found, (f"{n} rows name {counted(len(found), 'picture<|s>')}: rows of one picture are joined",)


def split_good(n: int) -> list[Split]:
    """80 to 20 into train and test, for sets that come without a split: the same for the same n, everywhere."""
    order = np.random.default_rng(0).permutation(n)
    in_train = set(order[: round(0.8 * n)].tolist())
    return ["train" if i in in_train else "test" for i in range(n)]


def unused_defects(samples: Iterable[Sample]) -> tuple[str, ...]:
    """A note, where defects lie outside of the test split."""
    unused = sum(s.is_defect and s.split != "test" for s in samples)
    what = "defect picture<|s> of the train split <is|are> not used for training"
    return (counted(unused, what),) if unused else ()


def count_categories(samples: Sequence[Sample]) -> str:
    """For people: "1 category" or "15 categories"."""
    n = len({sample.category for sample in samples})
    return f"{n} category" if n == 1 else f"{n} categories"


def evenly(items: Sequence[Item], most: int) -> list[Item]:
    """As many of the items as are wanted and there, evenly spread over all.

    >>> evenly(range(10), 3), evenly(range(2), 5)
    ([0, 4, 9], [0, 1])
    """
    places = np.linspace(0, len(items) - 1, min(most, len(items))).round().astype(int)
    return [items[place] for place in places.tolist()]
