"""What two methods together would find: their p-values joined. Prints a table for docs/experiments.md.

    python benchmarks/pairs.py FOLDER ...      of `inlier benchmark`, whose scores of each picture are read

Joined is the product of the two p-values (Fisher's statistic), which would need a calibration of its own: two methods
look at the same picture, so the p-values are not independent. AUROC needs none. First seed of each method.
"""

import itertools
import json
import sys
from pathlib import Path

import numpy as np

from inlier.bench import rows
from inlier.metrics import image_metrics


def main() -> None:
    found: dict[tuple[str, str], dict[str, tuple[bool, float]]] = {}
    for folder in map(Path, sys.argv[1:]):
        for row in rows.read(folder):
            key = row["category"], row["method"]
            plain = not set(row["settings"]) - {"textures"}
            if key in found or row["seed"] or row["preset"] != "light" or row.get("joint") or not plain:
                continue
            kept = folder / (row.get("scores") or "none")
            if kept.is_file():
                told = json.loads(kept.read_text())
                defects = [name is not None for name in told["defects"]]
                verdicts = zip(defects, told["p_values"], strict=True)
                found[key] = dict(zip(told["pictures"], verdicts, strict=True))
    print("| set | methods | image AUROC | together | gain |\n|---|---|---|---|---|")
    for category in sorted({category for category, _ in found}):
        names = [name for of, name in found if of == category]
        for pair in itertools.combinations(names, 2):
            both = [found[category, name] for name in pair]
            pictures = sorted(both[0].keys() & both[1].keys())
            defects = [both[0][picture][0] for picture in pictures]
            logs = -np.log([[of[picture][1] for picture in pictures] for of in both])
            alone = [100 * float(image_metrics(of, defects).auroc or 0) for of in logs]
            together = 100 * float(image_metrics(logs.sum(0), defects).auroc or 0)
            told = f"{' and '.join(pair)} | {alone[0]:.1f}, {alone[1]:.1f} | {together:.1f}"
            print(f"| {category} | {told} | {together - max(alone):+.1f} |")


if __name__ == "__main__":
    main()
