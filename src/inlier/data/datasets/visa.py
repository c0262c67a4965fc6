"""VisA, as it is distributed: with its split of one class at a time, or without."""

from pathlib import Path

from inlier.data.datasets.masks import match_masks
from inlier.data.datasets.sample import Dataset, Row, Sample, count_categories, join_rows, split_good
from inlier.data.datasets.table import read_defect, read_rows, read_split
from inlier.data.datasets.tree import Tree, lower
from inlier.errors import InlierError

NORMAL, ANOMALY, MASKS = ("data", "images", "normal"), ("data", "images", "anomaly"), ("data", "masks", "anomaly")


def open_visa(tree: Tree) -> Dataset | None:
    """A folder with split_csv/1cls.csv, or of folders with Data/Images/Normal, or one of those; else None."""
    if (tree.root / "split_csv" / "1cls.csv").is_file():
        return _from_table(tree.root)
    found = tree.categories(lambda folder: any(lower(p[:-1]) == NORMAL for p in folder.pictures))
    if not found:
        return None
    above = tree.root.resolve().parent
    if found.get(tree.name) is tree and (above / "split_csv" / "1cls.csv").is_file():
        return _from_table(above).select([tree.name])
    samples, unmatched = list[Sample](), list[Path]()
    for category, folder in found.items():
        good = [p for p in folder.pictures if lower(p[:-1]) == NORMAL]
        samples += [Sample(folder.path(p), category, split, None) for p, split in zip(good, split_good(len(good)))]
        defects = {p[3:]: p for p in folder.pictures if lower(p[:3]) == ANOMALY}
        masks = {p[3:]: p for p in folder.pictures if lower(p[:3]) == MASKS}
        matched, free = match_masks(defects, masks)
        unmatched += [folder.path(masks[key]) for key in free]
        for key, parts in defects.items():
            own = tuple(folder.path(masks[mask]) for mask in matched.get(key, ()))
            samples.append(Sample(folder.path(parts), category, "test", "anomaly", own))
    notes = ("good pictures are split 80 to 20 into train and test with a fixed seed: there is no split_csv/1cls.csv",)
    dataset = Dataset(tree.name, f"VisA, {count_categories(samples)}", tuple(samples), notes)
    return dataset.leaving_out("<mask matches|masks match> no picture", unmatched)


def _from_table(root: Path) -> Dataset:
    table = root / "split_csv" / "1cls.csv"
    rows = []
    for line, row in read_rows(table):
        where = f"{table}, line {line}"
        if any(not row.get(column) for column in ("category", "split", "label", "path")):
            raise InlierError(f"{where}: the columns object, split, label and image must be filled")
        defect = "anomaly" if read_defect(row["label"], where) else None
        masks = (root / row["mask"],) if row.get("mask") else ()
        split = read_split(row["split"], where)
        rows.append(Row(table, f"line {line}", Sample(root / row["path"], row["category"], split, defect, masks)))
    return Dataset(root.resolve().name, "VisA, 1-class split", *join_rows(rows))
