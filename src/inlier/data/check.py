"""Every picture and mask of a dataset is read once, before anything is trained."""

import contextlib
import hashlib
import io
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from inlier.data import copies
from inlier.data.batches import read_ahead
from inlier.data.cues import WATCHED, cues
from inlier.data.datasets.sample import Dataset, Sample
from inlier.data.images import FORMATS, decode_image, read_bytes, read_image
from inlier.data.quality import Levels, doubts, levels
from inlier.errors import ImageError, InlierError
from inlier.names import agreeing, counted, first_names

log = logging.getLogger("inlier")
Value = TypeVar("Value")
MOST = 0.9  # share of a category from which on those that differ in size or kind are worth a word; or all but one
MODES = {  # what Pillow calls a mode, and what people do
    "1": "black and white",
    "L": "grey",
    "LA": "grey",
    "P": "palette",
    "RGB": "colour",
    "RGBA": "colour",
    "F": "float grey",
}


class Problem(NamedTuple):
    """Why a sample cannot be used."""

    kind: str
    message: str


class Look(NamedTuple):
    """What one reading of a sample showed."""

    digest: str = ""  # sha256 of the file
    problem: Problem | None = None
    size: tuple[int, int] = (0, 0)  # width, height, upright
    kind: str = ""  # "grey", "colour", "16-bit grey", ..., "with alpha"
    levels: Levels | None = None
    cues: tuple[float, ...] = ()  # as CUES
    mask_notes: tuple[str, ...] = ()
    mask_share: float | None = None  # of the pixels that are defect; None without masks
    small: NDArray[np.uint16] | None = None  # of good training pictures, until copies are found


@dataclass(frozen=True)
class Report:
    """What `examine` found in a dataset."""

    fingerprint: str  # sha256, hexadecimal, of the sorted sha256 of the good training pictures
    order: str  # the same of the unsorted ones: a run that is resumed needs the same order
    digests: tuple[str, ...]  # sha256, hexadecimal, of each good training image, in their order
    groups: tuple[int, ...]  # of each good training image, in their order; copies of one another share a number
    sizes: tuple[tuple[int, int], ...]  # of each of them: height, width
    cues: tuple[tuple[float, ...], ...]  # of each of them that can be read: WATCHED
    looks: tuple[Look, ...]  # of each sample, in their order
    problems: tuple[tuple[Sample, Problem], ...]
    suspicious: tuple[tuple[str, tuple[Sample, ...]], ...]  # what is the matter ("are of one colour"), and with which
    warnings: tuple[str, ...]

    def require(self, dataset: Dataset, training: bool = False) -> "Report":
        """The report; problems that `check` lets pass have become a warning. Raises InlierError for the others."""
        # those that training does not need stop it not, but who mends files mends all at once
        if any(not training or _is_fitted_on(sample) for sample, _ in self.problems):
            found = sorted((problem for _, problem in self.problems), key=lambda problem: problem.kind)
            lines = [f"  {kind}: {message}" for kind, message in found]
            rest = [f"  ... and {len(lines) - 20} more"] if len(lines) > 20 else []
            total = counted(len(lines), "problem<|s>")
            raise InlierError("\n".join([f"{dataset.name}: {total}; mend or remove these files:", *lines[:20], *rest]))
        if not self.problems:
            return self
        names = first_names([f"{kind}: {message}" for _, (kind, message) in self.problems])
        count = counted(len(self.problems), "sample<|s> that training does not need")
        note = f"{count} cannot be used, `evaluate` will refuse: {names}"
        return replace(self, warnings=(*self.warnings, note))


def check(
    dataset: Dataset,
    workers: int = 2,
    show: Callable[[int], None] | None = None,
    training: bool = False,
) -> Report:
    """Read every image and mask once, before anything is trained.

    show: is told how many are read. Raises one InlierError that lists all problems: pictures and masks that cannot be
    read, masks of another size than their picture, defects without a mask where others have one. training: only
    problems of good training pictures are raised, those of others become a warning.
    """
    return examine(dataset, workers, show).require(dataset, training)


def examine(dataset: Dataset, workers: int = 2, show: Callable[[int], None] | None = None) -> Report:
    """`check` that raises nothing: the problems are in the report."""
    seen: list[Look] = []
    with closing(read_ahead(_look, dataset.samples, workers, 4 * workers)) as looks:
        for look in looks:
            seen.append(look)
            if show:
                show(len(seen))
    pairs = list(zip(dataset.samples, seen, strict=True))
    masked = {s.category for s in dataset.samples if s.is_defect and s.masks}
    problems = [(s, look.problem) for s, look in pairs if look.problem]
    problems += [
        (s, Problem("defect without a mask", f"{s.name}: others of {s.category} have one"))
        for s in dataset.samples
        if s.is_defect and s.split == "test" and not s.masks and s.category in masked
    ]
    train = [(s, look) for s, look in pairs if _is_fitted_on(s)]
    digests = [look.digest for _, look in train]
    readable = [i for i, (_, look) in enumerate(train) if look.small is not None]
    numbers = copies.group(
        [small for _, look in train if (small := look.small) is not None],
        [digests[i] for i in readable],
        [train[i][0].category for i in readable],
    )
    place = dict(zip(readable, numbers, strict=True))
    groups = tuple(place.get(i, -1) for i in range(len(train)))
    suspicious = tuple(_suspicious(pairs))
    return Report(
        fingerprint=fingerprint(digests),
        order=hashlib.sha256("".join(digests).encode()).hexdigest(),
        digests=tuple(digests),
        groups=groups,
        sizes=tuple(look.size[::-1] for _, look in train),
        cues=tuple(train[i][1].cues[: len(WATCHED)] for i in readable),
        looks=tuple(look._replace(small=None) for look in seen),
        problems=tuple(problems),
        suspicious=tuple((agreeing(2, what), samples) for what, samples in suspicious),
        warnings=(
            *_copies(train, groups),
            *_same_pictures(pairs),
            *(
                f"{counted(len(samples), f'picture<|s> {what}')}: {first_names([s.name for s in samples])}"
                for what, samples in suspicious
            ),
            *_masks(pairs, masked),
            *doubts([look.levels for look in seen if look.levels]),
        ),
    )


def fingerprint(digests: Iterable[str]) -> str:
    """`Report.fingerprint` of pictures whose sha256 are given, in any order."""
    return hashlib.sha256("".join(sorted(digests)).encode()).hexdigest()


def grouped(samples: Sequence[Sample], copies: Sequence[int], pattern: str | None) -> list[int]:
    """A number for each sample, the same where they are copies, or where `pattern` finds the same in their paths.

    copies: `Report.groups`. pattern: a regular expression; what its first group matches tells pictures of one part, lot
    or board (all that it matches, where it has no group). Raises InlierError if it is none, or finds nothing in a path.
    """
    if pattern is None:
        return list(copies)
    if not pattern:  # as a shell gives a variable that is not set
        raise InlierError("group: the pattern is empty, so all pictures would be one part; give one, or leave it out")
    from scipy.sparse import coo_array  # takes a while, and who judges needs none of it
    from scipy.sparse.csgraph import connected_components

    try:
        found = [re.search(pattern, sample.name) for sample in samples]
    except re.error as error:
        raise InlierError(f"group: '{pattern}' is no regular expression ({error})") from None
    if missing := [sample.name for sample, match in zip(samples, found, strict=True) if match is None]:
        count = counted(len(missing), "name<|s>")
        raise InlierError(f"group: '{pattern}' finds nothing in {count}: {first_names(missing)}")
    keys = [(s.category, m.group(min(1, m.re.groups))) for s, m in zip(samples, found, strict=True) if m]
    for category, n in Counter(category for category, _ in keys).items():
        if n > 1 and len({key for key in keys if key[0] == category}) == 1:
            log.warning("%s: group '%s' finds the same in all %d names: they count as one part", category, pattern, n)
    numbers = {key: len(copies) + number for number, key in enumerate(dict.fromkeys(keys))}
    # a graph of pictures' copies and keys, whose connected parts are the groups
    ends = [numbers[key] for key in keys]
    n = max([*ends, *copies], default=0) + 1
    pairs = np.array([copies, ends], np.int32)  # old versions of scipy take no other, and do not say so
    graph = coo_array((np.ones(len(ends)), (pairs[0], pairs[1])), shape=(n, n))
    labels = connected_components(graph, directed=False)[1]
    order = {label: number for number, label in enumerate(dict.fromkeys(labels[list(copies)].tolist()))}
    return [order[label] for label in labels[list(copies)].tolist()]


def _is_fitted_on(sample: Sample) -> bool:
    return sample.split == "train" and not sample.is_defect


def _look(sample: Sample) -> Look:
    try:
        if isinstance(sample.source, Path):
            data = read_bytes(sample.source)
            image = decode_image(data, sample.name)
            stored = image
            with contextlib.suppress(Exception):  # only to tell people what kind of file it is; it was read already
                stored = Image.open(io.BytesIO(data), formats=FORMATS)
        else:
            image = read_image(sample.source, sample.name)
            data = f"{image.mode} {image.size} ".encode() + image.tobytes()
            stored = image
            if isinstance(sample.source, Image.Image):
                stored = sample.source
            elif image.mode == "RGB" and sample.source.size == image.width * image.height:  # an array of one channel
                stored = image.convert("L")
        look = Look(
            hashlib.sha256(data).hexdigest(),
            size=image.size,
            kind=_kind(stored),
            levels=levels(image),
            cues=cues(image, len(data) if isinstance(sample.source, Path) else np.nan),
            small=copies.small(image) if _is_fitted_on(sample) else None,
        )
    except ImageError as error:
        return Look(problem=Problem("unreadable image", str(error)))
    try:
        mask, notes = sample.inspect_mask()
    except ImageError as error:
        return look._replace(problem=Problem("unreadable mask", str(error)))
    if mask is None:
        return look
    if mask.shape != (image.height, image.width):
        sizes = (
            f"{mask.shape[1]} x {mask.shape[0]} pixels, its picture {sample.name} has {image.width} x {image.height}"
        )
        return look._replace(problem=Problem("mask of another size", f"{sample.masks[0]}: {sizes}"))
    return look._replace(mask_notes=notes, mask_share=float(mask.mean()))


def _kind(stored: Image.Image) -> str:
    name = "16-bit grey" if stored.mode.startswith("I") else MODES.get(stored.mode, stored.mode)
    return f"{name} with alpha" if stored.has_transparency_data else name


def _suspicious(pairs: Sequence[tuple[Sample, Look]]) -> Iterator[tuple[str, tuple[Sample, ...]]]:
    """What differs from what most of its category are like, and what no part looks like."""
    found: dict[str, list[Sample]] = {}
    for category in dict.fromkeys(sample.category for sample, _ in pairs):
        own = [(s, look) for s, look in pairs if s.category == category and not look.problem]
        model = [look for s, look in own if _is_fitted_on(s)] or [look for _, look in own]
        size = _most([look.size for look in model])
        ratio, kind = _most([_ratio(look.size) for look in model]), _most([look.kind for look in model])
        for sample, look in own:
            if look.levels and look.levels.is_flat:
                found.setdefault("<is|are> of one colour, nothing is to be seen in <it|them>", []).append(sample)
            if ratio is not None and _ratio(look.size) != ratio:
                turned = _ratio(look.size[::-1]) == ratio
                what = "<is|are> turned by a quarter against" if turned else "<has|have> another aspect ratio than"
                found.setdefault(f"{what} most of {category}", []).append(sample)
            elif size is not None and look.size != size:
                what = f"<has|have> another size than most of {category} ({size[0]} x {size[1]})"
                found.setdefault(what, []).append(sample)
            if kind is not None and look.kind != kind:
                found.setdefault(f"<is|are> {look.kind} where most of {category} are {kind}", []).append(sample)
    yield from ((what, tuple(samples)) for what, samples in found.items())


def _ratio(size: tuple[int, int]) -> int:
    """The aspect ratio in steps of 3 %, which a border more or less does not change much."""
    return round(float(np.log(size[0] / size[1])) / 0.03)


def _most(values: Sequence[Value]) -> Value | None:
    """The value that nearly all have; None if there is none."""
    enough = min(MOST * len(values), max(len(values) - 1, 2))  # of fewer than ten, one is more than a tenth
    return next((value for value, count in Counter(values).most_common(1) if count >= enough), None)


def _copies(train: Sequence[tuple[Sample, Look]], groups: Sequence[int]) -> Iterator[str]:
    first: dict[int, tuple[Sample, Look]] = {}
    again = [(first.setdefault(k, pair), pair) for k, pair in zip(groups, train, strict=True) if k >= 0]
    again = [(one, other) for one, other in again if one is not other]
    if again:
        equal = sum(one[1].digest == other[1].digest for one, other in again)
        names = first_names([f"{one[0].name} = {other[0].name}" for one, other in again])
        yield (
            f"{counted(len(again), 'training <picture looks like another|pictures look like others>')} saved again "
            f"({equal} byte-equal) and "
            f"{agreeing(len(again), '<counts as one with it|count as one with them>')}: {names}"
        )


def _same_pictures(pairs: Sequence[tuple[Sample, Look]]) -> Iterator[str]:
    """Byte-equal pictures in places that exclude each other."""
    train: dict[str, str] = {}  # digest -> name of the first with it
    good: dict[str, str] = {}
    for sample, look in pairs:
        if look.digest and _is_fitted_on(sample):
            train.setdefault(look.digest, sample.name)
        if look.digest and not sample.is_defect:
            good.setdefault(look.digest, sample.name)
    both = [f"{train[look.digest]} = {s.name}" for s, look in pairs if s.split == "test" and look.digest in train]
    if both:
        names = first_names(both)
        count = counted(len(both), "test picture<|s> <is|are> byte-equal to <a training picture|training pictures>")
        yield f"{count}, results will look too good: {names}"
    both = [f"{good[look.digest]} = {s.name}" for s, look in pairs if s.is_defect and look.digest in good]
    if both:
        count = counted(len(both), "picture<|s> <is|are>")
        yield f"{count} there as good and as a defect, byte by byte: {first_names(both)}"


def _masks(pairs: Sequence[tuple[Sample, Look]], masked: set[str]) -> Iterator[str]:
    empty = [str(s.masks[0]) for s, look in pairs if s.is_defect and look.mask_share == 0]
    if empty:
        yield f"{counted(len(empty), '<mask shows|masks show>')} no defect pixel: {first_names(empty)}"
    large = [str(s.masks[0]) for s, look in pairs if (look.mask_share or 0) > 0.5]
    if large:
        count, inverted = counted(len(large), "<mask calls|masks call>"), agreeing(len(large), "<is it|are they>")
        yield f"{count} more than half of the picture defect; {inverted} inverted? {first_names(large)}"
    noted = [note for _, look in pairs for note in look.mask_notes]
    if noted:
        yield f"{counted(len(noted), '<mask has|masks have>')} more than two values; the first, {noted[0]}"
    marked = [s.name for s, look in pairs if not s.is_defect and look.mask_share]
    if marked:
        count = counted(len(marked), "good <picture has a mask that shows|pictures have masks that show>")
        yield f"{count} a defect: {first_names(marked)}"
    unmasked = sorted({s.category for s, _ in pairs if s.is_defect} - masked)
    if unmasked:
        yield f"{first_names(unmasked)}: no masks: pixel metrics are not available"
