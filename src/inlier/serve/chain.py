"""Rows that hold the hash of the row before: what is changed, missing or moved afterwards shows."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

START = "0" * 64  # what the first row has before it


def row_hash(row: Mapping[str, Any]) -> str:
    """sha256 over all values of a row, its number and the hash of the row before included.

    >>> row_hash({"id": 1, "score": 0.1})[:8] == row_hash({"score": 0.1, "id": 1})[:8]
    True
    """
    text = json.dumps(row, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode(errors="backslashreplace")).hexdigest()


def linked(rows: Iterable[Mapping[str, Any]], number: int, before: str) -> list[dict[str, Any]]:
    """The rows with the numbers and hashes that follow `number` and `before`."""
    made = []
    for row in rows:
        number += 1
        full = {**row, "id": number, "previous": before}
        before = row_hash(full)
        made.append({**full, "hash": before})
    return made


def faults(rows: Iterable[Mapping[str, Any]], what: str, end: tuple[int, str]) -> Iterator[str]:
    """What is wrong with a chain, row by row as they come. end: number and hash of the last row, kept apart."""
    number, before = 0, START
    for row in rows:
        if row["id"] != number + 1:
            missing = f"{what} {number + 1}" if row["id"] == number + 2 else f"{what}s {number + 1} to {row['id'] - 1}"
            yield f"{missing}: missing"
        elif row["previous"] != before:
            yield f"{what} {row['id']}: does not follow the row before it, which was changed or exchanged"
        if not _is_as_written(row):
            yield f"{what} {row['id']}: was changed after it was written"
        number, before = row["id"], row["hash"]
    if number < end[0]:
        first = number + 1
        yield (f"{what} {first}" if first == end[0] else f"{what}s {first} to {end[0]}") + ": missing at the end"
    elif (number, before) != end:
        yield f"{what} {number}: is not the last row that was written"


def _is_as_written(row: Mapping[str, Any]) -> bool:
    try:
        return row_hash({name: value for name, value in row.items() if name != "hash"}) == row["hash"]
    except (TypeError, ValueError):  # bytes or infinity, for which there is no hash: they were never written
        return False
