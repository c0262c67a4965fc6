"""One model for screw, magnetic tile and ELPV mono together, last step: a line for each category.

    python benchmarks/joint.py diad --data ../data [--preset light] [--seed 0] [--planted] [key=value ...]

All good training pictures, no calibration; the whole test sets. With --planted a fifth is held out, and AUROC, share
found at 5 % false alarms and average precision of the pixels on planted defects of 40 of each category choose settings
(bench/trial.py); the test sets stand beside for the record.
"""

import argparse
import logging
import time
from dataclasses import replace
from pathlib import Path

from inlier import evaluate, methods, open_dataset
from inlier.bench import trial
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
    parser.add_argument("--device", default="auto")
    parser.add_argument("--planted", action="store_true")
    arguments = parser.parse_args()
    data, kind = together(arguments.data), methods.get(arguments.method)
    settings = type(kind.presets[arguments.preset]).parse(arguments.settings)
    fitted, held_out = trial.hold_out(data, 0)[:2] if arguments.planted else (data, [])
    start, busy = time.monotonic(), time.process_time()
    detector = methods.create(
        arguments.method, arguments.preset, seed=arguments.seed, device=arguments.device, **settings
    ).fit(fitted, calibration="none")
    print(about())
    print(f"fit: {time.monotonic() - start:.0f} s, {time.process_time() - busy:.0f} s of the processor")
    for category in data.categories if held_out else ():
        found = trial.run(detector, [sample for sample in held_out if sample.category == category][:40])
        shares = found.auroc, found.detection(), found.pixel_ap or 0
        print("planted", category, " / ".join(f"{100 * share:.1f}" for share in shares), flush=True)
    for category in data.categories:
        result = evaluate(detector, data.select([category])).categories[category]
        shares = [result.image.auroc, *([result.pixel.auroc, result.pixel.aupro] if result.pixel else [])]
        print("test", category, " / ".join(f"{100 * (share or 0):.1f}" for share in shares), flush=True)


if __name__ == "__main__":
    main()
