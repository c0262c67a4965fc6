"""The folders of MVTec AD and of the sets that took its layout: BTAD, MPDD, MVTec LOCO AD, MVTec 3D-AD, MVTec AD 2.

A category has train/good, test/good, test/TYPE and ground_truth/TYPE. Good folders may be called good, ok or normal,
everything in any case. LOCO and AD 2 have validation/good; AD 2 calls its tests test_public (with ground_truth inside)
and test_private, whose truth is not public; 3D-AD has folders rgb, gt and xyz inside of each type.
"""

from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

from inlier.data.datasets.masks import is_marked, match_masks
from inlier.data.datasets.sample import Dataset, Sample, Split, count_categories
from inlier.data.datasets.tree import MASKS, SPLITS, TRUTH, Parts, Tree, is_good, is_other, lower
from inlier.errors import InlierError
from inlier.names import agreeing, counted, first_names

DEPTH = frozenset({"xyz", "depth"})


@dataclass
class _Category:
    """What lies in the folder of one category, by the place it takes there."""

    pictures: dict[Parts, tuple[Split, str]] = field(default_factory=dict)  # parts below the category -> split, type
    masks: dict[Split, dict[Parts, Parts]] = field(default_factory=dict)  # TYPE/name -> parts below the category
    left: dict[str, list[Parts]] = field(default_factory=dict)  # reason -> parts


def open_folders(tree: Tree) -> Dataset | None:
    """None where neither the folder nor one of those in it is a category. Raises InlierError for masks among tests."""
    found = tree.categories(_is_category)
    if not found:
        return None
    samples: list[Sample] = []
    left: dict[str, list[Path]] = {}
    good_names: dict[str, None] = {}
    names = set()
    for category, folder in found.items():
        places = _places(folder)
        samples += _samples(category, folder, places, left)
        used = [p for p, (_, kind) in places.pictures.items() if is_good(kind)]
        good_names |= dict.fromkeys(f"{p[0]}/{p[1]}" for p in used)
        names |= {name for p in places.pictures for name in lower(p[:-1])}
    kinds = {name for name in names if is_good(name)}
    layout = (
        "MVTec AD 2"
        if "test_public" in names
        else "MVTec LOCO AD"
        if {"logical_anomalies", "structural_anomalies"} & names
        else "BTAD"
        if kinds == {"ok"}
        else "MVTec-AD"
    )
    dataset = Dataset(tree.name, f"{layout} layout, {count_categories(samples)}", tuple(samples))
    unusual = [name for name in good_names if name not in ("train/good", "validation/good", "test/good")]
    notes = [f"taken as good: {', '.join(unusual)}"] if unusual else []
    if "test_public" in names:
        notes.append("the test pictures are those of test_public")
    notes += _of_validation(dataset, found)
    dataset = replace(dataset, notes=tuple(notes))
    for reason, paths in left.items():
        dataset = dataset.leaving_out(reason, paths)
    return dataset


def _of_validation(dataset: Dataset, found: dict[str, Tree]) -> list[str]:
    counts = Counter(sample.category for sample in dataset.validation)
    where = {
        category: next(p for p in found[category].pictures if SPLITS.get(p[0].casefold()) == "validation")
        for category in counts
    }
    return [
        f"{counted(n, 'good picture<|s>')} of {category}/{'/'.join(where[category][:2])} "
        f"{agreeing(n, '<is|are>')} neither fitted on nor tested on; "
        f"`inlier calibrate MODEL {found[category].path(where[category][:2])}` can use {agreeing(n, '<it|them>')}"
        for category, n in counts.items()
    ]


def _is_category(folder: Tree) -> bool:
    heads = {lower(p[:2]) for p in folder.pictures if len(p) > 2}
    if any(head in SPLITS and is_good(kind) for head, kind in heads):
        return True
    # defects alone can be evaluated too
    tops = {head for head, _ in heads}
    return "test" in tops and bool(tops & set(TRUTH))


def _places(folder: Tree) -> _Category:
    found = _Category()
    for parts in folder.pictures:
        head, *inside = lower(parts)
        split = SPLITS.get(head)
        if head in TRUTH:
            found.masks.setdefault("test", {})[parts[1:]] = parts
        elif split and inside[0] in TRUTH and len(parts) > 2:  # test_public/ground_truth/bad
            found.masks.setdefault(split, {})[parts[2:]] = parts
        elif split and len(parts) > 3 and inside[1] == "gt":  # test/hole/gt/000.png
            found.masks.setdefault(split, {})[(parts[1], *parts[3:])] = parts
        elif split and len(parts) > 3 and inside[1] in DEPTH:
            found.left.setdefault("depth picture<|s> (xyz) <is|are> not used", []).append(parts)
        elif head.startswith("test_") and not split and len(parts) > 1:
            reason = f"picture<|s> of {parts[0]} <is|are> not used, <its|their> truth is not public"
            found.left.setdefault(reason, []).append(parts)
        elif split and len(parts) > 2 and (split == "test" or is_good(inside[0])):
            found.pictures[parts] = split, parts[1]
        else:
            found.left.setdefault("picture<|s> outside train/good and test/TYPE <is|are> not used", []).append(parts)
    return found


def _samples(category: str, folder: Tree, places: _Category, left: dict[str, list[Path]]) -> list[Sample]:
    """The samples of a category; what is not used goes into `left`, by reason."""
    masks: dict[Parts, tuple[Parts, ...]] = {}  # of each picture
    for split in ("train", "validation", "test"):
        truth = places.masks.get(split, {})
        keys = {_key(parts): parts for parts, (of, _) in places.pictures.items() if of == split}
        found, unmatched = match_masks(keys, truth)
        masks |= {keys[key]: tuple(truth[mask] for mask in own) for key, own in found.items()}
        if unmatched:
            places.left.setdefault("<mask matches|masks match> no picture", []).extend(
                truth[mask] for mask in unmatched
            )
    for reason, parts in places.left.items():
        left.setdefault(reason, []).extend(map(folder.path, parts))
    _refuse_what_is_misplaced(folder, places)
    return [
        Sample(
            folder.path(parts),
            category,
            split,
            None if is_good(kind) else kind,
            tuple(map(folder.path, masks.get(parts, ()))),
        )
        for parts, (split, kind) in places.pictures.items()
    ]


def _key(parts: Parts) -> Parts:
    """TYPE/name of a picture, as its mask is called: test/hole/rgb/000.png is hole/000.png."""
    return (parts[1], *parts[3:]) if len(parts) > 3 and parts[2].casefold() == "rgb" else parts[1:]


def _refuse_what_is_misplaced(folder: Tree, places: _Category) -> None:
    stems = {(p[:-1], Path(p[-1]).stem.casefold()) for p in places.pictures}
    strange = [
        str(folder.path(p))
        for p, (split, _) in places.pictures.items()
        if MASKS & set(lower(p[1:-1])) or ((marked := is_marked(p[-1])) and (p[:-1], marked.casefold()) in stems)
    ]
    if strange:
        raise InlierError(
            f"{folder.root}: {counted(len(strange), 'file<|s> among the pictures <seems|seem> to be masks')}: "
            f"{first_names(strange)}; "
            f"masks belong into {folder.root / 'ground_truth' / 'TYPE'}"
        )
    strange = [str(folder.path(p)) for p, (_, kind) in places.pictures.items() if is_good(kind) and _holds_others(p)]
    if strange:
        raise InlierError(
            f"{folder.root}: {counted(len(strange), 'picture<|s> of good parts <lies|lie>')} in folders whose names "
            f"say otherwise: {first_names(strange)}; move or rename them"
        )


def _holds_others(parts: Parts) -> bool:
    return any(is_other(name) for name in parts[2:-1])
