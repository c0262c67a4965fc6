"""What commands write: lines, maps, overlays and repainted pictures, and never over what they read."""

import functools
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inlier import artifact
from inlier.errors import InlierError

if TYPE_CHECKING:
    from inlier.data.datasets.sample import Dataset
    from inlier.detector import Detector
    from inlier.inspection.inspector import Inspector
    from inlier.inspection.result import Prediction


def read_by(data: Any, dataset: "Dataset", detector: "Detector[Any, Any] | None" = None) -> list[Path]:
    """Files and folders that a command reads."""
    paths = [Path(data)]
    for sample in dataset.samples:
        paths += [path for path in (sample.source, *sample.masks) if isinstance(path, Path)]
    if detector:  # weights, textures, what others trained
        texts = [detector.weights, *vars(detector.settings).values()]
        paths += [Path(text) for text in texts if isinstance(text, (str, Path)) and Path(text).exists()]
    return paths


def protect(targets: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Refuse to write over what is read, and to write a picture into a folder that is read.

    The first would destroy a picture of a part; the second would pass for one the next time. Anything but a picture may
    lie in such a folder, so that `inlier train .` works.
    """
    from inlier.data.images import SUFFIXES

    read = {path.resolve() for path in inputs}
    for target in targets:
        real = target.resolve()
        if real in read:
            raise InlierError(f"{target}: is an input of this command and would be overwritten; choose another name")
        folder = next((parent for parent in real.parents if parent in read), None)
        if folder and real.suffix.lower() in SUFFIXES:
            raise InlierError(
                f"{target}: lies in {folder}, whose pictures this command reads: it would overwrite one of them, or be "
                "taken for one the next time; choose a place outside"
            )


def json_line(p: "Prediction") -> str:
    keys = ("path", "error") if p.error else ("path", "score", "p_value", "verdict")
    return json.dumps({key: getattr(p, key) for key in keys}, ensure_ascii=False)


def text_line(p: "Prediction") -> str:
    if p.error:
        return f"unreadable                           {p.path}"
    judged = "-       p -     " if p.p_value is None else f"{p.verdict:<7} p {p.p_value:<6.4f}"
    return f"{judged}  score {p.score:<11.5g}  {p.path}"


class Writer:
    """Writes maps and overlays under the pictures' own names, never two to one file."""

    def __init__(
        self,
        roots: dict[Path, Path],
        maps: Path | None,
        overlays: Path | None,
        reconstructions: Path | None,
        inspector: "Inspector",
    ):
        from inlier.drawing import drawable

        self.roots, self.maps, self.overlays, self.reconstructions = roots, maps, overlays, reconstructions
        self.inputs = {path.resolve() for path in roots} if maps or overlays or reconstructions else set()
        self.used: set[Path] = set()
        self.drawn = functools.partial(drawable, logarithmic=inspector.log_maps)
        self.scale = inspector.calibration_.map_scale(self.drawn)

    def __call__(self, p: "Prediction") -> None:
        assert p.map is not None or not (self.maps or self.overlays)
        if self.maps and p.map is not None:
            from PIL import Image

            self._save(Image.fromarray(p.map), self.maps, Path(p.path), ".tiff")
        if self.reconstructions and p.reconstruction is not None:
            from PIL import Image

            self._save(Image.fromarray(p.reconstruction), self.reconstructions, Path(p.path), ".png")
        if self.overlays:
            from inlier.data.images import read_image
            from inlier.drawing import overlay

            map_ = self.drawn(p.map)
            picture = overlay(read_image(p.path), map_, self.drawn(p.pixel_threshold), self.scale or _range(map_))
            self._save(picture, self.overlays, Path(p.path), ".png")

    def _save(self, picture: Any, folder: Path, path: Path, suffix: str) -> None:
        content = io.BytesIO()
        picture.save(content, suffix[1:])
        artifact.write_bytes(self._target(folder, path, suffix), content.getvalue())

    def _target(self, folder: Path, path: Path, suffix: str) -> Path:
        root = self.roots[path]
        relative = path.relative_to(root) if path != root else Path(path.name)
        target = folder / relative.with_suffix(suffix)
        if target in self.used:  # a.png beside a.jpg
            target = folder / relative.with_name(relative.name + suffix)
        number = 2
        while target in self.used:  # the same name from two folders
            target = folder / relative.with_name(f"{relative.stem}-{number}{suffix}")
            number += 1
        if target.resolve() in self.inputs:
            raise InlierError(
                f"{target}: is one of the pictures to be judged and would be overwritten; choose another folder"
            )
        self.used.add(target)
        return target


def _range(map_: Any) -> tuple[float, float]:
    import numpy as np

    return float(np.nanmin(map_)), float(np.nanmax(map_))


def percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"
