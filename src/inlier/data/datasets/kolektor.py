"""KolektorSDD2: train and test with NNNNN.png beside its mask NNNNN_GT.png; good is what has an empty mask."""

from pathlib import Path

from inlier.data.batches import read_ahead
from inlier.data.datasets.sample import Dataset, Sample, Split, count_categories, unused_defects
from inlier.data.datasets.tree import Parts, Tree
from inlier.data.images import read_mask
from inlier.errors import ImageError

SPLITS: dict[str, Split] = {"train": "train", "test": "test"}


def open_kolektor(tree: Tree) -> Dataset | None:
    """None where no folder train or test holds pictures beside such masks. All masks are read."""
    found = tree.categories(_is_category)
    if not found:
        return None
    places: list[tuple[Path, str, Split, Path]] = []
    bare, unmatched = list[Path](), list[Path]()
    for category, folder in found.items():
        flat = [p for p in folder.pictures if len(p) == 2 and p[0].casefold() in SPLITS]
        masks = {_key(p): p for p in flat if _is_mask(p)}
        pictures = {_key(p): p for p in flat if not _is_mask(p)}
        for key, parts in pictures.items():
            if key in masks:
                split = SPLITS[parts[0].casefold()]
                places.append((folder.path(parts), category, split, folder.path(masks[key])))
            else:
                bare.append(folder.path(parts))
        unmatched += [folder.path(p) for key, p in masks.items() if key not in pictures]
    empty = list(read_ahead(_is_empty, [mask for *_, mask in places], 2, 8))
    samples = [
        Sample(path, category, split, None if good else "defect", (mask,))
        for (path, category, split, mask), good in zip(places, empty, strict=True)
    ]
    notes = ("pictures with an empty mask are good, all others are defects", *unused_defects(samples))
    dataset = Dataset(tree.name, f"KolektorSDD2 layout, {count_categories(samples)}", tuple(samples), notes)
    dataset = dataset.leaving_out(
        "picture<|s> without a mask <is|are> not used, nobody knows what <it shows|they show>", bare
    )
    return dataset.leaving_out("<mask matches|masks match> no picture", unmatched)


def _is_category(folder: Tree) -> bool:
    flat = {(p[0], Path(p[1]).stem.casefold()) for p in folder.pictures if len(p) == 2 and p[0].casefold() in SPLITS}
    return any((split, stem.removesuffix("_gt")) in flat for split, stem in flat if stem.endswith("_gt"))


def _is_mask(parts: Parts) -> bool:
    return Path(parts[1]).stem.casefold().endswith("_gt")


def _key(parts: Parts) -> Parts:
    return parts[0].casefold(), Path(parts[1]).stem.casefold().removesuffix("_gt")


def _is_empty(mask: Path) -> bool:
    try:
        return not read_mask(mask).any()
    except ImageError:
        return False  # no good part for sure; the check names the file
