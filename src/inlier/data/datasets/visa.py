"""VisA, with its split of one class at a time."""

from pathlib import Path

from inlier.data.datasets.sample import Dataset, Sample
from inlier.data.datasets.table import read_defect, read_rows, read_split
from inlier.errors import InlierError


def open_visa(root: Path) -> Dataset | None:
    """A folder with split_csv/1cls.csv; None if there is no such file."""
    table = root / "split_csv" / "1cls.csv"
    if not table.is_file():
        return None
    samples = []
    for line, row in read_rows(table):
        where = f"{table}, line {line}"
        if any(not row.get(column) for column in ("object", "split", "label", "image")):
            raise InlierError(f"{where}: the columns object, split, label and image must be filled")
        defect = "anomaly" if read_defect(row["label"]) else None
        mask = root / row["mask"] if row.get("mask") else None
        samples.append(Sample(root / row["image"], row["object"], read_split(row["split"], where), defect, mask))
    return Dataset(root.resolve().name, "VisA, 1-class split", tuple(samples))
