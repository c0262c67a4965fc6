"""Scores and maps by ONNX Runtime (extra `onnx`); needs no PyTorch.

The header lies behind the graph in the file: a message of protobuf may be written in pieces, and readers join them. So
the graph's own bytes can be checked against a checksum, and a new calibration leaves them untouched.
"""

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
from inlier.runtime.protobuf import field, pruned

KEY = "inlier"  # of the model's metadata
METADATA, VALUE = 14, 2  # fields of onnx.proto: ModelProto.metadata_props, StringStringEntryProto.value


class OnnxRuntime:
    """Sessions on the CPU, one for each choice of outputs: what is not asked for is not computed."""

    network, suffix = None, ".onnx"

    def __init__(self, path: str | os.PathLike[str]):
        try:
            import onnxruntime
        except ImportError as error:
            raise InlierError(f"{path}: needs ONNX Runtime: pip install 'inlier[onnx]'") from error
        self.path = Path(path)
        content = read(self.path)

        def session(model: bytes) -> Any:
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = threads()
            options.log_severity_level = 3
            return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

        try:
            whole = session(content)
            self.text = whole.get_modelmeta().custom_metadata_map.get(KEY, "")
        except Exception as error:  # of no common kind
            raise ArtifactError(f"{path}: {cannot_use('ONNX Runtime', _first_line(error))}") from error
        self.graph = graph_of(path, self.text)
        self._part = content[: checked(path, content, self.text)]
        self._session = session
        self._sessions = {tuple(self.graph.outputs): whole}

    def __call__(self, images: NDArray[np.float32], inspected: NDArray[np.bool_] | None, maps: bool) -> Output:
        return self.graph.judge(self._compute, images, inspected, maps)

    in_full = __call__

    def _compute(self, fed: dict[str, NDArray[Any]], names: list[str]) -> list[NDArray[Any]]:
        key = tuple(names)
        if key not in self._sessions:  # the map of some methods costs far more than the score
            self._sessions[key] = self._session(pruned(self._part, names))
        found: list[NDArray[Any]] = self._sessions[key].run(names, fed)
        return found

    def rewrite(self, target: Path, text: str) -> None:
        if target.suffix.lower() != self.suffix:
            raise InlierError(f"{target}: this model is an ONNX file; give a name that ends in .onnx")
        artifact.write_bytes(target, with_header(self._part, text))


def with_header(graph: bytes, text: str) -> bytes:
    """A file's bytes: a serialized ModelProto without metadata, then the header."""
    header = json.loads(text)
    header["onnx"] = {"bytes": len(graph), "sha256": hashlib.sha256(graph).hexdigest()}
    pair = field(1, KEY.encode()) + field(VALUE, json.dumps(header).encode())
    return graph + field(METADATA, pair)


def read(path: Path) -> bytes:
    try:
        artifact.check_is_file(path.expanduser())
        return path.expanduser().read_bytes()
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read ({error.strerror or error})") from error


def checked(path: str | os.PathLike[str], content: bytes, text: str) -> int:
    """How many bytes the graph has. Raises ArtifactError where they are not those that were written."""
    stored: dict[str, Any] = json.loads(text).get("onnx", {})
    size = stored.get("bytes", 0)
    if hashlib.sha256(content[:size]).hexdigest() != stored.get("sha256"):
        raise ArtifactError(f"{path}: is damaged or was changed, its graph does not match its checksum; {REMEDY}")
    return int(size)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
