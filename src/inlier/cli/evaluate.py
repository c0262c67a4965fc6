"""`inlier evaluate`: a model's scores and maps against the truth."""

import json
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from inlier import artifact
from inlier.cli.options import Alpha, Categories, Confidence, Data, Device, Model, Workers
from inlier.cli.outputs import percent, protect, read_by

if TYPE_CHECKING:
    from inlier.results import Results

log = logging.getLogger("inlier")


def evaluate(
    model: Model,
    data: Data,
    category: Categories = None,
    json_: Annotated[Path | None, typer.Option("--json", help="Write all numbers to this file ('-': stdout).")] = None,
    report: Annotated[Path | None, typer.Option(help="Write a page with figures, index.html, to this folder.")] = None,
    alpha: Alpha = None,
    confidence: Confidence = None,
    device: Device = "auto",
    workers: Workers = 2,
) -> None:
    """Compare a model's scores and maps with the truth on the test pictures of DATA."""
    from inlier.data.datasets import open_dataset
    from inlier.evaluation import evaluate as run
    from inlier.report import check_installed, write_report
    from inlier.runtime.load import load

    dataset = open_dataset(data)
    to_file = json_ is not None and str(json_) != "-"
    if json_ and to_file:
        protect([json_], [model, *read_by(data, dataset)])
        artifact.check_writable(json_)
    if report:
        check_installed()
        artifact.check_writable(report / "index.html")

    inspector = load(model, device)
    results = run(inspector, dataset, categories=category or [], alpha=alpha, confidence=confidence, workers=workers)
    text = json.dumps(results.to_json(), indent=1, allow_nan=False) + "\n"
    if json_ and not to_file:
        print(text, end="")
    else:
        _print_results(results)
    if json_ and to_file:
        artifact.write_bytes(json_, text.encode())
        print(f"numbers: {json_}")
    if report:
        page = write_report(results, inspector, report)
        print(f"report: {page}", file=sys.stdout if to_file or not json_ else sys.stderr)


def _print_results(results: "Results") -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{results.model['method']} ({results.model['preset']}), %", title_justify="left")
    table.add_column("category")
    image, pixels = ("image AUROC", "95 % interval", "AP", "F1-max"), ("pixel AUROC", "AP", "F1-max", "AUPRO")
    for column in ("good", "defect", *image, *pixels, "false alarms", "detected"):
        table.add_column(column, justify="right")
    for name, r in results.categories.items():
        interval = "-".join(percent(edge) for edge in r.intervals.get("auroc", ()))
        pixel = [getattr(r.pixel, key, None) for key in ("auroc", "ap", "f1_max", "aupro")]
        values = (r.image.auroc, interval, r.image.ap, r.image.f1_max, *pixel, r.false_alarm_rate, r.detection_rate)
        table.add_row(name, str(r.n_good), str(r.n_defect), *(v if isinstance(v, str) else percent(v) for v in values))
    if len(results.categories) > 1:
        mean = results.mean
        of_pixels = mean["pixel"] or {}
        values = (
            mean["image"]["auroc"],
            "",
            mean["image"]["ap"],
            mean["image"]["f1_max"],
            *(of_pixels.get(key) for key in ("auroc", "ap", "f1_max", "aupro")),
            *mean["at_alpha"].values(),
        )
        table.add_row("mean", "", "", *(v if isinstance(v, str) else percent(v) for v in values))
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    for name, r in results.categories.items():
        for note in filter(None, (r.image.reason, r.pixel_note)):
            print(f"{name}: {note}")
        if r.not_inspected:
            print(f"{name}: {100 * r.not_inspected:.2g} % of the defect pixels lie outside the inspected region (crop)")
        if r.rule is None:
            print(f"{name}: the model has no calibration, so there are no verdicts")
            continue
        print(f"{name}: verdicts at alpha {r.rule.alpha:.4g}: {r.rule}")
        for words, n, edges in (
            ("false alarms", r.n_good, r.false_alarm_interval),
            ("detected", r.n_defect, r.detection_interval),
        ):
            if edges:
                print(f"{name}: {words} on {n} pictures, 95 % interval {percent(edges[0])} to {percent(edges[1])} %")
