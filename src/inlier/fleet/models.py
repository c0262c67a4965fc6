"""Which model of a part is in use: a pointer to a file in the store, which is never written again."""

import json
import time

from inlier.fleet import ledger
from inlier.fleet.ledger import Row
from inlier.fleet.store import Store


def models_in_use(store: Store) -> dict[str, str]:
    """Part -> its model's path in the store."""
    return {
        name.removesuffix(".json"): json.loads(text)["model"] for name, text in store.read_all("use", ".json").items()
    }


def model_in_use(store: Store, part: str) -> str | None:
    content = store.read(f"use/{part}.json")
    return None if content is None else str(json.loads(content)["model"])


def use(store: Store, part: str, model: str) -> None:
    store.write(f"use/{part}.json", json.dumps({"model": model, "since": time.time()}).encode())


def proposals(store: Store) -> dict[str, Row]:
    """Part -> the row of its newest model, where that is not the one in use."""
    newest: dict[str, Row] = {}
    for verb in ("train", "calibrate"):
        for part, row in ledger.last(store, verb).items():
            if row["state"] == "done" and (part not in newest or row["time"] > newest[part]["time"]):
                newest[part] = row
    used = models_in_use(store)
    return {part: row for part, row in newest.items() if row["metrics"]["model"] != used.get(part)}
