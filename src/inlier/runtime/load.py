"""One `load` for every model file: what computes its scores follows from the file, or is chosen."""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from inlier.data.images import is_picture
from inlier.errors import ArtifactError, InlierError
from inlier.version import __version__

if TYPE_CHECKING:
    from inlier.detector import Detector
    from inlier.inspection.inspector import Runtime
    from inlier.runtime.exported import Exported

log = logging.getLogger("inlier")
RUNTIMES = ("torch", "onnx", "openvino")
READS = {".onnx": ("onnx", "openvino"), ".xml": ("openvino",)}  # by suffix; any other one is an .inlier file
PACKAGES = {"torch": "torch", "onnx": "onnxruntime", "openvino": "openvino"}
ORDER = "a command takes the model first: MODEL PICTURES"
MEASURED = 0.5  # seconds for each runtime that `auto` tries
TOLERANCE = 1e-3  # largest difference of scores, as a share of their median size, between runtimes that `auto` takes


def load(
    path: str | os.PathLike[str], device: str = "auto", *, runtime: str | None = None
) -> "Detector[Any, Any] | Exported":
    """Read a model: an `.inlier` file that `save` wrote, or an `.onnx` or `.xml` file that `export` wrote.

    It is independent of its file from then on. No code from the file is run. runtime: "torch", "onnx" or "openvino";
    None: the file's own; "auto": the fastest of those that are installed here and read the file, measured for a second,
    if its scores agree. An `.inlier` file is exported in memory for another runtime than torch, which takes some
    seconds. device: for torch. Raises ArtifactError for a file that is missing, damaged, foreign, or of a method that
    is not known here.
    """
    path = Path(path)
    try:
        return _chosen(path, device, runtime)
    except ArtifactError as error:
        if path.is_dir():
            raise ArtifactError(f"{error}; {ORDER}") from error.__cause__
        if isinstance(error.__cause__, OSError) or not is_picture(path):
            raise
        raise ArtifactError(f"{path}: is a picture, not a model file; {ORDER}") from error


def _chosen(path: Path, device: str, runtime: str | None) -> "Detector[Any, Any] | Exported":
    known = READS.get(path.suffix.lower(), RUNTIMES)
    if path.suffix.lower() == ".bin" and path.with_suffix(".xml").exists():
        raise InlierError(f"{path}: holds the weights of {path.with_suffix('.xml').name}: give that file")
    judge = known[0] if runtime in (None, "auto") else runtime
    if device not in ("auto", "cpu") and judge in ("onnx", "openvino"):
        raise InlierError(f"{path}: {judge} judges on the CPU; a device is for torch alone")
    if runtime == "auto":
        return _fastest(path, device, runtimes_for(path))
    runtime = runtime or known[0]
    if runtime not in known:
        raise InlierError(f"{path}: runtime {runtime!r} does not read it; known: {', '.join(known)}, auto")
    return _load(path, device, runtime)


def runtimes_for(path: Path) -> list[str]:
    """The runtimes that are installed here and read this file."""
    return [name for name in READS.get(path.suffix.lower(), RUNTIMES) if find_spec(PACKAGES[name])]


def _load(path: Path, device: str, runtime: str) -> "Detector[Any, Any] | Exported":
    if path.suffix.lower() in READS:
        from inlier.runtime.exported import Exported

        return Exported(path, _opener(runtime)(path))
    if runtime == "torch":
        return _detector(path, device)  # type: ignore[no-any-return]
    import tempfile

    from inlier.machine import find_device
    from inlier.runtime.parity import NOT_WRITTEN

    find_device(device)  # one that is not there is told, although only torch would take it
    detector = _detector(path, "cpu")

    with tempfile.TemporaryDirectory() as folder:
        suffix = next(suffix for suffix, names in READS.items() if names[0] == runtime)
        made, name = Path(folder) / f"model{suffix}", f"{path} by {runtime}"
        log.info("%s: exported in memory, which `inlier export` does once for all", name)
        try:
            with _unsaid():
                parity = detector.export(made)
        except InlierError as error:  # who gave the model knows nothing of the folder
            raise type(error)(str(error).replace(str(made), name).removesuffix(NOT_WRITTEN)) from None
        log.info("%s: %s", name, parity)
        return _load(made, device, runtime)


@contextmanager
def _unsaid() -> Iterator[None]:
    """What this thread says meanwhile is left out: of a file that nobody asked for, or it will be said again."""
    own = threading.get_ident()

    def others(record: logging.LogRecord) -> bool:
        return record.thread != own

    log.addFilter(others)
    try:
        yield
    finally:
        log.removeFilter(others)


def _opener(runtime: str) -> Callable[[Path], Any]:
    if runtime == "onnx":
        from inlier.runtime.onnx import OnnxRuntime

        return OnnxRuntime
    from inlier.runtime.openvino import OpenvinoRuntime

    return OpenvinoRuntime


def _detector(path: Path, device: str) -> Any:
    if not find_spec("torch"):
        raise InlierError(
            f"{path}: needs PyTorch, which is not installed here; export it where it is (inlier export) and give the "
            ".onnx or .xml file"
        )
    from inlier import artifact, methods

    tensors, header = artifact.read(path)
    if "method" not in header:
        raise ArtifactError(f"{path}: is a training checkpoint, not a model; resume the training with --resume")
    name = str(header["method"])
    if name not in methods.names():
        raise ArtifactError(
            f"{path}: method {name!r} is unknown to inlier {__version__}; if a package of its own brings "
            "it, install that package here"
        )
    return methods.get(name).from_artifact(path, tensors, header, device)


def _fastest(path: Path, device: str, candidates: list[str]) -> "Detector[Any, Any] | Exported":
    """The first candidate's scores are the truth that others must agree with."""
    if not candidates:
        needed = READS.get(path.suffix.lower(), RUNTIMES)
        raise InlierError(f"{path}: nothing here can read it: pip install {PACKAGES[needed[0]]}")
    models: dict[str, Any] = {}
    seconds: dict[str, float] = {}
    truth = None
    refused = list[str]()
    for name in candidates:
        try:
            model = _load(path, device, name)
        except ArtifactError:
            raise
        except InlierError as error:  # a runtime that judges differently
            refused.append(f"{name} is not taken: {error}")
            continue
        size = model.geometry_.size
        images = np.random.default_rng(0).integers(0, 256, (8, 3, size, size)).astype(np.float32) / 255
        scores, seconds[name] = _measured(model.runtime_, images)
        truth = scores if truth is None else truth
        apart = np.abs(scores - truth).max() / max(float(np.median(np.abs(truth))), 1e-12)
        if apart <= TOLERANCE:  # NaN is not
            models[name] = model
        else:
            refused.append(f"{name} is not taken: its scores differ by {apart:.1e} of their size")
    if not models:
        raise InlierError(f"{path}: no runtime here can judge: {'; '.join(refused)}")
    for words in refused:
        log.warning("runtime %s", words)
    best = min(models, key=lambda name: seconds[name])
    told = ", ".join(f"{name} {1000 * seconds[name]:.1f} ms" for name in models)
    log.info("runtime: %s (a picture of a batch of 8 takes: %s)", best, told)
    return models[best]


def _measured(runtime: "Runtime", images: Any) -> tuple[Any, float]:
    """(scores, seconds a picture), after one call that warms it up."""
    scores = runtime(images, None, True).scores
    best = np.inf
    end = time.monotonic() + MEASURED
    while time.monotonic() < end:
        start = time.perf_counter()
        runtime(images, None, True)
        best = min(best, (time.perf_counter() - start) / len(images))
    return scores, float(best)
