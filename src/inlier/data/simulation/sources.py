"""What simulated defects are made of: foreign textures, or the part itself, altered and shuffled.

The grid of 4 rows x 8 columns is that of MemSeg's paper; the unofficial code (see `simulator`) has 8 x 8. Ranges of
sharpness, posterize and autocontrast are ours.
"""

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps

from inlier.data.images import FORMATS, list_images, read_image
from inlier.data.simulation.foreground import Pixels
from inlier.drawing import to_rgb
from inlier.errors import InlierError


@dataclass(frozen=True)
class Textures:
    """Pictures that foreign texture is taken from. `origin` names them for people."""

    paths: tuple[Path, ...]
    origin: str

    def draw(self, rng: np.random.Generator, height: int, width: int) -> Pixels:
        """One of them at random, stretched to (height, width, 3), bilinear. Raises ImageError if it is damaged."""
        image = read_image(self.paths[rng.integers(len(self.paths))])
        return np.asarray(to_rgb(image.resize((width, height), Image.Resampling.BILINEAR)))


def open_textures(folder: Path | str | None = None) -> Textures | None:
    """The pictures in a folder and its subfolders, such as the Describable Textures Dataset.

    Without a folder: brick, grass and gravel, three grey pictures (CC0) inside scikit-image, where that is installed
    (`pip install "inlier[textures]"`); None where not. Nothing is ever downloaded.
    Only headers are read here, of every file. Raises InlierError that lists all files that are no pictures.
    """
    if folder is None:
        package = importlib.util.find_spec("skimage")  # found, not imported: that would take a second
        if package is None or package.origin is None:
            return None
        data = Path(package.origin).parent / "data"
        bundled = tuple(data / f"{name}.png" for name in ("brick", "grass", "gravel"))
        return Textures(bundled, "brick, grass and gravel of scikit-image") if all(map(_opens, bundled)) else None
    paths = tuple(list_images(folder)) if Path(folder).is_dir() else ()
    if not paths:
        found = "holds no pictures" if Path(folder).is_dir() else "is a file" if Path(folder).exists() else "not found"
        raise InlierError(f"{folder}: {found}; --textures (setting 'textures') takes a folder of pictures, such as DTD")
    if bad := [str(path) for path in paths if not _opens(path)]:
        names = "\n  ".join(bad)
        raise InlierError(f"{folder}: {len(bad)} of {len(paths)} textures cannot be read; remove:\n  {names}")
    return Textures(paths, f"{len(paths)} pictures in {folder}")


def _opens(path: Path) -> bool:
    try:
        with Image.open(path, formats=FORMATS) as image:
            image.verify()
    except Exception:  # Pillow's readers raise all kinds
        return False
    return True


def _look_up(image: Image.Image, tables: Sequence[NDArray[Any]]) -> Image.Image:
    """Each channel through its table of 256 values."""
    return image.point(np.rint(np.concatenate(tables)).clip(0, 255).astype(int).tolist())


def _gamma(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return _look_up(image, [255 * (np.arange(256) / 255) ** gamma for gamma in rng.uniform(0.5, 2, 3)])


def _brightness(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return _look_up(image, [np.arange(256) * rng.uniform(0.8, 1.2) + rng.uniform(-30, 30)] * 3)


def _sharpness(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return ImageEnhance.Sharpness(image).enhance(rng.uniform(0, 3))  # below 1 it blurs


def _hue_and_saturation(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    hue, saturation = rng.integers(-50, 51, 2)
    level = np.arange(256)
    return _look_up(image.convert("HSV"), [(level + hue) % 256, level + saturation, level]).convert("RGB")


def _solarize(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    threshold = int(rng.integers(32, 129))
    return ImageOps.solarize(image, threshold) if rng.random() < 0.5 else image


def _posterize(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return ImageOps.posterize(image, int(rng.integers(1, 8)))  # bits that stay


def _invert(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return ImageOps.invert(image)


def _autocontrast(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return ImageOps.autocontrast(image, cutoff=rng.uniform(0, 20))  # per cent, at either end


def _equalize(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return ImageOps.equalize(image)


def _rotate(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return image.rotate(rng.uniform(-45, 45), Image.Resampling.BILINEAR)  # black comes in at the corners


OPERATIONS: tuple[Callable[[Image.Image, np.random.Generator], Image.Image], ...] = (
    _gamma, _brightness, _sharpness, _hue_and_saturation, _solarize,
    _posterize, _invert, _autocontrast, _equalize, _rotate,
)  # fmt: skip


def draw_structure(rng: np.random.Generator, image: Pixels, grid: tuple[int, int] = (4, 8)) -> Pixels:
    """The picture (H, W, 3) after three different OPERATIONS, its tiles shuffled."""
    altered = Image.fromarray(image)
    for index in rng.choice(len(OPERATIONS), 3, replace=False):
        altered = OPERATIONS[index](altered, rng)
    return shuffle_tiles(np.asarray(altered), grid, rng.permutation(grid[0] * grid[1]))


def shuffle_tiles(image: Pixels, grid: tuple[int, int], order: Sequence[int] | NDArray[np.integer]) -> Pixels:
    """Cut (H, W, 3) into grid = (rows, columns) of tiles, counted row by row; tile k becomes tile order[k] of before.

    A side that does not divide is first extended at its end by mirroring, and cut back afterwards.
    """
    height, width, _ = image.shape
    rows, columns = grid
    padded = np.pad(image, ((0, -height % rows), (0, -width % columns), (0, 0)), mode="symmetric")
    tiles = padded.reshape(rows, len(padded) // rows, columns, -1, 3).swapaxes(1, 2)  # (rows, columns, h, w, 3)
    shuffled = tiles.reshape(-1, *tiles.shape[2:])[np.asarray(order)].reshape(tiles.shape)
    return np.ascontiguousarray(shuffled.swapaxes(1, 2).reshape(padded.shape)[:height, :width])
