"""From a model file to an inspector."""

import os
from pathlib import Path
from typing import Any

from inlier import artifact, methods
from inlier.detector import Detector
from inlier.errors import ArtifactError
from inlier.version import __version__


def load(path: str | os.PathLike[str], device: str = "auto") -> Detector[Any, Any]:
    """Read a detector that `save` wrote; it is independent of its file from then on. Runs no code from the file.

    Raises ArtifactError for a file that is missing, damaged, foreign, or of a method that is not known here.
    """
    tensors, header = artifact.read(path)
    if "method" not in header:
        raise ArtifactError(f"{path}: is a training checkpoint, not a model; resume the training with --resume")
    name = methods.today(str(header["method"]))
    if name not in methods.names():
        raise ArtifactError(
            f"{path}: method {header['method']!r} is unknown to inlier {__version__}; if a package of its own brings "
            "it, install that package here"
        )
    return methods.get(name).from_artifact(Path(path), tensors, header, device)
