"""The ledger: a row for each task that ran, for ever; and of each part and verb the last row, to know what is done.

A row is written by whoever did the task, as a file of its own in `ledger/`, because a bucket knows no appending and
many machines write at once. `fold` later puts many of them into one Parquet file. A crash in between leaves rows twice,
which their numbers tell; it never loses one.
"""

import json
import secrets
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from inlier.fleet.store import Store

if TYPE_CHECKING:
    import pyarrow as pa

Row = dict[str, Any]
FEW = 64  # rows in files of their own that are not worth folding
KINDS = {  # columns of the folded ledger
    **dict.fromkeys(("id",), "int64"),
    **dict.fromkeys(("run", "verb", "part", "state", "fingerprint", "error", "metrics", "warnings"), "string"),
    **dict.fromkeys(("time", "seconds", "processor_seconds", "memory"), "float64"),
    "attempts": "int64",
}


def new_number() -> int:
    return secrets.randbits(63)


def last(store: Store, verb: str) -> dict[str, Row]:
    """Part -> its last row of this verb."""
    return {
        name.removesuffix(".json"): json.loads(text) for name, text in store.read_all(f"rows/{verb}", ".json").items()
    }


def last_of(store: Store, verb: str, part: str) -> Row | None:
    content = store.read(f"rows/{verb}/{part}.json")
    return None if content is None else json.loads(content)


def add(store: Store, row: Row) -> None:
    """Append a row, and make it the last one of its part and verb. It is on the disk when this returns."""
    text = json.dumps(row, allow_nan=False).encode()
    store.write(f"ledger/{row['id']:016x}.json", text)
    replace(store, row)


def replace(store: Store, row: Row) -> None:
    """The last row alone: nothing was done that the ledger would tell."""
    store.write(f"rows/{row['verb']}/{row['part']}.json", json.dumps(row, allow_nan=False).encode())


def fold(store: Store, few: int = FEW) -> int:
    """Put rows that lie in files of their own into one; how many. Fewer than `few` stay as they are."""
    import io

    import pyarrow.parquet as pq

    names = [name for name in store.list("ledger") if name.endswith(".json")]
    if len(names) < few:
        return 0
    found = store.read_all("ledger", ".json")
    content = io.BytesIO()
    pq.write_table(_table(json.loads(text) for text in found.values()), content, compression="zstd")
    store.write(f"ledger/{new_number():016x}.parquet", content.getvalue())
    store.remove([f"ledger/{name}" for name in found])  # only now, and only what was read
    return len(found)


def table(store: Store, columns: Iterable[str] = KINDS) -> "pa.Table":
    """All rows, each once, in no order. columns: of KINDS."""
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    wanted = list(dict.fromkeys(["id", *columns]))
    # single rows first: one that is folded meanwhile is seen twice, not never
    loose = [json.loads(text) for text in store.read_all("ledger", ".json").values()]
    folded = store.read_all("ledger", ".parquet")
    parts = [pq.read_table(io.BytesIO(content), columns=wanted) for content in folded.values()]
    whole = pa.concat_tables([*parts, _table(loose).select(wanted)])
    return _each_once(whole)


def _each_once(whole: "pa.Table") -> "pa.Table":
    import numpy as np

    numbers = whole["id"].to_numpy()
    _, first = np.unique(numbers, return_index=True)
    return whole if len(first) == len(numbers) else whole.take(np.sort(first))


def _table(rows: Iterable[Mapping[str, Any]]) -> "pa.Table":
    import pyarrow as pa

    schema = pa.schema([(name, getattr(pa, kind)()) for name, kind in KINDS.items()])
    return pa.Table.from_pylist([{name: _flat(row.get(name)) for name in KINDS} for row in rows], schema)


def _flat(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, (dict, list)) else value
