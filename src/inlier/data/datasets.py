"""From a folder, a table, a list or a package to samples with a category, a split and a defect; and their check."""

import csv
import difflib
import hashlib
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image

from inlier.data.images import (
    ImageError,
    ImageSource,
    decode_image,
    list_images,
    read_ahead,
    read_bytes,
    read_image,
    read_mask,
)
from inlier.errors import InlierError

Split = Literal["train", "test"]
GOOD_LABELS = ("", "good", "normal", "ok", "0")
DEFECT_LABELS = ("1", "defect", "anomaly", "bad")  # labels that name no type of defect
LAYOUTS = """inlier reads
  a folder of good images,
  the MVTec-AD layout: train/good, test/good, test/TYPE, ground_truth/TYPE, or a folder of such folders,
  the BTAD layout: train/ok, test/ok, test/ko, ground_truth/ko, or a folder of such folders,
  VisA: a folder with split_csv/1cls.csv,
  a .csv file with a column path, and if you like split, label, mask, category,
  the name of a dataset that comes as a Python package: elpv."""


@dataclass(frozen=True)
class Sample:
    """One picture and what is known about it."""

    source: Path | np.ndarray | Image.Image
    category: str
    split: Split
    defect: str | None  # None: good; else the name of the type of defect
    mask: Path | None = None
    number: int = 0  # place in the list the user passed, counted from 0

    @property
    def is_defect(self) -> bool:
        return self.defect is not None

    @property
    def name(self) -> str:
        """The path, or "image 3" for an array."""
        return str(self.source) if isinstance(self.source, Path) else f"image {self.number}"


@dataclass(frozen=True)
class Dataset:
    """Samples, and how they were found."""

    name: str
    layout: str  # for people, such as "MVTec-AD layout, 1 category"
    samples: tuple[Sample, ...]
    notes: tuple[str, ...] = ()  # decisions worth printing

    @property
    def categories(self) -> tuple[str, ...]:
        return tuple(sorted({sample.category for sample in self.samples}))

    @property
    def train(self) -> tuple[Sample, ...]:
        """The good samples of the train split."""
        return tuple(s for s in self.samples if s.split == "train" and not s.is_defect)

    @property
    def test(self) -> tuple[Sample, ...]:
        return tuple(s for s in self.samples if s.split == "test")

    def select(self, categories: Sequence[str]) -> "Dataset":
        """The samples of some categories only. Raises InlierError for an unknown name."""
        wanted = (categories,) if isinstance(categories, str) else tuple(categories)
        known = self.categories
        for name in wanted:
            if name not in known:
                close = difflib.get_close_matches(name, known, n=1)
                hint = f" Did you mean {close[0]!r}?" if close else ""
                raise InlierError(f"{self.name}: no category {name!r}.{hint} There are: {', '.join(known)}")
        return replace(self, samples=tuple(s for s in self.samples if s.category in wanted))


def open_dataset(data: Dataset | Path | str | Sequence[ImageSource], categories: Sequence[str] = ()) -> Dataset:
    """Find the samples of a dataset; no picture is read yet.

    `data` is a folder or .csv file in one of the `LAYOUTS`, "elpv", a list of good training images (paths or arrays;
    their category is "parts"), or a Dataset. `categories` keeps only these; none named keeps all.
    Raises InlierError when nothing is found or a category is unknown.
    """
    if isinstance(data, Dataset):
        dataset = data
    elif isinstance(data, (str, Path)):
        try:
            dataset = _open_path(data)
        except OSError as error:
            raise InlierError(f"{error.filename}: cannot be read ({error.strerror})") from None
    elif isinstance(data, (list, tuple)):
        dataset = _from_list(data)
    else:
        hint = "; pass list(array)" if isinstance(data, np.ndarray) else ""
        raise InlierError(f"a dataset is a path, a name or a list of images, not {type(data).__name__}{hint}")
    return dataset.select(categories) if categories else dataset


def _open_path(data: Path | str) -> Dataset:
    path = Path(data)
    if data == "elpv" and not path.exists():
        return _elpv()
    if not path.exists():
        raise InlierError(f"{data}: no such file or folder. {LAYOUTS}")
    if path.is_file():
        if path.suffix.lower() != ".csv":
            raise InlierError(f"{data}: a file that is not a .csv; pass its folder, or a list of images. {LAYOUTS}")
        return _manifest(path)
    dataset = _visa(path) or _folders(path) or _good_folder(path)
    if not dataset.samples:
        raise InlierError(f"{data}: no images (.png .jpg .jpeg .bmp .tif .tiff .webp) found. {LAYOUTS}")
    return dataset


def _from_list(images: Sequence[ImageSource]) -> Dataset:
    if not images:
        raise InlierError("an empty list of images: pass the pictures of good parts")
    samples = []
    for number, image in enumerate(images):
        if not isinstance(image, (str, Path, np.ndarray, Image.Image)):
            raise InlierError(f"image {number}: expected a path, an array or a PIL image, got {type(image).__name__}")
        source = Path(image) if isinstance(image, str) else image
        samples.append(Sample(source, "parts", "train", None, number=number))
    return Dataset("parts", f"list of {len(samples)} good images", tuple(samples))


def _manifest(path: Path) -> Dataset:
    samples = []
    for line, row in _rows(path):
        where = f"{path}, line {line}"
        image = row.get("path") or row.get("image")
        if not image:
            raise InlierError(f"{where}: no path; a column named path (or image) must hold one")
        defect = _defect(row.get("label", ""))
        mask = path.parent / row["mask"] if row.get("mask") else None
        if mask and not defect:
            raise InlierError(f"{where}: a good image with a mask; name its defect under label, or leave the mask out")
        split = _split(row.get("split") or "train", where)
        samples.append(Sample(path.parent / image, row.get("category") or path.stem, split, defect, mask))
    if not samples:
        raise InlierError(f"{path}: a table without a row; the first line names the columns, such as path,split,label")
    unused = sum(s.is_defect and s.split == "train" for s in samples)
    notes = (f"{unused} defect images of the train split are not used for training",) if unused else ()
    return Dataset(path.stem, f"CSV table, {_count(samples)}", tuple(samples), notes)


def _visa(root: Path) -> Dataset | None:
    table = root / "split_csv" / "1cls.csv"
    if not table.is_file():
        return None
    samples = []
    for line, row in _rows(table):
        where = f"{table}, line {line}"
        if any(not row.get(column) for column in ("object", "split", "label", "image")):
            raise InlierError(f"{where}: the columns object, split, label and image must be filled")
        defect = "anomaly" if _defect(row["label"]) else None
        mask = root / row["mask"] if row.get("mask") else None
        samples.append(Sample(root / row["image"], row["object"], _split(row["split"], where), defect, mask))
    return Dataset(root.resolve().name, "VisA, 1-class split", tuple(samples))


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and stripped cells of each row of a CSV table, by column name in lower case."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            columns = [name.strip().lower() for name in reader.fieldnames or ()]
            if not {"path", "image"} & set(columns):
                raise InlierError(f"{path}, line 1: no column path (or image); comma-separated names found: {columns}")
            reader.fieldnames = columns
            for row in reader:
                if None in row:
                    where = f"{path}, line {reader.line_num}"
                    raise InlierError(f"{where}: more cells than columns; put paths with a comma in quotes")
                yield reader.line_num, {name: (cell or "").strip() for name, cell in row.items()}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InlierError(f"{path}: cannot be read as a CSV table in UTF-8 ({error})") from None


def _split(value: str, where: str) -> Split:
    if value.lower() == "train":
        return "train"
    if value.lower() == "test":
        return "test"
    raise InlierError(f"{where}: split must be train or test, got {value!r}")


def _defect(label: str) -> str | None:
    if label.lower() in GOOD_LABELS:
        return None
    return "defect" if label.lower() in DEFECT_LABELS else label


def _folders(root: Path) -> Dataset | None:
    """MVTec-AD and BTAD: root is one category, or its folders are."""
    if good := _good_name(root):
        found, others = {root: good}, []
    else:
        children = sorted(child for child in root.iterdir() if child.is_dir() and not child.name.startswith("."))
        found = {child: good for child in children if (good := _good_name(child))}
        others = [child.name for child in children if child not in found]
    if not found:
        return None
    notes = [f"folders that are no category (no train/good) are not used: {_some(others)}"] if others else []
    samples: list[Sample] = []
    for folder, good in found.items():
        of_category, unused = _category(folder, good)
        samples += of_category
        if unused:
            notes.append(f"images outside train/{good} and test/TYPE are not used: {_some(unused)}")
    layout = "BTAD" if "ok" in found.values() else "MVTec-AD"
    return Dataset(root.resolve().name, f"{layout} layout, {_count(samples)}", tuple(samples), tuple(notes))


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


def _good_folder(root: Path) -> Dataset:
    for name in ("train", "test", "ground_truth"):
        if (root / name).is_dir():
            raise InlierError(f"{root}: has a folder {name}, but no train/good, test/good or train/ok. {LAYOUTS}")
    real = root.resolve()
    # part/train/good is the training folder of `part`: a model of it should fit the whole dataset later
    name = real.parent.parent.name if (real.parent.name, real.name) == ("train", "good") else real.name
    images = list_images(root)
    inside = sorted({path.relative_to(root).parts[0] for path in images if path.parent != root})
    notes = (f"images in folders inside {name} are taken as good too: {_some(inside)}",) if inside else ()
    samples = tuple(Sample(path, name, "train", None) for path in images)
    return Dataset(name, "folder of good images", samples, notes)


def _images_in(folder: Path) -> list[Path]:
    return list_images(folder) if folder.is_dir() else []


def _elpv() -> Dataset:
    """Solar cells. Good cells are split 80 to 20 by `numpy.random.default_rng(0).permutation`, per category."""
    package = importlib.util.find_spec("elpv_dataset")
    if package is None or package.origin is None:
        raise InlierError("elpv: the package that carries this dataset is not installed: pip install elpv-dataset")
    root = Path(package.origin).parent / "data"
    good: dict[str, list[Path]] = {"mono": [], "poly": []}
    defects = []
    unsure = 0
    for line in (root / "labels.csv").read_text(encoding="utf-8").splitlines():
        name, probability, category = line.split()
        if float(probability) == 0:
            good[category].append(root / name)
        elif float(probability) == 1:
            defects.append(Sample(root / name, category, "test", "defect"))
        else:
            unsure += 1
    samples = []
    for category, paths in good.items():
        order = np.random.default_rng(0).permutation(len(paths))
        in_train = set(order[: round(0.8 * len(paths))].tolist())
        samples += [Sample(p, category, "train" if i in in_train else "test", None) for i, p in enumerate(paths)]
    notes = (
        f"{unsure} cells whose defect probability is neither 0 nor 1 are left out",
        "good cells are split 80 to 20 into train and test with a fixed seed",
        "licence of the images: CC BY-NC-SA 4.0 (no commercial use)",
    )
    return Dataset("elpv", "ELPV solar cells, Python package, 2 categories", tuple(samples + defects), notes)


def _count(samples: Sequence[Sample]) -> str:
    n = len({sample.category for sample in samples})
    return f"{n} category" if n == 1 else f"{n} categories"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


@dataclass(frozen=True)
class Report:
    """What `check` found in a dataset that can be used."""

    fingerprint: str  # sha256, hexadecimal, of the sorted sha256 of the good training images
    warnings: tuple[str, ...]


class _Seen(NamedTuple):
    """What one reading of a sample showed; a problem is (kind, message)."""

    digest: str = ""
    problem: tuple[str, str] | None = None
    brightest: float | None = None  # in [0, 1], of 16-bit pictures
    empty_mask: bool = False


def check(dataset: Dataset, workers: int = 2, progress: Callable[[int, int], None] | None = None) -> Report:
    """Read every image and mask once, before anything is trained.

    `progress` is called with (done, total). Raises one InlierError that lists all problems: images and masks that
    cannot be read, masks of another size than their image, defects without a mask where others have one.
    """
    seen = []
    with closing(read_ahead(_look, dataset.samples, workers, 4 * workers)) as looks:
        for look in looks:
            seen.append(look)
            if progress:
                progress(len(seen), len(dataset.samples))
    masked = {s.category for s in dataset.samples if s.mask}
    problems = [look.problem for look in seen if look.problem]
    bare = [s for s in dataset.samples if s.is_defect and not s.mask and s.category in masked]
    problems += [("defect without a mask", f"{s.name}: others of {s.category} have one") for s in bare]
    if problems:
        lines = [f"  {kind}: {message}" for kind, message in sorted(problems, key=lambda problem: problem[0])]
        rest = [f"  ... and {len(lines) - 20} more"] if len(lines) > 20 else []
        total = f"{len(lines)} problem" + ("s" if len(lines) > 1 else "")
        raise InlierError("\n".join([f"{dataset.name}: {total}; mend or remove these files:", *lines[:20], *rest]))
    train = [(s, look) for s, look in zip(dataset.samples, seen, strict=True) if s.split == "train" and not s.is_defect]
    fingerprint = hashlib.sha256("".join(sorted(look.digest for _, look in train)).encode()).hexdigest()
    return Report(fingerprint, tuple(_warnings(dataset, seen)))


def _look(sample: Sample) -> _Seen:
    try:
        if isinstance(sample.source, Path):
            data = read_bytes(sample.source)
            image = decode_image(data, sample.name)
        else:
            image = read_image(sample.source, sample.name)
            data = f"{image.mode} {image.size} ".encode() + image.tobytes()
    except ImageError as error:
        return _Seen(problem=("unreadable image", str(error)))
    look = _Seen(hashlib.sha256(data).hexdigest())
    if image.mode == "F":
        look = look._replace(brightest=float(np.asarray(image).max()))
    if sample.mask is None:
        return look
    try:
        mask = read_mask(sample.mask)
    except ImageError as error:
        return look._replace(problem=("unreadable mask", str(error)))
    if mask.shape != (image.height, image.width):
        sizes = f"{mask.shape[1]} x {mask.shape[0]} pixels, its image {sample.name} has {image.width} x {image.height}"
        return look._replace(problem=("mask of another size", f"{sample.mask}: {sizes}"))
    return look._replace(empty_mask=not mask.any())


def _warnings(dataset: Dataset, seen: Sequence[_Seen]) -> Iterator[str]:
    pairs = list(zip(dataset.samples, seen, strict=True))
    train: dict[str, str] = {}  # digest -> name of the first with it
    copies = 0
    for sample, look in pairs:
        if sample.split == "train" and not sample.is_defect:
            copies += look.digest in train
            train.setdefault(look.digest, sample.name)
    if copies:
        yield f"{copies} training images are byte-equal copies of others"
    both = [f"{train[look.digest]} = {s.name}" for s, look in pairs if s.split == "test" and look.digest in train]
    if both:
        yield f"{len(both)} test images are byte-equal to training images, results will look too good: {_some(both)}"
    empty = [str(sample.mask) for sample, look in pairs if look.empty_mask]
    if empty:
        yield f"{len(empty)} masks show no defect pixel: {_some(empty)}"
    masked = {s.category for s in dataset.samples if s.mask}
    unmasked = sorted({s.category for s in dataset.samples if s.is_defect} - masked)
    if unmasked:
        yield f"{_some(unmasked)}: no masks: pixel metrics are not available"
    deep = [look.brightest for look in seen if look.brightest is not None]
    if deep and max(deep) < 1 / 16:
        yield (
            "all 16-bit images are below 1/16 of the range: probably 12-bit data in 16-bit files; "
            "the network sees nearly black pictures; scale them to the full range"
        )
