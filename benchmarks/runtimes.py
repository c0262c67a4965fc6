"""Milliseconds a picture on every runtime, and what they cost in agreement. Writes benchmarks/RUNTIMES.md.

    python benchmarks/runtimes.py [METHOD ...]      the rows of the others stay

Preset `light` of each method, fitted on 40 good pictures of ELPV mono (time does not depend on what was learned),
exported with every precision and judged on 60 test pictures. Times are of scores and maps, in batches of 8, the least
of some rounds in which all take turns; beside them the bare truncated backbone, exported to the same runtime.
"""

import argparse
import logging
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from table import keep

from inlier import InlierError, load, methods, open_dataset
from inlier.machine import about
from inlier.runtime.export import trace
from inlier.runtime.graph import Graph

ROUNDS, BATCH = 7, 8
# DifferNet's flow multiplies rounding until it has learned
SHORT: dict[str, dict[str, Any]] = {
    "padim": {},
    "simplenet": {"steps": 100},
    "differnet": {},
    "memseg": {"steps": 8},
}
HEADS = ["method", "runtime", "precision", "ms a picture", "times as fast as torch", "x bare backbone"]
HEADS += ["scores differ", "flips", "AUROC, points"]
TABLE = Path(__file__).parent / "RUNTIMES.md"
FILES = [("onnx", "f32"), ("openvino", "f32"), ("openvino", "bf16"), ("onnx", "int8"), ("openvino", "int8")]
SUFFIX = {"onnx": ".onnx", "openvino": ".xml"}


class BareGraph(torch.nn.Module):
    """What is exported of the backbone alone, as a detector is: its maps, each as one number a picture, so that nothing
    is left out and nothing else costs."""

    def __init__(self, detector: Any):
        super().__init__()
        self.backbone = detector.network_.eval().backbone
        self.described = Graph(detector.geometry_.size)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        means = [m.mean((1, 2, 3)) for m in self.backbone(images)]
        return means[0], sum(means[1:], torch.zeros_like(means[0]))


def bare_seconds(detector: Any, images: Any, folder: Path) -> dict[str, Any]:
    """Runtime -> a function that runs the bare backbone."""
    import onnxruntime
    import openvino

    program = trace(BareGraph(detector))
    program.save(folder / "bare.onnx")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(folder / "bare.onnx", options)
    core = openvino.Core()
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": str(torch.get_num_threads())}
    request = core.compile_model(core.read_model(folder / "bare.onnx"), "CPU", settings).create_infer_request()
    name = session.get_inputs()[0].name
    tensor = torch.from_numpy(images)

    def by_torch() -> None:
        with torch.inference_mode():
            detector.network_.backbone(tensor)

    return {
        "torch": by_torch,
        "onnx": lambda: session.run(None, {name: images}),
        "openvino": lambda: request.infer([images]),
    }


def measure(name: str, dataset: Any, folder: Path) -> list[list[str]]:
    """The table's rows of a method."""
    detector = methods.create(name, **SHORT[name])
    good, test = dataset.train[:40], [*dataset.test[:30], *dataset.test[-30:]]
    detector.fit(replace(dataset, samples=tuple(good)))
    check = replace(dataset, samples=(*good, *test))
    size = detector.geometry_.size
    images = np.random.default_rng(0).integers(0, 256, (BATCH, 3, size, size)).astype(np.float32) / 255

    runners: dict[tuple[str, str], Any] = {("torch", "f32"): lambda: detector.runtime_(images, None, True)}
    parities: dict[tuple[str, str], list[str]] = {}
    for runtime, precision in FILES:
        file = folder / f"{name}-{precision}{SUFFIX[runtime]}"
        try:
            parity = detector.export(file, precision=precision, check=check, force=True)
        except InlierError as error:
            print(f"{name} {runtime} {precision}: {error}", flush=True)
            continue
        change = "–" if parity.auroc is None else f"{100 * (parity.auroc[1] - parity.auroc[0]):+.2f}"
        parities[runtime, precision] = [f"{parity.score:.0e}", f"{parity.flips}", change]
        model = load(file)
        runners[runtime, precision] = lambda model=model: model.runtime_(images, None, True)
    bare = bare_seconds(detector, images, folder)
    runners |= {(runtime, "bare"): run for runtime, run in bare.items()}
    best = dict.fromkeys(runners, np.inf)
    for _ in range(ROUNDS):
        for key, run in runners.items():
            start = time.perf_counter()
            run()
            best[key] = min(best[key], (time.perf_counter() - start) / BATCH)
    rows = []
    for key in runners:
        if key[1] == "bare":
            continue
        ms, beyond = 1000 * best[key], best[key] / best[key[0], "bare"]
        gain = best["torch", "f32"] / best[key]
        beyond_told = f"{beyond:.2f}" if key[1] == "f32" else "–"
        agreement = parities.get(key, 3 * ["–"])
        rows.append([name, *key, f"{ms:.1f}", f"{gain:.2f}", beyond_told, *agreement])
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    logging.getLogger("inlier").setLevel(logging.ERROR)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("methods", nargs="*", default=list(SHORT))
    arguments = parser.parse_args()
    dataset = open_dataset("elpv", ["mono"])
    told = about()
    machine = f"{told['processor']}, {told['threads']} threads, torch {told['torch']}"
    words = (__doc__ or "").split("\n\n")[2].strip()
    text = f"# Runtimes\n\nMade by `benchmarks/runtimes.py` on {machine}.\n{words}"
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.methods:
            for row in measure(name, dataset, Path(folder)):
                keep(TABLE, text, HEADS, row, 3, list(SHORT))


if __name__ == "__main__":
    main()
