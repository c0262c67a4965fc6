"""The robustness cards of PaDiM `light` on several sets, as one table.

python benchmarks/stress.py CARDS MODEL DATA CATEGORY     # one card, in the folder CARDS/CATEGORY
python benchmarks/stress.py CARDS > benchmarks/STRESS.md  # the table of all cards in CARDS
"""

import subprocess
import sys
from pathlib import Path

from inlier.bench.stress import Card, Ladder, read

ALPHA, PICTURES = 0.05, 50
ABOUT = f"""# How far light, camera and position may change

Made by `benchmarks/stress.py`: `inlier stress`, alpha {100 * ALPHA:g} %, PaDiM `light`, at most {PICTURES} good test
pictures and as many defects of each set, seed 0; MVTec AD's screw resized to 512 pixels. Each change is made alone, by
computing. The promise counts as broken where so many good pictures are false alarms that chance would explain it in
fewer than 5 of 100 such sets. In each cell: the largest size that keeps it -> the smallest that breaks it (false alarms
at both, in %). Sizes in between were not tried.
"""


def cell(card: Card, ladder: Ladder) -> str:
    kept, steps = card.kept(ladder), ladder.steps
    ends = [steps[i] if 0 <= i < len(steps) else None for i in (kept - 1, kept)]
    sizes = [("none" if end is None else f"{end.size:g}") for end in ends]
    alarms = [("–" if end is None else f"{100 * end.false_alarms / card.n_good:.0f}") for end in ends]
    return f"{sizes[0]} -> {sizes[1]} ({alarms[0]}, {alarms[1]})"


def table(cards: list[Card]) -> str:
    names = {ladder.name: ladder.unit for card in cards for ladder in card.ladders}
    lines = [["change", *(card.category for card in cards)], ["---"] * (1 + len(cards))]
    unchanged = [f"{card.unchanged.false_alarms} of {card.n_good}, broken from {card.limit} on" for card in cards]
    lines.append(["unchanged: false alarms", *unchanged])
    lines.append(["unchanged: found", *(f"{card.unchanged.found} of {card.n_defect}" for card in cards)])
    for name, unit in names.items():
        own = [next((ladder for ladder in card.ladders if ladder.name == name), None) for card in cards]
        cells = [cell(card, ladder) if ladder else "" for card, ladder in zip(cards, own, strict=True)]
        lines.append([f"{name}, {unit}", *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    folder = Path(sys.argv[1])
    if len(sys.argv) > 2:
        model, data, category = sys.argv[2:]
        subprocess.run(
            [sys.executable, "-m", "inlier", "stress", model, data, "--category", category, "--alpha", str(ALPHA),
             "--pictures", str(PICTURES), "--out", str(folder / category)],
            check=True,
        )  # fmt: skip
        return
    print(ABOUT)
    print(table([read(path) for path in sorted(folder.glob("*/stress.csv"))]))


if __name__ == "__main__":
    main()
