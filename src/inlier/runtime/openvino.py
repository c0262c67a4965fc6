"""Scores and maps by OpenVINO (extra `openvino`); needs no PyTorch. Opens `.xml` with its `.bin`, and `.onnx`, too.

OpenVINO takes bf16 by itself where the processor has it; here the precision is the one that was exported, and no other.
"""

import functools
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inlier import artifact
from inlier.errors import ArtifactError, InlierError
from inlier.inspection.inspector import Output
from inlier.machine import threads
from inlier.runtime.exported import REMEDY, cannot_use, graph_of

KEY = "inlier"  # of the model's rt_info
ONNX_KEYS = ["framework", KEY]  # where OpenVINO puts the metadata of an ONNX file
HINTS = {"f32": "f32", "f16": "f32", "bf16": "bf16", "int8": "f32"}  # f16: weights; a CPU computes with f32


@functools.cache
def core() -> Any:
    """OpenVINO's core, one for the life of the process.

    Its CPU plugin gives the thread that loads it a stack for signal handlers and unmaps that stack when the last core
    goes, from whatever thread that happens in; the next Ctrl-C would then end the process with a segmentation fault.
    """
    import openvino

    return openvino.Core()


class OpenvinoRuntime:
    """A compiled model on the CPU."""

    network = None

    def __init__(self, path: str | os.PathLike[str]):
        try:
            import openvino
        except ImportError as error:
            raise InlierError(f"{path}: needs OpenVINO: pip install 'inlier[openvino]'") from error
        self.path = Path(path).expanduser()
        self._openvino = openvino
        artifact.check_is_file(self.path)
        try:
            self.model = core().read_model(self.path)
            self.text = self._stored()
        except Exception as error:  # of no common kind
            reason = ([line for line in str(error).splitlines() if line] or [type(error).__name__])[-1]
            raise ArtifactError(f"{path}: {cannot_use('OpenVINO', reason)}") from error
        self.graph = graph_of(path, self.text)
        header = json.loads(self.text)
        if self.path.suffix.lower() == ".xml" and digest(weights_file(self.path)) != header.get("bin"):
            raise ArtifactError(
                f"{path}: its weights, {weights_file(self.path).name}, are not those that belong to it; {REMEDY}"
            )
        self._precision = HINTS[header["precision"]]
        self._compiled: dict[tuple[str, ...], Any] = {}

    def _stored(self) -> str:
        for keys in ([KEY], ONNX_KEYS):
            if self.model.has_rt_info(keys):
                return str(self.model.get_rt_info(keys).value)
        return ""

    def __call__(self, images: NDArray[np.float32], inspected: NDArray[np.bool_] | None, maps: bool) -> Output:
        return self.graph.judge(self._compute, images, inspected, maps)

    def _compute(self, fed: dict[str, NDArray[Any]], names: list[str]) -> list[NDArray[Any]]:
        found = self._request(tuple(names)).infer(fed)
        return [found[name].copy() for name in names]  # what is returned is written over by the next call

    def _request(self, names: tuple[str, ...]) -> Any:
        """For some of the outputs; what only others need is not computed."""
        if names not in self._compiled:
            outputs = [self.model.output(name).get_node() for name in names]
            part = self._openvino.Model(outputs, self.model.get_parameters(), KEY)
            settings = {"INFERENCE_PRECISION_HINT": self._precision, "PERFORMANCE_HINT": "LATENCY"}
            if threads():
                settings["INFERENCE_NUM_THREADS"] = str(threads())
            self._compiled[names] = core().compile_model(part, "CPU", settings).create_infer_request()
        return self._compiled[names]

    def rewrite(self, target: Path, text: str) -> None:
        if target.suffix.lower() != ".xml":
            raise InlierError(f"{target}: an .onnx file is written by its own runtime: open it with runtime='onnx'")
        write(self.model, target, text)


def write(model: Any, target: Path, text: str) -> None:
    """The weights first, then what refers to them; each whole or not at all. Raises ArtifactError."""
    import tempfile

    import openvino

    target = target.expanduser()
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "model.xml"
        openvino.save_model(model, made, compress_to_fp16=False)
        header = json.loads(text)
        header["bin"] = digest(weights_file(made))
        model.set_rt_info(json.dumps(header), [KEY])
        openvino.save_model(model, made, compress_to_fp16=False)
        artifact.write_bytes(weights_file(target), weights_file(made).read_bytes())
        artifact.write_bytes(target, made.read_bytes())


def weights_file(path: Path) -> Path:
    return path.with_suffix(".bin")


def digest(path: Path) -> str:
    """SHA-256 of a file; empty where there is none."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
