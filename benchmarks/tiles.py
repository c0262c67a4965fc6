"""Is a small defect found in large pictures cut into tiles, and what do time and memory do as pictures grow?

PaDiM `light` with tiles is fitted once, on good pictures of the smallest size. Then a good picture of each size, and
the same one with a planted defect, are judged from a PNG file, each in a process of its own, so that no peak of memory
hides another. `python benchmarks/tiles.py > benchmarks/TILES.md`
"""

import argparse
import json
import math
import platform
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

import inlier
from inlier.inspection.result import Box

SIZES = ((1000, 750), (2000, 1500), (4000, 3000), (8000, 6000))  # width, height
DEFECT = 12  # pixels of its side
REACH = 48  # pixels from the defect at which the map's peak counts as found: half of what a deep layer answers on
MIB = 2**20
ABOUT = """# Tiles of large pictures

Made by `benchmarks/tiles.py --tile {tile} --train {train} --threads {threads}` on {processor}; torch {torch}.

PaDiM `light` is fitted on {train} made-up textured pictures of {width} x {height} pixels. Pictures of the same texture
are judged with a planted defect, a square of {defect} pixels at half the brightness, and without. To a defect so small
the deep layers of `light` answer with a plateau of about {plateau} pixels around it, and the map's peak lies somewhere
on that; the defect is found where the peak is at most {reach} pixels away. The best box is the one with the highest
peak in it.

Each picture is read, judged and its map put together in a process of its own. Seconds are the processor's, whatever
else the machine does. Memory is what the process held at most, the model included; the last column is without what it
held before the picture was read. Of that a batch of tiles takes some 200 MiB whatever the picture, which is most of it
for small ones; the rest grows with the picture, as its pixels, its map and the maps of its tiles do.

A model that was calibrated on pictures of one size promises nothing for larger ones: the highest of many tiles' scores
is higher than that of few, so good ones are called defects here as they grow.
"""
COLUMNS = ("pixels", "tiles", "found", "peak's distance", "defect in best box", "verdict (p)", "without the defect",
           "seconds", "µs a pixel", "memory, MiB", "bytes a pixel")  # fmt: skip


def textured(seed: int, width: int, height: int) -> NDArray[np.uint8]:
    """Grey blotches under fine noise, the same kind everywhere: (height, width, 3)."""
    rng = np.random.default_rng(seed)
    blotches = gaussian_filter(rng.standard_normal((height, width), np.float32), 6)
    grey = 130 + 12 / blotches.std() * blotches + 6 * rng.standard_normal((height, width), np.float32)
    return np.repeat(grey.clip(0, 255).astype(np.uint8)[..., None], 3, 2)


def judge(model: str, picture: str) -> dict[str, Any]:
    """What one process finds: verdict, tiles, the peak's row and column, the best box, time and memory (MiB)."""
    detector = inlier.load(model)
    detector.inspect(np.zeros((64, 64, 3), np.uint8))  # what the first call alone costs is not the picture's
    Path("/proc/self/clear_refs").write_text("5")  # sets back the peak, which is that of loading the model so far
    before, start = memory("VmRSS"), time.process_time()
    p = detector.inspect(picture)
    assert p.map is not None and p.network_maps is not None
    seconds, most = time.process_time() - start, memory("VmHWM")
    return {
        "verdict": f"{p.verdict} ({p.p_value:.3f})",
        "tiles": len(p.network_maps),
        "peak": [int(place) for place in np.unravel_index(int(p.map.argmax()), p.map.shape)],
        "box": p.boxes()[0] if p.boxes() else None,
        "seconds": seconds,
        "memory": most,
        "grown": most - before,
    }


def memory(of: str) -> float:
    """MiB that this process holds (VmRSS), or held at most since the count was set back (VmHWM). Linux only."""
    found = re.search(rf"{of}:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def in_own_process(model: Path, pixels: NDArray[np.uint8], threads: int) -> dict[str, Any]:
    path = model.with_name("picture.png")
    Image.fromarray(pixels).save(path, compress_level=1)
    command = [sys.executable, __file__, "--threads", str(threads), "--judge", str(model), str(path)]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    return found


def row(model: Path, width: int, height: int, threads: int) -> list[str]:
    """The cells of `COLUMNS`."""
    good = textured(10**6, width, height)
    bad, top, left = good.copy(), height * 5 // 8, width * 3 // 8
    bad[top : top + DEFECT, left : left + DEFECT] //= 2
    without, found = (in_own_process(model, pixels, threads) for pixels in (good, bad))
    distance = math.dist(found["peak"], (top + DEFECT / 2, left + DEFECT / 2))
    box, n = Box(*found["box"]) if found["box"] else Box(0, 0, 0, 0, 0, 0), width * height
    inside = box.left <= left and left + DEFECT <= box.right and box.top <= top and top + DEFECT <= box.bottom
    return [f"{width} x {height}", str(found["tiles"]), "yes" if distance <= REACH else "no", f"{distance:.0f}",
            f"{'yes' if inside else 'no'}, {box.right - box.left} x {box.bottom - box.top}", found["verdict"],
            without["verdict"], f"{found['seconds']:.1f}", f"{found['seconds'] / n * 1e6:.2f}",
            f"{found['memory']:.0f}", f"{found['grown'] * MIB / n:.0f}"]  # fmt: skip


def processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tile", type=int, default=256)
    parser.add_argument("--train", type=int, default=40, help="good pictures to fit and calibrate on")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--judge", nargs=2, metavar=("MODEL", "PICTURE"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.judge:
        print(json.dumps(judge(*given.judge)))
        return
    width, height = SIZES[0]
    print(ABOUT.format(**vars(given), processor=processor(), torch=torch.__version__, width=width, height=height,
                       defect=DEFECT, reach=REACH, plateau=2 * REACH))  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "tiles.inlier"
        good = (textured(seed, width, height) for seed in range(given.train))
        inlier.PaDiM(preset="light", tile=given.tile).fit(good).save(model)
        print(f"| {' | '.join(COLUMNS)} |\n|{len(COLUMNS) * '---|'}")
        for size in SIZES:
            print(f"| {' | '.join(row(model, *size, given.threads))} |", flush=True)


if __name__ == "__main__":
    main()
