"""Scores and maps by OpenVINO (extra `openvino`); needs no PyTorch. Opens `.xml` with its `.bin`, and `.onnx`, too.

OpenVINO takes bf16 by itself where the processor has it; here the precision is the one that was exported, and no other.
"""

import functools
import hashlib
import json
import os
import re
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inlier import artifact
from inlier.errors import ArtifactError, InlierError
from inlier.inspection.inspector import Output
from inlier.machine import threads
from inlier.runtime.exported import REMEDY, cannot_use, graph_of
from inlier.runtime.onnx import checked, read

KEY = "inlier"  # of the model's rt_info
ONNX_KEYS = ["framework", KEY]  # where OpenVINO puts the metadata of an ONNX file
UNKNOWN = hashlib.sha256(b"not known yet").hexdigest()  # stands in the header until the graph's digest is known
COLOURS = 3
HINTS = {"f32": "f32", "f16": "f32", "bf16": "bf16", "int8": "f32"}  # f16: weights; a CPU computes with f32


@functools.cache
def core() -> Any:
    """OpenVINO's core, one for the life of the process.

    Its CPU plugin gives the thread that loads it a stack for signal handlers and unmaps that stack when the last core
    goes, from whatever thread that happens in; the next Ctrl-C would then end the process with a segmentation fault.
    """
    import openvino

    made = openvino.Core()
    made.set_property({"ENABLE_MMAP": False})  # or a model would change with its file, and go with it
    return made


def has_bf16() -> bool:
    """Whether this processor computes in bf16; without it a bf16 file is judged in float32."""
    return "BF16" in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


class OpenvinoRuntime:
    """A compiled model on the CPU."""

    network, suffix = None, ".xml"

    def __init__(self, path: str | os.PathLike[str]):
        try:
            import openvino
        except ImportError as error:
            raise InlierError(f"{path}: needs OpenVINO: pip install 'inlier[openvino]'") from error
        self.path = Path(path).expanduser()
        self._openvino = openvino
        artifact.check_is_file(self.path)
        if self.path.suffix.lower() == ".xml" and not weights_file(self.path).exists():
            raise ArtifactError(f"{path}: {weights_file(self.path).name}, which holds its weights, must lie beside it")
        try:
            self.model = core().read_model(self.path)
            self.text = self._stored()
        except Exception as error:  # of no common kind
            reason = ([line for line in str(error).splitlines() if line] or [type(error).__name__])[-1]
            raise ArtifactError(f"{path}: {cannot_use('OpenVINO', reason)}") from error
        self.graph = graph_of(path, self.text)
        header = json.loads(self.text)
        if self.path.suffix.lower() == ".onnx":
            checked(path, read(self.path), self.text)
        if self.path.suffix.lower() == ".xml" and digest(weights_file(self.path)) != header.get("bin"):
            raise ArtifactError(
                f"{path}: its weights, {weights_file(self.path).name}, are not those that belong to it; {REMEDY}"
            )
        if header.get("xml") not in (None, graph_digest(read(self.path))):  # older files do not say it
            raise ArtifactError(f"{path}: is damaged or was changed, its graph does not match its checksum; {REMEDY}")
        self._precision = HINTS[header["precision"]]
        if self._precision == "bf16" and not has_bf16():
            self._precision = "f32"
        self._compiled: dict[tuple[str, ...], dict[str, Any]] = {}
        self._one_at_a_time = threading.Lock()

    def _stored(self) -> str:
        for keys in ([KEY], ONNX_KEYS):
            if self.model.has_rt_info(keys):
                return str(self.model.get_rt_info(keys).value)
        return ""

    def __call__(self, images: NDArray[np.float32], inspected: NDArray[np.bool_] | None, maps: bool) -> Output:
        return self.graph.judge(partial(self._compute, self._precision), images, inspected, maps)

    def in_full(self, images: NDArray[np.float32], inspected: NDArray[np.bool_] | None, maps: bool) -> Output:
        return self.graph.judge(partial(self._compute, "f32"), images, inspected, maps)

    def _compute(self, precision: str, fed: dict[str, NDArray[Any]], names: list[str]) -> list[NDArray[Any]]:
        with self._one_at_a_time:  # what is returned is written over by the next call
            found = self._requests(tuple(names))[precision].infer(fed)
            return [found[name].copy() for name in names]

    def _requests(self, names: tuple[str, ...]) -> dict[str, Any]:
        """By precision, for some of the outputs; what only others need is not computed. Both at the first call, so that
        no later picture waits for it."""
        if names not in self._compiled:
            outputs = [self.model.output(name).get_node() for name in names]
            part = self._openvino.Model(outputs, self.model.get_parameters(), KEY)
            settings = {"PERFORMANCE_HINT": "LATENCY"}
            if threads():
                settings["INFERENCE_NUM_THREADS"] = str(threads())
            self._compiled[names] = {
                precision: core()
                .compile_model(part, "CPU", settings | {"INFERENCE_PRECISION_HINT": precision})
                .create_infer_request()
                for precision in dict.fromkeys([self._precision, "f32"])
            }
        return self._compiled[names]

    def rewrite(self, target: Path, text: str) -> None:
        if target.suffix.lower() != self.suffix:
            raise InlierError(f"{target}: an .onnx file is written by its own runtime: open it with runtime='onnx'")
        write(self.model, target, text)


def write(model: Any, target: Path, text: str) -> None:
    """The weights first, where they are others, then what refers to them; each whole or not at all. Where the second
    cannot be written the old weights are put back. Raises ArtifactError."""
    import tempfile

    import openvino

    target = target.expanduser()
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "model.xml"
        openvino.save_model(model, made, compress_to_fp16=False)
        header = json.loads(text)
        header |= {"bin": digest(weights_file(made)), "xml": UNKNOWN}
        model.set_rt_info(json.dumps(header), [KEY])
        openvino.save_model(model, made, compress_to_fp16=False)
        xml = made.read_bytes()
        if header["precision"] == "bf16":
            xml = in_float32(xml, first_convolutions(model))
        xml = xml.replace(UNKNOWN.encode(), graph_digest(xml).encode(), 1)
        beside, old = weights_file(target), None
        if digest(beside) != header["bin"]:
            old = beside.read_bytes() if beside.is_file() else None
            artifact.write_bytes(beside, weights_file(made).read_bytes())
        try:
            artifact.write_bytes(target, xml)
        except ArtifactError:
            if old is not None:
                artifact.write_bytes(beside, old)
            raise


def first_convolutions(model: Any) -> list[str]:
    """Names of the convolutions that read the picture, of the depthwise ones that take what these give, and of the sums
    that add their biases. Depthwise ones take differences of neighbours, and what is small beside both is what rounding
    takes: most of what bf16 changes in the scores comes from these few layers, and little of the time."""
    found, between = dict[str, Any](), ("Add", "Clamp", "Relu", "Pad")
    for node in model.get_ordered_ops():
        kind = node.get_type_name()
        if kind == "Add" and node.input_value(0).get_node().get_friendly_name() in found:
            found[node.get_friendly_name()] = node
        if kind == "GroupConvolution":
            before = node.input_value(0).get_node()
            while before.get_type_name() in between and before.get_friendly_name() not in found:
                before = before.input_value(0).get_node()
            if before.get_friendly_name() in found:
                found[node.get_friendly_name()] = node
        if kind == "Convolution" and node.input(1).get_partial_shape()[1] == COLOURS:
            found[node.get_friendly_name()] = node
    return list(found)


def in_float32(xml: bytes, names: Sequence[str]) -> bytes:
    """The same model, with a mark on these operations that OpenVINO's own files have where a smaller precision must not
    be used; its Python has no word for it. A version that does not heed it rounds more, which an export finds."""
    from xml.etree import ElementTree

    tree = ElementTree.fromstring(xml)
    for layer in tree.iter("layer"):
        if layer.get("name") in names:
            mark = ElementTree.Element("rt_info")
            ElementTree.SubElement(mark, "attribute", name="precise", version="0")
            layer.insert([child.tag for child in layer].index("input"), mark)
    return ElementTree.tostring(tree)


def weights_file(path: Path) -> Path:
    return path.with_suffix(".bin")


def graph_digest(xml: bytes) -> str:
    """SHA-256 of an .xml file without its header."""
    return hashlib.sha256(re.sub(rb'<inlier value="[^"]*"', b"", xml, count=1)).hexdigest()


def digest(path: Path) -> str:
    """SHA-256 of a file; empty where there is none."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
