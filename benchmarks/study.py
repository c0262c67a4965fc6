"""An attribute study of PaDiM `light` on ELPV's monocrystalline cells, with three simulated appraisers.

No person judged anything: the appraisers are drawn at random, with the chances of being right below, to show what a
report looks like. The model, the cells and the defects planted in them are real, or said to be simulated on the page.

    python benchmarks/study.py MODEL [FOLDER]
"""

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np

RIGHT = {"careful": (0.995, 0.95), "usual": (0.98, 0.85), "hasty": (0.95, 0.70)}  # on clear and on borderline parts


def inlier(*arguments: object) -> None:
    subprocess.run([sys.executable, "-m", "inlier", *map(str, arguments)], check=True)


def main() -> None:
    model, folder = sys.argv[1], Path(sys.argv[2] if len(sys.argv) > 2 else "study-elpv")
    inlier("study", "plan", "elpv", "--category", "mono", "--model", model, "--appraisers", ",".join(RIGHT),
           "--alpha", 0.05, "--study", folder)  # fmt: skip
    with (folder / "parts.csv").open(encoding="utf-8", newline="") as file:
        parts = {row["part"]: row for row in csv.DictReader(file)}
    for number, (name, (clear, borderline)) in enumerate(RIGHT.items()):
        rng, sheet = np.random.default_rng((0, number)), folder / f"sheet-{name}.csv"
        with sheet.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        for row in rows:
            part = parts[row["part"]]
            chance = borderline if part["drawn as"] == "borderline" else clear
            row["verdict"] = (
                part["truth"] if rng.random() < chance else {"good": "defect", "defect": "good"}[part["truth"]]
            )
            row["simulated"] = (
                f"drawn at random, right on {clear:.1%} of clear and {borderline:.0%} of borderline parts"
            )
        with sheet.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    inlier("study", "run", model, *(folder / f"sheet-{name}.csv" for name in RIGHT), "--alpha", 0.05,
           "--study", folder)  # fmt: skip
    inlier("study", "report", "--study", folder)


if __name__ == "__main__":
    main()
