"""Where the time of a verdict goes: milliseconds of each stage, on every runtime, and the least the machine allows.

All stages of a batch are timed one after the other on one thread of Python; `predict` reads ahead on others meanwhile.
"""

import io
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from inlier import drawing
from inlier.data.batches import Picture
from inlier.data.images import read_bytes, read_scaled
from inlier.inspection.inspector import Inspector, Judged

STAGES = ("read", "decode", "resize", "backbone", "method", "map", "judge", "draw")
WHOLE = "backbone and method"  # of a graph that cannot be divided, in the picture
BATCHES = (1, 8)
REPEATS = 9
DRAWN = 1024  # side of the picture that is drawn where none is given, pixels
MATRIX, COPIED = 1024, 2**27  # side of the product and bytes of the copy that tell the machine's rates


@dataclass(frozen=True)
class Timing:
    """Milliseconds a picture takes, by stage. A runtime whose graph cannot be divided has its backbone in `method`."""

    runtime: str
    batch: int
    stages: dict[str, float]

    @property
    def total(self) -> float:
        """Without drawing, which only people ask for."""
        return sum(ms for stage, ms in self.stages.items() if stage != "draw")

    @property
    def network(self) -> float:
        """Scores and maps."""
        return sum(self.stages.get(stage, 0.0) for stage in ("backbone", "method", "map"))

    @property
    def beyond(self) -> float | None:
        """Scores and maps over the bare backbone; None where that is not known by itself."""
        if "backbone" not in self.stages:
            return None
        return self.network / self.stages["backbone"]


@dataclass(frozen=True)
class Limit:
    """What PyTorch's network asks for, and what this machine gives."""

    multiply_adds: float  # of one picture
    weights: int  # bytes that a batch reads once
    rate: float  # multiply-adds a second, of a product of matrices in float32
    bandwidth: float  # bytes a second, of a copy

    def milliseconds(self, batch: int) -> float:
        """The least that a picture of a batch would take at these rates: arithmetic or weights, whichever is slower."""
        return 1000 * max(self.multiply_adds / self.rate, self.weights / batch / self.bandwidth)


def profile(inspector: Inspector, name: str, sources: Sequence[Any]) -> list[Timing]:
    """Of one runtime, for every batch size. sources: paths of pictures, at least one; an encoded one as bytes."""
    return [_profile(inspector, name, [sources[i % len(sources)] for i in range(n)]) for n in BATCHES]


def _profile(inspector: Inspector, name: str, sources: Sequence[Any]) -> Timing:
    n = len(sources)
    category = inspector.categories_[0] if inspector.categories_ else None
    geometry, rule = inspector.geometry_for(category), inspector.calibration_.rule(None, None, category)
    found: dict[str, float] = {}

    def timed(stage: str, function: Callable[[], Any]) -> Any:
        """The median of some calls, after one that warms up."""
        result = function()
        times = []
        for _ in range(REPEATS):
            start = time.perf_counter()
            function()
            times.append(time.perf_counter() - start)
        found[stage] = 1000 * statistics.median(times) / n
        return result

    encoded = timed("read", lambda: [one if isinstance(one, bytes) else read_bytes(one) for one in sources])
    names = ["picture" if isinstance(one, bytes) else str(one) for one in sources]
    decoded = timed("decode", lambda: [read_scaled(*one, geometry.least) for one in zip(encoded, names, strict=True)])
    views = timed("resize", lambda: np.concatenate([list(geometry.inputs(*one)) for one in decoded]))
    sizes = [size for _, size in decoded]
    # people are shown the whole picture, whatever the network needs of it
    images = [image if (image.height, image.width) == (h, w) else image.resize((w, h)) for image, (h, w) in decoded]
    ends = np.cumsum([len(geometry.views(*size)) for size in sizes])  # of each picture's views
    inspected = _inspected(geometry, sizes)
    runtime = inspector.runtime_
    if runtime.network is not None:  # PyTorch's can be divided
        timed("backbone", lambda: _backbone(runtime, views))
    timed("method", lambda: runtime(views, inspected, False))
    output = timed("map", lambda: runtime(views, inspected, True))
    found["map"] = max(found["map"] - found["method"], 0.0)
    found["method"] = max(found["method"] - found.get("backbone", 0.0), 0.0)

    def judged() -> Any:
        parts = zip(np.split(output.scores, ends[:-1]), np.split(output.maps, ends[:-1]), strict=True)
        return [
            inspector._prediction(Judged(Picture(i, "", geometry, size), float(max(scores)), maps), rule, category)
            for i, (size, (scores, maps)) in enumerate(zip(sizes, parts, strict=True))
        ]

    timed("judge", judged)

    def draw() -> None:
        for image, p in zip(images, judged(), strict=True):
            map_, limit = (drawing.drawable(values, p.log_map) for values in (p.map, p.pixel_threshold))
            drawing.overlay(drawing.to_rgb(image), map_, limit, drawing.colour_scale([map_], limit))

    timed("draw", draw)
    return Timing(name, n, {stage: found[stage] for stage in STAGES if stage in found})


def _inspected(geometry: Any, sizes: Sequence[tuple[int, int]]) -> NDArray[np.bool_] | None:
    masks = [geometry.inspected(*size) for size in sizes]
    return None if masks[0] is None else np.concatenate(masks)


def _backbone(runtime: Any, views: NDArray[np.float32]) -> Any:
    import torch

    with torch.inference_mode():
        maps = runtime.network.backbone(torch.from_numpy(views).to(runtime.device))
        return maps[-1].flatten()[0].item()  # waits for a device that computes on its own


def limit(inspector: Inspector) -> Limit | None:
    """What bounds PyTorch's network on this processor; None for one on another device, and for an exported one, whose
    arithmetic is not counted."""
    network = inspector.runtime_.network
    if network is None or inspector.runtime_.device.type != "cpu":  # type: ignore[attr-defined]
        return None
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    size = inspector.geometry_.size
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        inspector.runtime_(np.zeros((1, 3, size, size), np.float32), None, True)
    tensors = [*network.parameters(), *network.buffers()]
    matrix = torch.rand(MATRIX, MATRIX)
    bytes_ = torch.zeros(COPIED, dtype=torch.uint8)
    return Limit(
        counter.get_total_flops() / 2,
        sum(tensor.numel() * tensor.element_size() for tensor in tensors),
        MATRIX**3 / _shortest(lambda: matrix @ matrix),
        2 * COPIED / _shortest(bytes_.clone),  # read and written
    )


def _shortest(function: Callable[[], Any]) -> float:
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def drawn_picture(seed: int = 0) -> bytes:
    """A JPEG of about a megapixel, for where no picture is given."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).resize((DRAWN, DRAWN))
    noise = rng.normal(0, 6, (DRAWN, DRAWN, 1))
    file = io.BytesIO()
    Image.fromarray((np.asarray(coarse) + noise).clip(0, 255).astype(np.uint8)).save(file, "jpeg", quality=90)
    return file.getvalue()


def table(timings: Sequence[Timing]) -> str:
    """Milliseconds a picture, a line for each runtime and batch size."""
    heads = ["runtime", "batch", *STAGES, "verdict", "beyond the backbone"]
    lines = [heads]
    for t in timings:
        cells = [f"{t.stages[stage]:.2f}" if stage in t.stages else "" for stage in STAGES]
        lines.append([t.runtime, str(t.batch), *cells, f"{t.total:.2f}", f"{t.beyond:.2f} x" if t.beyond else ""])
    widths = [max(len(line[i]) for line in lines) for i in range(len(heads))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


def drawn(timings: Sequence[Timing]) -> str:
    """The table as a picture, an SVG page of its own; behind each bar what a verdict takes."""
    from inlier.report.charts import stacked

    rows = {
        f"{t.runtime}, batch {t.batch}": {
            WHOLE if stage == "method" and t.beyond is None else stage: ms for stage, ms in t.stages.items()
        }
        for t in timings
    }
    place = STAGES.index("map")
    ends = [f"{t.total:.1f}, drawn {sum(t.stages.values()):.1f}" for t in timings]
    parts = [*STAGES[:place], WHOLE, *STAGES[place:]]
    chart = str(stacked(rows, parts, ends, "milliseconds a picture", "stages of a verdict", outlined="draw"))
    page = '<svg xmlns="http://www.w3.org/2000/svg" color="#222" style="background: white" '
    return chart.replace("<svg ", page, 1)


def in_words(limit: Limit, timings: Sequence[Timing]) -> str:
    """The limit as a sentence. timings: of PyTorch's network, among others.

    The rates are those of a moment, in which others may keep the machine busy, and weights may stay in its cache: what
    is above the time that was measured is no bound.
    """
    measured = {t.batch: t.network for t in timings if t.beyond is not None}
    bounds, refuted = [], []
    for n in BATCHES:
        least = limit.milliseconds(n)
        if least <= measured.get(n, least):
            bounds.append(f"{least:.2f} ms in a batch of {n}")
        else:
            refuted.append(f"{measured[n]:.2f} ms in a batch of {n}, where these rates allow {least:.2f} ms")
    told = [f"a picture takes at least about {', '.join(bounds)}"] if bounds else []
    if refuted:
        told.append(
            f"no bound is told where the network was faster than it: {', '.join(refuted)} (the machine was busier when "
            "they were measured, or weights stayed in its cache)"
        )
    return (
        f"the network needs {limit.multiply_adds / 1e9:.2f} G multiply-adds a picture and {limit.weights / 2**20:.0f} "
        f"MiB of weights a batch; this machine does {limit.rate / 1e9:.0f} G multiply-adds (float32 product) and moves "
        f"{limit.bandwidth / 1e9:.1f} GB a second now: {'; '.join(told)}"
    )
