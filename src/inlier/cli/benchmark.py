"""`inlier benchmark`: methods and settings against each other, on the same pictures, in a way that can be stopped."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from inlier import methods
from inlier.cli.options import Categories, Device, Workers, share
from inlier.cli.outputs import check_stdout, percent, print_table, protect, read_by, say, tell
from inlier.errors import InlierError
from inlier.names import shown

if TYPE_CHECKING:
    from inlier.bench.compare import Group


def benchmark(
    data: Annotated[list[str], typer.Argument(help="Sets with test pictures: dataset folders, .csv tables, 'elpv'.")],
    names: Annotated[
        str, typer.Option("--methods", metavar="METHOD,...", help="What is compared: see `inlier methods`.")
    ] = ",".join(methods.DEMONSTRATED),
    presets: Annotated[
        str, typer.Option(metavar="PRESET,...", help="light, paper, ...: those that all methods have.")
    ] = "light",
    seeds: Annotated[str, typer.Option(metavar="N|SEED,...", help="3: the seeds 0, 1 and 2; or a list: 0,1,7.")] = "3",
    out: Annotated[Path, typer.Option(help="Folder for rows, scores, tables and a page.")] = Path("benchmark"),
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with what lies in OUT, or add to it; nothing is run twice.")
    ] = False,
    category: Categories = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="[METHOD.]KEY=VALUE",
            help="Change a setting of all methods, or of one; repeat for several.",
        ),
    ] = None,
    grid: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[METHOD.]KEY=VALUE,...",
            help="Try all combinations on defects planted in held-out good pictures, and test the best; lists in "
            "brackets: taps=[8],[8,16]. Repeat for several.",
        ),
    ] = None,
    compare: Annotated[
        str | None, typer.Option(metavar="published", help="Set published figures of the same categories beside.")
    ] = None,
    alpha: Annotated[
        float | None,
        typer.Option(
            parser=share("alpha"),
            metavar="FLOAT",
            help="Accepted false-alarm rate of all. Default: 0.01, or the lowest that each can promise.",
        ),
    ] = None,
    joint: Annotated[
        bool, typer.Option("--joint", help="One model for all sets and categories, instead of one for each.")
    ] = False,
    device: Device = "auto",
    workers: Workers = 2,
) -> None:
    """Compare methods, presets and settings on the test pictures of DATA, over several seeds.

    Ends with exit code 1 if a model failed; the others are not harmed.
    """
    from inlier.bench import page, plan, rows
    from inlier.bench.compare import grouped
    from inlier.bench.grid import choose
    from inlier.bench.sweep import check_folder, sweep
    from inlier.bench.tables import warnings
    from inlier.machine import find_device
    from inlier.report.pages import check_installed

    check_installed()
    check_stdout()
    if compare not in (None, "published"):
        raise InlierError(f"--compare: '{compare}' is not known, only: published")
    find_device(device)
    variants, numbers = plan.variants(_listed(names), _listed(presets), set_ or [], grid or []), plan.seeds(seeds)
    check_folder(out, resume)
    sources = plan.sources(data, category or [], workers)
    if joint and len(sources) == 1:
        raise InlierError(f"--joint: there is one category alone, {shown(sources[0].label)}")
    for variant in (variant for points in variants for variant in points):
        inputs = [*map(Path, data), *read_by(data[0], plan.joined(sources), variant.create())]
        protect([out / name for name in (rows.FILE, *page.FILES)], inputs)

    models = [tuple(sources)] if joint else [(source,) for source in sources]
    todo = [(model, points) for model in models for points in variants]
    # the first seed of all comes first: what is stopped early has something of everything
    trials = [
        plan.Cell("trial", model, point, seed, alpha)
        for seed in numbers
        for model, points in todo
        for point in points
        if len(points) > 1
    ]
    _show(sweep(trials, out, device, workers))
    chosen = choose(trials, rows.read(out))
    tests = [
        plan.Cell("test", model, point, seed, alpha)
        for seed in numbers
        for model, points in todo
        if (point := points[0] if len(points) == 1 else chosen.get((model, points[0].method, points[0].preset)))
    ]
    _show(sweep(tests, out, device, workers))

    found = rows.read(out)
    groups = grouped(found)
    written = page.write(found, out, compare is not None)
    _print(groups)
    for warning in warnings(groups):
        say(f"warning: {shown(warning)}")
    for path in written:
        say(f"written: {shown(path)}")
    wanted = [row for cell in (*trials, *tests) for row in cell.rows()]
    failed = [row for row in rows.about_same(wanted, found) if row.get("error")]
    for row in failed:
        tell(f"failed: {row['category']}, {row['method']} {row['preset']}, seed {row['seed']}: {row['error']}")
    if failed:
        tell(f"{len(failed)} of {len(wanted)} failed; --resume tries them again")
        raise typer.Exit(1)


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _show(done: Iterable[list[dict[str, Any]]]) -> None:
    """A line for each row as it comes."""
    from inlier.bench.compare import variant

    for found in done:
        for row in found:
            say(f"{shown(row['category'])}  {shown(variant(row))}  seed {row['seed']}  {_result(row)}")


def _result(row: dict[str, Any]) -> str:
    if "error" in row:
        return "failed"
    if "trial" in row:
        ap, detection = (percent(row["trial"][name]) for name in ("ap", "detection"))
        return f"on planted defects: AP {ap}, detected {detection}"
    detected = (row["at_alpha"] or {}).get("detection_rate")
    times = f"fit {row['fit']['wall']:.1f} s, picture {1000 * row['predict']['wall']:.0f} ms"
    return f"image AUROC {percent(row['image']['auroc'])}, detected {percent(detected)}, {times}"


def _print(groups: Sequence["Group"]) -> None:
    from inlier.bench.tables import COSTS, SHARES, cost, share

    heads = ("set: method", "seeds", *SHARES, *COSTS)
    cells = [
        [f"{group.set}: {group.variant}", str(len(group.rows)), *(share(group, column) for column in SHARES)]
        + [cost(group, column) for column in COSTS]
        for group in groups
    ]
    if cells:
        print_table("means over seeds (lowest to highest), shares in %", heads, cells)
