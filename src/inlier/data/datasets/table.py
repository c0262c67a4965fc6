"""A CSV table of pictures."""

import csv
import difflib
import io
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from inlier.artifact import read_text
from inlier.data.datasets.sample import (
    GOOD,
    Dataset,
    Row,
    Sample,
    Split,
    count_categories,
    join_rows,
    unused_defects,
)
from inlier.errors import InlierError
from inlier.names import counted

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
    rows = list[Row]()
    empty = Counter[str]()  # cells of each column
    for line, row in read_rows(path):
        where = f"{path}, line {line}"
        if not row.get("path"):
            raise InlierError(f"{where}: no path; a column named path (or image) must hold one")
        defect = read_defect(row.get("label", ""), where)
        empty.update(name for name in ("label", "split", "category") if row.get(name) == "")
        masks = (path.parent / row["mask"],) if row.get("mask") else ()
        if masks and not defect:
            raise InlierError(
                f"{where}: a good picture with a mask; name its defect under label, or leave the mask out"
            )
        split = read_split(row.get("split") or "train", where)
        category = row.get("category") or path.stem
        rows.append(Row(path, f"line {line}", Sample(path.parent / row["path"], category, split, defect, masks)))
    if not rows:
        raise InlierError(f"{path}: a table without a row; the first line names the columns, such as path,split,label")
    found, joined = join_rows(rows)
    notes = [*unused_defects(found), *joined]
    taken = {"label": "as good", "split": "for training", "category": f"as {path.stem}"}
    notes += [
        f"{counted(empty[name], f'row<|s> without a {name} <is|are> taken')} {what}"
        for name, what in taken.items()
        if empty[name]
    ]
    if unknown := [name for name in _header(path, read_text(path)) if name not in MEANING]:
        notes.append(f"columns that are not used: {', '.join(name or '(no name)' for name in unknown)}")
    return Dataset(path.stem, f"CSV table, {count_categories(found)}", found, tuple(notes))


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and stripped cells of each row of a CSV table, by the keys of `COLUMNS`.

    Raises InlierError for what is no such table, and for columns that seem to be misspelt.
    """
    text = read_text(path)
    columns = [MEANING.get(name, f"?{i}") for i, name in enumerate(_header(path, text))]
    try:
        reader = csv.DictReader(io.StringIO(text), fieldnames=columns, strict=True)  # or a missing quote swallows lines
        next(reader, None)
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            if None in row:
                raise InlierError(f"{where}: more cells than columns; put paths with a comma in quotes")
            if any(len((cell or "").splitlines()) > 1 for cell in row.values()):
                raise InlierError(f"{where}: a cell goes over several lines; is a quote missing, or one too many?")
            yield reader.line_num, {name: (cell or "").strip() for name, cell in row.items() if name[0] != "?"}
    except csv.Error as error:
        raise InlierError(f"{path}: cannot be read as a CSV table ({error})") from None


def _header(path: Path, text: str) -> list[str]:
    """The names of the columns in lower case, if they can be understood."""
    try:
        names = [name.strip().lower() for name in next(csv.reader(io.StringIO(text), strict=True), [])]
    except csv.Error as error:
        raise InlierError(f"{path}: cannot be read as a CSV table ({error})") from None
    where = f"{path}, line 1"
    known = [MEANING[name] for name in names if name in MEANING]
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
