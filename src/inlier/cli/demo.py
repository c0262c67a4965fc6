"""`inlier demo`: everything once, on real pictures."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from inlier import methods
from inlier.cli.outputs import check_stdout, percent, print_table, say
from inlier.cli.train import fit_and_save
from inlier.names import shown

if TYPE_CHECKING:
    from inlier.results import Results


def demo(
    out: Annotated[Path, typer.Option(help="Folder for models and reports.")] = Path("inlier-demo"),
    method: Annotated[
        list[str] | None,
        typer.Option(help=f"Repeat for several. Default: {', '.join(methods.DEMONSTRATED)}."),
    ] = None,
) -> None:
    """Real solar cells: fit the light presets, compare them, write a report. A few minutes on two cores."""
    from inlier.evaluation import evaluate as run
    from inlier.report import write_report
    from inlier.report.pages import check_installed

    check_installed()
    check_stdout()
    start, rows = time.monotonic(), []
    detectors = {name: methods.get(name)("light") for name in method or methods.DEMONSTRATED}
    for name, detector in detectors.items():
        began, model = time.monotonic(), out / f"{name}.inlier"
        fit_and_save(detector, "elpv", ["mono"], model)
        fitted = time.monotonic() - began
        results = run(detector, "elpv", categories=["mono"])
        page = write_report(results, detector, out / name)
        rows.append((name, fitted, results, page))
    _print_comparison(rows)
    for name, _, _, page in rows:
        say(f"report of {name}: {shown(page.resolve())}")
    first = shown(out / f"{next(iter(detectors))}.inlier")
    say(f"done in {time.monotonic() - start:.0f} s; try: inlier predict {first} PICTURES")


def _print_comparison(rows: list[tuple[str, float, "Results", Path]]) -> None:
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
