"""The size of the network's input against the time a picture takes: writes benchmarks/SIZES.md.

    python benchmarks/sizes.py [--methods padim simplenet]

All presets are `light`. What is timed is what an inspection does: from a picture's file (512 x 512 pixels, grey) to its
verdict, without a map, one picture after the other. It is the processor's time, as other programs on the machine
change that least; on an idle machine the clock shows the same. Training takes two steps, since its length changes no
time of judging. DifferNet judges the two views that most parts have; one view takes half, four take twice the time.
"""

import argparse
import os
import tempfile
import textwrap
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from inlier import methods
from inlier.machine import about

SIZES = 224, 256, 320, 384, 512
PICTURES, SIDE, TIMED = 8, 512, 12
# as little training as there may be, and what is not chosen by the pictures that are drawn here
QUICK: dict[str, dict[str, Any]] = {
    "padim": {},
    "simplenet": {"steps": 2},
    "differnet": {"steps": 2, "view_pool": 2},
    "memseg": {"steps": 2},
    "diad": {"steps": 2, "autoencoder_steps": 2},
}
TARGET = Path(__file__).parent / "SIZES.md"


def drawn(folder: Path) -> list[Path]:
    """Cloudy pictures with a little noise: files as large as those of parts."""
    rng, paths = np.random.default_rng(0), []
    for i in range(PICTURES):
        clouds = Image.fromarray(rng.uniform(60, 200, (16, 16)).astype(np.float32)).resize((SIDE, SIDE))
        paths.append(folder / f"{i}.png")
        noisy = np.asarray(clouds) + rng.normal(0, 3, (SIDE, SIDE))
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(paths[-1])
    return paths


def milliseconds(name: str, size: int, paths: list[Path]) -> float:
    """Of the processor, for a picture: the median."""
    detector = methods.create(name, size=size, **QUICK[name]).fit(paths, calibration="none", workers=1)
    times = []
    for i in range(TIMED + 1):
        start = time.process_time()
        detector.inspect(paths[i % len(paths)], maps=False)
        times.append(time.process_time() - start)
    return 1000 * float(np.median(times[1:]))  # the first one warms up


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="*", default=list(QUICK), choices=list(QUICK))
    parser.add_argument("--sizes", nargs="*", type=int, default=list(SIZES))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    lines = [
        f"| method, its own size | {' | '.join(map(str, arguments.sizes))} |",
        f"|---|{'---|' * len(arguments.sizes)}",
    ]
    with tempfile.TemporaryDirectory() as folder:
        paths = drawn(Path(folder))
        for name in arguments.methods:
            own = methods.get(name).presets["light"].size
            cells = [f"{milliseconds(name, size, paths):.0f}" for size in arguments.sizes]
            lines.append(f"| {name}, {own} | {' | '.join(cells)} |")
            print(lines[-1], flush=True)
    a = about()
    others = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0
    busy = f"; {others:.0f} programs shared its {a['cores']} cores, so a tenth more or less means nothing"
    busy = busy if others > (a["cores"] or 1) else ""
    made = (
        "Milliseconds a picture, by the size of the network's input in pixels a side. Made by `benchmarks/sizes.py`, "
        f"{a['processor']}, {a['threads']} thread, torch {a['torch']}, oneDNN {a['onednn']}{busy}."
    )
    told = (__doc__ or "").split("\n\n", 2)[2]  # what stands below the command
    words = "\n".join(textwrap.fill(" ".join(text.split()), 118) for text in (made, told))
    TARGET.write_text(f"# Size against time\n\n{words}\n\n" + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
