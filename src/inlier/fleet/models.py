"""Which model of a part is in use: a pointer to a file in the store, which is never written again."""

import json
import time
from collections.abc import Mapping
from typing import Any

from inlier.fleet import ledger
from inlier.fleet.contents import read_use
from inlier.fleet.ledger import Row
from inlier.fleet.store import Store


def in_use(store: Store) -> dict[str, dict[str, Any]]:
    """Part -> its model's path in the store, since when, and what it promised when it was proposed (see `promote`).

    Raises InlierError for a damaged file.
    """
    found = store.read_all("use", ".json").items()
    return {name.removesuffix(".json"): read_use(store, f"use/{name}", text) for name, text in found}


def models_in_use(store: Store) -> dict[str, str]:
    """Part -> its model's path in the store."""
    return {part: one["model"] for part, one in in_use(store).items()}


def model_in_use(store: Store, part: str) -> str | None:
    """Raises InlierError for a damaged file."""
    content = store.read(path := f"use/{part}.json")
    return None if content is None else str(read_use(store, path, content)["model"])


def use(store: Store, part: str, model: str, said: Mapping[str, Any]) -> None:
    content = {"model": model, "since": time.time(), "said": said}
    store.write(f"use/{part}.json", json.dumps(content, allow_nan=False).encode())


def proposals(store: Store) -> dict[str, Row]:
    """Part -> the row of its newest model, where that is not the one in use."""
    newest: dict[str, Row] = {}
    for verb in ("train", "calibrate"):
        for part, row in ledger.last(store, verb).items():
            if row["state"] == "done" and (part not in newest or row["time"] > newest[part]["time"]):
                newest[part] = row
    used = models_in_use(store)
    return {part: row for part, row in newest.items() if row["metrics"]["model"] != used.get(part)}
