"""Rows as tables of Arrow, which are what is kept as Parquet."""

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa


def table(rows: Iterable[Mapping[str, Any]], columns: Mapping[str, str]) -> "pa.Table":
    """columns: name -> Arrow's kind. Lists and dictionaries become JSON; bytes of names that are no text, escapes."""
    import pyarrow as pa

    schema = pa.schema([(name, getattr(pa, kind)()) for name, kind in columns.items()])
    return pa.Table.from_pylist([{name: _cell(row.get(name)) for name in columns} for row in rows], schema)


def _cell(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode(errors="backslashreplace").decode()
    return json.dumps(value) if isinstance(value, (dict, list)) else value
