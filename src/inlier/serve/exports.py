"""Records and pictures for other programs."""

import csv
import io
import json
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from inlier.data.images import decode_image
from inlier.drawing import as_file
from inlier.errors import InlierError
from inlier.serve.pictures import Pictures
from inlier.serve.store import VERIFY, Filter, Row, Store, shown_time
from inlier.serve.tables import records

NESTED = ("settings", "regions", "timings")
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet would run
TEST = 5  # every so many-th good picture, by its content, is for testing


def public(row: Row) -> Row:
    """A record as others see it: the time as text, UTC."""
    first = {"id": row["id"], "time": shown_time(row["time"])}
    return first | {key: value for key, value in row.items() if key not in first}


def jsonl(rows: Iterable[Row]) -> Iterator[str]:
    """Raises InlierError for a record of numbers that JSON has not: somebody changed it."""
    for row in rows:
        try:
            yield json.dumps(public(row), allow_nan=False) + "\n"
        except ValueError:
            raise InlierError(f"record {row['id']}: holds an infinite number since it was changed; {VERIFY}") from None


def as_csv(rows: Iterable[Row]) -> Iterator[str]:
    """With a line of names; what is nested is JSON. Texts that a spreadsheet would run get an apostrophe in front."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [column.name for column in records.c])
    writer.writeheader()
    for row in rows:
        yield text.getvalue()
        text.seek(0)
        text.truncate()
        writer.writerow({key: _harmless(value) for key, value in _flat(row).items()})
    yield text.getvalue()


def parquet(rows: Iterable[Row], file: Any) -> None:
    """Write to an open file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = ("station", "part", "lot", "key", "picture", "model", *NESTED, "verdict", "error", "previous", "hash")
    kinds = {"id": pa.int64(), "time": pa.timestamp("us", "UTC")}
    kinds |= dict.fromkeys(texts, pa.string()) | dict.fromkeys(("label", "kept"), pa.string())
    kinds |= dict.fromkeys(("score", "p_value", "threshold", "latency"), pa.float64())
    schema = pa.schema(list(kinds.items()))
    with pq.ParquetWriter(file, schema) as writer:
        for part in _parts(rows, 10_000):
            flat = [_flat(row) | {"time": row["time"]} for row in part]
            writer.write_table(pa.Table.from_pylist(flat, schema))


def labelled(store: Store, pictures: Pictures, station: str) -> Iterator[tuple[str, bytes]]:
    """(path, content) of a folder as MVTec AD's: labelled pictures that are kept, each once, by its last label.

    Good ones go to train/good, every fifth to test/good; defects to test/defect, with a mask where regions were drawn.
    """
    last: dict[str, Row] = {}
    for label in ("good", "defect"):
        for row in store.all(Filter(station, label=label, kept=True)):  # type: ignore[arg-type]
            before = last.get(row["picture"])
            if before is None or _labelled_at(store, row) > _labelled_at(store, before):
                last[row["picture"]] = row
    for row in sorted(last.values(), key=lambda row: row["id"]):
        try:
            raw = pictures.read(row["kept"])
        except InlierError:
            continue
        name = f"{row['id']:09}{Path(row['kept']).suffix}"
        if row["label"] == "good":
            place = "test/good" if int(row["picture"][:8], 16) % TEST == 0 else "train/good"
            yield f"{station}/{place}/{name}", raw
            continue
        yield f"{station}/test/defect/{name}", raw
        if drawn := store.actions(row["id"], limit=1)[0]["details"].get("regions"):
            yield f"{station}/ground_truth/defect/{Path(name).stem}_mask.png", _mask(raw, drawn)


def zipped(files: Iterable[tuple[str, bytes]], file: Any) -> None:
    """Write a zip to an open file."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, content in files:
            archive.writestr(name, content)


def map_array(map: np.ndarray) -> bytes:
    """float32 .npy, NaN where nothing was inspected."""
    content = io.BytesIO()
    np.save(content, map, allow_pickle=False)
    return content.getvalue()


def _labelled_at(store: Store, row: Row) -> int:
    return next((int(a["id"]) for a in store.actions(row["id"]) if a["what"] == "label"), 0)


def _mask(raw: bytes, regions: list[list[list[float]]]) -> bytes:
    mask = Image.new("L", decode_image(raw, "the picture").size)
    for polygon in regions:
        ImageDraw.Draw(mask).polygon([(x, y) for x, y in polygon], fill=255)
    return as_file(mask, "png")


def _flat(row: Row) -> Row:
    told = public(row)
    return told | {name: json.dumps(told[name]) for name in NESTED}


def _harmless(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value


def _parts(rows: Iterable[Row], size: int) -> Iterator[list[Row]]:
    part: list[Row] = []
    for row in rows:
        part.append(row)
        if len(part) == size:
            yield part
            part = []
    if part:
        yield part
