"""From files, arrays and PIL images to upright pictures."""

import io
import logging
import os
import re
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from inlier.errors import ImageError, InlierError

ImageSource = Path | str | np.ndarray | Image.Image
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})
FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")  # a closed list: some of Pillow's readers start other programs

# suffixes that people take for pictures; those of SUFFIXES are read, files of the others are counted and named
LIKE_PICTURES = frozenset(
    (".3fr", ".apng", ".arw", ".avi", ".avif", ".cr2", ".cr3", ".cur", ".dcm", ".dds", ".dib", ".dng", ".emf", ".eps")
    + (".exr", ".fits", ".gif", ".hdr", ".heic", ".heif", ".icns", ".ico", ".iiq", ".j2c", ".j2k", ".jfif", ".jif")
    + (".jp2", ".jpc", ".jpe", ".jpf", ".jpx", ".jxl", ".jxr", ".mov", ".mp4", ".mpo", ".nef", ".orf", ".pam", ".pbm")
    + (".pcx", ".pef", ".pfm", ".pgm", ".pnm", ".ppm", ".psb", ".psd", ".raf", ".raw", ".rw2", ".sgi", ".srw", ".svg")
    + (".tga", ".wmf", ".xbm", ".xcf", ".xpm")
)
NO_PICTURES = frozenset(  # folders of storage servers and systems, lower case; what they hold was made by no camera
    ("@eadir", "__macosx", "thumbs", "thumbnails", "@recycle", "#recycle", "$recycle.bin", "#snapshot", "~snapshot")
    + ("system volume information", "lost+found", "@tmp", "@syno", "@sharebin", "@recently-snapshot")
)
log = logging.getLogger("inlier")

# Pillow warns from half of the size that is refused here on. A filter set around each call would not be thread-safe.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def source_name(source: ImageSource, index: int) -> str:
    """What messages call the picture at a place in a list: its path, or "image 3" for anything without a path."""
    return str(source) if isinstance(source, (str, Path)) else f"image {index}"


def read_image(source: ImageSource, name: str | None = None) -> Image.Image:
    """Read one picture, decode it fully and turn it upright (EXIF).

    Returns mode "RGB" (8 bit), or mode "F" with values in [0, 1] for grey of 16 bit or float. Transparent parts are
    black; 16-bit colour files are read with 8 bit (Pillow's limit); of several frames the first is taken.
    Arrays are H x W, H x W x 1, 3 or 4, of uint8, uint16, or float in [0, 1]; colour arrays are rounded to 8 bit.
    `name` stands for a source without a path in messages. Raises ImageError.
    """
    if isinstance(source, (str, Path)):
        return decode_image(read_bytes(source), str(source))
    if isinstance(source, Image.Image):
        return _load(lambda: source, name or getattr(source, "filename", "") or "image")
    return _from_array(source, name or "array")


def read_bytes(path: Path | str) -> bytes:
    """The bytes of one file. Raises ImageError."""
    try:
        return Path(path).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        raise ImageError(f"{path}: {getattr(error, 'strerror', None) or error}") from None


def decode_image(data: bytes, name: str) -> Image.Image:
    """`read_image` for the bytes of a file that were already read; `name` is used in messages."""
    if not data:
        raise ImageError(f"{name}: the file is empty")
    return _load(lambda: Image.open(io.BytesIO(data), formats=FORMATS), name)


def read_mask(path: Path | str) -> np.ndarray:
    """The defect mask in a file: bool (H, W), True where any colour channel is not zero. Raises ImageError."""
    mask: np.ndarray = np.any(np.atleast_3d(np.asarray(read_image(path))), axis=2)
    return mask


def _load(open_image: Callable[[], Image.Image], name: str) -> Image.Image:
    try:
        image = open_image()
        image.load()
        if 0 in image.size:
            raise ImageError(f"{name}: an image without pixels")
        image = ImageOps.exif_transpose(image)
        if image.mode == "F" or image.mode.startswith("I"):
            return Image.fromarray(_unit(np.asarray(image), name))
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image)
        return image.convert("RGB")
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError(f"{name}: not a PNG, JPEG, BMP, TIFF or WebP image") from None
    except Image.DecompressionBombError as error:
        reason = str(error).split(", could")[0]  # Pillow names both numbers of pixels
        raise ImageError(
            f"{name}: {reason}; cut or shrink it (in Python, PIL.Image.MAX_IMAGE_PIXELS sets the limit)"
        ) from None
    except Exception as error:
        raise ImageError(f"{name}: cannot be decoded, probably damaged or incomplete ({error})") from None


def _unit(values: np.ndarray, name: str) -> np.ndarray:
    """16-bit or float values -> float32 in [0, 1]."""
    top = 1 if values.dtype.kind == "f" else 65535
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= top):  # also true for NaN
        raise ImageError(f"{name}: values must lie in [0, {top}], these go from {low} to {high}")
    unit: np.ndarray = np.divide(values, top, dtype=np.float32)
    return unit


def _from_array(array: np.ndarray, name: str) -> Image.Image:
    if not isinstance(array, np.ndarray):
        raise ImageError(f"{name}: expected a path, an array or a PIL image, got {type(array).__name__}")
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.size == 0 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        raise ImageError(f"{name}: expected shape H x W, H x W x 1, 3 or 4 with channels last, got {array.shape}")
    if array.dtype.kind != "f" and array.dtype.str[1:] not in ("u1", "u2"):  # either byte order
        raise ImageError(f"{name}: expected uint8, uint16 or float in [0, 1], got {array.dtype}")
    if array.dtype != np.uint8:
        array = _unit(array, name)
        if array.ndim == 3:
            array = np.rint(array * 255).astype(np.uint8)
    return _load(lambda: Image.fromarray(array), name)


class Listing(NamedTuple):
    """What lies in a folder and the folders below it, each in natural order (2.png before 10.png)."""

    pictures: list[Path]  # by suffix
    unread: list[Path]  # files of a kind that people take for pictures and that is not read
    folders: list[Path]  # of storage servers and systems: thumbnails, waste; left out with all that they hold
    links: list[Path]  # to folders that are listed already, or that lead back up


def find_pictures(folder: Path | str, recursive: bool = True) -> Listing:
    """List the pictures in a folder, and what was left out although it may be meant.

    Hidden files and folders are passed over. Links are followed after all real folders, and no folder is listed twice,
    whatever leads to it. Raises InlierError when a folder can't be read.
    """

    def refuse(error: OSError) -> None:
        raise InlierError(f"{error.filename}: cannot list this folder ({error.strerror})")

    found, seen, starts = Listing([], [], [], []), set[str](), deque([os.fspath(folder)])
    while starts:
        start = starts.popleft()
        for parent, folders, files in os.walk(start, onerror=refuse):
            real = os.path.realpath(parent)
            above = os.path.realpath(os.path.dirname(os.path.abspath(parent)))
            if real in seen or (parent != os.fspath(folder) and Path(above).is_relative_to(real)):
                found.links.append(Path(parent))
                folders.clear()
                continue
            seen.add(real)
            below = [Path(parent, name) for name in folders if recursive and not name.startswith(".")]
            found.folders.extend(path for path in below if path.name.casefold() in NO_PICTURES)
            below = sorted((path for path in below if path.name.casefold() not in NO_PICTURES), key=_natural)
            starts.extend(str(path) for path in below if path.is_symlink())
            folders[:] = [path.name for path in below if not path.is_symlink()]
            for name in files:
                suffix = Path(name).suffix.lower()
                if not name.startswith(".") and suffix in SUFFIXES | LIKE_PICTURES:
                    (found.pictures if suffix in SUFFIXES else found.unread).append(Path(parent, name))
    for paths in found:
        paths.sort(key=_natural)
    return found


def list_images(folder: Path | str, recursive: bool = True) -> list[Path]:
    """The pictures of `find_pictures`. Files of kinds that are not read are named in a warning."""
    found = find_pictures(folder, recursive)
    if found.unread:
        kinds = f"{count_kinds(found.unread)}, such as {found.unread[0].name}"
        log.warning("%s: files of kinds that are not read are left out: %s; save them as PNG", folder, kinds)
    return found.pictures


def count_kinds(paths: Iterable[Path]) -> str:
    """For people: how many files have which suffix, such as "2 .gif, 1 .heic"."""
    kinds = Counter(path.suffix.lower() or "without a suffix" for path in paths)
    return ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())


def _natural(path: Path) -> tuple[list[Any], str]:
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", str(path))], str(path)
