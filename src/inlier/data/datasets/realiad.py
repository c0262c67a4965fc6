"""Real-IAD: a JSON file for each category, and the pictures in a folder beside those files."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from inlier.artifact import read_text
from inlier.data.datasets.sample import Dataset, Row, Sample, Split, count_categories, join_rows, unused_defects
from inlier.errors import InlierError

TABLES = ("", "realiad_jsons", "realiad_jsons/realiad_jsons")  # where the tables lie below what is passed
PICTURES = ("", "realiad_1024", "realiad_512", "realiad_256", "realiad_raw")  # ... and the pictures, best first
SPLITS: tuple[Split, ...] = ("train", "test")


def open_realiad(root: Path) -> Dataset | None:
    """A folder of such JSON files, one that holds it, or a single one of these files; None if there is none.

    Raises InlierError for a table that cannot be read.
    """
    tables = next((found for name in TABLES if (found := _tables(root / name))), [])
    if not tables:
        return None
    folder = tables[0].parent
    samples, joined = join_rows([row for table in tables for row in _rows(table, folder)])
    if not samples:
        raise InlierError(f"{folder}: tables of Real-IAD without an entry under train or test")
    chosen = (
        []
        if folder == root or root.is_file()
        else [f"the split is that of {folder}; pass another folder of tables for another"]
    )
    notes = (*chosen, *unused_defects(samples), *joined)
    return Dataset(folder.resolve().name, f"Real-IAD, {count_categories(samples)}", samples, notes)


def _tables(place: Path) -> list[Path]:
    files = [place] if place.is_file() and place.suffix.lower() == ".json" else sorted(place.glob("*.json"))
    return files if files and _is_table(_read(files[0])) else []


def _is_table(content: Any) -> bool:
    return (
        isinstance(content, dict)
        and isinstance(content.get("meta"), dict)
        and any(split in content for split in SPLITS)
        and all(isinstance(content.get(split, []), list) for split in SPLITS)
    )


def _read(path: Path) -> Any:
    """None for what is no JSON. In any encoding: whether it has to be mended depends on what it is."""
    try:
        raw = path.read_bytes()
        return json.loads(raw.decode(json.detect_encoding(raw), errors="replace"))
    except (OSError, ValueError, RecursionError):
        return None


def _rows(table: Path, folder: Path) -> Iterable[Row]:
    read_text(table)  # raises for another encoding than UTF-8
    content = _read(table)
    if not _is_table(content):
        raise InlierError(
            f"{table}: is no table of Real-IAD as its neighbours are (meta, train, test); move it elsewhere"
        )
    good = content["meta"].get("normal_class", "OK")
    base: Path | None = None
    for split in SPLITS:
        for number, row in enumerate(content.get(split, [])):
            place = f"{split}, entry {number}"
            cells = row if isinstance(row, dict) else {}
            image, kind, mask = (cells.get(key) for key in ("image_path", "anomaly_class", "mask_path"))
            if not (isinstance(image, str) and image and isinstance(kind, str) and isinstance(mask, (str, type(None)))):
                wanted = "needs image_path and anomaly_class, and mask_path may be a path or null"
                raise InlierError(f"{table}, {place}: {wanted}")
            category = str(cells.get("category") or table.stem)
            base = base or _base(folder, [str(content["meta"].get("prefix") or category), category, ""], image)
            defect = None if kind == good else kind
            masks = (base / mask,) if mask else ()
            yield Row(table, place, Sample(base / image, category, split, defect, masks))


def _base(folder: Path, prefixes: list[str], image: str) -> Path:
    """The folder that the paths of a table start from. Raises InlierError where none has its first picture."""
    above = [folder, *folder.resolve().parents[:3]]
    places = [parent / name / prefix for parent in above for name in PICTURES for prefix in prefixes]
    for place in places:
        if (place / image).is_file():
            return place
    looked = ", ".join(str(parent / name) for parent in above[:2] for name in PICTURES[:2])
    raise InlierError(
        f"{folder}: the picture {prefixes[0]}/{image} lies in no folder beside it (looked in {looked}, ...)"
    )
