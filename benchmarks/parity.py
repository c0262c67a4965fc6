"""Do exported models judge real pictures like the model they were made from? Writes benchmarks/PARITY.md.

    python benchmarks/parity.py [METHOD ...] --data ../data [--most 100] [--whole] [--precisions f32 bf16 int8]

Preset `light`, fitted on 60 good pictures with few steps (a graph is the same however long was trained; DifferNet with
all, as its flow multiplies rounding until it has learned), or, with `--whole`, on all good pictures as the preset says;
compared on all test pictures of a set, or on `--most` of them, as many good ones as defects. diad:VARIANT is a variant
of DiAD, preset `light` but for `inversion`; plain diad is `sg+sff`, the method; differnet:clamp=3 is its preset `light`
of before. A difference of scores is a share of the score or of their median, whichever is larger, one of maps a share
of the map's own peak. A bf16 file finds on half of the pictures how far it moves scores and is compared on the other
half. Kept: whether the export is written, or refused without --force.
"""

import argparse
import logging
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from table import keep

from inlier import load, methods, open_dataset
from inlier.data.datasets.sample import Dataset
from inlier.machine import about
from inlier.runtime.parity import Compared, Parity, compare

SHORT: dict[str, dict[str, Any]] = {
    "padim": {},
    "simplenet": {"steps": 200},
    "differnet": {},
    "differnet:clamp=3": {"clamp": 3.0},  # preset light of before
    "memseg": {"steps": 60, "memory": 30},
    "diad": {"steps": 60, "autoencoder_tuning": 4},
    "diad:sg": {"steps": 60, "autoencoder_tuning": 4, "variant": "sg"},
    "diad:ldm": {"steps": 60, "autoencoder_tuning": 4, "variant": "ldm"},
    "diad:ddpm": {"steps": 60, "variant": "ddpm"},
    "diad:inversion": {"steps": 60, "preset": "inversion"},
}
SETS = {"screw": "mvtec_ad/screw", "magnetic_tile": "magnetic_tile", "mono": "elpv"}
HEADS = ["method", "set", "runtime", "precision", "fitted on", "pictures", "scores differ", "maps differ"]
HEADS += ["verdicts that flip", "image AUROC", "kept", "processor"]
FILES = {"f32": ("onnx", "openvino"), "bf16": ("openvino",), "int8": ("onnx", "openvino")}
SUFFIX = {"onnx": ".onnx", "openvino": ".xml"}
ORDER = list(SHORT)
TABLE = Path(__file__).parent / "PARITY.md"


def main() -> None:
    logging.getLogger("inlier").setLevel(logging.ERROR)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("methods", nargs="*", default=list(SHORT), metavar="METHOD")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--most", type=int)
    parser.add_argument("--whole", action="store_true")
    parser.add_argument("--precisions", nargs="+", default=["f32"], choices=FILES)
    arguments = parser.parse_args()
    words = (__doc__ or "").split("\n\n")[2].strip()
    text = f"# Exported models against the model\n\nMade by `benchmarks/parity.py`.\n{words}"
    for name in arguments.methods:
        for set_, place in SETS.items():
            dataset = open_dataset(place, [set_]) if place == "elpv" else open_dataset(arguments.data / place)
            dataset = part_of(dataset, None if arguments.whole else 60, arguments.most)
            detector = methods.create(name.split(":")[0], **settings_of(name, arguments.whole))
            if name == "memseg" and arguments.whole:
                detector.set_params(textures=str(arguments.data / "dtd"))
            detector.fit(replace(dataset, samples=tuple(dataset.train)))
            fitted = f"{len(dataset.train)}{'' if arguments.whole else '; short'}"
            with tempfile.TemporaryDirectory() as folder:
                for precision in arguments.precisions:
                    for runtime in FILES[precision]:
                        file = Path(folder) / f"m{SUFFIX[runtime]}"
                        row = row_of(detector, file, precision, dataset, [name, set_, runtime, precision, fitted])
                        keep(TABLE, text, HEADS, row, 4, ORDER)


def settings_of(name: str, whole: bool) -> dict[str, Any]:
    """What differs from preset `light`; a whole fit keeps of it what makes it the method that it is."""
    return {key: value for key, value in SHORT[name].items() if not whole or key in ("variant", "preset", "clamp")}


def part_of(dataset: Dataset, fitted: int | None, most: int | None) -> Dataset:
    """`fitted` good pictures to fit on and `most` to compare, half of these good and half defects; none: all."""
    rng = np.random.default_rng(0)
    train = [dataset.train[i] for i in np.sort(rng.permutation(len(dataset.train))[:fitted])]
    kinds = [[s for s in dataset.test if s.is_defect is is_defect] for is_defect in (False, True)]
    test = [kind[i] for kind in kinds for i in np.sort(rng.permutation(len(kind))[: most and most // 2])]
    return replace(dataset, samples=(*train, *test))


def row_of(detector: Any, file: Path, precision: str, dataset: Dataset, begins: list[str]) -> list[str]:
    """The table's row of a file that is written for it."""
    test = dataset.test
    shown = test[::2] if precision == "bf16" else test  # of which it learns how far it moves scores
    check = replace(dataset, samples=(*dataset.train, *shown))
    p: Parity = detector.export(file, precision=precision, check=check, force=True)
    kept = "no" if p.unexplained(precision, detector.maps_jump) else "yes"
    if precision == "bf16":
        p = compare(detector, load(file), Compared("others", test[1::2]), 2)
    assert p.auroc is not None
    found = [f"{p.pictures}", f"{p.score:.1e}", f"{p.map:.1e}", f"{p.flips}"]
    areas = " -> ".join(f"{100 * area:.2f}" for area in p.auroc)
    row = [*begins, *found, areas, kept, about()["processor"].split()[0].replace("(R)", "")]
    print(row, flush=True)
    return row


if __name__ == "__main__":
    main()
