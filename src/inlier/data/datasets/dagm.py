"""DAGM 2007: Class1/Train/NNNN.PNG, and Class1/Train/Label/NNNN_label.PNG for defects; good is what has no label."""

import re
from pathlib import Path

from inlier.artifact import read_text
from inlier.data.datasets.masks import match_masks
from inlier.data.datasets.sample import Dataset, Sample, Split, count_categories, unused_defects
from inlier.data.datasets.tree import Parts, Tree, lower

SPLITS: dict[str, Split] = {"train": "train", "test": "test"}


def open_dagm(tree: Tree) -> Dataset | None:
    """None where no folder train or test holds pictures beside a folder Label of pictures."""
    found = tree.categories(_is_category)
    if not found:
        return None
    samples, unmatched, lost = list[Sample](), list[Path](), list[Path]()
    for category, folder in found.items():
        for name, split in SPLITS.items():
            pictures: dict[Parts, Parts] = {p[1:]: p for p in folder.pictures if lower(p[:-1]) == (name,)}
            labels: dict[Parts, Parts] = {p[2:]: p for p in folder.pictures if lower(p[:-1]) == (name, "label")}
            matched, free = match_masks(pictures, labels)
            unmatched += [folder.path(labels[key]) for key in free]
            listed = _listed(folder.path(next(iter(labels.values()))[:2])) if labels else set()
            for key, parts in pictures.items():
                masks = tuple(folder.path(labels[label]) for label in matched.get(key, ()))
                if not masks and Path(parts[-1]).stem in listed:
                    lost.append(folder.path(parts))
                else:
                    samples.append(Sample(folder.path(parts), category, split, "defect" if masks else None, masks))
    notes = ("pictures without a label picture are good, all others are defects", *unused_defects(samples))
    dataset = Dataset(tree.name, f"DAGM 2007 layout, {count_categories(samples)}", tuple(samples), notes)
    dataset = dataset.leaving_out("defect<|s> of Labels.txt <has|have> no label picture and <is|are> not used", lost)
    return dataset.leaving_out("<mask matches|masks match> no picture", unmatched)


def _is_category(folder: Tree) -> bool:
    places = {lower(p[:-1]) for p in folder.pictures}
    return any((split,) in places and (split, "label") in places for split in SPLITS)


def _listed(folder: Path) -> set[str]:
    """Stems of the pictures that Labels.txt names as defects, by the name of their label picture."""
    table = folder / "Labels.txt"
    text = read_text(table) if table.is_file() else ""
    return set(re.findall(r"(\S+)_label\.\w+", text))
