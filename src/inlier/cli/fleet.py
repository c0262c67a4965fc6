"""`inlier fleet`: the verbs of the command line for all parts of a plant."""

import itertools
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from inlier import artifact
from inlier.cli.options import Alpha
from inlier.cli.outputs import Numbers, check_page, print_table, protect, say, tell
from inlier.errors import InlierError
from inlier.names import counted, shown
from inlier.settings import as_text

if TYPE_CHECKING:
    from inlier.fleet.engine import Engine
    from inlier.fleet.plan import Order, Plan
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
    from inlier.fleet import ledger
    from inlier.fleet.plan import PLACES

    work = _work(plan, store, part, on, workers, memory)
    numbers = Numbers(json_)
    places = (getattr(one, name) for one in work.plan.parts for name in PLACES)
    numbers.check([plan, *(Path(place) for place in places if place is not None)])
    failed = _failed(_order("check"), work, told=False)
    rows = ledger.last(work.store, "check")
    table = [one.model_dump() | {"check": _check_of(rows.get(one.name))} for one in work.plan.parts]
    if not numbers.to_stdout:
        heads = ("part", "method", "train", "validation", "test", "check")
        print_table(f"{shown(plan)}: {len(table)} parts", heads, map(_line, table), words=True)
    numbers.write(table)
    if failed:
        raise typer.Exit(1)


def _check_of(row: dict[str, Any] | None) -> dict[str, Any]:
    return {"error": "not checked"} if row is None else (row.get("metrics") or {}) | {"error": row["error"]}


def _line(part: dict[str, Any]) -> list[str]:
    found = part["check"]
    counts = found.get("pictures", {})
    method = part["method"] + "".join(f" {key}={as_text(value)}" for key, value in part["settings"].items())
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
    _carry_out(_order("train", promote), _work(plan, store, part, on, workers, memory))


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
    _carry_out(_order("calibrate", promote), _work(plan, store, part, on, workers, memory))


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
    _carry_out(_order("evaluate"), _work(plan, store, part, on, workers, memory))


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
        _carry_out(_order("predict"), _work(plan, store, part, on, workers, memory))
        return
    from inlier.fleet import bulk, engine
    from inlier.fleet.models import models_in_use
    from inlier.fleet.plan import read_plan
    from inlier.fleet.store import Store
    from inlier.progress import progress

    where = engine.where(on)
    chosen, place = read_plan(plan).select(part or []), Store(store)
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
    _carry_out(_order("export", to=to), _work(plan, store, part, on, workers, memory))


@fleet.command()
def promote(
    plan: PlanFile,
    store: StorePlace = STORE,
    part: Parts = None,
    force: Annotated[bool, typer.Option("--force", help="Also where something speaks against it.")] = False,
) -> None:
    """Take the proposed models into use."""
    from inlier.fleet.models import proposals, use
    from inlier.fleet.plan import read_plan
    from inlier.fleet.store import Store

    place = Store(store, must_exist=True)
    found = proposals(place)
    for one in read_plan(plan).select(part or []).parts:
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
def clean(
    plan: PlanFile,
    store: StorePlace = STORE,
    part: Parts = None,
    keep: Annotated[int, typer.Option(min=0, help="So many of the newest others of each part stay.")] = 3,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be deleted, and delete nothing.")] = False,
) -> None:
    """Delete models that are neither in use nor proposed, but for the newest, and for those of the last day."""
    from inlier.fleet.clean import check_names, old_models
    from inlier.fleet.plan import read_plan
    from inlier.fleet.store import Store
    from inlier.progress import progress

    place = Store(store, must_exist=True)
    parts = read_plan(plan).select(part or []).parts
    check_names(place)
    gone = size = 0
    with progress("looking for old models", len(parts)) as show:
        for number, one in enumerate(parts, 1):
            for model in old_models(place, one.name, keep):
                if not dry_run:
                    place.remove([model.path])
                say(f"{one.name}: {model.path}, {model.bytes} bytes")
                gone, size = gone + 1, size + model.bytes
            show(number)
    done = "would be deleted" if dry_run else "deleted"
    say(f"{counted(gone, 'model<|s>')} {done}, {size} bytes; models of the last day stay")


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
    check_page(out)
    protect([out], [])
    artifact.check_writable(out)
    artifact.write_bytes(out, page(Store(store, must_exist=True)).encode(errors="backslashreplace"))
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

    from inlier.cli.records import open_store, read_from
    from inlier.fleet.rejudge import rejudged
    from inlier.runtime.load import load
    from inlier.serve.pictures import Pictures
    from inlier.serve.store import Filter

    if out.suffix.lower() != ".parquet":
        raise InlierError(f"{out}: a table of Parquet is written; choose a name that ends in .parquet")
    protect([out], [model, *read_from(data, db)])
    inspector = load(model)
    artifact.check_writable(out)
    counts = Counter[str]()
    with open_store(data, db) as records:
        rows = records.all(Filter(station))
        tables = rejudged(rows, Pictures(data / "pictures"), inspector, model, alpha, category)

        def fill(file: Path) -> None:
            first = next(tables, None)
            if first is None:
                raise InlierError(f"station {station}: has no records")
            with pq.ParquetWriter(file, first.schema) as writer:
                for table in itertools.chain([first], tables):
                    writer.write_table(table)
                    counts["records"] += len(table)
                    counts["others"] += sum(table["changed"].to_pylist())
                    counts["missing"] += len(table) - table["error"].null_count

        artifact.write_file(out, fill)
    say(
        f"{shown(out)}: {counts['records']} records, {counts['others']} verdicts would be others, {counts['missing']} "
        "cannot be judged again"
    )


class _Work(NamedTuple):
    """What a command works on, and who does it."""

    plan: "Plan"
    store: "Store"
    engine: "Engine"


def _work(plan: Path, store: str, part: list[str] | None, on: str, workers: int | None, memory: float | None) -> _Work:
    from inlier.fleet.engine import processors, where
    from inlier.fleet.local import Local
    from inlier.fleet.plan import read_plan
    from inlier.fleet.ray import Ray
    from inlier.fleet.store import Store

    place = where(on)
    chosen = read_plan(plan).select(part or []).shard(*place.shard)
    is_ray = place.kind == "ray"
    engine = Ray(place.address, workers) if is_ray else Local(workers or processors(), _bytes(memory))
    return _Work(chosen, Store(store), engine)


def _order(verb: str, promote: str = "auto", to: str = "onnx") -> "Order":
    from inlier.fleet.engine import run_name
    from inlier.fleet.plan import Order

    if promote not in ("auto", "ask"):
        raise InlierError(f"--promote {promote}: must be auto or ask")
    return Order(verb, promote, to, run_name())  # type: ignore[arg-type]


def _carry_out(order: "Order", work: _Work) -> None:
    if _failed(order, work):
        raise typer.Exit(1)


def _failed(order: "Order", work: _Work, told: bool = True) -> int:
    """Do what is due, a line each where it is to be told; how many failed."""
    from inlier.fleet import engine
    from inlier.progress import progress

    jobs = engine.due(work.plan, order, work.store)
    states = Counter[str]()
    with progress(order.verb, len(jobs)) as show:
        for row in engine.run(jobs, work.store, work.engine) if jobs else ():
            states[row["state"]] += 1
            show(states.total())
            if row["state"] != "done":
                tell(f"{row['state']}: {row['part']}: {row['error']}")
            elif told:
                say(f"{row['part']}: {order.verb} {row['seconds']:.1f} s{_result(row)}")
    counts = {"unchanged": len(work.plan.parts) - states.total()} | states
    tell(f"{order.verb}: " + ", ".join(f"{n} {state}" for state, n in counts.items() if n))
    return states["failed"] + states["refused"]


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
