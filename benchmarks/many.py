"""100,000 pictures through `predict`: does memory grow, and does the rate fall?

    python benchmarks/many.py [--pictures 100000]

A few hundred JPEG files, listed again and again, are judged by PaDiM `light` at 64 pixels, maps included, on the
runtime that is asked for. Rates are of the processor's time (all threads), which other programs change least; memory is
what the process holds. Prints rows for the table of speed.py.
"""

import argparse
import itertools
import logging
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from measuring import Row, memory, print_rows
from PIL import Image

from inlier import PaDiM

FILES, SIDE, AT_ONCE = 300, 256, 1000


def write_files(folder: Path) -> list[Path]:
    """Cloudy pictures with a little noise."""
    rng, paths = np.random.default_rng(0), []
    for i in range(FILES):
        clouds = Image.fromarray(rng.integers(60, 200, (8, 8, 3), np.uint8)).resize((SIDE, SIDE))
        noisy = np.asarray(clouds) + rng.normal(0, 3, (SIDE, SIDE, 1))
        paths.append(folder / f"{i}.jpg")
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(paths[-1], quality=90)
    return paths


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=100_000)
    given = parser.parse_args()
    logging.getLogger("inlier").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    seconds, walls, held = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        paths = write_files(Path(folder))
        detector = PaDiM("light", size=64).fit(paths[:100])
        found = detector.predict(itertools.islice(itertools.cycle(paths), given.pictures))
        busy, wall, faulty = time.process_time(), time.perf_counter(), 0
        for i, p in enumerate(found, 1):
            faulty += p.map is None or not p.verdict
            if i % AT_ONCE == 0:
                seconds.append(time.process_time() - busy)
                walls.append(time.perf_counter() - wall)
                held.append(memory())
                busy, wall = time.process_time(), time.perf_counter()
                print(f"{i} {AT_ONCE / seconds[-1]:.0f}/s {held[-1]:.0f} MiB", file=sys.stderr, flush=True)
    assert not faulty
    name = f"padim `light` at 64 pixels, {given.pictures:,} JPEGs with maps"
    first, last = AT_ONCE / seconds[0], AT_ONCE / seconds[-1]
    spread = f"of all thousands {AT_ONCE / max(seconds):.0f} to {AT_ONCE / min(seconds):.0f}"
    beside = f"first thousand {first:.0f}/s; {spread}; by the clock {given.pictures / sum(walls):.0f}/s"
    settled = held[min(4, len(held) - 1)]  # what the first thousands allocate for good
    print_rows([
        Row(f"{name}: rate of the last thousand, processor", f"{last:.0f}/s", beside, last / first, "x", ">= 0.9"),
        Row(f"{name}: memory at the end", f"{held[-1]:.0f} MiB", f"after 5,000 {settled:.0f}, highest {max(held):.0f}",
            held[-1] / settled, "x", "<= 1.02"),
    ])  # fmt: skip


if __name__ == "__main__":
    main()
