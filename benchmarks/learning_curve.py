"""DifferNet with few good pictures: image AUROC over 16, 32, 64, 128 and all of them. Prints a markdown table.

The good pictures are drawn at random, the smaller draws lie inside the larger ones; calibration "none", so that every
picture is fitted on. The test set is the whole one.
"""

import argparse
import logging
import random
from dataclasses import replace
from pathlib import Path

from inlier import DifferNet, open_dataset
from inlier.metrics import image_metrics

SIZES = (16, 32, 64, 128)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder that holds the category")
    parser.add_argument("--category", default="magnetic_tile")
    parser.add_argument("--preset", default="light")
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    dataset = open_dataset(arguments.data, [arguments.category])
    sources, truth = [s.source for s in dataset.test], [s.is_defect for s in dataset.test]
    print(f"| good pictures of {arguments.category} | image AUROC, seeds 0 to {arguments.seeds - 1} |\n|---|---|")
    for size in (*(n for n in SIZES if n < len(dataset.train)), len(dataset.train)):
        numbers = []
        for seed in range(arguments.seeds):
            good = random.Random(seed).sample(dataset.train, len(dataset.train))[:size]
            part = replace(dataset, samples=(*good, *dataset.test))
            detector = DifferNet(arguments.preset, seed=seed).fit(part, calibration="none")
            numbers.append(image_metrics(detector.score_samples(sources), truth).auroc or 0.0)
        print(f"| {size} | {', '.join(f'{100 * number:.1f}' for number in numbers)} |", flush=True)


if __name__ == "__main__":
    main()
