"""From file to verdict: does the model wait for pictures, and how long does one picture take?

    python benchmarks/data_path.py [--pictures FOLDER] [--threads N]

JPEG files of a megapixel, of a folder's pictures or drawn, are judged by PaDiM `light` on every runtime that is
installed. Waiting is the time that the thread of the model spends until the next picture is read, as a share of all the
time after the first batch. Prints rows for the table of speed.py.
"""

import argparse
import itertools
import logging
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import ONE_THREAD, Row, clock, print_rows
from PIL import Image

from inlier import PaDiM, load
from inlier.bench.profile import drawn_picture
from inlier.data import batches
from inlier.data.images import list_images

SIDE, FILES, JUDGED, ALONE = 1024, 16, 160, 60
SUFFIXES = {"onnxruntime": ".onnx", "openvino": ".xml"}


def write_files(folder: Path, source: Path | None) -> list[Path]:
    """JPEGs of SIDE x SIDE pixels."""
    found = list_images(source)[:FILES] if source else []
    paths = []
    for i in range(FILES):
        path = folder / f"{i}.jpg"
        if found:
            picture = Image.open(found[i % len(found)]).convert("RGB").resize((SIDE, SIDE))
            picture.save(path, quality=90)
        else:
            path.write_bytes(drawn_picture(i))
        paths.append(path)
    return paths


def judged(model: Any, paths: list[Path], workers: int) -> dict[str, float]:
    """Pictures a second, and the share of the time that the model waited."""
    waited, original = [], batches.read_ahead

    def timed(*arguments: Any) -> Iterator[Any]:
        results = original(*arguments)
        try:
            while True:
                start = time.perf_counter()
                try:
                    one = next(results)
                except StopIteration:
                    return
                waited.append(time.perf_counter() - start)
                yield one
        finally:
            results.close()

    batches.read_ahead = timed  # type: ignore[assignment]
    try:
        found = iter(model.predict(list(itertools.islice(itertools.cycle(paths), JUDGED)), workers=workers))
        for _ in range(8):
            next(found)
        start, already = time.perf_counter(), len(waited)
        n = sum(1 for _ in found)
        seconds = time.perf_counter() - start
    finally:
        batches.read_ahead = original
    return {"rate": n / seconds, "waited": sum(waited[already:]) / seconds}


def alone(model: Any, paths: list[Path]) -> list[float]:
    """Seconds of single pictures, from the file's bytes to the verdict."""
    times = []
    for i in range(ALONE + 5):
        start = clock()
        model.inspect(paths[i % len(paths)])
        times.append(clock() - start)
    return times[5:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, help="a folder")
    parser.add_argument("--threads", type=int, default=1, help="of the arithmetic")
    parser.add_argument("--workers", type=int, default=2, help="threads that read")
    parser.add_argument("--runtimes", nargs="*", default=["torch", *SUFFIXES], choices=["torch", *SUFFIXES])
    given = parser.parse_args()
    logging.getLogger("inlier").setLevel(logging.ERROR)
    torch.set_num_threads(given.threads)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        paths = write_files(Path(folder), given.pictures)
        detector = PaDiM("light").fit(paths, calibration="split")
        models: dict[str, Any] = {"torch": detector}
        for package, suffix in SUFFIXES.items():
            if package in given.runtimes and find_spec(package) and find_spec("onnxscript"):
                detector.export(Path(folder) / f"part{suffix}", force=True)
                models[package] = load(Path(folder) / f"part{suffix}")
        for name, model in models.items():
            found = judged(model, paths, given.workers)
            what = (
                f"padim `light`, {name}, JPEG of {SIDE} x {SIDE}, {given.threads} threads and {given.workers} readers"
            )
            share = 100 * found["waited"]
            rows.append(Row(f"{what}: the model waits", f"{found['rate']:.1f} pictures/s", "", share, "%", "<= 5"))
            times = 1000 * np.array(alone(model, paths))
            by = " of the processor" if ONE_THREAD else ""
            told = f"median {np.median(times):.1f} ms{by}, 95 %: {np.quantile(times, 0.95):.1f} ms"
            rows.append(Row(f"padim `light`, {name}, one picture from file to verdict", told))
    print_rows(rows)


if __name__ == "__main__":
    main()
