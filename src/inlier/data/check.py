"""Every picture and mask of a dataset is read once, before anything is trained."""

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from inlier.data.batches import read_ahead
from inlier.data.datasets.sample import Dataset, Sample, first_names
from inlier.data.images import decode_image, inspect_mask, read_bytes, read_image
from inlier.data.quality import Levels, doubts, levels
from inlier.errors import ImageError, InlierError


@dataclass(frozen=True)
class Report:
    """What `check` found in a dataset that can be used."""

    fingerprint: str  # sha256, hexadecimal, of the sorted sha256 of the good training images
    order: str  # the same of their sha256 in the order of `dataset.train`
    groups: tuple[int, ...]  # of each of them; copies of one picture have the same number
    sizes: tuple[tuple[int, int], ...]  # of each of them: height, width
    warnings: tuple[str, ...]


class _Seen(NamedTuple):
    """What one reading of a sample showed; a problem is (kind, message)."""

    digest: str = ""
    size: tuple[int, int] = (0, 0)
    problem: tuple[str, str] | None = None
    levels: Levels | None = None
    mask_note: str = ""
    mask_share: float | None = None  # of the pixels that are defect


def check(dataset: Dataset, workers: int = 2, progress: Callable[[int, int], None] | None = None) -> Report:
    """Read every image and mask once, before anything is trained.

    `progress` is called with (done, total). Raises one InlierError that lists all problems: images and masks that
    cannot be read, masks of another size than their image, defects without a mask where others have one.
    """
    seen = []
    with closing(read_ahead(_look, dataset.samples, workers, 4 * workers)) as looks:
        for look in looks:
            seen.append(look)
            if progress:
                progress(len(seen), len(dataset.samples))
    masked = {s.category for s in dataset.samples if s.mask}
    problems = [look.problem for look in seen if look.problem]
    bare = [s for s in dataset.samples if s.is_defect and not s.mask and s.category in masked]
    problems += [("defect without a mask", f"{s.name}: others of {s.category} have one") for s in bare]
    if problems:
        lines = [f"  {kind}: {message}" for kind, message in sorted(problems, key=lambda problem: problem[0])]
        rest = [f"  ... and {len(lines) - 20} more"] if len(lines) > 20 else []
        total = f"{len(lines)} problem" + ("s" if len(lines) > 1 else "")
        raise InlierError("\n".join([f"{dataset.name}: {total}; mend or remove these files:", *lines[:20], *rest]))
    train = [look for s, look in zip(dataset.samples, seen, strict=True) if s.split == "train" and not s.is_defect]
    digests = [look.digest for look in train]
    numbers = {digest: number for number, digest in enumerate(dict.fromkeys(digests))}
    return Report(
        _digest(sorted(digests)),
        _digest(digests),
        tuple(numbers[digest] for digest in digests),
        tuple(look.size for look in train),
        tuple(_warnings(dataset, seen)),
    )


def grouped(samples: Sequence[Sample], copies: Sequence[int], pattern: str | None) -> list[int]:
    """A number for each sample, the same where they are copies, or where `pattern` finds the same in their paths.

    copies: `Report.groups`. pattern: a regular expression; what its first group matches tells pictures of one part, lot
    or board (all that it matches, where it has no group). Raises InlierError if it is none, or finds nothing in a path.
    """
    if pattern is None:
        return list(copies)
    try:
        found = [re.search(pattern, sample.name) for sample in samples]
    except re.error as error:
        raise InlierError(f"group: {pattern!r} is no regular expression ({error})") from None
    if missing := [sample.name for sample, match in zip(samples, found, strict=True) if match is None]:
        raise InlierError(f"group: {pattern!r} finds nothing in {len(missing)} names: {first_names(missing)}")
    keys = [(s.category, m.group(min(1, m.re.groups))) for s, m in zip(samples, found, strict=True) if m]
    numbers = {key: len(copies) + number for number, key in enumerate(dict.fromkeys(keys))}
    # a graph of pictures' copies and keys, whose connected parts are the groups
    ends = [numbers[key] for key in keys]
    n = max([*ends, *copies], default=0) + 1
    graph = coo_array((np.ones(len(ends)), (list(copies), ends)), shape=(n, n))
    labels = connected_components(graph, directed=False)[1]
    order = {label: number for number, label in enumerate(dict.fromkeys(labels[list(copies)].tolist()))}
    return [order[label] for label in labels[list(copies)].tolist()]


def _digest(digests: Sequence[str]) -> str:
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def _look(sample: Sample) -> _Seen:
    try:
        if isinstance(sample.source, Path):
            data = read_bytes(sample.source)
            image = decode_image(data, sample.name)
        else:
            image = read_image(sample.source, sample.name)
            data = f"{image.mode} {image.size} ".encode() + image.tobytes()
    except ImageError as error:
        return _Seen(problem=("unreadable image", str(error)))
    look = _Seen(hashlib.sha256(data).hexdigest(), (image.height, image.width), levels=levels(image))
    if sample.mask is None:
        return look
    try:
        mask, note = inspect_mask(sample.mask, sample.source)
    except ImageError as error:
        return look._replace(problem=("unreadable mask", str(error)))
    if mask.shape != (image.height, image.width):
        sizes = f"{mask.shape[1]} x {mask.shape[0]} pixels, its image {sample.name} has {image.width} x {image.height}"
        return look._replace(problem=("mask of another size", f"{sample.mask}: {sizes}"))
    return look._replace(mask_note=note, mask_share=float(mask.mean()))


def _warnings(dataset: Dataset, seen: Sequence[_Seen]) -> Iterator[str]:
    pairs = list(zip(dataset.samples, seen, strict=True))
    train: dict[str, str] = {}  # digest -> name of the first with it
    copies = 0
    for sample, look in pairs:
        if sample.split == "train" and not sample.is_defect:
            copies += look.digest in train
            train.setdefault(look.digest, sample.name)
    if copies:
        yield f"{copies} training images are byte-equal copies of others"
    both = [f"{train[look.digest]} = {s.name}" for s, look in pairs if s.split == "test" and look.digest in train]
    if both:
        names = first_names(both)
        yield f"{len(both)} test images are byte-equal to training images, results will look too good: {names}"
    empty = [str(sample.mask) for sample, look in pairs if look.mask_share == 0]
    if empty:
        yield f"{len(empty)} masks show no defect pixel: {first_names(empty)}"
    large = [str(sample.mask) for sample, look in pairs if (look.mask_share or 0) > 0.5]
    if large:
        yield f"{len(large)} masks call more than half of the picture defect; are they inverted? {first_names(large)}"
    noted = [f"{sample.mask}: {look.mask_note}" for sample, look in pairs if look.mask_note]
    if noted:
        yield f"{len(noted)} masks have more than two values; the first, {noted[0]}"
    masked = {s.category for s in dataset.samples if s.mask}
    unmasked = sorted({s.category for s in dataset.samples if s.is_defect} - masked)
    if unmasked:
        yield f"{first_names(unmasked)}: no masks: pixel metrics are not available"
    flat = [sample.name for sample, look in pairs if look.levels and look.levels.is_flat]
    if flat:
        yield f"{len(flat)} images are of one colour, nothing is to be seen in them: {first_names(flat)}"
    yield from doubts([look.levels for look in seen if look.levels])
