"""From a folder, a table, a list or a package to a dataset: each layout has its own module."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from inlier.data.datasets.elpv import open_elpv
from inlier.data.datasets.folders import open_folders
from inlier.data.datasets.pictures import open_list, open_pictures
from inlier.data.datasets.sample import Dataset
from inlier.data.datasets.table import open_table
from inlier.data.datasets.visa import open_visa
from inlier.data.images import SUFFIX_LIST, ImageSource
from inlier.errors import InlierError

LAYOUTS = """inlier reads
  a folder of good images,
  the MVTec-AD layout: train/good, test/good, test/TYPE, ground_truth/TYPE, or a folder of such folders,
  the BTAD layout: train/ok, test/ok, test/ko, ground_truth/ko, or a folder of such folders,
  VisA: a folder with split_csv/1cls.csv,
  a .csv file with a column path, and if you like split, label, mask, category,
  the name of a dataset that comes as a Python package: elpv."""


def open_dataset(data: Dataset | Path | str | Iterable[ImageSource], categories: Sequence[str] = ()) -> Dataset:
    """Find the samples of a dataset; no picture is read yet.

    `data` is a folder or .csv file in one of the `LAYOUTS`, "elpv", a list or generator of good training images (paths
    or arrays; their category is "parts"), or a Dataset. `categories` keeps only these; none named keeps all.
    Raises InlierError when nothing is found or a category is unknown.
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
        raise InlierError(f"a dataset is a path, a name or a list of images, not {type(data).__name__}{hint}")
    return dataset.select(categories) if categories else dataset


def _open_path(data: Path | str) -> Dataset:
    path = Path(data)
    if data == "elpv" and not path.exists():
        return open_elpv()
    if not path.exists():
        raise InlierError(f"{data}: no such file or folder. {LAYOUTS}")
    if path.is_file():
        if path.suffix.lower() != ".csv":
            raise InlierError(f"{data}: a file that is not a .csv; pass its folder, or a list of images. {LAYOUTS}")
        return open_table(path)
    dataset = open_visa(path) or open_folders(path)
    if dataset is None:
        for name in ("train", "test", "ground_truth"):  # a folder of good pictures has none of these
            if (path / name).is_dir():
                raise InlierError(f"{path}: has a folder {name}, but no train/good, test/good or train/ok. {LAYOUTS}")
        dataset = open_pictures(path)
    if not dataset.samples:
        raise InlierError(f"{data}: no images {SUFFIX_LIST} found. {LAYOUTS}")
    return dataset
