"""`inlier evaluate`: a model's scores and maps against the truth."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from inlier.cli.options import Alpha, Categories, Confidence, Data, Device, Model, Runtime, Workers
from inlier.cli.outputs import Numbers, percent, print_table, read_by, say
from inlier.names import shown

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
    runtime: Runtime = None,
    workers: Workers = 2,
) -> None:
    """Compare a model's scores and maps with the truth on the test pictures of DATA."""
    from inlier.data.datasets import open_dataset
    from inlier.evaluation import evaluate as run
    from inlier.report import write_report
    from inlier.report.pages import check_installed
    from inlier.runtime.load import load

    dataset = open_dataset(data)
    inspector = load(model, device, runtime=runtime)  # first: a wrong model makes no folder
    numbers = Numbers(json_)
    if report:
        check_installed()
    numbers.check([model, *read_by(data, dataset)], report and report / "index.html")

    results = run(inspector, dataset, categories=category or [], alpha=alpha, confidence=confidence, workers=workers)
    if not numbers.to_stdout:
        _print_results(results)
    numbers.write(results.to_json())
    if report:
        numbers.say(f"report: {shown(write_report(results, inspector, report))}")


def _print_results(results: "Results") -> None:
    from inlier.data.cues import CUES
    from inlier.trivial import suspicious, warning

    image = ("image AUROC", "95 %\ninterval", "image\nAP", "image\nF1-max")
    pixels = ("pixel\nAUROC", "pixel\nAP", "pixel\nF1-max", "AUPRO")
    rows = []
    for name, r in results.categories.items():
        interval = "-".join(percent(edge) for edge in r.intervals.get("auroc", ()))
        pixel = [getattr(r.pixel, key, None) for key in ("auroc", "ap", "f1_max", "aupro")]
        values = (r.image.auroc, interval, r.image.ap, r.image.f1_max, *pixel, r.false_alarm_rate, r.detection_rate)
        rows.append([name, str(r.n_good), str(r.n_defect), *map(_cell, values)])
        if suspicious(r.trivial):
            rows[-1][3] += " *"
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
        rows.append(["mean", "", "", *map(_cell, values)])
    warnings = list(filter(None, (warning(name, r.trivial) for name, r in results.categories.items())))
    title = f"{results.model['method']} ({results.model['preset']}), %{'; *: see the warning' if warnings else ''}"
    print_table(title, ("category", "good", "defect", *image, *pixels, "false\nalarms", "detected"), rows)
    trivial = [
        (name, *(f"{percent(b.detector)} / {percent(b.leak)}" for b in r.trivial.values()))
        for name, r in results.categories.items()
        if r.trivial
    ]
    if trivial:
        print_table("trivial baselines, AUROC in %: as a detector / as a leak", ("category", *CUES), trivial)
    for text in warnings:
        say(f"warning: {shown(text)}")
    for category, r in results.categories.items():
        name = shown(category)
        for note in filter(None, (r.image_note, r.pixel_note)):
            say(f"{name}: {note}")
        if r.not_inspected:
            say(f"{name}: {100 * r.not_inspected:.2g} % of the defect pixels lie outside the inspected region")
        if r.rule is None:
            say(f"{name}: the model has no calibration, so there are no verdicts")
            continue
        say(f"{name}: verdicts at alpha {r.rule.alpha:.4g}: {r.rule}")
        for words, n, edges in (
            ("false alarms", r.n_good, r.false_alarm_interval),
            ("detected", r.n_defect, r.detection_interval),
        ):
            if edges:
                say(f"{name}: {words} on {n} pictures, 95 % interval {percent(edges[0])} to {percent(edges[1])} %")


def _cell(value: float | str | None) -> str:
    return value if isinstance(value, str) else percent(value)
