"""What two or three methods together would find on a test set. Prints a table for docs/experiments.md.

    python benchmarks/pairs.py FOLDER ...      of `inlier benchmark`, whose scores of each picture are read

Two ways: the p-values multiplied (Fisher's statistic), and the normal deviates added (Stouffer's, methods/joined.py),
here with mean and deviation of the test set's own good pictures, which flatters a little. A joined model has a
calibration of its own, as two methods that look at the same picture are not independent; AUROC needs none. First seed.
"""

import itertools
import json
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from inlier.bench import rows
from inlier.metrics import image_metrics

Judged = dict[str, tuple[bool, float, float]]  # picture -> is a defect, p-value, score


def main() -> None:
    found: dict[tuple[str, str], Judged] = {}
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
                judged = zip(defects, told["p_values"], told["scores"], strict=True)
                found[key] = dict(zip(told["pictures"], judged, strict=True))
    print("| set | methods | image AUROC | p-values multiplied | deviates added |\n|---|---|---|---|---|")
    for category in sorted({category for category, _ in found}):
        names = [name for of, name in found if of == category]
        for several in [*itertools.combinations(names, 2), *itertools.combinations(names, 3)]:
            of = [found[category, name] for name in several]
            pictures = sorted(set.intersection(*(set(judged) for judged in of)))
            defects, p_values, scores = np.array([[judged[p] for p in pictures] for judged in of]).transpose(2, 0, 1)
            is_defect = defects[0].astype(bool)
            good = scores[:, ~is_defect]
            z = (scores - good.mean(1, keepdims=True)) / good.std(1, keepdims=True)
            alone = ", ".join(auroc(score, is_defect) for score in scores)
            fisher, stouffer = auroc(-np.log(p_values).sum(0), is_defect), auroc(z.sum(0), is_defect)
            print(f"| {category} | {' and '.join(several)} | {alone} | {fisher} | {stouffer} |")


def auroc(scores: NDArray[np.float64], is_defect: NDArray[np.bool_]) -> str:
    return f"{100 * float(image_metrics(scores, is_defect).auroc or 0):.1f}"


if __name__ == "__main__":
    main()
