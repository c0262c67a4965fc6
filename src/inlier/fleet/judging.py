"""Pictures of one part to rows of verdicts, the same in a task, in bulk, and beside a station's records."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inlier.fleet import tables
from inlier.fleet.plan import Part
from inlier.fleet.store import Store
from inlier.inspection.inspector import Inspector
from inlier.runtime.load import load

if TYPE_CHECKING:
    import pyarrow as pa

COLUMNS = {
    **dict.fromkeys(("path", "part", "model", "digest", "verdict", "error"), "string"),
    **dict.fromkeys(("score", "p_value", "threshold", "alpha"), "float64"),
}


def load_from(store: Store, model: str) -> Inspector:
    """Raises InlierError where the store has no such model any more."""
    with store.file(model) as file:
        return load(file)


def judged(
    model: Inspector, part: Part, name: str, paths: Sequence[str | os.PathLike[str]], readers: int
) -> "pa.Table":
    """A row for each picture, in order: its verdict, or why it could not be read. name: of the model, for the row."""
    category = model.category_of(part.category)
    found = model.predict(
        list(map(str, paths)), alpha=part.alpha, category=category, workers=readers, errors="keep", maps=False
    )
    rows: list[dict[str, Any]] = []
    for p in found:
        row = {key: getattr(p, key) for key in ("path", "score", "p_value", "threshold", "verdict", "alpha", "error")}
        rows.append(row | {"part": part.name, "model": name, "digest": _digest(Path(p.path))})
    return tables.table(rows, COLUMNS)


def _digest(path: Path) -> str:
    """sha256 of the file; "" where it has gone."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""
