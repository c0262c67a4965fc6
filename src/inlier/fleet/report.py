"""A page of the plant, from the store alone: every part, what its last model changed, and the runs so far."""

import json
import time
from collections.abc import Mapping
from typing import Any

from inlier.fleet import ledger
from inlier.fleet.ledger import Row
from inlier.fleet.models import in_use, proposals
from inlier.fleet.store import Store
from inlier.fleet.tasks import VERBS
from inlier.report.pages import render

RUNS = 200  # of the newest, in the table of runs
MIB = 2**20
COLUMNS = {  # head -> what it means
    "part": "",
    "state": "in use; proposed: a newer model waits; failed: the last training did (an older model is used); no model",
    "method": "",
    "age, h": "hours since the model in use was taken into use",
    "drift": "evidence that parts have changed, as a power of ten; 99 % of unchanged streams raise no alarm",
    "false alarms, %": "what the calibration promises on average",
    "at most, %": "... and with 95 % confidence for this very calibration",
    "alarms on kept, %": "share of the kept good pictures that raise one",
    "planted found, %": "share of the defects planted in kept good pictures that are found",
    "AUROC, %": "of the last evaluation on labelled pictures",
    "seconds": "of the last training",
    "processor s": "that processors worked for it",
    "memory, MiB": "its highest",
    "note": "",
}


def page(store: Store) -> str:
    rows = {verb: ledger.last(store, verb) for verb in VERBS}
    used, waiting = in_use(store), proposals(store)
    names = sorted({*used, *(name for of in rows.values() for name in of)})
    now = time.time()
    parts = [line({verb: of.get(name) for verb, of in rows.items()}, name, used, waiting, now) for name in names]
    changes = [found for name in names for verb in ("train", "calibrate") if (found := _change(rows[verb].get(name)))]
    n, runs = _runs(store)
    return render(
        "fleet.html.j2",
        "inlier.fleet",
        columns=list(COLUMNS.items()),
        data=_embedded({"parts": parts, "changes": changes, "runs": runs}),
        counts={state: sum(one[1] == state for one in parts) for state in ("in use", "proposed", "failed", "no model")},
        rows=n,
        made=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(now)),
    )


def line(
    last: Mapping[str, Row | None],
    name: str,
    used: Mapping[str, Mapping[str, Any]],
    waiting: Mapping[str, Row],
    now: float,
) -> list[Any]:
    """A part's values, as COLUMNS; None where there is none. last: verb -> its last row."""
    train, model = last["train"], used.get(name)
    said = model["said"] if model else {}
    drift = _metrics(last["predict"]).get("drift")
    errors = {verb: row["error"] for verb, row in last.items() if row and row["state"] != "done"}
    state = (
        "failed" if train and train["state"] != "done"
        else "proposed" if name in waiting
        else "in use" if model
        else "no model"
    )  # fmt: skip
    notes = [f"{verb}: {error}" for verb, error in errors.items()]
    notes += waiting[name]["metrics"]["objections"] if name in waiting else []
    notes += [f"drift: {drift['alarm']}"] if drift and drift["alarm"] else []
    fit = train if train and train["state"] == "done" else None
    return [
        name,
        state,
        _metrics(fit).get("method"),
        round((now - model["since"]) / 3600, 1) if model else None,
        round(drift["evidence"], 1) if drift else None,
        _percent(said.get("average")),
        _percent(said.get("confident")),
        _share(said.get("alarms")),
        _share(said.get("found")),
        _percent(((_metrics(last["evaluate"]).get("mean") or {}).get("image") or {}).get("auroc")),
        fit and round(fit["seconds"], 1),
        fit and round(fit["processor_seconds"], 1),
        fit and round(fit["memory"] / MIB),
        "; ".join(notes),
    ]


def _metrics(row: Row | None) -> dict[str, Any]:
    return row["metrics"] if row and row["state"] == "done" else {}


def _change(row: Row | None) -> list[Any] | None:
    """What a model that was proposed to take another's place changes."""
    metrics = _metrics(row)
    if row is None or not metrics.get("replaces"):
        return None
    new, old = metrics["change"]["new"], metrics["change"]["old"]
    pairs = [(_percent(of.get("confident")), _share(of.get("alarms")), _share(of.get("found"))) for of in (old, new)]
    verdict = "in use" if metrics["promoted"] else "proposed"
    numbers = [value for pair in zip(*pairs, strict=True) for value in pair]
    return [row["part"], row["verb"], verdict, metrics["change"]["kept"], *numbers, "; ".join(metrics["objections"])]


def _runs(store: Store) -> tuple[int, list[list[Any]]]:
    """(rows of the ledger, the newest runs: name, verb, tasks, failed, seconds of all tasks, minutes that it took)."""
    import pyarrow.compute as pc

    table = ledger.table(store, ("run", "verb", "state", "seconds", "time"))
    failed = pc.not_equal(table["state"], "done")  # type: ignore[attr-defined]
    of = table.append_column("failed", failed).group_by(["run", "verb"])
    found = of.aggregate([("time", "count"), ("failed", "sum"), ("seconds", "sum"), ("time", "min"), ("time", "max")])
    newest = sorted(found.to_pylist(), key=lambda run: run["time_max"], reverse=True)[:RUNS]
    lines = [
        [
            run["run"],
            run["verb"],
            run["time_count"],
            run["failed_sum"],
            round(run["seconds_sum"] or 0, 1),
            round((run["time_max"] - run["time_min"]) / 60, 1),
        ]
        for run in newest
    ]
    return len(table), lines


def _percent(share: float | None) -> float | None:
    return None if share is None else round(100 * share, 2)


def _share(flags: list[bool] | None) -> float | None:
    return None if not flags else round(100 * sum(flags) / len(flags), 1)


def _embedded(value: Any) -> str:
    """JSON that may stand in a page's script: nothing in it can end the script."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
