"""Is a picture file whole? Decoders fill what is missing with grey or with what was there before, and say nothing."""

import io
import math
import re
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

PNG = b"\x89PNG\r\n\x1a\n"
JPEG_SPACES = {"L": "GRAY", "RGB": "RGB"}  # Pillow's mode -> simplejpeg's name; CMYK differs from Pillow's
# TIFF
WIDTH, HEIGHT, COMPRESSION, SAMPLES, ROWS, PLANAR, JPEG_TABLES, TILE = 256, 257, 259, 277, 278, 284, 347, (322, 323)
OFFSETS, COUNTS = (273, 324), (279, 325)  # of strips or tiles
LZW, JPEG_IN_TIFF, DEFLATE = 5, 7, (8, 32946)
# No writer of LZW or JPEG 2000 makes so many zero bytes in a row, whatever the picture: at most 11 were seen.
ZEROS = bytes(64)
GAP = "zeros stand where a part of the picture should be"
WEBP_ZEROS = rb"\0{128,}"
SMOOTH = 16  # largest difference, of 255, inside a block that WebP codes with next to nothing


class Stream(io.BytesIO):
    """Bytes of a file. Once `strict`, reading on at their end is an error, whatever Pillow was told to let pass."""

    strict = False

    def read(self, size: int | None = -1, /) -> bytes:
        got = super().read(size)
        if self.strict and size and not got:
            raise EOFError("the file ends too early")
        return got


def decode_jpeg(
    data: bytes, mode: str, least: tuple[int, int] = (0, 0)
) -> tuple[NDArray[np.uint8], tuple[int, int]] | None:
    """(H, W) or (H, W, 3), the bits that Pillow gives, for mode L or RGB; and H, W. None: only Pillow reads this kind.

    least: height and width that are enough; the decoder makes the picture smaller, to a number of eighths, where it
    can. All of the data is read all the same. Raises ValueError where it shows any sign of damage.
    """
    if mode not in JPEG_SPACES:
        return None
    try:
        height, width = simplejpeg.decode_jpeg_header(data)[:2]
    except ValueError as error:
        if "subsampling" in str(error):  # an unusual one, such as 4:1:0
            return None
        raise
    # the decoder does not count what lies below `least` as wrong, so a small picture is decoded whole
    enough = least if least[0] and height > least[0] and width > least[1] else (0, 0)
    pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(
        data, JPEG_SPACES[mode], min_height=enough[0], min_width=enough[1]
    )
    return (pixels[..., 0] if mode == "L" else pixels), (height, width)


def bare_png(data: bytes) -> bytes:
    """A PNG with nothing but its pixels and EXIF: text and colour profiles cannot stop it from being read.

    Raises ValueError when a part that decides the pixels is damaged, or the end is missing.
    """
    parts, place = [PNG], len(PNG)
    while place + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        end = place + 12 + length
        if kind[:1].isupper() or kind == b"tRNS":  # capitals: what a reader must understand
            if end > len(data) or zlib.crc32(data[place + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
                raise ValueError(f"{kind.decode('latin-1')} is damaged or cut off")
            parts.append(data[place:end])
        elif kind == b"eXIf":
            parts.append(data[place:end])
        if kind == b"IEND":
            return b"".join(parts)
        place = end
    raise ValueError("the end is missing")


def check(data: bytes, image: Image.Image) -> None:
    """What Pillow's own decoder of this file, decoded into `image`, does not notice. Raises ValueError."""
    if image.format == "TIFF":
        _check_tiff(data, image.tag_v2)  # type: ignore[attr-defined]
    elif image.format == "JPEG2000":
        _check_jpeg_2000(data[data.find(b"\xff\x4f\xff\x51") :])
    elif image.format == "WEBP" and not getattr(image, "is_animated", False):
        _check_webp(data, image)
    elif image.format == "BMP" and image.info.get("compression") == 1 and b"\0\1" not in data[-6:]:  # RLE
        raise ValueError("the end is missing")


def _check_jpeg_2000(stream: bytes) -> None:
    """From one part to the next, by the lengths they state, up to the end mark."""
    place = 2
    while (marker := stream[place : place + 2]) != b"\xff\xd9":
        length, part = struct.unpack_from(">H2xI", stream, place + 2)
        if marker == b"\xff\x90":  # a part of a tile; only the last one may leave its length out
            place = place + part if part else max(place, len(stream) - 2)
        else:
            place += 2 + length
    if ZEROS in stream[:place]:
        raise ValueError(GAP)


def _check_tiff(data: bytes, tags: Any) -> None:
    """Enough strips or tiles, and each by itself: a checksum if deflated, strict decoding for JPEG, no zeros in LZW."""
    width, height = tags[WIDTH], tags[HEIGHT]
    across, down = (tags[name] for name in TILE) if TILE[0] in tags else (width, tags.get(ROWS, height))
    planes = tags.get(SAMPLES, 1) if tags.get(PLANAR, 1) == 2 else 1
    if len(_first(tags, OFFSETS)) < math.ceil(width / across) * math.ceil(height / down) * planes:
        raise ValueError("it has fewer parts than its size needs")
    kind = tags.get(COMPRESSION, 1)
    if kind != LZW and kind != JPEG_IN_TIFF and kind not in DEFLATE:
        return
    offsets, counts = (_first(tags, names) for names in (OFFSETS, COUNTS))
    for offset, count in zip(offsets, counts):
        part = data[offset : offset + count]
        if kind == LZW and ZEROS in part:
            raise ValueError(GAP)
        if kind in DEFLATE:
            _check_deflated(part)
        if kind == JPEG_IN_TIFF:
            tables = tags.get(JPEG_TABLES, b"")[:-2]  # without its end mark; the part goes without its start mark
            whole = tables + part[2:] if tables else part
            decode_jpeg(whole, "L" if simplejpeg.decode_jpeg_header(whole)[2] == "Gray" else "RGB")


def _first(tags: Any, names: Sequence[int]) -> Sequence[int]:
    return next((tags[name] for name in names if name in tags), ())


def _check_deflated(part: bytes) -> None:
    inflate = zlib.decompressobj()
    while not inflate.eof:
        if not inflate.decompress(part, 1 << 20) and not inflate.unconsumed_tail:
            raise ValueError("compressed data ends too early")
        part = inflate.unconsumed_tail


def _check_webp(data: bytes, image: Image.Image) -> None:
    """More zeros in a row than the smooth parts of the picture explain: these can be coded with nothing but zeros.

    Seen at most, with the most wasteful settings: .7 bytes a block of 16 x 16 lossy, 1.3 lossless.
    """
    place = 12
    while place + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, place)
        runs = re.findall(WEBP_ZEROS, data[place + 8 : place + 8 + length]) if kind in (b"VP8 ", b"VP8L") else []
        if runs:
            pixels = np.asarray(image.convert("RGB"))[: image.height // 16 * 16, : image.width // 16 * 16]
            blocks = pixels.reshape(image.height // 16, 16, image.width // 16, 16, 3)
            smooth = np.ptp(blocks, axis=(1, 3)).max(2, initial=0) <= SMOOTH
            if max(map(len, runs)) > smooth.sum() * (1 if kind == b"VP8 " else 32):
                raise ValueError(GAP)
        place += 8 + length + length % 2
