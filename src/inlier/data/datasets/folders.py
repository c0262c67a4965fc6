"""The folders of MVTec-AD (train/good, test/TYPE, ground_truth/TYPE) and BTAD (train/ok, test/ko)."""

from pathlib import Path

from inlier.data.datasets.sample import Dataset, Sample, Split, count_categories, first_names
from inlier.data.images import list_images


def open_folders(root: Path) -> Dataset | None:
    """`root` is one category, or its folders are; None if neither."""
    if good := _good_name(root):
        found, others = {root: good}, []
    else:
        children = sorted(child for child in root.iterdir() if child.is_dir() and not child.name.startswith("."))
        found = {child: good for child in children if (good := _good_name(child))}
        others = [child.name for child in children if child not in found]
    if not found:
        return None
    notes = [f"folders that are no category (no train/good) are not used: {first_names(others)}"] if others else []
    samples: list[Sample] = []
    for folder, good in found.items():
        of_category, unused = _category(folder, good)
        samples += of_category
        if unused:
            notes.append(f"images outside train/{good} and test/TYPE are not used: {first_names(unused)}")
    layout = "BTAD" if "ok" in found.values() else "MVTec-AD"
    return Dataset(root.resolve().name, f"{layout} layout, {count_categories(samples)}", tuple(samples), tuple(notes))


def _good_name(folder: Path) -> str | None:
    """What a category folder calls its good pictures: "good" (MVTec-AD) or "ok" (BTAD). None: it is no category."""
    for name in ("good", "ok"):
        if (folder / "train" / name).is_dir() or (folder / "test" / name).is_dir():
            return name
    # defects alone can be evaluated too
    return "good" if (folder / "test").is_dir() and (folder / "ground_truth").is_dir() else None


def _category(folder: Path, good: str) -> tuple[list[Sample], list[str]]:
    """The samples of one category folder, and the pictures in train and test that fit nowhere."""
    masks = {path.with_suffix(""): path for path in _images_in(folder / "ground_truth")}
    samples, unused = [], []
    splits: tuple[Split, ...] = ("train", "test")
    for split in splits:
        for path in _images_in(folder / split):
            place = path.relative_to(folder / split)
            kind = place.parts[0]
            if len(place.parts) == 1 or (split == "train" and kind != good):
                unused.append(str(path))
                continue
            key = folder / "ground_truth" / place.with_suffix("")
            mask = None if kind == good else masks.get(key.with_name(key.name + "_mask")) or masks.get(key)
            samples.append(Sample(path, folder.resolve().name, split, None if kind == good else kind, mask))
    return samples, unused


def _images_in(folder: Path) -> list[Path]:
    return list_images(folder) if folder.is_dir() else []
