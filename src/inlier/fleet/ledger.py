"""The ledger: a row for each task that ran, for ever; and of each part and verb the last row, to know what is done.

A row is written by whoever did the task, as a file of its own in `ledger/`, because a bucket knows no appending and
many machines write at once. `fold` later puts many of them into one Parquet file. A crash in between leaves rows twice,
which their numbers tell; it never loses one.
"""

import json
import secrets
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from inlier.errors import InlierError
from inlier.fleet import tables
from inlier.fleet.contents import read_row
from inlier.fleet.store import Store

if TYPE_CHECKING:
    import pyarrow as pa

Row = dict[str, Any]
FEW = 64  # rows in files of their own that are not worth folding
COLUMNS = {  # of the folded ledger, with Arrow's kinds
    "id": "int64",
    **dict.fromkeys(("run", "verb", "part", "state", "fingerprint", "error", "metrics", "warnings"), "string"),
    **dict.fromkeys(("time", "seconds", "processor_seconds", "memory"), "float64"),
    "attempts": "int64",
}


def new_number() -> int:
    return secrets.randbits(63)


def last(store: Store, verb: str) -> dict[str, Row]:
    """Part -> its last row of this verb. Raises InlierError for a damaged one."""
    folder = f"rows/{verb}"
    found = store.read_all(folder, ".json").items()
    return {name.removesuffix(".json"): read_row(store, f"{folder}/{name}", text) for name, text in found}


def last_of(store: Store, verb: str, part: str) -> Row | None:
    """Raises InlierError for a damaged one."""
    content = store.read(path := f"rows/{verb}/{part}.json")
    return None if content is None else read_row(store, path, content)


def add(store: Store, row: Row) -> None:
    """Append a row, and make it the last one of its part and verb. It is on the disk when this returns."""
    text = json.dumps(row, allow_nan=False).encode()
    store.write(f"ledger/{row['id']:016x}.json", text)
    replace(store, row)


def replace(store: Store, row: Row) -> None:
    """The last row alone: nothing was done that the ledger would tell."""
    store.write(f"rows/{row['verb']}/{row['part']}.json", json.dumps(row, allow_nan=False).encode())


def fold(store: Store) -> None:
    """Put rows that lie in files of their own into one. FEW of them stay as they are."""
    if sum(name.endswith(".json") for name in store.list("ledger")) < FEW:
        return
    found = store.read_all("ledger", ".json")
    rows = [read_row(store, f"ledger/{name}", text) for name, text in found.items()]
    store.write_table(f"ledger/{new_number():016x}.parquet", tables.table(rows, COLUMNS))
    store.remove([f"ledger/{name}" for name in found])  # only now, and only what was read


def table(store: Store, columns: Iterable[str] = COLUMNS) -> "pa.Table":
    """All rows, each once, in no order. columns: of COLUMNS. Raises InlierError for damaged files."""
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    wanted = list(dict.fromkeys(["id", *columns]))
    # single rows first: one that is folded meanwhile is seen twice, not never
    loose = [read_row(store, f"ledger/{name}", text) for name, text in store.read_all("ledger", ".json").items()]
    folded = store.read_all("ledger", ".parquet")
    parts = []
    for name, content in folded.items():
        try:
            parts.append(pq.read_table(io.BytesIO(content), columns=wanted).select(wanted))
        except (pa.ArrowException, OSError, KeyError):
            raise InlierError(
                f"{store.place}/ledger/{name}: is damaged; put a copy of it back, or remove it and lose its rows"
            ) from None
    whole = pa.concat_tables([*parts, tables.table(loose, COLUMNS).select(wanted)])
    return _each_once(whole)


def _each_once(whole: "pa.Table") -> "pa.Table":
    import numpy as np

    numbers = whole["id"].to_numpy()
    _, first = np.unique(numbers, return_index=True)
    return whole if len(first) == len(numbers) else whole.take(np.sort(first))
