"""Draws docs/images/threshold.svg, promises.svg and needed.svg: what calibration promises, by its own functions."""

import argparse
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np

from inlier.calibration import confident_rate, needed_scores, p_values, rank, threshold

GOOD, DEFECT, LIMIT = "#00796b", "#c62828", "#37474f"
STYLE = {"svg.hashsalt": "inlier", "axes.spines.top": False, "axes.spines.right": False, "font.size": 11}


def one_threshold(ax: plt.Axes) -> None:
    scores, alpha, part = np.random.default_rng(5).gamma(9, 1.0, 99), 0.05, 21.5
    limit, p = threshold(scores, alpha), p_values(scores, [part])[0]
    ax.hist(scores, bins=24, color=GOOD, alpha=0.8, label="99 good parts that calibrate")
    ax.axvline(limit, color=LIMIT, linestyle="--", label=f"threshold for alpha {alpha:.0%}")
    ax.plot([part], [0.35], "v", color=DEFECT, markersize=10, label=f"a new part: p = {p:.2f}, defect")
    ax.set(xlabel="score", ylabel="good parts", xlim=(0, 30))


def two_promises(ax: plt.Axes) -> None:
    rates = np.linspace(0.0002, 0.11, 600)
    for n, colour in ((40, DEFECT), (99, LIMIT), (299, GOOD)):
        alpha = max(0.01, 1 / (n + 1))
        k = rank(n, alpha)
        density = np.exp((k - 1) * np.log(rates) + (n - k) * np.log1p(-rates))  # beta, for the true rate
        ax.plot(100 * rates, density / density.max(), color=colour, label=f"{n} pictures, alpha {alpha:.1%}")
        ax.axvline(100 * confident_rate(k, n, 0.95), color=colour, linestyle="--", linewidth=1)
    ax.set(xlabel="true false-alarm rate of this calibration, %", ylabel="how likely", yticks=[], xlim=(0, 11))


def pictures_needed(ax: plt.Axes) -> None:
    alphas = np.geomspace(0.002, 0.1, 60)
    for confidence, colour, label in ((None, GOOD, "on average"), (0.95, DEFECT, "with 95 % confidence")):
        ax.plot(100 * alphas, [needed_scores(a, confidence) for a in alphas], color=colour, label=label)
    ax.set(xscale="log", yscale="log", xlabel="false-alarm rate promised, %", ylabel="calibration pictures needed")
    ax.set_xticks([0.2, 0.5, 1, 2, 5, 10], ["0.2", "0.5", "1", "2", "5", "10"])
    ax.set_yticks([10, 30, 100, 300, 1000], ["10", "30", "100", "300", "1000"])
    ax.grid(alpha=0.3)


PICTURES = {"threshold": one_threshold, "promises": two_promises, "needed": pictures_needed}


def draw(out: Path) -> list[Path]:
    matplotlib.use("Agg")
    written = []
    with plt.rc_context(STYLE):
        for name, picture in PICTURES.items():
            figure, ax = plt.subplots(figsize=(7, 3.2), layout="constrained")
            picture(ax)
            ax.legend(frameon=False, fontsize=10)
            written.append(out / f"{name}.svg")
            figure.savefig(written[-1], metadata={"Date": None})
            plt.close(figure)
    return written


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "docs/images")
    draw(parser.parse_args().out)
