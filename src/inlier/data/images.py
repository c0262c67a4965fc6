"""From a file or an array to the numbers a network sees, and from its map back to the picture."""

import io
import math
import os
import re
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from inlier.errors import InlierError

ImageSource = Path | str | np.ndarray | Image.Image
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})
FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")  # a closed list: some of Pillow's readers start other programs
FILTERS = {name: Image.Resampling[name.upper()] for name in ("bilinear", "bicubic", "lanczos")}

# Pillow warns from half of the size that is refused here on. A filter set around each call would not be thread-safe.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

Item = TypeVar("Item")
Result = TypeVar("Result")


class ImageError(InlierError):
    """One image cannot be used. The message is "PATH: reason"."""


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


@dataclass(frozen=True)
class Preprocess:
    """How a picture becomes the network's input, and how a map goes back. The numbers are torchvision's conventions.

    size: the input is size x size pixels.
    shorter_side: None stretches the whole picture to size x size, nothing is cut off. A number: the shorter side is
        resized to so many pixels, the aspect ratio is kept, and the centre size x size is cut out.
    filter: Pillow's resampling, with antialias.
    Raises InlierError when these do not fit together.
    """

    size: int
    shorter_side: int | None = None
    filter: Literal["bilinear", "bicubic", "lanczos"] = "bilinear"

    def __post_init__(self) -> None:
        if self.size < 1:
            raise InlierError(f"size: must be at least 1 pixel, got {self.size}")
        if self.shorter_side is not None and self.shorter_side < self.size:
            raise InlierError(f"shorter_side: must be at least size ({self.size}), got {self.shorter_side}")
        if self.filter not in FILTERS:
            raise InlierError(f"filter: must be one of {', '.join(FILTERS)}, got {self.filter!r}")

    def __call__(self, image: Image.Image) -> np.ndarray:
        """An image of `read_image` -> float32 (3, size, size) in [0, 1]."""
        if image.mode not in ("RGB", "F"):
            raise InlierError(f"expected an image of read_image (mode RGB or F), got mode {image.mode}")
        pixels = np.asarray(self._resize_and_crop(image, FILTERS[self.filter]))
        if image.mode == "F":
            # lanczos overshoots at edges; Pillow clips 8-bit pictures itself, float ones not
            return np.repeat(pixels.clip(0, 1)[None], 3, axis=0)
        return np.ascontiguousarray(pixels.transpose(2, 0, 1)).astype(np.float32) / 255

    def mask(self, mask: np.ndarray) -> np.ndarray:
        """bool (H, W) -> bool (size, size), the same region, nearest neighbour."""
        image = Image.fromarray(mask.astype(np.uint8))
        return np.asarray(self._resize_and_crop(image, Image.Resampling.NEAREST)) > 0

    def crop_box(self, height: int, width: int) -> tuple[float, float, float, float]:
        """The inspected region (top, left, bottom, right) in pixels of an original of height x width."""
        rows, columns, top, left = self._geometry(height, width)
        y, x = height / rows, width / columns
        return top * y, left * x, (top + self.size) * y, (left + self.size) * x

    def to_original(self, map: np.ndarray, height: int, width: int) -> np.ndarray:
        """float32 (size, size) -> float32 (height, width), registered to the original picture.

        NaN means not inspected: the pixel's centre lies outside `crop_box`.
        """
        top, left, bottom, right = self.crop_box(height, width)
        y, x = self.size / (bottom - top), self.size / (right - left)  # map pixels per original pixel
        y0, x0, y1, x1 = (math.ceil(edge - 0.5) for edge in (top, left, bottom, right))
        # the outermost pixels reach over the edge of the region by up to half a pixel
        pad = math.ceil(max(y, x) / 2)
        padded = Image.fromarray(np.pad(np.asarray(map, np.float32), pad, mode="edge"))
        box = ((x0 - left) * x + pad, (y0 - top) * y + pad, (x1 - left) * x + pad, (y1 - top) * y + pad)
        out = np.full((height, width), np.nan, np.float32)
        if y0 == y1 or x0 == x1:  # a picture of a pixel or two, its crop is smaller than one
            return out
        out[y0:y1, x0:x1] = np.asarray(padded.resize((x1 - x0, y1 - y0), Image.Resampling.BILINEAR, box=box))
        return out

    def _geometry(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Rows and columns after resizing, then top and left of the crop."""
        if self.shorter_side is None:
            return self.size, self.size, 0, 0
        short, long = min(height, width), max(height, width)
        resized = int(self.shorter_side * long / short)
        rows, columns = (self.shorter_side, resized) if height <= width else (resized, self.shorter_side)
        return rows, columns, round((rows - self.size) / 2), round((columns - self.size) / 2)

    def _resize_and_crop(self, image: Image.Image, resampling: Image.Resampling) -> Image.Image:
        rows, columns, top, left = self._geometry(image.height, image.width)
        limit = Image.MAX_IMAGE_PIXELS
        if limit and rows * columns > 2 * limit:  # a long thin strip of few pixels would fill the memory
            raise InlierError(f"{image.width} x {image.height} pixels: too long and thin for shorter_side; use None")
        resized = image.resize((columns, rows), resampling)
        return resized.crop((left, top, left + self.size, top + self.size))


class Batch(NamedTuple):
    """Consecutive sources; `indices`, `images` and `sizes` belong together and leave out the failures."""

    indices: list[int]
    images: np.ndarray  # float32 (B, 3, size, size) in [0, 1]; B may be 0
    sizes: list[tuple[int, int]]  # height, width of the upright originals
    failures: list[tuple[int, str]]  # index and message of what could not be read


def read_batches(
    sources: Sequence[ImageSource],
    preprocess: Preprocess,
    batch_size: int = 8,
    workers: int = 2,
    errors: Literal["raise", "keep"] = "raise",
) -> Iterator[Batch]:
    """Read pictures in order, on `workers` threads, at most batch_size + workers of them ahead.

    An unreadable one raises ImageError, or with errors="keep" goes into `failures` of the batch it belongs to.
    """
    if batch_size < 1 or workers < 1 or errors not in ("raise", "keep"):
        raise InlierError('read_batches needs batch_size >= 1, workers >= 1 and errors "raise" or "keep"')

    def read(index: int) -> tuple[np.ndarray, tuple[int, int]] | str:
        source = sources[index]
        name = str(source) if isinstance(source, (str, Path)) else f"image {index}"
        try:
            image = read_image(source, name)
            return preprocess(image), (image.height, image.width)
        except InlierError as error:
            message = str(error) if isinstance(error, ImageError) else f"{name}: {error}"
            if errors == "raise":
                raise ImageError(message) from None
            return message

    with closing(read_ahead(read, range(len(sources)), workers, batch_size + workers)) as results:
        for start in range(0, len(sources), batch_size):
            batch = Batch([], np.empty((0, 3, preprocess.size, preprocess.size), np.float32), [], [])
            images = []
            for index in range(start, min(start + batch_size, len(sources))):
                result = next(results)
                if isinstance(result, str):
                    batch.failures.append((index, result))
                else:
                    batch.indices.append(index)
                    images.append(result[0])
                    batch.sizes.append(result[1])
            yield batch._replace(images=np.stack(images)) if images else batch


def read_ahead(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int, ahead: int
) -> Generator[Result, None, None]:
    """`map` on threads: order kept, at most `ahead` items under way, threads ended when the iterator is closed."""
    pool = ThreadPoolExecutor(workers)
    pending: deque[Future[Result]] = deque()
    try:
        for item in items:
            if len(pending) >= ahead:
                yield pending.popleft().result()
            pending.append(pool.submit(function, item))
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def list_images(folder: Path | str, recursive: bool = True) -> list[Path]:
    """Paths of the pictures in a folder, by suffix, in natural order (2.png before 10.png).

    Hidden files and folders are left out; links are followed, a circle of links only once. Raises InlierError when a
    folder can't be read.
    """

    def refuse(error: OSError) -> None:
        raise InlierError(f"{error.filename}: cannot list this folder ({error.strerror})")

    found, seen = [], set()
    for parent, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        real = os.path.realpath(parent)
        folders[:] = [n for n in folders if recursive and not _is_hidden(n) and real not in seen]
        seen.add(real)
        found += [Path(parent, n) for n in files if Path(n).suffix.lower() in SUFFIXES and not _is_hidden(n)]
    return sorted(found, key=_natural)


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _natural(path: Path) -> tuple[list[Any], str]:
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", str(path))], str(path)
