"""A CSV table of pictures."""

import csv
from collections.abc import Iterator
from pathlib import Path

from inlier.data.datasets.sample import Dataset, Sample, Split, count_categories
from inlier.errors import InlierError

GOOD_LABELS = ("", "good", "normal", "ok", "0")
DEFECT_LABELS = ("1", "defect", "anomaly", "bad")  # labels that name no type of defect


def open_table(path: Path) -> Dataset:
    """A .csv file with a column path or image, and if you like split, label, mask and category."""
    samples = []
    for line, row in read_rows(path):
        where = f"{path}, line {line}"
        image = row.get("path") or row.get("image")
        if not image:
            raise InlierError(f"{where}: no path; a column named path (or image) must hold one")
        defect = read_defect(row.get("label", ""))
        mask = path.parent / row["mask"] if row.get("mask") else None
        if mask and not defect:
            raise InlierError(f"{where}: a good image with a mask; name its defect under label, or leave the mask out")
        split = read_split(row.get("split") or "train", where)
        samples.append(Sample(path.parent / image, row.get("category") or path.stem, split, defect, mask))
    if not samples:
        raise InlierError(f"{path}: a table without a row; the first line names the columns, such as path,split,label")
    unused = sum(s.is_defect and s.split == "train" for s in samples)
    notes = (f"{unused} defect images of the train split are not used for training",) if unused else ()
    return Dataset(path.stem, f"CSV table, {count_categories(samples)}", tuple(samples), notes)


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and stripped cells of each row of a CSV table, by column name in lower case."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            columns = [name.strip().lower() for name in reader.fieldnames or ()]
            if not {"path", "image"} & set(columns):
                raise InlierError(f"{path}, line 1: no column path (or image); comma-separated names found: {columns}")
            reader.fieldnames = columns
            for row in reader:
                if None in row:
                    where = f"{path}, line {reader.line_num}"
                    raise InlierError(f"{where}: more cells than columns; put paths with a comma in quotes")
                yield reader.line_num, {name: (cell or "").strip() for name, cell in row.items()}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InlierError(f"{path}: cannot be read as a CSV table in UTF-8 ({error})") from None


def read_split(value: str, where: str) -> Split:
    """The split that a cell names. `where` is for the message of the InlierError."""
    if value.lower() == "train":
        return "train"
    if value.lower() == "test":
        return "test"
    raise InlierError(f"{where}: split must be train or test, got {value!r}")


def read_defect(label: str) -> str | None:
    """The type of defect that a label names; None for a good part."""
    if label.lower() in GOOD_LABELS:
        return None
    return "defect" if label.lower() in DEFECT_LABELS else label
