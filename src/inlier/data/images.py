"""From files, arrays and PIL images to upright pictures."""

import contextlib
import io
import logging
import os
import re
import threading
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError
from scipy.ndimage import maximum_filter, minimum_filter

from inlier.data import whole
from inlier.errors import ImageError, InlierError
from inlier.names import first_names

log = logging.getLogger("inlier")

ImageSource = Path | str | np.ndarray | Image.Image
# a closed list: some of Pillow's readers start other programs
SUFFIXES_OF = {
    "PNG": (".png",),
    "JPEG": (".jpg", ".jpeg", ".jfif", ".jpe"),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
    "PPM": (".ppm", ".pgm", ".pnm", ".pbm"),
    "JPEG2000": (".jp2", ".j2k"),
}
FORMATS = tuple(SUFFIXES_OF)
SUFFIXES = tuple(suffix for suffixes in SUFFIXES_OF.values() for suffix in suffixes)
SUFFIX_LIST = f"({' '.join(SUFFIXES)})"  # as messages name them
FORMAT_LIST = "PNG, JPEG, BMP, TIFF, WebP, PPM or JPEG 2000"

ORIENTATION = 274  # of EXIF, and of TIFF
BITS, PHOTOMETRIC = 258, 262  # of TIFF
UPRIGHT = {  # EXIF's orientation -> what turns the stored picture upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = (5, 6, 7, 8)  # of these, height and width change places

FEW = 16  # numbers of defects in one mask
SMEAR = 17  # JPEG spreads an edge over blocks of 8 pixels, to both sides
TWO_VALUES = "save masks as PNG with two values, 0 for good and 255 for defect"
Result = TypeVar("Result")

# suffixes of files that people take for pictures and that are not read: they are counted and named
LIKE_PICTURES = frozenset(
    (".3fr", ".apng", ".arw", ".avi", ".avif", ".cr2", ".cr3", ".cur", ".dcm", ".dds", ".dib", ".dng", ".emf", ".eps")
    + (".exr", ".fits", ".gif", ".hdr", ".heic", ".heif", ".icns", ".ico", ".iiq", ".j2c", ".jif", ".jpc", ".jpf")
    + (".jpx", ".jxl", ".jxr", ".mov", ".mp4", ".mpo", ".nef", ".orf", ".pam", ".pcx", ".pef", ".pfm", ".psb", ".psd")
    + (".raf", ".raw", ".rw2", ".sgi", ".srw", ".svg", ".tga", ".wmf", ".xbm", ".xcf", ".xpm")
)
NO_PICTURES = frozenset(  # folders of storage servers and systems, lower case; what they hold was made by no camera
    ("@eadir", "__macosx", "thumbs", "thumbnails", "@recycle", "#recycle", "$recycle.bin", "#snapshot", "~snapshot")
    + ("system volume information", "lost+found", "@tmp", "@syno", "@sharebin", "@recently-snapshot")
)

# Pillow warns from half of the size that is refused here on. A filter set around each call would not be thread-safe.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class _Decoded(NamedTuple):
    """A picture as it was decoded, upright."""

    image: Image.Image
    orientation: int | None = None  # EXIF's, 1 to 8; None: the file says nothing
    lossy: bool = False  # the format may change values
    top: int = 65535  # the value of 16-bit grey that means white
    inverted: bool = False  # of deep grey: the lowest value means white
    size: tuple[int, int] | None = None  # height, width of the upright original, where it was decoded smaller


def at_home(path: Path | str) -> Path:
    """The path, with `~` and `~name` at its start as a shell understands them."""
    return Path(os.path.expanduser(path))


def source_name(source: ImageSource, index: int) -> str:
    """What messages call the picture at a place in a list: its path, or "image 3" for anything without a path."""
    return str(source) if isinstance(source, (str, Path)) else f"image {index}"


def read_image(source: ImageSource, name: str | None = None) -> Image.Image:
    """Read one picture, decode it fully and turn it upright (EXIF).

    Returns mode "RGB" (8 bit), or mode "F" with values in [0, 1] for grey of 9 to 16 bit or float. Transparent parts
    are black, a picture that is transparent everywhere is refused; colour of 16 bit is read with 8 (Pillow's limit);
    of several pages the first is taken, with a warning once for each kind of file. Damaged files are refused as far as
    that shows, whatever `PIL.ImageFile.LOAD_TRUNCATED_IMAGES` says.
    Arrays are H x W, H x W x 1, 3 or 4, of uint8, uint16, or float in [0, 1]; colour arrays are rounded to 8 bit.
    `name` stands for a source without a path in messages. Raises ImageError.
    """
    if isinstance(source, (str, Path)):
        return decode_image(read_bytes(source), str(source))
    if isinstance(source, Image.Image):
        name = name or getattr(source, "filename", "") or "image"

        def decoded() -> _Decoded:
            with _loading:
                return _upright(source)

        return _explained(lambda: _finish(decoded(), name), name)
    return _from_array(source, name or "array")


_loading = threading.Lock()  # an image that Pillow opened reads its file at the first use, and may be in a list twice


def read_scaled(
    source: ImageSource | bytes, name: str | None = None, least: tuple[int, int] | None = None
) -> tuple[Image.Image, tuple[int, int]]:
    """`read_image`, and height and width of the upright original.

    source: also the bytes of a file. least: height and width that are enough. A JPEG file is then decoded to some
    eighths of its size, which is much faster, and as whole; the last row or column may show up to 7 pixels less than
    the others.
    """
    if not isinstance(source, (str, Path, bytes)):
        image = read_image(source, name)
        return image, (image.height, image.width)
    name = (name or "picture") if isinstance(source, bytes) else str(source)
    data = source if isinstance(source, bytes) else read_bytes(source)

    def decoded() -> tuple[Image.Image, tuple[int, int]]:
        found = _decode(data, name, least)
        image = _finish(found, name)
        return image, found.size or (image.height, image.width)

    return _explained(decoded, name)


def read_bytes(path: Path | str) -> bytes:
    """The bytes of one file. Raises ImageError."""
    try:
        return Path(path).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        raise ImageError(f"{path}: {getattr(error, 'strerror', None) or error}") from None


def is_picture(path: Path | str) -> bool:
    """By its name or its first bytes, whether or not the rest can be read. False where nothing is there."""
    file = at_home(path)
    if not file.is_file():
        return False
    if file.suffix.lower() in SUFFIXES:
        return True
    try:
        with Image.open(file, formats=FORMATS):
            return True
    except Exception:  # Pillow's readers raise all kinds
        return False


def encoded(source: ImageSource) -> bytes:
    """The picture's file, as it is; of an array or PIL image a file without loss that `decode_image` reads."""
    if isinstance(source, (str, Path)):
        return read_bytes(source)
    image = read_image(source)
    content = io.BytesIO()
    image.save(content, "TIFF" if image.mode == "F" else "PNG")
    return content.getvalue()


def decode_image(data: bytes, name: str) -> Image.Image:
    """`read_image` for the bytes of a file that were already read; `name` is used in messages."""
    return _explained(lambda: _finish(_decode(data, name), name), name)


def _decode(data: bytes, name: str, least: tuple[int, int] | None = None) -> _Decoded:
    """A file's first picture, upright. Raises whatever the decoders raise. least: see `read_scaled`."""
    if not data:
        raise ImageError(f"{name}: the file is empty")
    if not data.startswith(whole.PNG):
        return _open(data, name, least)
    bare = whole.bare_png(data)
    try:
        return _open(data, name)
    except Exception:  # text that is too long for Pillow, for instance: the pixels may be whole
        return _open(bare, name)


def _open(data: bytes, name: str, least: tuple[int, int] | None = None) -> _Decoded:
    stream = whole.Stream(data)
    image = Image.open(stream, formats=FORMATS)
    kind, pages = str(image.format), getattr(image, "n_frames", 1)
    if pages > 1 and kind not in _said_pages:
        _said_pages.add(kind)
        log.warning("%s: holds %d pages; the first is taken, here and in every %s file", name, pages, kind)
    stream.strict = kind != "JPEG2000"  # whose reader looks for more, to the very end
    orientation = _orientation(image)
    jpeg = None
    if kind in ("JPEG", "MPO"):
        jpeg = whole.decode_jpeg(data, image.mode, _turned_size(least or (0, 0), orientation))
    if jpeg is None:
        decoded = _upright(image)
        whole.check(data, image)
        return decoded
    pixels, size = jpeg
    if size != (image.height, image.width):
        raise ValueError("two headers differ")
    upright = _turn(Image.fromarray(pixels), orientation)
    return _Decoded(upright, orientation, lossy=True, size=_turned_size(size, orientation))


_said_pages: set[str] = set()  # kinds of files, of which one with several pages was named


def _upright(image: Image.Image) -> _Decoded:
    """A picture that was opened by Pillow, decoded and turned; its own object is turned only where Pillow does so."""
    orientation, deep_mode, lossy = _orientation(image), image.mode, image.format in ("JPEG", "MPO", "WEBP", "JPEG2000")
    image.load()
    tags = getattr(image, "tag_v2", {})
    turned = image.format == "TIFF" and ORIENTATION not in tags  # by Pillow, while it was decoded
    top = 2 ** tags.get(BITS, (16,))[0] - 1 if deep_mode.startswith("I;16") else 65535
    inverted = tags.get(PHOTOMETRIC) == 0 and (deep_mode == "F" or deep_mode.startswith("I"))
    return _Decoded(image if turned else _turn(image, orientation), orientation, lossy, top, inverted)


def _orientation(image: Image.Image) -> int | None:
    try:
        value = image.getexif().get(ORIENTATION)
    except Exception:  # EXIF that cannot be read says nothing, and viewers turn nothing
        return None
    return value if value in range(1, 9) else None


def _turned_size(size: tuple[int, int], orientation: int | None) -> tuple[int, int]:
    """(height, width) after the turn, of those before it, and the other way round."""
    return (size[1], size[0]) if orientation in SIDEWAYS else size


def _turn(image: Image.Image, orientation: int | None) -> Image.Image:
    return image.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else image


def _finish(decoded: _Decoded, name: str) -> Image.Image:
    """Mode RGB, or F in [0, 1]."""
    image = decoded.image
    if 0 in image.size:
        raise ImageError(f"{name}: a picture without pixels")
    if _is_deep(image):
        unit = _unit(np.asarray(image), decoded.top, name)
        return Image.fromarray(1 - unit if decoded.inverted else unit)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if not image.getchannel("A").getextrema()[1]:
            raise ImageError(
                f"{name}: transparent everywhere, so that it shows nothing; save it without an alpha channel, "
                "or pass its first three channels"
            )
    image = _on_black(image)
    image.info.clear()  # EXIF and XMP among it: who reads the picture again would turn it again
    return image


def _is_deep(image: Image.Image) -> bool:
    return image.mode == "F" or image.mode.startswith("I")


def _on_black(image: Image.Image) -> Image.Image:
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image)
    return image.convert("RGB")


def _explained(read: Callable[[], Result], name: str) -> Result:
    """What `read` gives; whatever else it raises becomes an ImageError that says what is wrong with `name`."""
    try:
        return read()
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError(
            f"{name}: not a {FORMAT_LIST} image, or one that is cut off or of a rare kind; save it as PNG"
        ) from None
    except Image.DecompressionBombError as error:
        reason = str(error).split(", could")[0]  # Pillow names both numbers of pixels
        raise ImageError(
            f"{name}: {reason}; cut or shrink it (in Python, PIL.Image.MAX_IMAGE_PIXELS sets the limit)"
        ) from None
    except Exception as error:
        raise ImageError(
            f"{name}: cannot be decoded, probably damaged or incomplete ({error}); take it from its source again, or, "
            "where a viewer shows all of it, save it anew from there"
        ) from None


def _unit(values: np.ndarray, top: int, name: str) -> np.ndarray:
    """Float values, or whole ones up to `top` -> float32 in [0, 1]."""
    is_float = values.dtype.kind == "f"
    top = 1 if is_float else top
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= top):  # also true for NaN
        to_do = "divide all pictures by one number, or save them with 16 bit" if is_float else "save unsigned 16 bit"
        raise ImageError(f"{name}: values must lie in [0, {top}], these go from {low} to {high}; {to_do}")
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
        array = _unit(array, 65535, name)
        if array.ndim == 3:
            array = np.rint(array * 255).astype(np.uint8)
    return _explained(lambda: _finish(_Decoded(Image.fromarray(array)), name), name)


# -- masks ------------------------------------------------------------------------------------------------------------


def read_mask(path: Path | str, picture: ImageSource | None = None) -> np.ndarray:
    """`inspect_mask` without its note: bool (H, W), True where there is a defect. Raises ImageError."""
    return inspect_mask(path, picture)[0]


def inspect_mask(path: Path | str, picture: ImageSource | None = None) -> tuple[np.ndarray, str]:
    """(the defect mask in a file, what is worth knowing about it or ""); bool (H, W), True where there is a defect.

    A mask has two values: the lower one is good, the other defect; black and one colour are as good as grey. Up to 16
    values in a lossless file are numbers of defects, 0 is good. Soft edges, as JPEG and smoothing make them, are cut
    in the middle, with a note. Anything else is refused: photographs, colour maps, a colour on white. Transparent
    parts are black.
    `picture`: whose mask it is. Where EXIF turns the picture and says nothing of the mask, the mask is turned alike if
    only that fits; if its size fits either way and the turn changes it, nobody can know, and it is refused.
    Raises ImageError.
    """
    name = str(path)
    data = read_bytes(path)
    decoded = _explained(lambda: _decode(data, name), name)
    mask, note = _explained(lambda: _to_mask(decoded, name), name)
    if picture is None or isinstance(picture, np.ndarray) or decoded.orientation:
        return mask, note
    return _explained(lambda: _turned_as(mask, picture, name), name), note


def _to_mask(decoded: _Decoded, name: str) -> tuple[np.ndarray, str]:
    if _is_deep(decoded.image):
        values = np.asarray(decoded.image)
        values = (1 if values.dtype.kind == "f" else decoded.top) - values if decoded.inverted else values
        found = np.unique(values)
    else:
        image = _on_black(decoded.image)
        values = np.asarray(image).max(2)
        found = np.flatnonzero(np.bincount(values.ravel(), minlength=256))
        colours: list[Any] = sorted(colour for _, colour in image.getcolors(FEW) or ())
        if len(colours) > 1 and (0, 0, 0) not in colours and any(min(colour) != max(colour) for colour in colours):
            shown = ", ".join(map(str, colours[:4])) + ", ..."[: 5 * (len(colours) > 4)]
            raise ImageError(f"{name}: not a mask: its colours {shown} lack black, which means good; {TWO_VALUES}")
    low, high = found[0], found[-1]
    shown = ", ".join(map(str, found if len(found) < 8 else [*found[:3], "...", *found[-3:]]))
    if len(found) == 1:
        return values > 0, ""
    if len(found) == 2 and (high - low >= 128 or not decoded.lossy):
        return values > low, ""
    if low == 0 and len(found) <= FEW and not decoded.lossy and (found[1] >= high / 8 or high <= 2 * FEW):
        return values > 0, f"holds the values {shown}: all but 0 are counted as defect"
    mask = values > (float(low) + float(high)) / 2
    off = np.minimum(values - low, high - values)
    between = off > (high - low) / 8
    edge = maximum_filter(mask, SMEAR) != minimum_filter(mask, SMEAR)
    far = between if decoded.lossy else off > 0  # what no smear explains must not lie far from an edge
    is_soft = between.mean() < 0.25 and not (far & ~edge).any()
    # JPEG of a mask of 0 and 1, or of one without a defect, has no values far apart
    if not is_soft or low > high / 8 or (decoded.lossy and high < 128):
        raise ImageError(f"{name}: not a mask: it holds the values {shown}; {TWO_VALUES}")
    return mask, f"has soft edges, cut in the middle: {between.sum()} pixels lie between good and defect; {TWO_VALUES}"


def _turned_as(mask: np.ndarray, picture: Path | str | Image.Image, name: str) -> np.ndarray:
    """The mask as it lies on its upright picture."""
    with contextlib.ExitStack() as stack:
        image = picture
        if not isinstance(image, Image.Image):
            image = stack.enter_context(Image.open(image, formats=FORMATS))
        tags = getattr(image, "tag_v2", None)
        width, height = (tags[whole.WIDTH], tags[whole.HEIGHT]) if tags else image.size  # before any turn
        orientation = _orientation(image)
    turned = np.asarray(_turn(Image.fromarray(mask), orientation))
    if mask.shape != (height, width):
        return mask
    if turned.shape == mask.shape and not np.array_equal(turned, mask):
        raise ImageError(
            f"{name}: EXIF turns its picture (orientation {orientation}), the mask has no EXIF, and its size fits with "
            "and without the turn; save the picture upright, without EXIF, and the mask as it lies on that"
        )
    return turned


class Listing(NamedTuple):
    """What lies in a folder and the folders below it, each in natural order (2.png before 10.png)."""

    pictures: list[Path]  # by suffix
    unread: list[Path]  # files of a kind that people take for pictures and that is not read
    folders: list[Path]  # of storage servers and systems: thumbnails, waste; left out with all that they hold
    links: list[Path]  # to folders that are listed already, or that lead back up


def find_pictures(folder: Path | str) -> Listing:
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
            below = [Path(parent, name) for name in folders if not name.startswith(".")]
            found.folders.extend(path for path in below if path.name.casefold() in NO_PICTURES)
            below = sorted((path for path in below if path.name.casefold() not in NO_PICTURES), key=_natural)
            starts.extend(str(path) for path in below if path.is_symlink())
            folders[:] = [path.name for path in below if not path.is_symlink()]
            for name in files:
                suffix = Path(name).suffix.lower()
                if not name.startswith(".") and (suffix in SUFFIXES or suffix in LIKE_PICTURES):
                    (found.pictures if suffix in SUFFIXES else found.unread).append(Path(parent, name))
    for paths in found:
        paths.sort(key=_natural)
    return found


def list_images(folder: Path | str) -> list[Path]:
    """The pictures of `find_pictures`. Files of kinds that are not read are named in a warning."""
    found = find_pictures(folder)
    if found.unread:
        kinds = f"{count_kinds(found.unread)}, such as {found.unread[0].name}"
        log.warning("%s: files of kinds that are not read are left out: %s; save them as PNG", folder, kinds)
    if found.folders:
        names = first_names([str(path) for path in found.folders])
        log.warning("%s: folders that by their names hold no camera's pictures are left out: %s", folder, names)
    return found.pictures


def pictures_at(place: Path) -> list[Path]:
    """The pictures of a folder, or the one that is named. Raises InlierError for a folder without pictures."""
    if not place.is_dir():
        return [place]
    if pictures := list_images(place):
        return pictures
    raise InlierError(no_pictures(place))


def no_pictures(folder: Path) -> str:
    """What a folder without pictures holds, for people."""
    others = count_kinds(file for file in folder.rglob("*") if file.is_file())
    return f"{folder}: holds no pictures {SUFFIX_LIST}, {f'but {others}' if others else 'no file at all'}"


def count_kinds(paths: Iterable[Path]) -> str:
    """For people: how many files have which suffix, such as "2 .gif, 1 .heic"."""
    kinds = Counter(path.suffix.lower() or "without a suffix" for path in paths)
    return ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())


def _natural(path: Path) -> tuple[list[Any], str]:
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", str(path))], str(path)
