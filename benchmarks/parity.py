"""Do exported models judge real pictures like the model they were made from? Writes benchmarks/PARITY.md.

    python benchmarks/parity.py [METHOD ...] --data ../data [--most 100]

Preset `light`, fitted on 60 good pictures with few steps (a graph is the same however long was trained; DifferNet with
all, as its flow multiplies rounding until it has learned), exported with full precision and compared on test pictures,
at most `--most` of each set, as many good ones as defects. A difference of scores is a share of the score or of their
median, whichever is larger, one of maps a share of the map's own peak.
"""

import argparse
import logging
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from table import keep

from inlier import methods, open_dataset
from inlier.machine import about

SHORT: dict[str, dict[str, Any]] = {
    "padim": {},
    "simplenet": {"steps": 200},
    "differnet": {},
    "memseg": {"steps": 60, "memory": 30},
    "diad": {"steps": 60, "autoencoder_tuning": 4},
}
SETS = {"screw": "mvtec_ad/screw", "magnetic_tile": "magnetic_tile", "mono": "elpv"}
HEADS = ["method", "set", "runtime", "pictures", "scores differ", "maps differ", "verdicts that flip", "image AUROC"]
TABLE = Path(__file__).parent / "PARITY.md"


def main() -> None:
    logging.getLogger("inlier").setLevel(logging.ERROR)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("methods", nargs="*", default=list(SHORT))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--most", type=int, default=100)
    arguments = parser.parse_args()
    told = about()
    words = (__doc__ or "").split("\n\n")[2].strip()
    text = f"# Exported models against the model\n\nMade by `benchmarks/parity.py` on {told['processor']}.\n{words}"
    for name in arguments.methods:
        for set_, place in SETS.items():
            dataset = open_dataset(place, [set_]) if place == "elpv" else open_dataset(arguments.data / place)
            rng = np.random.default_rng(0)
            train = [dataset.train[i] for i in rng.permutation(len(dataset.train))[:60]]
            kinds = [[s for s in dataset.test if s.is_defect is is_defect] for is_defect in (False, True)]
            half = arguments.most // 2
            test = [kind[i] for kind in kinds for i in np.sort(rng.permutation(len(kind))[:half])]
            detector = methods.create(name, **SHORT[name])
            detector.fit(replace(dataset, samples=tuple(train)))
            with tempfile.TemporaryDirectory() as folder:
                for runtime, suffix in (("onnx", ".onnx"), ("openvino", ".xml")):
                    p = detector.export(Path(folder) / f"m{suffix}", check=replace(dataset, samples=tuple(test)))
                    assert p.auroc is not None
                    row = [name, set_, runtime, f"{p.pictures}", f"{p.score:.1e}", f"{p.map:.1e}", f"{p.flips}"]
                    row.append(f"{100 * p.auroc[0]:.2f} -> {100 * p.auroc[1]:.2f}")
                    keep(TABLE, text, HEADS, row, 3, list(SHORT))
                    print(row, flush=True)


if __name__ == "__main__":
    main()
