"""Milliseconds a picture on every runtime, and what they cost in agreement. Writes benchmarks/RUNTIMES.md.

    python benchmarks/runtimes.py [METHOD ...]      the rows of the others stay

Preset `light` of each method, fitted on 40 good pictures of ELPV mono (time does not depend on what was learned),
exported with every precision, each checked on 60 test pictures (`--check`), and then judging 60 others: what differs
is of these. Times are of scores and maps of 48 pictures, in batches of 8, the least of some rounds in which all take
turns, with what bf16 computes again in float32; beside them the bare truncated backbone, exported to the same runtime.
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
from inlier.data.batches import read_batches
from inlier.machine import about
from inlier.runtime.export import trace
from inlier.runtime.graph import Graph
from inlier.runtime.parity import Compared, compare

ROUNDS, BATCH = 3, 8
# DifferNet's flow multiplies rounding until it has learned
SHORT: dict[str, dict[str, Any]] = {
    "padim": {},
    "simplenet": {"steps": 100},
    "differnet": {},
    "memseg": {"steps": 8},
    "diad": {"steps": 60, "autoencoder_tuning": 4},
}
HEADS = ["method", "runtime", "precision", "ms a picture", "times as fast as torch", "x bare backbone"]
HEADS += ["scores differ", "flips", "AUROC, points", "computed again, %", "processor"]
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


def bare_seconds(detector: Any, batches: Any, folder: Path) -> dict[str, Any]:
    """Runtime -> a function that runs the bare backbone on batches of images."""
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

    def by_torch(images: Any) -> None:
        with torch.inference_mode():
            detector.network_.backbone(torch.from_numpy(images))

    each = {
        "torch": by_torch,
        "onnx": lambda images: session.run(None, {name: images}),
        "openvino": lambda images: request.infer([images]),
    }
    return {runtime: lambda run=run: [run(images) for images in batches] for runtime, run in each.items()}


class Counted:
    """A runtime that counts what it computes again in full."""

    def __init__(self, runtime: Any):
        self.runtime, self.again = runtime, 0

    def __call__(self, *given: Any) -> Any:
        return self.runtime(*given)

    def in_full(self, images: Any, *rest: Any) -> Any:
        self.again += len(images)
        return self.runtime.in_full(images, *rest)


def measure(name: str, dataset: Any, folder: Path) -> list[list[str]]:
    """The table's rows of a method."""
    detector = methods.create(name, **SHORT[name])
    good, test = dataset.train[:40], [*dataset.test[:60], *dataset.test[-60:]]
    detector.fit(replace(dataset, samples=tuple(good)))
    check, others = replace(dataset, samples=(*good, *test[::2])), Compared("others", test[1::2])
    timed = [sample.source for sample in others.samples[::5] for _ in range(4)]
    batches = list(read_batches(timed, detector.geometry_, BATCH, 1))

    runners: dict[tuple[str, str], Any] = {("torch", "f32"): lambda: list(detector.judge(batches))}
    parities: dict[tuple[str, str], list[str]] = {}
    for runtime, precision in FILES:
        file = folder / f"{name}-{precision}{SUFFIX[runtime]}"
        try:
            detector.export(file, precision=precision, check=check, force=True)
        except InlierError as error:
            print(f"{name} {runtime} {precision}: {error}", flush=True)
            continue
        model = load(file)
        counted = Counted(model.runtime_)
        model.runtime_ = counted
        parity = compare(detector, model, others, 2)
        change = "–" if parity.auroc is None else f"{100 * (parity.auroc[1] - parity.auroc[0]):+.2f}"
        again = f"{100 * counted.again / len(others.samples):.0f}" if precision == "bf16" else "–"
        parities[runtime, precision] = [f"{parity.score:.0e}", f"{parity.flips}", change, again]
        runners[runtime, precision] = lambda model=model: list(model.judge(batches))
    bare = bare_seconds(detector, [batch.images for batch in batches], folder)
    runners |= {(runtime, "bare"): run for runtime, run in bare.items()}
    best = dict.fromkeys(runners, np.inf)
    for _ in range(ROUNDS):
        for key, run in runners.items():
            start = time.perf_counter()
            run()
            best[key] = min(best[key], (time.perf_counter() - start) / len(timed))
    rows = []
    for key in runners:
        if key[1] == "bare":
            continue
        ms, beyond = 1000 * best[key], best[key] / best[key[0], "bare"]
        gain = best["torch", "f32"] / best[key]
        beyond_told = f"{beyond:.2f}" if key[1] == "f32" else "–"
        agreement = parities.get(key, 4 * ["–"])
        processor = about()["processor"].split()[0].replace("(R)", "")
        rows.append([name, *key, f"{ms:.1f}", f"{gain:.2f}", beyond_told, *agreement, processor])
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    logging.getLogger("inlier").setLevel(logging.ERROR)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("methods", nargs="*", default=list(SHORT))
    arguments = parser.parse_args()
    dataset = open_dataset("elpv", ["mono"])
    told = about()
    machine = f"{told['threads']} threads, torch {told['torch']}"
    words = (__doc__ or "").split("\n\n")[2].strip()
    text = f"# Runtimes\n\nMade by `benchmarks/runtimes.py` with {machine}.\n{words}"
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.methods:
            for row in measure(name, dataset, Path(folder)):
                keep(TABLE, text, HEADS, row, 3, list(SHORT))


if __name__ == "__main__":
    main()
