"""Which mask belongs to which picture: by name, in the ways that people and tools name them."""

import re
import unicodedata
from collections.abc import Iterable
from pathlib import PurePath

from inlier.data.datasets.tree import Parts
from inlier.data.images import SUFFIXES

MARK = re.compile(r"(.+?)[-_ .]*(mask|gt|label|seg|annotation)s?", re.IGNORECASE)  # 000_mask, 000-GT, 000_label


def match_masks(
    pictures: Iterable[Parts], masks: Iterable[Parts]
) -> tuple[dict[Parts, tuple[Parts, ...]], list[Parts]]:
    """(masks of each picture that has some, masks that match no picture).

    Both are paths below their own folder, such as ("hole", "000.png") below test and ("hole", "000_mask.png") below
    ground_truth. A mask may be called 000_mask, 000, 000_gt, 000_label, 000.png (each with a suffix), or lie in a
    folder 000, with others (MVTec LOCO). Case does not matter, nor does how an umlaut is written. Where several names
    fit, the first way in this order counts and the others match nothing.
    """
    ways: dict[Parts, list[list[Parts]]] = {}
    for mask in masks:
        for rank, key in enumerate(_keys(mask)):
            if key:
                ways.setdefault(key, [[] for _ in range(4)])[rank].append(mask)
    found, used = {}, set()
    for picture in pictures:
        *folders, name = _plain(picture)
        keys = [(*folders, name), (*folders, _stem(name))]  # 000.png.png belongs to 000.png before 000.jpg
        ranked = [group for rank in range(4) for key in keys if (group := ways.get(key, [[]] * 4)[rank])]
        if ranked:
            found[picture] = tuple(ranked[0])
            used.update(ranked[0])
    return found, [mask for mask in masks if mask not in used]


def is_marked(name: str) -> str | None:
    """The stem of the picture that a file called like a mask belongs to: "000" for 000_mask.png. None: no mask."""
    marked = MARK.fullmatch(PurePath(name).stem)
    return marked[1] if marked else None


def _keys(mask: Parts) -> list[Parts | None]:
    """The names that a picture of this mask may have, in the order of their right."""
    *folders, name = _plain(mask)
    stem = _stem(name)
    marked = MARK.fullmatch(stem)
    return [
        (*folders, _stem(marked[1])) if marked and marked[2] == "mask" else None,
        (*folders, stem),
        (*folders, marked[1]) if marked else None,
        tuple(folders) if len(folders) > 1 else None,  # 000/000.png, 000/001.png
    ]


def _plain(parts: Parts) -> list[str]:
    return [unicodedata.normalize("NFC", part).casefold() for part in parts]


def _stem(name: str) -> str:
    """Without the suffix of a picture; "part 1.a" has none."""
    path = PurePath(name)
    return path.stem if path.suffix.lower() in SUFFIXES else name
