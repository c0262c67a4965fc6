"""`inlier stress`: how far light, camera and position may change before a model breaks its promise."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from inlier import artifact
from inlier.cli.options import Alpha, Confidence, Data, Device, Model, Runtime, Seed
from inlier.cli.outputs import check_stdout, percent, print_table, protect, read_by, say
from inlier.names import shown

if TYPE_CHECKING:
    from inlier.bench.stress import Card, Ladder


def stress(
    model: Model,
    data: Data,
    category: Annotated[str | None, typer.Option(help="Which one of DATA, where it has several.")] = None,
    pictures: Annotated[
        int, typer.Option(min=1, help="Good test pictures that are changed, and defects: at most so many of each.")
    ] = 50,
    out: Annotated[Path, typer.Option(help="Folder for the card (stress.html) and its numbers (stress.csv).")] = Path(
        "stress"
    ),
    alpha: Alpha = None,
    confidence: Confidence = None,
    seed: Seed = 0,
    device: Device = "auto",
    runtime: Runtime = None,
) -> None:
    """Change test pictures of DATA step by step, and say which change breaks the promised false-alarm rate.

    Brightness, contrast, colour, blur, noise, JPEG, shift, rotation and scale, each alone, simulated.
    """
    from inlier.bench import card as page
    from inlier.bench.stress import stress as run
    from inlier.data.datasets import open_dataset
    from inlier.report.pages import check_installed
    from inlier.runtime.load import load

    check_installed()
    check_stdout()
    dataset = open_dataset(data, [category] if category else [])
    protect([out / name for name in page.FILES], [model, *read_by(data, dataset)])
    inspector = load(model, device, runtime=runtime)
    artifact.check_writable(out / page.FILES[0])
    card = run(inspector, dataset, category=category, alpha=alpha, confidence=confidence, most=pictures, seed=seed)
    _print(card)
    first = next(s for s in dataset.test if not s.is_defect and s.category == card.category)
    for path in page.write(card, first, inspector.header(), out):
        say(f"{shown(path)}: written")


def _print(card: "Card") -> None:
    rows = []
    for ladder in card.ladders:
        kept = card.kept(ladder)
        rows.append((ladder.name, *_cells(card, ladder, kept - 1), *_cells(card, ladder, kept)))
    heads = ("kept\nup to", "false\nalarms", "found", "broken\nat", "false\nalarms", "found")
    print_table(f"{card.category}: changes and the promise, %", ("change", *heads), rows)
    before, name = card.unchanged, shown(card.category)
    found = f", {before.found} of {card.n_defect} defects are found" if card.n_defect else ""
    say(f"{name}: unchanged, {before.false_alarms} of {card.n_good} good pictures are false alarms{found}")
    if before.false_alarms >= card.limit:
        say(f"{name}: the promise is broken before anything is changed: are these pictures of the model's part?")
    say(f"{name}: at alpha {card.alpha:.4g} the promise counts as broken from {card.limit} false alarms on")


def _cells(card: "Card", ladder: "Ladder", number: int) -> tuple[str, str, str]:
    if not 0 <= number < len(ladder.steps):
        return "-", "", ""
    step = ladder.steps[number]
    found = percent(step.found / card.n_defect) if card.n_defect else ""
    end = "" if number + 1 < len(ladder.steps) else ", the largest tried"
    return f"{step.size:g} {ladder.unit}{end}", percent(step.false_alarms / card.n_good), found
