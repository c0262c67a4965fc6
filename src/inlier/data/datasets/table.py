"""A CSV table of pictures."""

import csv
import difflib
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from inlier.data.datasets.sample import GOOD, Dataset, Sample, Split, count_categories, unused_defects
from inlier.errors import InlierError

COLUMNS = {  # what each column may be called
    "path": ("path", "image", "image_path", "img", "img_path", "file", "filename", "file_name", "filepath"),
    "split": ("split", "subset", "set"),
    "label": ("label", "labels", "class", "defect", "defect_type", "anomaly_class", "label_index", "target"),
    "mask": ("mask", "mask_path", "ground_truth", "gt", "gt_path"),
    "category": ("category", "object", "part", "clsname"),
}
MEANING = {name: column for column, names in COLUMNS.items() for name in names}
SPLITS: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}
GOOD_LABELS = GOOD | {"", "0", "0.0", "false"}  # pandas writes 0.0 where another row has no label
DEFECT_LABELS = (
    "1",
    "1.0",
    "true",
    "defect",
    "defective",
    "anomaly",
    "anomalous",
    "abnormal",
    "bad",
    "ng",
    "nok",
    "ko",
)
UNCLEAR = ("nan", "none", "null", "-1", "-1.0", "?", "unknown")


def open_table(path: Path) -> Dataset:
    """A .csv file with a column path, and if you like split, label, mask, category. Rows of one picture are joined."""
    samples: dict[tuple[str, str], Sample] = {}
    seen: dict[str, tuple[int, Sample]] = {}  # the first row of each picture
    rows = unlabelled = 0
    for line, row in read_rows(path):
        where, rows = f"{path}, line {line}", rows + 1
        if not row.get("path"):
            raise InlierError(f"{where}: no path; a column named path (or image) must hold one")
        defect = read_defect(row.get("label", ""), where)
        unlabelled += row.get("label") == ""
        masks = (path.parent / row["mask"],) if row.get("mask") else ()
        if masks and not defect:
            raise InlierError(f"{where}: a good image with a mask; name its defect under label, or leave the mask out")
        split = read_split(row.get("split") or "train", where)
        sample = Sample(path.parent / row["path"], row.get("category") or path.stem, split, defect, masks)
        place = os.path.normpath(sample.name)
        first, known = seen.setdefault(place, (line, sample))
        if known.is_defect != sample.is_defect:
            raise InlierError(f"{where}: {row['path']} is good and a defect, see line {first}; keep one of the two")
        if known.category != sample.category:
            raise InlierError(f"{where}: {row['path']} is of two categories, see line {first}; keep one of the two")
        samples[place, split] = _join(samples.get((place, split)), sample)
    if not samples:
        raise InlierError(f"{path}: a table without a row; the first line names the columns, such as path,split,label")
    found = tuple(samples.values())
    notes = list(unused_defects(found))
    if rows > len(found):
        notes.append(f"{rows} rows name {len(found)} pictures: rows of one picture are joined")
    if unlabelled:
        notes.append(f"{unlabelled} rows without a label are taken as good")
    if unknown := [name for name in _header(path) if name not in MEANING]:
        notes.append(f"columns that are not used: {', '.join(name or '(no name)' for name in unknown)}")
    return Dataset(path.stem, f"CSV table, {count_categories(found)}", found, tuple(notes))


def _join(one: Sample | None, other: Sample) -> Sample:
    """One sample of two rows with one picture."""
    if one is None:
        return other
    kinds = dict.fromkeys(kind for sample in (one, other) if sample.defect for kind in sample.defect.split("+"))
    masks = tuple(dict.fromkeys(one.masks + other.masks))
    return Sample(one.source, one.category, one.split, "+".join(kinds) or None, masks)


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and stripped cells of each row of a CSV table, by the keys of `COLUMNS`.

    Raises InlierError for what is no such table, and for columns that seem to be misspelt.
    """
    columns = [MEANING.get(name, f"?{i}") for i, name in enumerate(_header(path))]
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, fieldnames=columns)
            next(reader, None)
            for row in reader:
                if None in row:
                    where = f"{path}, line {reader.line_num}"
                    raise InlierError(f"{where}: more cells than columns; put paths with a comma in quotes")
                yield reader.line_num, {name: (cell or "").strip() for name, cell in row.items() if name[0] != "?"}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InlierError(f"{path}: cannot be read as a CSV table in UTF-8 ({error})") from None


def _header(path: Path) -> list[str]:
    """The names of the columns in lower case, if they can be understood."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            names = [name.strip().lower() for name in next(csv.reader(file), [])]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InlierError(f"{path}: cannot be read as a CSV table in UTF-8 ({error})") from None
    where, known = f"{path}, line 1", [MEANING[name] for name in names if name in MEANING]
    if "path" not in known:
        raise InlierError(f"{where}: no column path (or image); comma-separated names found: {names}")
    for column, count in Counter(known).items():
        if count > 1:
            both = [name for name in names if MEANING.get(name) == column]
            raise InlierError(f"{where}: the columns {' and '.join(both)} all name the {column}; keep one of them")
    unknown = [name for name in names if name not in MEANING and name and not name.startswith("unnamed:")]
    for name in unknown:
        if close := difflib.get_close_matches(name, MEANING, n=1, cutoff=0.7):
            raise InlierError(f"{where}: an unknown column {name!r}. Did you mean {close[0]!r}? Rename or remove it")
    if unknown and "label" not in known:
        raise InlierError(
            f"{where}: no column label, and columns that may say what is good: {', '.join(unknown)}; rename that one "
            "to label, or remove them if all pictures are good"
        )
    return names


def read_split(value: str, where: str) -> Split:
    """The split that a cell names. `where` is for the message of the InlierError."""
    if split := SPLITS.get(value.lower()):
        return split
    raise InlierError(f"{where}: split must be train, validation or test, got {value!r}")


def read_defect(label: str, where: str) -> str | None:
    """The type of defect that a label names; None for a good part. `where` is for the message of the InlierError."""
    if label.lower() in GOOD_LABELS:
        return None
    if label.lower() in UNCLEAR:
        raise InlierError(f"{where}: the label {label!r} does not say what it means; write good, or the type of defect")
    return "defect" if label.lower() in DEFECT_LABELS else label
