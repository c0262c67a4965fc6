"""The parts of a study: which are drawn, and how they lie in its folder.

`parts.csv` knows the truth; the pictures beside it have names that tell nothing.
"""

import csv
import hashlib
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import distance_transform_edt

from inlier import artifact
from inlier.data.datasets.sample import Sample
from inlier.data.images import encoded, read_image
from inlier.data.perturbations import Values, values_of
from inlier.errors import InlierError

FILE = "parts.csv"
COLUMNS = ("part", "picture", "truth", "drawn as", "category", "score", "size", "contrast")
VERDICTS = {"good": False, "defect": True}
LEAST_CONTRAST = 0.1  # grey levels: curves are drawn over logarithms
RING = 0.25  # width of what surrounds a defect, as a share of its size


@dataclass(frozen=True)
class Part:
    """A part of the study, and its pictures: paths in the study's folder."""

    name: str
    pictures: tuple[Path, ...]
    is_defect: bool
    drawn_as: str  # good, defect or borderline
    category: str
    score: float | None = None  # a model's, by which it was drawn
    size: float | None = None  # pixels: diameter of a disc of the defect's area; None where no mask shows it
    contrast: float | None = None  # grey levels (of 255) between the defect and its surroundings


def draw(
    is_defect: Sequence[bool],
    scores: ArrayLike | None,
    threshold: float | None,
    wanted: tuple[int, int, int],
    seed: int,
) -> tuple[NDArray[np.int64], list[str]]:
    """(numbers of the drawn parts in a random order, what each was drawn as: "good", "defect" or "borderline").

    wanted: how many of each. Borderline are those whose scores lie nearest to the threshold, half of them good, half
    defects; the others are drawn at random among what is left. Raises InlierError where there are too few.
    """
    defect = np.asarray(is_defect, np.bool_)
    rng = np.random.default_rng(seed)
    n_good, n_defect, n_borderline = wanted
    left = np.ones(len(defect), np.bool_)
    chosen: list[tuple[int, str]] = []

    def take(numbers: NDArray[np.int64], n: int, kind: str) -> None:
        if len(numbers) < n:
            raise InlierError(f"{n} {kind} parts are wanted, there are only {len(numbers)} left to draw from")
        left[numbers[:n]] = False
        chosen.extend((int(i), kind) for i in numbers[:n])

    if n_borderline:
        if scores is None or threshold is None:
            raise InlierError(
                "borderline parts are known by their scores: give a calibrated --model, or draw none by --borderline 0"
            )
        nearest = np.argsort(np.abs(np.asarray(scores, np.float64) - threshold), kind="stable")
        half = n_borderline // 2
        take(nearest[~defect[nearest]], n_borderline - half, "borderline")
        take(nearest[defect[nearest]], half, "borderline")
    for kind, n, those in (("good", n_good, ~defect), ("defect", n_defect, defect)):
        take(rng.permutation(np.flatnonzero(those & left)), n, kind)
    order = rng.permutation(len(chosen))
    return np.array([chosen[i][0] for i in order], np.int64), [chosen[i][1] for i in order]


def measured(sample: Sample) -> tuple[float, float] | None:
    """(size, contrast) of the defect that a sample's masks show; None without any."""
    mask = sample.read_mask()
    if mask is None or not mask.any():
        return None
    values = values_of(read_image(sample.source))
    grey: Values = values if values.ndim == 2 else values.mean(2)
    size = diameter(mask)
    around = distance_transform_edt(~mask)
    ring = (around > 0) & (around <= max(3.0, RING * size))
    contrast = 255 * abs(float(grey[mask].mean()) - float(grey[ring].mean())) if ring.any() else 0.0
    return size, max(LEAST_CONTRAST, contrast)


def diameter(mask: NDArray[np.bool_]) -> float:
    """Of a disc of the mask's area, pixels."""
    return float(np.sqrt(4 * mask.sum() / np.pi))


def lay_out(
    folder: Path, groups: Sequence[Sequence[Sample]], kinds: Sequence[str], scores: Sequence[float | None]
) -> list[Part]:
    """Copy the drawn parts' pictures into the folder under neutral names, and write `parts.csv`.

    groups: the pictures of each part. Raises ArtifactError where the folder cannot be written.
    """
    parts = []
    for number, (samples, kind, score) in enumerate(zip(groups, kinds, scores, strict=True), 1):
        name = f"P{number:03}"
        pictures = []
        for place, sample in enumerate(samples, 1):
            suffix = sample.source.suffix.lower() if isinstance(sample.source, Path) else ".png"
            pictures.append(
                folder / "pictures" / (f"{name}{suffix}" if len(samples) == 1 else f"{name}-{place}{suffix}")
            )
            artifact.write_bytes(pictures[-1], encoded(sample.source))
        first = samples[0]
        size, contrast = (measured(first) if first.is_defect else None) or (None, None)
        parts.append(Part(name, tuple(pictures), first.is_defect, kind, first.category, score, size, contrast))
    rows = [
        (
            *(part.name, picture.relative_to(folder).as_posix(), "defect" if part.is_defect else "good"),
            *(part.drawn_as, part.category),
            *("" if value is None else f"{value:.6g}" for value in (part.score, part.size, part.contrast)),
        )
        for part in parts
        for picture in part.pictures
    ]
    artifact.write_table(folder / FILE, COLUMNS, rows)
    return parts


def read_parts(folder: Path) -> list[Part]:
    """What `lay_out` wrote. Raises InlierError."""
    if not (folder / FILE).is_file():
        raise InlierError(f"{folder}: holds no study; `inlier study plan DATA --study {folder}` draws its parts")
    found: dict[str, Part] = {}
    for where, row in read_table(folder / FILE, COLUMNS[:5]):
        picture, name = folder / row["picture"], row["part"]
        if row["truth"] not in VERDICTS:
            raise InlierError(f"{where}: the truth must be good or defect, not {row['truth']!r}")
        numbers = [_number(row.get(column), where) for column in COLUMNS[5:]]
        part = Part(name, (), VERDICTS[row["truth"]], row["drawn as"], row["category"], *numbers)
        before = found.get(name, part)  # a part has as many rows as pictures
        found[name] = replace(before, pictures=(*before.pictures, picture))
    if not found:
        raise InlierError(f"{folder / FILE}: lists no part")
    return list(found.values())


def fingerprint(parts: Sequence[Part]) -> str:
    """By which judgements know their study: of the names and pictures of its parts, not of the truth, which may be
    mended. Raises InlierError for a picture that cannot be read."""
    whole = hashlib.sha256()
    for part in parts:
        for picture in part.pictures:
            try:
                with picture.open("rb") as file:
                    whole.update(f"{part.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
            except OSError as error:
                raise InlierError(f"{picture}: a picture of the study cannot be read ({error.strerror})") from None
    return whole.hexdigest()[:16]


def read_table(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """("file, line 7", stripped cells by column) of each row that is not empty; commas or semicolons between cells.

    Raises InlierError where one of the columns is missing, or the file is no table.
    """
    if not path.exists():
        raise InlierError(f"{path}: no such file")
    text = artifact.read_text(path)
    try:
        if not text.strip():
            raise InlierError(f"{path}: is empty")
        first = text.split("\n", 1)[0]
        delimiter = ";" if first.count(";") > first.count(",") else ","  # as spreadsheets of some countries write it
        reader = csv.DictReader(io.StringIO(text), delimiter=delimiter, strict=True)
        reader.fieldnames = names = [name.strip().lower() for name in reader.fieldnames or ()]
        if missing := [column for column in columns if column not in names]:
            found = "; ".join([", ".join(names), *(["commas or semicolons part the cells"] if len(names) == 1 else [])])
            raise InlierError(f"{path}, line 1: no column {' and no column '.join(missing)}; found: {found}")
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            if None in row:
                raise InlierError(f"{where}: more cells than columns")
            if None in row.values():
                raise InlierError(f"{where}: fewer cells than columns")
            cells = {name: (cell or "").strip() for name, cell in row.items()}
            if any(cells.values()):
                yield where, cells
    except csv.Error as error:
        raise InlierError(f"{path}: cannot be read as a CSV table ({error})") from None


def _number(text: str | None, where: str) -> float | None:
    try:
        number = float(text) if text else None
    except ValueError:
        number = math.nan
    if number is not None and not math.isfinite(number):
        raise InlierError(f"{where}: {text!r} is no number")
    return number
