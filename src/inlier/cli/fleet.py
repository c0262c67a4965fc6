"""`inlier fleet`: the verbs of the command line for all parts of a plant."""

import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from inlier import artifact
from inlier.cli.options import Alpha
from inlier.cli.outputs import check_stdout, json_text, print_table, say, tell
from inlier.errors import InlierError
from inlier.names import shown

if TYPE_CHECKING:
    from inlier.fleet.engine import Engine, Where
    from inlier.fleet.plan import Plan
    from inlier.fleet.store import Store

fleet = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Train, calibrate and judge many parts: on this machine, on shares of many, or on a Ray cluster.",
)

PlanFile = Annotated[
    Path, typer.Argument(metavar="PLAN", help="A .toml file of parts, or a folder with a folder for each part.")
]
StorePlace = Annotated[
    str,
    typer.Option(
        "--store", metavar="DIR|URL", help="Where all results lie: a folder, or s3://BUCKET/PATH and the like."
    ),
]
Parts = Annotated[list[str] | None, typer.Option("--part", help="Only this part; repeat for several.")]
On = Annotated[str, typer.Option(help="local, shard:I/N (the I-th of N shares, on this machine), ray or ray:ADDRESS.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Tasks at once. Default: one a processor.")]
Memory = Annotated[
    float | None,
    typer.Option(min=0.1, help="GiB that the workers of this machine take together. Default: what is free."),
]
Promote = Annotated[
    str,
    typer.Option(
        help="auto: a new model is used unless something speaks against it; ask: `inlier fleet promote` decides."
    ),
]
STORE = "inlier-fleet"


@fleet.command("plan")
def plan_(
    plan: PlanFile,
    store: StorePlace = STORE,
    part: Parts = None,
    json_: Annotated[Path | None, typer.Option("--json", help="Write all of it to this file ('-': stdout).")] = None,
    on: On = "local",
    workers: Workers = None,
    memory: Memory = None,
) -> None:
    """Show all parts, and what `inlier check` says of each. Ends with exit code 1 if one cannot be used."""
    check_stdout()
    chosen, place = _open(plan, store, part, on)
    failed = _run("check", chosen, place, on, workers, memory, told=False)
    from inlier.fleet import ledger

    rows = ledger.last(place, "check")
    table = [one.model_dump() | {"check": _check_of(rows.get(one.name))} for one in chosen.parts]
    if json_:
        text = json_text(table, sys.stdout.encoding if str(json_) == "-" else "utf-8", indent=1)
        say(text) if str(json_) == "-" else artifact.write_bytes(json_, f"{text}\n".encode())
    else:
        heads = ("part", "method", "train", "validation", "test", "check")
        print_table(f"{shown(plan)}: {len(table)} parts", heads, map(_line, table), words=True)
    if failed:
        raise typer.Exit(1)


def _check_of(row: dict[str, Any] | None) -> dict[str, Any]:
    return {"error": "not checked"} if row is None else (row.get("metrics") or {}) | {"error": row["error"]}


def _line(part: dict[str, Any]) -> list[str]:
    found = part["check"]
    counts = found.get("pictures", {})
    method = part["method"] + "".join(f" {key}={value}" for key, value in part["settings"].items())
    words = found["error"] or "; ".join(found["notes"]) or "usable"
    return [part["name"], method, *(str(counts.get(split, "")) for split in ("train", "validation", "test")), words]


@fleet.command()
def train(
    plan: PlanFile,
    store: StorePlace = STORE,
    part: Parts = None,
    on: On = "local",
    workers: Workers = None,
    memory: Memory = None,
    promote: Promote = "auto",
) -> None:
    """Fit the parts whose good pictures or settings have changed, and propose their models."""
    _command("train", plan, store, part, on, workers, memory, promote=promote)


@fleet.command()
def calibrate(
    plan: PlanFile,
    store: StorePlace = STORE,
    part: Parts = None,
    on: On = "local",
    workers: Workers = None,
    memory: Memory = None,
    promote: Promote = "auto",
) -> None:
    """Calibrate the models in use anew on the good pictures that were kept (`good`), and propose the result."""
    _command("calibrate", plan, store, part, on, workers, memory, promote=promote)


@fleet.command()
def evaluate(
    plan: PlanFile,
    store: StorePlace = STORE,
    part: Parts = None,
    on: On = "local",
    workers: Workers = None,
    memory: Memory = None,
) -> None:
    """Compare the models in use with the truth, on the labelled test pictures of each part."""
    _command("evaluate", plan, store, part, on, workers, memory)


@fleet.command()
def predict(
    plan: PlanFile,
    pictures: Annotated[
        Path | None,
        typer.Option(
            help="Judge these in bulk: a .parquet or .csv listing (columns path, part), or a folder with a folder for "
            "each part. Default: each part's `pictures`."
        ),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(metavar="DIR|URL", help="Where the Parquet files of --pictures go. What is there is kept."),
    ] = None,
    store: StorePlace = STORE,
    part: Parts = None,
    on: On = "local",
    workers: Workers = None,
    memory: Memory = None,
) -> None:
    """Judge pictures with the models in use."""
    if (pictures is None) != (out is None):
        raise InlierError("--pictures and --out belong together: what is judged in bulk, and where its verdicts go")
    if pictures is None or out is None:
        _command("predict", plan, store, part, on, workers, memory)
        return
    from inlier.fleet import bulk, engine
    from inlier.fleet.models import models_in_use
    from inlier.progress import progress

    chosen, place = _open(plan, store, part, "local")
    where = engine.where(on)
    listing = bulk.write_listing(pictures, chosen, out)
    found = bulk.chunks(listing, chosen, models_in_use(place), out)[where.shard[0] - 1 :: where.shard[1]]
    total, done, unread = sum(chunk.last - chunk.first for chunk in found), 0, 0
    if where.kind == "ray":
        judged = bulk.run_ray(found, place, where.address, workers)
    else:
        judged = bulk.run_local(found, place, workers, _bytes(memory))
    with progress("judging", total) as show:
        for pictures_, errors in judged:
            done, unread = done + pictures_, unread + errors
            show(done)
    say(f"{shown(out)}: {done} pictures in {len(found)} files")
    if unread:
        tell(f"{unread} of {done} pictures could not be judged; their rows say why")
        raise typer.Exit(1)


@fleet.command()
def export(
    plan: PlanFile,
    to: Annotated[str, typer.Option(help="onnx or openvino.")] = "onnx",
    store: StorePlace = STORE,
    part: Parts = None,
    on: On = "local",
    workers: Workers = None,
    memory: Memory = None,
) -> None:
    """Write the models in use for another runtime."""
    if to not in ("onnx", "openvino"):
        raise InlierError(f"--to {to}: must be onnx or openvino")
    _command("export", plan, store, part, on, workers, memory, to=to)


@fleet.command()
def promote(
    plan: PlanFile,
    store: StorePlace = STORE,
    part: Parts = None,
    force: Annotated[bool, typer.Option("--force", help="Also where something speaks against it.")] = False,
) -> None:
    """Take the proposed models into use."""
    from inlier.fleet.models import proposals, use

    chosen, place = _open(plan, store, part, "local")
    found = proposals(place)
    for one in chosen.parts:
        row = found.get(one.name)
        if row is None:
            continue
        against = row["metrics"]["objections"]
        if against and not force:
            say(f"{one.name}: stays as it is: {shown('; '.join(against))}")
            continue
        use(place, one.name, row["metrics"]["model"], row["metrics"]["change"]["new"])
        say(f"{one.name}: {row['metrics']['model']} is in use")


@fleet.command()
def report(
    out: Annotated[Path, typer.Argument(help="The page to write (.html).")],
    store: StorePlace = STORE,
) -> None:
    """A page of the plant: each part's state, promise, drift and cost, what new models changed, and all runs."""
    from inlier.fleet.report import page
    from inlier.fleet.store import Store
    from inlier.report.pages import check_installed

    check_installed()
    artifact.check_writable(out)
    artifact.write_bytes(out, page(Store(store)).encode(errors="backslashreplace"))
    say(f"{shown(out)}: written")


@fleet.command()
def rejudge(
    model: Annotated[Path, typer.Argument(help="The model that judges now.")],
    out: Annotated[Path, typer.Argument(help="The .parquet file to write, a row for each record.")],
    station: Annotated[str, typer.Option(help="Whose records.")],
    data: Annotated[Path, typer.Option(help="The station's folder, as `inlier serve --data` had it.")] = Path(
        "inlier-station"
    ),
    db: Annotated[str | None, typer.Option(help="The database, as `inlier serve --db` had it.")] = None,
    alpha: Alpha = None,
    category: Annotated[str | None, typer.Option(help="What the station shows, where the model knows several.")] = None,
) -> None:
    """What another model or alpha would have said of a station's records, which stay as they are."""
    import pyarrow.parquet as pq

    from inlier.cli.records import open_store
    from inlier.fleet.rejudge import rejudged
    from inlier.runtime.load import load
    from inlier.serve.pictures import Pictures
    from inlier.serve.store import Filter

    inspector = load(model)
    artifact.check_writable(out)
    n = changed = missing = 0
    writer = None
    with open_store(data, db) as records:
        rows = records.all(Filter(station))
        for table in rejudged(rows, Pictures(data / "pictures"), inspector, model, alpha, category):
            writer = writer or pq.ParquetWriter(out, table.schema)
            writer.write_table(table)
            n, changed = n + len(table), changed + sum(table["changed"].to_pylist())
            missing += len(table) - table["error"].null_count
    if writer is None:
        raise InlierError(f"station {station}: has no records")
    writer.close()
    say(f"{shown(out)}: {n} records, {changed} verdicts would be others, {missing} cannot be judged again")


def _command(verb: str, plan: Path, store: str, part: list[str] | None, on: str, *options: Any, **given: Any) -> None:
    chosen, place = _open(plan, store, part, on)
    if _run(verb, chosen, place, on, *options, **given):
        raise typer.Exit(1)


def _open(plan: Path, store: str, part: list[str] | None, on: str) -> "tuple[Plan, Store]":
    from inlier.fleet.engine import where
    from inlier.fleet.plan import read_plan
    from inlier.fleet.store import Store

    chosen = read_plan(plan).select(part or [])
    return chosen.shard(*where(on).shard), Store(store)


def _run(
    verb: str,
    plan: "Plan",
    store: "Store",
    on: str,
    workers: int | None,
    memory: float | None,
    told: bool = True,
    **given: Any,
) -> int:
    """Do what is due, a line each; how many failed."""
    from inlier.fleet import engine
    from inlier.fleet.plan import Task
    from inlier.progress import progress

    if given.get("promote", "auto") not in ("auto", "ask"):
        raise InlierError(f"--promote {given['promote']}: must be auto or ask")
    task = Task(verb, plan.parts[0], engine.run_name(), **given) if plan.parts else None
    todo, last = engine.due(plan, verb, store, task) if task else ([], {})
    states = Counter[str](unchanged=len(plan.parts) - len(todo))
    if task and todo:
        made = _engine(engine.where(on), workers, memory)
        with progress(verb, len(todo)) as show:
            for row in engine.run(plan, verb, store, made, task, todo, last):
                states[row["state"]] += 1
                show(states.total() - states["unchanged"])
                if row["state"] != "done":
                    tell(f"{row['state']}: {row['part']}: {row['error']}")
                elif told:
                    say(f"{row['part']}: {verb} {row['seconds']:.1f} s{_result(row)}")
    states["unchanged"] = len(plan.parts) - states["done"] - states["failed"] - states["refused"]
    tell(f"{verb}: " + ", ".join(f"{n} {state}" for state, n in states.items() if n))
    return states["failed"] + states["refused"]


def _engine(where: "Where", workers: int | None, memory: float | None) -> "Engine":
    from inlier.fleet.engine import processors
    from inlier.fleet.local import Local
    from inlier.fleet.ray import Ray

    return Ray(where.address, workers) if where.kind == "ray" else Local(workers or processors(), _bytes(memory))


def _bytes(gib: float | None) -> int | None:
    return None if gib is None else int(gib * 2**30)


def _result(row: dict[str, Any]) -> str:
    metrics = row["metrics"]
    if "promoted" in metrics:
        against = "; ".join(metrics["objections"])
        return ", in use" if metrics["promoted"] else f", proposed{': ' + shown(against) if against else ''}"
    if "defects" in metrics:
        drift = (metrics["drift"] or {}).get("alarm")
        return f", {metrics['defects']} defects of {metrics['pictures']} pictures" + (f"; {drift}" if drift else "")
    if "mean" in metrics:
        auroc = metrics["mean"]["image"]["auroc"]
        return "" if auroc is None else f", image AUROC {100 * auroc:.1f} %"
    return f", {metrics['file']}" if "file" in metrics else ""
