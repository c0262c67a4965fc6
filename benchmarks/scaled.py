"""JPEG files decoded no larger than needed (setting `scaled_jpeg`): what is gained, and how far scores move.

    python benchmarks/scaled.py [DATA CATEGORY]

Pictures of a data set, saved as JPEG in their own size (quality 92), are judged by models with inputs of at most a
quarter of that size, fitted and judging with the setting and without. Differences of scores, median to largest, are
shares of their median size; the time is the processor's, of what a reader does for one drawn picture of a megapixel.
Prints rows for the table of speed.py.
"""

import argparse
import logging
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from measuring import Row, print_rows, shortest
from PIL import Image

from inlier import PaDiM, SimpleNet, open_dataset
from inlier.bench.profile import drawn_picture
from inlier.data.geometry import Geometry
from inlier.data.images import read_scaled
from inlier.metrics import image_metrics


def as_jpeg(samples: Any, folder: Path) -> tuple[Any, int]:
    """The same samples as JPEG files, and the length of their shortest side."""
    made, shortest_side = [], 10**9
    for i, sample in enumerate(samples):
        path, picture = folder / f"{i}.jpg", Image.open(sample.source)
        picture.save(path, quality=92)
        shortest_side = min(shortest_side, *picture.size)
        made.append(replace(sample, source=path))
    return tuple(made), shortest_side


def judged(kind: Any, dataset: Any, size: int, scaled: bool) -> tuple[Any, Any]:
    """(scores, verdicts) of the test pictures."""
    detector = kind("light", size=size, scaled_jpeg=scaled).fit(dataset)
    found = list(detector.predict(dataset, maps=False))
    return np.array([p.score for p in found]), np.array([p.verdict for p in found])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", default="elpv")
    parser.add_argument("category", nargs="?", default="mono")
    parser.add_argument("--every", type=int, default=2, help="take one of so many pictures")
    given = parser.parse_args()
    logging.getLogger("inlier").setLevel(logging.ERROR)
    dataset, rows = open_dataset(given.data, [given.category]), []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "drawn.jpg"
        path.write_bytes(drawn_picture())

        def read(scaled: bool) -> Any:
            geometry = Geometry(256, scaled_jpeg=scaled)
            return geometry(read_scaled(path, least=geometry.least)[0])

        whole, small = shortest(lambda: read(False), lambda: read(True))
        rows.append(Row("`scaled_jpeg`, from a file of a megapixel to 256 x 256", f"{1000 * small:.1f} ms",
                        f"whole {1000 * whole:.1f} ms", whole / small, "x faster"))  # fmt: skip
        samples, side = as_jpeg((*dataset.train[:: given.every], *dataset.test[:: given.every]), Path(folder))
        dataset, size = replace(dataset, samples=samples), side // 4 // 32 * 32
        labels = [sample.is_defect for sample in dataset.test]
        for kind in (PaDiM, SimpleNet):
            (scores, verdicts), (others, differ) = (judged(kind, dataset, size, on) for on in (False, True))
            apart = np.abs(scores - others) / np.median(np.abs(scores))
            before, after = (100 * (image_metrics(s, labels).auroc or 0) for s in (scores, others))
            rows.append(Row(
                f"`scaled_jpeg`, {kind.name} `light`, {given.category} of {side} pixels at {size}",
                f"scores differ by {100 * np.median(apart):.1f} to {100 * apart.max():.1f} %; AUROC {after:.1f}",
                f"whole: AUROC {before:.1f}; {(verdicts != differ).sum()} of {len(labels)} verdicts differ",
            ))  # fmt: skip
    print_rows(rows)


if __name__ == "__main__":
    main()
