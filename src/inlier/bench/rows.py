"""The rows of a sweep: one JSON line for each model and category, appended so that a crash costs no finished one."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from inlier.errors import ArtifactError, InlierError

Row = dict[str, Any]
Key = tuple[Any, ...]
FILE = "rows.jsonl"


def key(row: Mapping[str, Any]) -> Key:
    """What a row is about; of two rows with the same, the later one counts.

    The data is known by its fingerprint, so a set may move; rows of before there were any, by its name.
    """
    judged = row.get("at_alpha") or {}
    return (
        row.get("kind", "test"),
        row.get("fingerprint") or row["data"],
        row["category"],
        json.dumps(row.get("joint"), sort_keys=True),
        row["method"],
        row["preset"],
        json.dumps(row["settings"], sort_keys=True),
        row.get("alpha", judged.get("alpha")),
        row["seed"],
    )


def read(folder: Path) -> list[Row]:
    """The rows of a folder, in the order in which they were written first; none where there are none.

    A last line without its end is what a crash leaves, and is no row. Raises InlierError for any other damage.
    """
    found: dict[Key, Row] = {}
    for number, line in enumerate(_whole(folder / FILE).splitlines(), 1):
        try:
            row = json.loads(line)
            found[key(row)] = row
        except (ValueError, KeyError, TypeError, AttributeError):
            raise InlierError(
                f"{folder / FILE}: line {number} is no row of a benchmark; mend or remove it, or choose another folder"
            ) from None
    return list(found.values())


def append(folder: Path, rows: Sequence[Row]) -> None:
    """Add rows, all in one piece, and have them on the disk before this returns. Raises ArtifactError if it refuses."""
    path = folder / FILE
    text = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = len(_whole(path))
        with path.open("ab") as file:
            file.truncate(whole)  # half a line would spoil the next one
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be written ({error.strerror or error})") from error


def missing(wanted: Iterable[Row], rows: Iterable[Row]) -> list[Row]:
    """Those of the wanted rows (what `key` needs of them) that are not finished. What failed is run again: it may have
    been a full disk, or too little memory."""
    done = {key(row): row for row in rows if not row.get("error")}

    def is_done(row: Row) -> bool:
        found = done.get(key(row)) or done.get(key({**row, "fingerprint": None}))
        if found is None:
            return False
        # a preset may have changed since; a setting that is new changes nothing, or it would have another default
        old, new = found.get("all_settings", {}), row.get("all_settings", {})
        return all(old[name] == new[name] for name in old.keys() & new.keys())

    return [row for row in wanted if not is_done(row)]


def about_same(wanted: Iterable[Row], rows: Iterable[Row]) -> list[Row]:
    """The rows that are about the same as the wanted ones."""
    keys = {key(row) for row in wanted}
    return [row for row in rows if key(row) in keys]


def _whole(path: Path) -> bytes:
    """What is in the file, up to the end of its last whole line."""
    content = path.read_bytes() if path.exists() else b""
    return content[: content.rfind(b"\n") + 1]
