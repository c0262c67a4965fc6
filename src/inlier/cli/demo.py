"""`inlier demo`: everything once, on real pictures."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from inlier import methods
from inlier.cli.auto import choose
from inlier.cli.outputs import check_stdout, percent, print_table, say, tell
from inlier.cli.train import fit_and_save
from inlier.errors import InlierError
from inlier.names import shown

if TYPE_CHECKING:
    from inlier.results import Results


def demo(
    out: Annotated[Path, typer.Option(help="Folder for models and reports.")] = Path("inlier-demo"),
    method: Annotated[
        list[str] | None,
        typer.Option(help=f"Repeat for several. Default: {', '.join(methods.DEMONSTRATED)}."),
    ] = None,
    budget: Annotated[str, typer.Option(help="Time for the choice at the end, such as 90s or 2min.")] = "2min",
) -> None:
    """Real solar cells: fit light presets, compare them, write reports, and let planted defects choose within a budget.

    A few minutes on two cores.
    """
    from inlier.bench import auto as bench
    from inlier.evaluation import evaluate as run
    from inlier.report import write_report
    from inlier.report.pages import check_installed

    check_installed()
    check_stdout()
    bench.seconds(budget)  # what is no duration is said now
    start, rows = time.monotonic(), []
    detectors = {name: methods.get(name)("light") for name in method or methods.DEMONSTRATED}
    for name, detector in detectors.items():
        began = time.monotonic()
        fit_and_save(detector, "elpv", ["mono"], out / f"{name}.inlier")
        fitted = time.monotonic() - began
        results = run(detector, "elpv", categories=["mono"])
        page = write_report(results, detector, out / name)
        rows.append((name, fitted, results, page))
    _print_comparison(rows)
    for name, _, _, page in rows:
        say(f"report of {name}: {shown(page.resolve())}")
    try:
        choose(bench.auto, "elpv", "mono", out / "chosen.inlier", out / "choice.html", None, {"budget": budget})
    except InlierError as error:  # on a slow or busy machine nothing is fitted within the budget; the rest is there
        tell(f"error: {error}")
        raise typer.Exit(1) from None
    say(f"done in {time.monotonic() - start:.0f} s; try: inlier predict {shown(out / 'chosen.inlier')} PICTURES")


def _print_comparison(rows: list[tuple[str, float, "Results", Path]]) -> None:
    from inlier.trivial import warning

    heads = ("method", "image AUROC\n(95 % interval)", "AP", "F1-max", "false\nalarms", "detected", "fit", "per image")
    cells = []
    for name, fitted, results, _ in rows:
        r = results.categories["mono"]
        low, high = r.intervals["auroc"]
        cells.append(
            (
                name,
                f"{percent(r.image.auroc)} ({percent(low)}-{percent(high)})",
                percent(r.image.ap),
                percent(r.image.f1_max),
                percent(r.false_alarm_rate),
                percent(r.detection_rate),
                f"{fitted:.0f} s",
                f"{1000 * results.seconds['per_image']:.0f} ms",
            )
        )
    print_table("ELPV solar cells, mono: good cells against defective ones", heads, cells)
    if text := warning("mono", rows[0][2].categories["mono"].trivial):
        say(f"warning: {text}")
