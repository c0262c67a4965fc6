"""Does the false-alarm promise hold on real good parts that nobody fitted on? Writes benchmarks/CALIBRATION.md.

Good pictures of each set (training and test together: parts of one kind) are split at random, again and again: four
fifths to fit and calibrate, one fifth is judged. The share of those that are called defect is compared with what the
promise on average allows, and with where 95 % of such means would lie if the scores were exchangeable and the draws
independent (they overlap, so it is a guess). In how many draws the rate that is stated with 95 % confidence was
exceeded by more than chance (one-sided binomial, 5 %) is counted, too.

Each row is written as soon as it is there and takes the place of the one before it of the same set, method and kind.
"""

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
from scipy.stats import binom
from table import keep

from inlier import methods, open_dataset
from inlier.calibration import rank

ALPHAS = (0.02, 0.05, 0.1)
SETS = (("screw", "mvtec_ad", "screw"), ("magnetic_tile", "", "magnetic_tile"), ("mono", "elpv", "mono"))
SETS = (*SETS, ("poly", "elpv", "poly"))
# small and quick variants: the promise does not depend on how good the model is
CASES = (
    ("padim", "folds", {"size": 128}),
    ("padim", "split", {"size": 128}),
    ("simplenet", "split", {"size": 128, "steps": 400}),
    ("simplenet", "folds", {"size": 128, "steps": 400}),
    ("differnet", "split", {"size": 128, "steps": 60}),
)
TABLE = Path(__file__).parent / "CALIBRATION.md"
HEADS = ["set", "method", "calibration", *(f"alpha {alpha:.0%}" for alpha in ALPHAS)]
HEADS += ["confident rate exceeded", "judged"]
NOTE = """Mean over draws (where 95 % of such means would lie).
Folds err towards fewer alarms: a picture left out is scored by a model that has seen one part fewer than the one that
judges, and lies a little farther from it."""


def likely(alpha: float, n: int, judged: int, draws: int) -> tuple[float, float]:
    """Where 95 % of the means over draws lie, if the promise is exact."""
    rng, k = np.random.default_rng(0), max(rank(n, alpha), 1)
    rates = rng.binomial(judged, rng.beta(k, n + 1 - k, (4000, draws))).mean(1) / judged
    low, high = np.quantile(rates, (0.025, 0.975))
    return float(low), float(high)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--data", type=Path, help="folder of magnetic_tile and mvtec_ad; default: elpv alone")
    parser.add_argument("--sets", nargs="*", default=[name for name, _, _ in SETS])
    parser.add_argument("--cases", nargs="*", default=[f"{m}-{kind}" for m, kind, _ in CASES], help="method-kind")
    parser.add_argument("--most", type=int, default=400, help="pictures of a set, at most")
    arguments = parser.parse_args()
    about = (__doc__ or "").split("\n", 2)[2].split("\n\n")[0].strip()
    made = f"Made by `benchmarks/calibration.py`, whose `CASES` holds the settings.\n{about}"
    sets = [name for name, _, _ in SETS]
    for name, root, category in SETS:
        if name not in arguments.sets or (root != "elpv" and not arguments.data):
            continue
        dataset = open_dataset(root if root == "elpv" else arguments.data / root / category, [category])
        good = [sample.source for sample in dataset.samples if not sample.is_defect]
        good = [good[i] for i in np.random.default_rng(1).permutation(len(good))[: arguments.most]]
        for method, kind, settings in CASES:
            if f"{method}-{kind}" not in arguments.cases:
                continue
            start, rates, exceeded, n = time.monotonic(), {alpha: [] for alpha in ALPHAS}, 0, 0
            for draw in range(arguments.draws):
                order = np.random.default_rng(draw).permutation(len(good))
                new, known = order[: len(good) // 5], order[len(good) // 5 :]
                detector = methods.create(method, seed=draw, **settings)
                detector.fit([good[i] for i in known], calibration=kind)
                scores = detector.score_samples([good[i] for i in new])
                n = detector.calibration_.n_groups
                for alpha in ALPHAS:
                    rule = detector.calibration_.rule(max(alpha, 1 / (n + 1)))
                    alarms = int((scores > rule.threshold).sum())
                    rates[alpha].append(alarms / len(new))
                    if alpha == 0.05:  # more alarms than the confident rate explains
                        exceeded += bool(binom.sf(alarms - 1, len(new), rule.confident) < 0.05)
            cells = []
            for alpha, seen in rates.items():
                low, high = likely(alpha, n, len(good) // 5, arguments.draws)
                mean = statistics.mean(seen)
                outside = "" if low <= mean <= high else " **outside**"
                cells.append(f"{mean:.1%} ({low:.1%} to {high:.1%}){outside}")
            row = [name, method, f"{kind}, {n}", *cells, f"{exceeded} of {arguments.draws}"]
            row.append(f"{arguments.draws} x {len(good) // 5}")
            keep(TABLE, f"# False alarms on real good parts\n\n{made}\n\n{NOTE}", HEADS, row, 3, sets)
            print(row, f"{time.monotonic() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
