"""`inlier auto` and `inlier tune`: the choice among methods, and among the settings of one, within a budget of time."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from inlier import artifact, methods
from inlier.cli.options import Changes, Data, Device, Group, Preset, Roi, Seed, Workers, regions, settings
from inlier.cli.outputs import Numbers, check_page, in_place, percent, print_table, read_by, say, say_model
from inlier.names import counted, first_names, shown

if TYPE_CHECKING:
    from inlier.bench.choice import Choice
    from inlier.detector import Detector

Budget = Annotated[str, typer.Option(help="Time for all of it, such as 90s, 10min or 1h.")]
Latency = Annotated[
    str | None,
    typer.Option(help="Time that a picture may take from file to verdict, such as 50ms; slower ones are out."),
]
Category = Annotated[str | None, typer.Option(help="The part to choose for, where DATA holds several.")]
Page = Annotated[Path | None, typer.Option("--report", metavar="PAGE.html", help="Write a page that shows why.")]
Json = Annotated[Path | None, typer.Option("--json", help="Write all numbers to this file ('-': stdout).")]
Out = Annotated[Path, typer.Option(help="Where to write the model.")]


def auto(
    data: Data,
    budget: Budget = "10min",
    latency: Latency = None,
    category: Category = None,
    roi: Roi = None,
    group: Group = None,
    seed: Seed = 0,
    device: Device = "auto",
    out: Out = Path("model.inlier"),
    report: Page = None,
    json_: Json = None,
    workers: Workers = 2,
) -> None:
    """Choose the method that finds most planted defects on good pictures of DATA, and fit it on all of them.

    No test picture is opened. Ctrl-C ends the search without a model, and names what wins so far.
    """
    from inlier.bench import auto as bench

    options = {"roi": regions(roi), "group": group, "seed": seed, "device": device, "workers": workers}
    choose(bench.auto, data, category, out, report, json_, {"budget": budget, "latency": latency, **options})


def tune(
    method: Annotated[str, typer.Argument(help=f"One of: {', '.join(methods.names())}.")],
    data: Data,
    grid: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE,VALUE",
            help="Values of a setting to try, lists in brackets; repeat for several settings.",
        ),
    ] = None,
    budget: Budget = "10min",
    latency: Latency = None,
    preset: Preset = "light",
    set_: Changes = None,
    category: Category = None,
    roi: Roi = None,
    group: Group = None,
    seed: Seed = 0,
    device: Device = "auto",
    out: Out = Path("model.inlier"),
    report: Page = None,
    json_: Json = None,
    workers: Workers = 2,
) -> None:
    """Choose settings of a METHOD from a grid, as `inlier auto` chooses a method.

    All combinations are tried in an order that the seed shuffles, as many as the budget allows.
    """
    from inlier.bench import auto as bench
    from inlier.bench.plan import parse_grid

    changed = settings(method, preset, set_)
    points = parse_grid(method, preset, grid or [], changed)

    def run(data: Any, **options: Any) -> "Detector[Any, Any]":
        return bench.tune(method, data, points, preset=preset, settings=changed, **options)

    options = {"roi": regions(roi), "group": group, "seed": seed, "device": device, "workers": workers}
    choose(run, data, category, out, report, json_, {"budget": budget, "latency": latency, **options})


def choose(
    run: Callable[..., "Detector[Any, Any]"],
    data: str,
    category: str | None,
    out: Path,
    report: Path | None,
    json_: Path | None,
    options: dict[str, Any],
) -> None:
    """Check where all goes, search, write the model, and say what came of it."""
    from inlier.data.datasets import open_dataset
    from inlier.report.pages import check_installed

    numbers = Numbers(json_)
    if report:
        check_installed()
    dataset = open_dataset(data, [category] if category else [])
    artifact.check_name(out)
    numbers.check(read_by(data, dataset, roi=options.get("roi")), out, report)
    if report:
        check_page(report)
    detector = run(dataset, with_examples=report is not None, **options)
    choice: Choice = detector.choice_
    replaced = in_place(out)
    detector.save(out)
    if not numbers.to_stdout:
        _print(choice)
    n, judged = len(choice.rows), len(choice.ranked)
    of_them = "" if judged == n else f", {judged} of which could be judged,"
    words = f"chosen from {counted(n, 'candidate<|s>')}{of_them} in {choice.seconds:.0f} s{replaced}"
    say_model(detector, out, words, numbers.say)
    numbers.write(_numbers(detector))
    if report:
        from inlier.report.choice import write_choice

        write_choice(choice, detector, report)
        numbers.say(f"report: {shown(report)}")


def _numbers(detector: "Detector[Any, Any]") -> dict[str, Any]:
    rule = detector.calibration_.rule()
    promise = rule and {"alpha": rule.alpha, "average": rule.average, "confident": rule.confident}
    return detector.choice_.to_dict() | {"model": detector.header(), "at_alpha": promise}


def _print(choice: "Choice") -> None:
    from inlier.bench.trial import ALPHA, UP_TO

    rows = []
    for i in choice.ranked:
        row = choice.rows[i]
        assert row.trial is not None
        t = row.trial
        shares = (row.quality, t.auroc, t.partial_auroc, t.detection(), t.ap, t.pixel_ap)
        chosen = "*" if i == choice.winner else ""
        rows.append(
            (f"{row.name} {chosen}".strip(), *map(percent, shares), f"{row.ms:.0f} ms", f"{row.fit_seconds:.0f} s")
        )
    heads = (
        "candidate",
        "mean",
        "AUROC",
        f"partial,\nto {100 * UP_TO:g} %",
        f"found at\n{100 * ALPHA:g} % alarms",
        "AP",
        "pixel\nAP",
        "a picture",
        "fit",
    )
    title = f"{choice.category}: {choice.held_out} good pictures and defects planted in them, % (*: chosen)"
    print_table(title, heads, rows)
    for reason, left_out in choice.left_out.items():
        say(shown(f"not in the choice: {first_names([row.name for row in left_out])}: {reason}"))
    say(shown(f"why: {choice.why}"))
