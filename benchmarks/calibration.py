"""Does the false-alarm promise hold on real good parts that nobody fitted on? Writes benchmarks/CALIBRATION.md.

Good ELPV cells (mono) are split at random, again and again: four fifths to fit and calibrate, one fifth is judged. The
share of those that are called defect is compared with alpha. The draws overlap, so the error of the mean is a guess.
"""

import argparse
import statistics
from pathlib import Path

import numpy as np

from inlier import methods, open_dataset

ALPHAS = (0.02, 0.05, 0.1)
# small and quick variants: the promise does not depend on how good the model is
CASES = (("padim", "folds", {"size": 128}), ("simplenet", "split", {"size": 128, "epochs": 4}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=10)
    draws = parser.parse_args().draws
    good = [sample.source for sample in open_dataset("elpv", ["mono"]).samples if not sample.is_defect]
    lines = [
        f"| method | calibration | {' | '.join(f'alpha {alpha:.0%}' for alpha in ALPHAS)} | judged |",
        "|---" * 6 + "|",
    ]
    for method, kind, settings in CASES:
        rates: dict[float, list[float]] = {alpha: [] for alpha in ALPHAS}
        for draw in range(draws):
            order = np.random.default_rng(draw).permutation(len(good))
            new, known = order[: len(good) // 5], order[len(good) // 5 :]
            detector = methods.get(method)("light", seed=draw, **settings).fit(
                [good[i] for i in known], calibration=kind
            )
            p = detector.calibration_.p_values(detector.score_samples([good[i] for i in new]))
            for alpha in ALPHAS:
                rates[alpha].append(float(np.mean(p <= alpha)))
        cells = [f"{statistics.mean(r):.1%} ({min(r):.1%} to {max(r):.1%})" for r in rates.values()]
        lines.append(f"| {method} | {kind} | {' | '.join(cells)} | {draws} x {len(good) // 5} |")
        print(lines[-1], flush=True)
    about = (__doc__ or "").split("\n", 2)[2].strip()
    text = f"# False alarms on real good parts\n\nMade by `benchmarks/calibration.py --draws {draws}`.\n{about}\n\n"
    table = "\n".join(lines)
    (Path(__file__).parent / "CALIBRATION.md").write_text(f"{text}Mean over draws (lowest to highest).\n\n{table}\n")


if __name__ == "__main__":
    main()
