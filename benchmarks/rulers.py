"""How far two halves of the held-out pictures agree on the candidates of `inlier auto`, for several rulers.

    python benchmarks/rulers.py DATA [--category NAME] --out MODEL.inlier      writes the chosen model and its page, too

No test picture is opened. Each ruler is a number made of the scores of good pictures and of defects planted in them.
The held-out pictures are halved at random again and again, and every candidate is measured on both halves: the
correlation of the two, over candidates and divisions, each about the mean of the candidates, tells how much of what a
ruler tells apart is there again on other pictures of the same part.
"""

import argparse
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import inlier
from inlier.bench.trial import Trial
from inlier.report.choice import write_choice

DIVISIONS = 200
RULERS: dict[str, Callable[[Trial], float]] = {
    "found at 5 %": lambda t: t.detection(),
    "AUROC": lambda t: t.auroc,
    "partial AUROC to 20 %": lambda t: t.partial_auroc,
    "mean of AUROC and found at 5 %": lambda t: (t.auroc + t.detection()) / 2,
    "mean of AUROC and partial AUROC": lambda t: t.quality,
}


def part(trial: Trial, pictures: NDArray[np.int64]) -> Trial:
    """Of some pictures, in ascending order."""
    chosen = np.isin(trial.pictures, pictures)
    return replace(
        trial,
        good=trial.good[pictures],
        defects=trial.defects[chosen],
        pictures=np.searchsorted(pictures, trial.pictures[chosen]),
        kinds=tuple(np.array(trial.kinds)[chosen]),
        areas=trial.areas[chosen],
    )


def correlation(trials: list[Trial], ruler: Callable[[Trial], float]) -> float:
    rng, n = np.random.default_rng(0), len(trials[0].good)
    measured = np.empty((2, DIVISIONS, len(trials)))
    for division in range(DIVISIONS):
        drawn = rng.permutation(n)
        for half, pictures in enumerate((drawn[: n // 2], drawn[n // 2 :])):
            measured[half, division] = [ruler(part(trial, np.sort(pictures))) for trial in trials]
    one, other = measured - measured.mean(2, keepdims=True)
    return float((one * other).sum() / np.sqrt((one**2).sum() * (other**2).sum()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--category", action="append", default=[])
    parser.add_argument("--budget", default="12min")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    detector = inlier.auto(arguments.data, arguments.budget, categories=arguments.category, with_examples=True)
    detector.save(arguments.out)
    write_choice(detector.choice_, detector, arguments.out.with_suffix(".html"))
    rows = [row for row in detector.choice_.rows if row.trial]
    for row in rows:
        print(f"{row.name:45}", *(f"{100 * ruler(row.trial):5.1f}" for ruler in RULERS.values()))
    alone = [row.trial for row in rows if row.method != "joined"]
    for name, ruler in RULERS.items():
        print(f"{name}: {correlation(alone, ruler):.2f}")


if __name__ == "__main__":
    main()
