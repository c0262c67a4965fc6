"""From a folder, a table, a list or a package to a dataset: each layout has its own module."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from inlier.data.datasets.dagm import open_dagm
from inlier.data.datasets.elpv import open_elpv
from inlier.data.datasets.folders import open_folders
from inlier.data.datasets.kolektor import open_kolektor
from inlier.data.datasets.pictures import open_list, open_pictures
from inlier.data.datasets.realiad import open_realiad
from inlier.data.datasets.sample import Dataset
from inlier.data.datasets.table import open_table
from inlier.data.datasets.tree import Tree, open_tree
from inlier.data.datasets.visa import open_visa
from inlier.data.images import ImageSource, at_home, is_picture, no_pictures
from inlier.errors import InlierError
from inlier.names import first_names

LAYOUTS = """inlier reads
  a folder of good pictures,
  the MVTec-AD layout: train/good, test/good, test/TYPE, ground_truth/TYPE, or a folder of such folders,
  with what BTAD (ok, ko), MVTec LOCO AD, MVTec 3D-AD and MVTec AD 2 change in it,
  VisA (with or without split_csv/1cls.csv), KolektorSDD2, DAGM 2007 and Real-IAD as they are distributed,
  a .csv file with a column path, and if you like split, label, mask, category,
  the name of a dataset that comes as a Python package: elpv."""
READERS = (open_visa, open_kolektor, open_dagm, open_folders)  # of folders that hold more than good pictures
DEPTH = 3  # how far below the folder that was passed a layout is looked for, to name the right one


def open_dataset(data: Dataset | Path | str | Iterable[ImageSource], categories: Sequence[str] = ()) -> Dataset:
    """Find the samples of a dataset; no picture is read yet.

    `data` is a folder or .csv file in one of the `LAYOUTS`, "elpv", a list or generator of good training pictures
    (paths or arrays; their category is "parts"), or a Dataset. `categories` keeps only these; none named keeps all.
    Every picture in a folder is in a sample, or in the dataset's `left_out`. Raises InlierError when nothing is found,
    when a category is unknown, and for a folder whose pictures do not all seem to be good and whose layout is unknown.
    """
    if isinstance(data, Dataset):
        dataset = data
    elif isinstance(data, (str, Path)):
        try:
            dataset = _open_path(data)
        except OSError as error:
            raise InlierError(f"{error.filename}: cannot be read ({error.strerror})") from None
    elif isinstance(data, Iterable) and not isinstance(data, np.ndarray):
        dataset = open_list(data)
    else:
        hint = "; pass list(array)" if isinstance(data, np.ndarray) else ""
        raise InlierError(f"a dataset is a path, a name or a list of pictures, not {type(data).__name__}{hint}")
    return dataset.select(categories) if categories else dataset


def _open_path(data: Path | str) -> Dataset:
    path = at_home(data)
    if data == "elpv" and not path.exists():
        return open_elpv()
    if not path.exists():
        raise InlierError(f"{data}: no such file or folder")
    if path.is_file():
        if path.suffix.lower() == ".csv":
            return open_table(path)
        if dataset := open_realiad(path):
            return dataset
        if is_picture(path):
            raise InlierError(f"{data}: one picture is no data set; pass its folder, or a list of pictures")
        raise InlierError(f"{data}: a file that is not a .csv; pass its folder, or a list of pictures. {LAYOUTS}")
    dataset = open_realiad(path)
    tree, found = open_tree(path)
    if dataset is None and not tree.pictures:
        raise InlierError(no_pictures(path))
    dataset = dataset or _recognise(tree)
    if dataset is None:
        if deeper := list(_deeper(tree, DEPTH)):
            names = first_names([f"{place.root} ({layout})" for place, layout in deeper])
            raise InlierError(f"{data}: is no dataset itself, but holds some; pass one of: {names}")
        dataset = open_pictures(tree)
    used = {_real(path) for sample in dataset.samples for path in (sample.source, *sample.masks)}
    used |= {_real(path) for left in dataset.left_out for path in left.paths}
    dataset = dataset.leaving_out(
        "picture<|s> <is|are> not used, <it fits|they fit> nowhere in this layout",
        [file for parts in tree.pictures if _real(file := tree.path(parts)) not in used],
    )
    return replace(dataset, notes=dataset.notes + found.notes, left_out=dataset.left_out + found.left_out)


def _real(path: object) -> str:
    """The same for all names of one file: a table may name it otherwise than its folder is called here."""
    try:
        return os.path.realpath(str(path))
    except ValueError:  # a table may name what no path can be; reading it will say so
        return str(path)


def _recognise(tree: Tree) -> Dataset | None:
    return next((dataset for reader in READERS if (dataset := reader(tree))), None)


def _deeper(tree: Tree, depth: int) -> Iterable[tuple[Tree, str]]:
    """The datasets in the folders below, and their layouts; none inside another."""
    for name in tree.folders() if depth else ():
        below = tree.below(name)
        if dataset := _recognise(below):
            yield below, dataset.layout
        else:
            yield from _deeper(below, depth - 1)
