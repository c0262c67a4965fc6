"""What float32 itself changes in DifferNet's scores: the same network in float64 on the same pictures.

    python benchmarks/rounding.py MODEL.inlier DATA [--category mono] [--most 40]

Prints the range of scores and the largest difference, a share of the score: two programs that
compute with float32 need not agree any better.
"""

import argparse
import copy
from pathlib import Path

import numpy as np
import torch
from parity import part_of

from inlier import load, open_dataset
from inlier.data.batches import read_batches


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("data")
    parser.add_argument("--category", action="append", default=[])
    parser.add_argument("--most", type=int, default=40)
    arguments = parser.parse_args()
    detector = load(arguments.model)
    test = part_of(open_dataset(arguments.data, arguments.category), None, arguments.most).test
    single = detector.network_.eval()
    double = copy.deepcopy(single).double()
    pairs = []
    for batch in read_batches([sample.source for sample in test], detector.geometry_, 8, 1):
        images = torch.from_numpy(batch.images)
        with torch.inference_mode():
            pairs.append([single.scores(images).double(), double.scores(images.double())])
    ours, exact = (torch.cat(column).numpy() for column in zip(*pairs, strict=True))
    apart = np.abs(ours - exact) / np.maximum(np.abs(exact), np.median(np.abs(exact)))
    print(f"{len(exact)} scores, median {np.median(exact):.3g}, largest {exact.max():.3g}")
    print(f"float32 is {apart.max():.1e} apart from float64 at most, {np.median(apart):.1e} in the median")


if __name__ == "__main__":
    main()
