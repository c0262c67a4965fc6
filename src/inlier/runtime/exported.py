"""Models that were exported: the same verbs as the detector's they come from, in an environment without PyTorch.

An exported file carries what an `.inlier` file says of itself, as one text of JSON: the header, and calibration and
regions of interest as base64.
"""

import base64
import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inlier.data.geometry import Geometry
from inlier.errors import ArtifactError
from inlier.inspection.inspector import Inspector
from inlier.runtime.graph import ExportedRuntime, Graph
from inlier.version import __version__

FORMAT = 1
REMEDY = "copy it again, or export it anew"


class Exported(Inspector):
    """An exported model. It judges and is calibrated anew, but not fitted."""

    runtime_: ExportedRuntime
    told: dict[str, Any]  # the header as it was read

    def __init__(self, path: str | os.PathLike[str], runtime: ExportedRuntime):
        header, arrays = parse(path, runtime.text)
        try:
            super().__init__(runtime, Geometry(**header["geometry"]))
            self.restore(arrays, header)
            self.log_maps, self.repaints = bool(header["log_maps"]), runtime.graph.repaints  # type: ignore[misc]
            self.maps_cost_extra = bool(header.get("maps_cost_extra"))  # type: ignore[misc]  # older files do not say
            self.told, self.fingerprint_ = header, header["data"]
        except Exception as error:  # a header that somebody has written raises all kinds
            raise ArtifactError(f"{path}: holds no model that inlier {__version__} can use: {error}") from error

    def header(self) -> dict[str, Any]:
        """What the file says of itself."""
        return self.told | super().header()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the same graph, with the calibration that the model has now. Atomic."""
        self.runtime_.rewrite(Path(path), to_text(self.header(), self.arrays()))


def to_text(header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> str:
    """Header and arrays as JSON."""
    packed = {
        name: {
            "dtype": array.dtype.str,
            "shape": array.shape,
            "zlib": base64.b64encode(zlib.compress(array.tobytes())).decode(),
        }
        for name, array in arrays.items()
    }
    return json.dumps({**header, "format": FORMAT, "arrays": packed})  # plain ASCII: any name of bytes survives


def parse(path: str | os.PathLike[str], text: str) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """(header, arrays) of what `to_text` wrote. Raises ArtifactError."""
    if not text:
        raise ArtifactError(f"{path}: was not written by `inlier export`, so nothing is known of its scores")
    try:
        header = json.loads(text)
        if header["format"] > FORMAT:
            raise ArtifactError(
                f"{path}: has format {header['format']}, this inlier reads up to {FORMAT}; it was written by inlier "
                f"{header.get('library', '(unknown)')}: please upgrade"
            )
        arrays = {
            name: np.frombuffer(zlib.decompress(base64.b64decode(one["zlib"])), one["dtype"]).reshape(one["shape"])
            for name, one in header.pop("arrays").items()
        }
    except (ValueError, KeyError, TypeError, AttributeError, zlib.error) as error:
        raise ArtifactError(f"{path}: what it says of itself is damaged ({error}); {REMEDY}") from error
    return header, arrays


def cannot_use(runtime: str, reason: str) -> str:
    """What is said of a file that a runtime does not take: mostly it is damaged, which its own words do not say."""
    return f"is damaged, cut short or no model that {runtime} can use; {REMEDY} ({reason})"


def graph_of(path: str | os.PathLike[str], text: str) -> Graph:
    """Inputs and outputs, from the header's text. Raises ArtifactError."""
    header = parse(path, text)[0]
    try:
        return Graph.from_header(header["graph"])
    except (KeyError, TypeError) as error:
        raise ArtifactError(f"{path}: does not say what its graph takes and gives ({error})") from error
