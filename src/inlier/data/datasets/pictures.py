"""Good pictures only: a folder of them, or a list.

Names say what pictures are, and the nearest one decides: crack/good holds good parts, good/crack does not. Every name
below the folder that was passed counts, at any depth, and so does its own. Of the folders above it, a name for defects,
tests or masks counts where it sorts: where a folder good or train holds it or lies beside it, as OK beside NOK. Else it
may be a project's (defects/screw) or a person's (Ng), and of the folder right above a note tells. A list says for
itself what is good.
"""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image

from inlier.data.datasets.masks import is_marked
from inlier.data.datasets.sample import Dataset, Sample
from inlier.data.datasets.tree import MASKS, SPLITS, TRUTH, Tree, is_bad, is_good, is_other
from inlier.data.images import ImageSource, at_home
from inlier.errors import InlierError
from inlier.names import first_names

LABELS = frozenset({"label", "labels"})  # parts may be labels


def open_pictures(tree: Tree) -> Dataset:
    """All pictures in a folder and its subfolders are good. Raises InlierError where that does not seem to be true."""
    _refuse_part_of_a_category(tree)
    _refuse_a_name_of_others(tree)
    _refuse_what_lies_among_others(tree)
    _refuse_what_is_not_good(tree)
    good = [name for name in tree.folders() if is_good(name)]
    name = _name(tree.root)
    inside = [folder for folder in tree.folders() if not is_good(folder)]
    notes = [f"pictures in folders inside {name} are taken as good too: {first_names(inside)}"] if inside else []
    notes += [f"taken as good: {', '.join(good)}"] if good else []
    notes += [
        f"taken as good, although the folder above is called {folder.name!r}, as those of defects are"
        for folder in _above(tree)
        if is_bad(folder.name) and folder in (tree.root.absolute().parent, tree.root.resolve().parent)
    ]
    samples = tuple(Sample(tree.path(parts), name, "train", None) for parts in tree.pictures)
    return Dataset(name, "folder of good pictures", samples, tuple(notes))


def open_list(images: Iterable[ImageSource]) -> Dataset:
    """All pictures of a list or generator are good. Raises InlierError for none, and for what is no picture."""
    samples = []
    for number, image in enumerate(images):
        if not isinstance(image, (str, Path, np.ndarray, Image.Image)):
            raise InlierError(f"image {number}: expected a path, an array or a PIL image, got {type(image).__name__}")
        source = at_home(image) if isinstance(image, (str, Path)) else image
        samples.append(Sample(source, "parts", "train", None, number=number))
    if not samples:
        raise InlierError("an empty list of pictures: pass the pictures of good parts")
    return Dataset("parts", f"list of {len(samples)} good pictures", tuple(samples))


def _name(root: Path) -> str:
    """A model of part/train/good, part/train or part/good should fit the whole dataset of `part` later."""
    real = root.resolve()
    while real.parent.name and (is_good(real.name) or real.name.casefold() in SPLITS):
        real = real.parent
    return real.name


def _refuse_part_of_a_category(tree: Tree) -> None:
    """The defects or masks of a category were passed alone."""
    real = tree.root.resolve()
    for folder in (real, real.parent):
        part = folder.parent
        if folder.name.casefold() in TRUTH:
            raise InlierError(f"{tree.root}: holds the masks of {part.name}, not good parts; pass {part}")
        good = is_good(real.name) or (folder is real and _holds_good_alone(tree))
        of_part = any((part / name).is_dir() for name in ("train", "Train", "TRAIN"))
        is_test = of_part and SPLITS.get(folder.name.casefold()) == "test"
        if is_test and not good:
            raise InlierError(f"{tree.root}: holds tests of {part.name}, not only good parts; pass {part}")


def _refuse_a_name_of_others(tree: Tree) -> None:
    """The folder's own name says what it holds, and that is no good parts."""
    if _holds_good_alone(tree):
        return  # crack/good: named after what the part is checked for
    place = tree.root if tree.root.name not in ("", "..") else tree.root.resolve()
    for name in dict.fromkeys((place.name, tree.name)):  # of a link, and of the folder that it leads to
        if is_bad(name):
            raise InlierError(
                f"{tree.root}: the name {name!r} says that these are defects, and only good parts can be learned from. "
                "To train, pass the folder of the good ones; if these are good parts, rename the folder. To evaluate, "
                f"{_advice(place.parent)}, and pass {place.parent}"
            )
        if name.casefold() in MASKS - LABELS:
            raise InlierError(
                f"{tree.root}: the name {name!r} says that these are masks, not good parts; if they are good parts, "
                "rename the folder"
            )


def _holds_good_alone(tree: Tree) -> bool:
    return all(len(p) > 1 and is_good(p[0]) for p in tree.pictures)


def _refuse_what_lies_among_others(tree: Tree) -> None:
    """A folder above sorts what is below it, and calls it something else than good."""
    for folder in _above(tree):
        name = folder.name.casefold()
        if is_bad(name) or SPLITS.get(name) == "test" or name in MASKS - LABELS:
            for other in (folder.parent, *_folders_in(folder.parent)):
                if _says_good(other.name):
                    raise InlierError(
                        f"{tree.root}: lies in {folder}, whose name, next to that of {other}, says that these are "
                        "no good parts, and only good parts can be learned from. To train, pass the folder of the good "
                        "ones; if these are good parts, move them out of it"
                    )


def _above(tree: Tree) -> Iterator[Path]:
    """The folders above, from the nearest on, until a name says that what is below is good: of a link, and of the
    folder that it leads to."""
    for path in {tree.root.absolute(), tree.root.resolve()} if not _holds_good_alone(tree) else ():
        for folder in (path, *path.parents):
            if _says_good(folder.name):
                break
            if folder != path:
                yield folder


def _says_good(name: str) -> bool:
    return is_good(name) or SPLITS.get(name.casefold()) in ("train", "validation")


def _folders_in(folder: Path) -> list[Path]:
    with suppress(OSError):  # of others
        return sorted(path for path in folder.iterdir() if path.is_dir())
    return []


def _advice(root: Path) -> str:
    """How pictures are laid out to be evaluated."""
    return f"move the pictures to {root / 'test' / 'good'} and {root / 'test' / 'defect'}"


def _refuse_what_is_not_good(tree: Tree) -> None:
    """Some name says that not all of this is good."""
    folders = {parts[:i] for parts in tree.pictures for i in range(1, len(parts))}
    strange = sorted({"/".join(f) for f in folders if is_other(f[-1])})
    good = sorted("/".join(f) for f in folders if is_good(f[-1]))
    # what stands beside a folder of good parts is something else
    tops = {f[:-1] for f in folders if is_good(f[-1])}
    beside = [p for p in (*sorted(folders), *tree.pictures) if p[:-1] in tops and not is_good(p[-1])]
    strange = list(dict.fromkeys((*strange, *("/".join(p) for p in beside))))
    if not strange:
        stems = {(p[:-1], Path(p[-1]).stem.casefold()) for p in tree.pictures}
        strange = [
            "/".join(p) for p in tree.pictures if (own := is_marked(p[-1])) and (p[:-1], own.casefold()) in stems
        ]
    if strange:
        where = f" ({tree.root / good[0]})" if good else ""
        raise InlierError(
            f"{tree.root}: is no layout that inlier knows, and not all of it seems to be good parts: it holds "
            f"{first_names(strange)}. To train, pass the folder of the good ones alone{where} or a list of paths; to "
            f"evaluate, {_advice(tree.root)}; or pass a .csv table that says what each picture is"
        )
