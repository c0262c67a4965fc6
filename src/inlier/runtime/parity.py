"""How an exported file differs from the detector: both judge the same pictures."""

import itertools
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from inlier.data.datasets.sample import Dataset, Sample
from inlier.data.geometry import Geometry
from inlier.inspection.inspector import Inspector
from inlier.inspection.result import Prediction
from inlier.metrics import image_metrics
from inlier.progress import progress
from inlier.runtime.graph import Graph

log = logging.getLogger("inlier")
# largest difference of a score or a map's value that a precision explains, as a share of their size (see `Parity`)
TOLERANCE = {"f32": 1e-4, "f16": 2e-2, "bf16": 5e-2, "int8": 0.2}
JUMPS = 0.1  # the same of maps that are gradients: rounding moves units over their kinks, which changes them by leaps
LOSS = 0.005  # of the image AUROC
DRAWN = 8  # pictures that are compared where none are given
TINY = 1e-12  # no size is smaller
NOT_WRITTEN = "Nothing was written (--force writes it)"


@dataclass(frozen=True)
class Parity:
    """How an exported file differs from the detector. A difference of scores is a share of the score, or of the median
    size of all where that is larger, as a score may lie near 0; one of maps a share of the same map's highest value."""

    pictures: int
    source: str  # where they come from
    score: float  # largest difference
    map: float
    flips: int | None  # verdicts that differ; None without calibration, or where no real pictures were compared
    auroc: tuple[float, float] | None = None  # the detector's and the file's, where DATA holds defects
    size: float = 0.0  # the median size of all scores

    def unexplained(self, precision: str, maps_jump: bool) -> list[str]:
        """What differs by more than the precision explains, in words; empty: the file judges like the detector.
        maps_jump: as the method declares."""
        limit = TOLERANCE[precision]
        of_maps = max(limit, JUMPS) if maps_jump else limit
        lost = self.auroc[0] - self.auroc[1] if self.auroc else 0.0
        found = {  # NaN is above any limit
            "no verdict may differ": not self.flips,
            f"scores may differ by {limit:g} with {precision}": self.score <= limit,
            f"maps may differ by {of_maps:g} with {precision}": self.map <= of_maps,
            f"the AUROC may lose {100 * LOSS:g} points": lost <= LOSS,
        }
        return [rule for rule, holds in found.items() if not holds]

    def __str__(self) -> str:
        if not self.pictures:
            return f"written, not compared: {self.source}"
        flips = "" if self.flips is None else f", {self.flips} verdicts differ"
        area = "" if self.auroc is None else f"; image AUROC {100 * self.auroc[0]:.2f} -> {100 * self.auroc[1]:.2f} %"
        return (
            f"on {self.pictures} {self.source}: scores differ by at most {self.score:.1e}, maps by {self.map:.1e} of "
            f"their size{flips}{area}"
        )


class Compared(NamedTuple):
    """The pictures that both judge."""

    source: str  # where they come from
    samples: Sequence[Sample]
    are_real: bool = True


def compared(detector: Inspector, dataset: Dataset | None, kept: Sequence[Sample]) -> Compared:
    """Those of the dataset, or good ones that the model kept, or drawn ones."""
    if dataset is not None:
        return Compared(f"pictures of {dataset.name}", dataset.test or dataset.samples)
    if kept:
        return Compared("good pictures that the model kept", kept)
    category = next(iter(detector.categories_), "")
    drawn = drawn_pictures(detector.geometry_for(category or None))
    samples = [Sample(picture, category, "test", None) for picture in drawn]
    return Compared("drawn pictures, not real ones", samples, are_real=False)


def compare(detector: Inspector, exported: Inspector, pictures: Compared, workers: int) -> Parity:
    """Judge the same pictures by both. Warns where the model calls most of the good ones defects."""
    samples = sorted(pictures.samples, key=lambda sample: sample.category)
    defects = [sample.is_defect for sample in samples]
    pairs = []
    maps = 0.0
    flips = alarms = 0
    with progress("comparing", len(samples)) as show:
        for name, own in itertools.groupby(samples, lambda sample: sample.category):
            sources = [sample.source for sample in own]
            category = detector.category_of(name)
            exported.take_as_said(detector.calibration_.note(None, None, category))  # the detector will say it
            by_both = (judge.predict(sources, category=category, workers=workers) for judge in (detector, exported))
            for a, b in zip(*by_both, strict=True):  # one pair at a time: maps of thousands fill the memory
                pairs.append((a.score, b.score))
                maps = float(np.maximum(maps, _map_difference(a, b)))  # NaN stays
                flips += a.verdict != b.verdict
                alarms += a.verdict == "defect" and not defects[len(pairs) - 1]
                show(len(pairs))
    good = defects.count(False)
    if pictures.are_real and 2 * alarms > good:
        log.warning(
            "%s: the model calls %d of the %d good ones defects; are they of its part?", pictures.source, alarms, good
        )
    scores, theirs = np.array(pairs, np.float64).T
    size = max(float(np.median(np.abs(scores))), TINY)
    return Parity(
        len(pairs),
        pictures.source,
        float((np.abs(scores - theirs) / np.maximum(np.abs(scores), size)).max()),
        maps,
        flips if pictures.are_real and len(detector.calibration_) else None,
        (_auroc(scores, defects), _auroc(theirs, defects)) if len(set(defects)) == 2 else None,
        size,
    )


def _auroc(scores: NDArray[Any], defects: list[bool]) -> float:
    return float(image_metrics(scores, defects).auroc or 0)


def _map_difference(a: Prediction, b: Prediction) -> float:
    assert a.network_maps is not None and b.network_maps is not None
    return float(np.abs(a.network_maps - b.network_maps).max() / max(np.abs(a.network_maps).max(), TINY))


def drawn_pictures(geometry: Geometry) -> list[NDArray[np.uint8]]:
    """(H, W, 3) each: noise of three scales and a box; the same on every machine, in the shape that is inspected."""
    height, width = geometry.region.mask.shape if geometry.region else (geometry.size, geometry.size)
    rng = np.random.default_rng(0)
    pictures = []
    for _ in range(DRAWN):
        layers = [
            np.asarray(Image.fromarray(rng.integers(0, 256, (n, n, 3), np.uint8)).resize((width, height)), np.float64)
            for n in (4, 16, 64)
        ]
        picture = np.mean(layers, 0)
        top, left = int(rng.integers(0, height // 2 + 1)), int(rng.integers(0, width // 2 + 1))
        picture[top : top + height // 4 + 1, left : left + width // 3 + 1] = rng.integers(0, 256, 3)
        pictures.append(picture.astype(np.uint8))
    return pictures


def first_difference(program: Any, path: Path, graph: Graph, tolerance: float) -> str:
    """Which tensor of the graph is the first to differ from PyTorch's, in the order of computation."""
    import onnx
    import onnxruntime
    import torch

    picture = drawn_pictures(Geometry(graph.size))[0]
    fed = graph.feed((picture.transpose(2, 0, 1)[None] / 255).astype(np.float32), None)
    model = onnx.load(path)
    made = {name for node in model.graph.node for name in node.output}
    wanted: dict[str, NDArray[Any]] = {}

    class Record(torch.fx.Interpreter):
        def run_node(self, node: torch.fx.Node) -> Any:
            value = super().run_node(node)
            if node.name in made and isinstance(value, torch.Tensor) and value.is_floating_point():
                wanted[node.name] = value.numpy()
            return value

    with torch.no_grad():
        Record(program.exported_program.module()).run(*(torch.from_numpy(value) for value in fed.values()))
    known = {output.name for output in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted if name not in known)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for name, found in zip(wanted, session.run(list(wanted), fed), strict=True):
        truth = wanted[name]
        if truth.shape == found.shape and differs(truth, found, tolerance):
            return f"The first tensor that differs is '{name}' {tuple(truth.shape)}. "
    return ""


def differs(truth: NDArray[Any], found: NDArray[Any], tolerance: float) -> bool:
    """Whether a tensor is another one: by more than a share of its largest number, or in what is infinite or none."""
    finite = np.isfinite(truth)  # an empty place of MemSeg's memory is infinitely far away
    if not np.array_equal(truth[~finite], found[~finite], equal_nan=True):
        return True
    size = max(float(np.abs(truth[finite]).max(initial=0)), TINY)
    return not float(np.abs(truth[finite] - found[finite]).max(initial=0)) <= tolerance * size
