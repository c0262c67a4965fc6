"""inlier learns what good parts look like from pictures of good parts, then finds, locates and grades defects.

>>> from inlier import PaDiM
>>> PaDiM(preset="light").settings.size
256
"""

import importlib
from typing import TYPE_CHECKING, Any

from inlier.errors import ArtifactError, ImageError, InlierError
from inlier.version import __version__

if TYPE_CHECKING:
    from inlier.bench.auto import auto, tune
    from inlier.data.datasets import open_dataset
    from inlier.data.datasets.sample import Dataset
    from inlier.detector import Detector
    from inlier.evaluation import evaluate
    from inlier.inspection.inspector import Inspector
    from inlier.inspection.result import Prediction
    from inlier.methods import create, list_methods
    from inlier.methods.diad import DiAD
    from inlier.methods.differnet import DifferNet
    from inlier.methods.joined import Joined
    from inlier.methods.memseg import MemSeg
    from inlier.methods.padim import PaDiM
    from inlier.methods.simplenet import SimpleNet
    from inlier.runtime.load import load

# Public name -> module that defines it; imported at first use, so `import inlier` loads nothing heavy.
_HOME = {
    "Dataset": "inlier.data.datasets.sample",
    "open_dataset": "inlier.data.datasets",
    "Detector": "inlier.detector",
    "Inspector": "inlier.inspection.inspector",
    "Prediction": "inlier.inspection.result",
    "create": "inlier.methods",
    "list_methods": "inlier.methods",
    "load": "inlier.runtime.load",
    "evaluate": "inlier.evaluation",
    "auto": "inlier.bench.auto",
    "tune": "inlier.bench.auto",
    "DiAD": "inlier.methods.diad",
    "DifferNet": "inlier.methods.differnet",
    "Joined": "inlier.methods.joined",
    "MemSeg": "inlier.methods.memseg",
    "PaDiM": "inlier.methods.padim",
    "SimpleNet": "inlier.methods.simplenet",
}
__all__ = [
    "ArtifactError",
    "Dataset",
    "Detector",
    "DiAD",
    "DifferNet",
    "ImageError",
    "Inspector",
    "InlierError",
    "Joined",
    "MemSeg",
    "PaDiM",
    "Prediction",
    "SimpleNet",
    "__version__",
    "auto",
    "create",
    "evaluate",
    "list_methods",
    "load",
    "open_dataset",
    "tune",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'inlier' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
