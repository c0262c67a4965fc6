"""One model for screw, magnetic tile and ELPV mono together, last step: a line for each category.

    python benchmarks/joint.py diad --data ../data [--preset light] [--seed 0] [key=value ...]

All good training pictures, no calibration; the whole test sets.
"""

import argparse
import logging
import time
from dataclasses import replace
from pathlib import Path

from inlier import evaluate, methods, open_dataset
from inlier.data.datasets.sample import Dataset
from inlier.machine import about


def together(folder: Path) -> Dataset:
    parts = {
        "screw": open_dataset(folder / "mvtec_ad" / "screw"),
        "magnetic_tile": open_dataset(folder / "magnetic_tile"),
        "mono": open_dataset("elpv", ["mono"]),
    }
    samples = [replace(sample, category=name) for name, part in parts.items() for sample in part.samples]
    return Dataset("joint", f"{len(parts)} data sets as one", tuple(samples))


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("method")
    parser.add_argument("settings", nargs="*", help="key=value, as --set of `inlier train` takes them")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--preset", default="light")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    data, kind = together(arguments.data), methods.get(arguments.method)
    settings = type(kind.presets[arguments.preset]).parse(arguments.settings)
    start, busy = time.monotonic(), time.process_time()
    detector = methods.create(arguments.method, arguments.preset, seed=arguments.seed, **settings).fit(
        data, calibration="none"
    )
    print(about())
    print(f"fit: {time.monotonic() - start:.0f} s, {time.process_time() - busy:.0f} s of the processor")
    for category in data.categories:
        found = evaluate(detector, data.select([category])).categories[category]
        shares = [found.image.auroc, *([found.pixel.auroc, found.pixel.aupro] if found.pixel else [])]
        print(category, " / ".join(f"{100 * (share or 0):.1f}" for share in shares), flush=True)


if __name__ == "__main__":
    main()
