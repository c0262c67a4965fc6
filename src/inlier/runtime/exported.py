"""Models that were exported: the same verbs as the detector's they come from, in an environment without PyTorch.

An exported file carries what an `.inlier` file says of itself, as one text of JSON: the header, and calibration and
regions of interest as base64.
"""

import base64
import json
import math
import os
import tempfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inlier.data.batches import Batch
from inlier.data.geometry import Geometry
from inlier.errors import ArtifactError
from inlier.inspection.inspector import Inspector, Output
from inlier.runtime.graph import ExportedRuntime, Graph
from inlier.version import __version__

FORMAT = 1
REMEDY = "copy it again, or export it anew"


class Exported(Inspector):
    """An exported model. It judges and is calibrated anew, but not fitted."""

    no_number = "its precision is too small for it, or its training had broken it; export it with --precision f32"
    runtime_: ExportedRuntime
    told: dict[str, Any]  # the header as it was read
    # how far rounding moves a score, as a share of the score, or of the second number where that is larger
    doubt: tuple[float, float] = (0.0, 0.0)

    def __init__(self, path: str | os.PathLike[str], runtime: ExportedRuntime):
        header, arrays = parse(path, runtime.text)
        try:
            super().__init__(runtime, Geometry(**header["geometry"], eight_bit=runtime.graph.pixels == "uint8"))
            self.restore(arrays, header)
            self.log_maps, self.repaints = bool(header["log_maps"]), runtime.graph.repaints  # type: ignore[misc]
            self.maps_cost_extra = bool(header.get("maps_cost_extra"))  # type: ignore[misc]  # older files do not say
            self.told, self.fingerprint_ = header, header["data"]
            if not isinstance(header.get("doubt", []), list):
                raise TypeError(f"'doubt' cannot be {header['doubt']!r}")
            share, size = header.get("doubt", self.doubt)
            self.doubt = float(share), float(size)
            if not all(math.isfinite(number) and number >= 0 for number in self.doubt):
                raise TypeError(f"'doubt' cannot be {list(self.doubt)}")
        except Exception as error:  # a header that somebody has written raises all kinds
            raise ArtifactError(f"{path}: holds no model that inlier {__version__} can use: {error}") from error

    def header(self) -> dict[str, Any]:
        """What the file says of itself."""
        return self.told | super().header() | ({"doubt": self.doubt} if any(self.doubt) else {})

    def _output(self, batch: Batch, maps: bool, threshold: float | None) -> Output:
        """What may be on the wrong side of the threshold for rounding alone is computed again in float32; and all of
        it where every score counts, so that a calibration is that of the numbers that decide."""
        share, size = self.doubt
        if not share:
            return super()._output(batch, maps, threshold)
        if threshold is None:
            return self.runtime_.in_full(batch.images, batch.inspected, maps)
        output = super()._output(batch, maps, threshold)
        if not math.isfinite(threshold):
            return output
        near = np.flatnonzero(np.abs(output.scores - threshold) <= share * max(abs(threshold), size))
        if near.size:
            inspected = None if batch.inspected is None else batch.inspected[near]
            better = self.runtime_.in_full(batch.images[near], inspected, maps)
            for column, values in zip(output, better, strict=True):
                if column is not None:
                    column[near] = values
        return output

    def __reduce__(self) -> Any:
        """What `save` writes, read again."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"model{self.runtime_.suffix}"
            self.save(path)
            files = {file.name: file.read_bytes() for file in Path(folder).iterdir()}
        return _unpacked, (type(self), type(self.runtime_), path.name, files)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the same graph, with the calibration that the model has now, as a file of the same kind. Atomic."""
        self.runtime_.rewrite(Path(path), to_text(self.header(), self.arrays()))


def _unpacked(kind: type[Exported], runtime: Any, name: str, files: Mapping[str, bytes]) -> Exported:
    with tempfile.TemporaryDirectory() as folder:
        for file, content in files.items():
            (Path(folder) / file).write_bytes(content)
        return kind(Path(folder) / name, runtime(Path(folder) / name))


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
        # older files do not say `whole`; one with regions that it does not take was of a method that needs none
        return Graph.from_header({"whole": bool(header["regions"])} | header["graph"])
    except (KeyError, TypeError) as error:
        raise ArtifactError(f"{path}: does not say what its graph takes and gives ({error})") from error
