"""Pictures beside the records: which are kept, where they lie, and when they go."""

import hashlib
import io
import logging
import time
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from inlier import artifact
from inlier.data.images import FORMATS, SUFFIXES_OF
from inlier.errors import ImageError, InlierError
from inlier.serve.config import Keep
from inlier.serve.store import Store, now

log = logging.getLogger("inlier")
DAY = 86_400_000_000  # microseconds
UNUSED = 3600.0  # seconds after which a file without a record is waste of a killed process


def wanted(keep: Keep, sha256: str, verdict: str | None, p_value: float | None) -> bool:
    """Whether a picture is kept. One in N is decided by its content, so that the same picture is always decided alike.

    >>> wanted(Keep(pictures="defects", near=0.05), "00", "good", 0.04)
    True
    >>> wanted(Keep(pictures="defects"), "00", "good", 0.04)
    False
    """
    if keep.pictures == "all" or (keep.pictures == "defects" and verdict != "good"):
        return True
    if p_value is not None and p_value <= keep.near:
        return True
    return keep.one_in > 0 and int(sha256[:12] or "0", 16) % keep.one_in == 0


def check_picture(raw: bytes, most: int) -> str:
    """The suffix of its kind, from the header alone. Raises ImageError for no picture, and for too many pixels."""
    try:
        with Image.open(io.BytesIO(raw), formats=FORMATS) as image:
            kind, (width, height) = str(image.format), image.size
    except Image.DecompressionBombError:
        raise ImageError(f"the picture has more pixels than this station takes ({most})") from None
    except Exception:
        raise ImageError(
            "this is no picture that can be read; send PNG, JPEG, BMP, TIFF, WebP, PPM or JPEG 2000"
        ) from None
    if width * height > most:
        raise ImageError(f"the picture has {width} x {height} pixels, more than this station takes ({most})")
    return SUFFIXES_OF.get("JPEG" if kind == "MPO" else kind, (".png",))[0]


class Pictures:
    """A folder of files named by their content, below the name of their station."""

    def __init__(self, folder: Path):
        self.folder = folder

    def keep(self, station: str, sha256: str, raw: bytes, suffix: str) -> str:
        """Write a picture whole or not at all; its name. Raises InlierError if the disk refuses."""
        name = f"{station}/{sha256[:2]}/{sha256}{suffix}"
        path = self.folder / name
        if not path.exists():
            artifact.write_bytes(path, raw)
        return name

    def path(self, name: str) -> Path:
        return self.folder / name

    def read(self, name: str) -> bytes:
        try:
            return (self.folder / name).read_bytes()
        except (OSError, TypeError, ValueError):  # the last two: somebody wrote into the record what names no file
            raise InlierError("the picture of this record is no longer kept") from None

    def changed(self, name: str, sha256: str) -> bool:
        """Whether a picture on the disk is no longer what was judged. Raises InlierError where it is not there."""
        return hashlib.sha256(self.read(name)).hexdigest() != sha256

    def sweep(self, station: str, keep: Keep, store: Store) -> None:
        """Remove what is too old or too much, and what no record knows. Labelled pictures stay."""
        rows = [(name, labelled) for name, labelled in store.kept() if name.startswith(f"{station}/")]
        gone: list[str] = []
        if keep.days is not None:
            old = {name for name, _ in store.kept(older=now() - round(keep.days * DAY))}
            gone = [name for name, labelled in rows if name in old and not labelled]
        if keep.gigabytes is not None:
            too_old = set(gone)
            left = [(name, labelled) for name, labelled in rows if name not in too_old]
            gone += oldest_beyond([(n, la, _size(self.path(n))) for n, la in left], keep.gigabytes * 2**30)
        for start in range(0, len(gone), 500):  # the database first: no record may name a file that is not there
            store.forget_pictures(gone[start : start + 500])
        for name in gone:
            self.path(name).unlink(missing_ok=True)
        known = {name for name, _ in rows}
        for path in (self.folder / station).glob("*/*"):
            is_known = path.relative_to(self.folder).as_posix() in known
            if not is_known and time.time() - path.stat().st_mtime > UNUSED:
                path.unlink(missing_ok=True)
        if gone:
            log.info("station %s: %d pictures removed, as its rules for keeping them say", station, len(gone))


def oldest_beyond(files: Sequence[tuple[str, bool, int]], most: float) -> list[str]:
    """Which of (name, labelled, bytes), oldest first, must go so that all others are at most `most` bytes.

    >>> oldest_beyond([("a", False, 5), ("b", True, 5), ("c", False, 5)], most=10)
    ['a']
    """
    total, gone = sum(size for _, _, size in files), []
    for name, labelled, size in files:
        if total <= most:
            break
        if not labelled:
            gone.append(name)
            total -= size
    return gone


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
