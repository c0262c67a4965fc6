"""What a page holds beside words: histogram and ROC curve as SVG, and pictures inside a URI."""

import base64
import io
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from inlier.drawing import as_file
from inlier.errors import InlierError
from inlier.metrics import roc_curve

if TYPE_CHECKING:
    from markupsafe import Markup

GOOD, DEFECT = "#56B4E9", "#D55E00"  # Okabe and Ito's colours; hatching tells them apart without colour
SERIES = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#8C6D00", "#7F7F7F")  # mostly theirs
MARKS = "osD^vPX*"  # shapes tell them apart, too
HATCHES = ("", "//", "", "..", "", "xx", "", "\\\\")  # neighbours differ without colour, too
INK = "#010203"  # stands for the page's text colour, which is light in dark mode
CHART = (5.4, 3.3)  # inches
LONG_LABEL = 28  # characters of a legend, of which half a chart is as wide


def data_uri(image: Image.Image) -> str:
    """The picture inside a URI: photos as JPEG, two-colour pictures and thin strips (exact and small) as PNG."""
    if image.mode == "1" or image.height == 1:
        data = as_file(image, kind := "png", optimize=True)
    else:  # full colour resolution, or thin coloured lines turn grey; Pillow cannot optimize a noisy picture
        data = as_file(image, kind := "jpeg", quality=85, subsampling=0)
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def histogram(
    good: Sequence[float],
    defect: Sequence[float],
    threshold: tuple[float, float] | None,
    name: str,
    names: tuple[str, str] = ("good", "defect"),
) -> "Markup":
    """Scores of good and defect pictures, or what else the two `names` say; `threshold` is (score, alpha)."""
    figure, axes = _chart("image score (higher = more anomalous)", "pictures")
    axes.yaxis.get_major_locator().set_params(integer=True)
    edges, logarithmic = bin_edges(np.concatenate([good, defect]))
    if logarithmic:
        axes.set_xscale("log")
    if len(good):
        axes.hist(good, edges, color=GOOD, edgecolor=INK, linewidth=0.6, label=f"{names[0]} ({len(good)})", alpha=0.85)
    if len(defect):
        axes.hist(
            defect,
            edges,
            histtype="stepfilled",
            facecolor="none",
            edgecolor=DEFECT,
            hatch="////",
            linewidth=1.3,
            label=f"{names[1]} ({len(defect)})",
        )
    if threshold is not None:
        axes.axvline(
            threshold[0],
            color=INK,
            linestyle="--",
            linewidth=1.4,
            label=f"threshold {threshold[0]:.4g} (alpha {threshold[1]:.2g})",
        )
    columns = 3 if len("".join(names)) < 12 else 2
    figure.legend(loc="outside upper left", ncols=columns, frameon=False, labelcolor=INK)
    return _svg(figure, f"Histogram of the image scores of {name}")


def bin_edges(scores: NDArray[Any]) -> tuple[NDArray[Any], bool]:
    """(bins + 1,) edges, and whether they are even on a logarithmic axis: where a few scores dwarf the rest."""
    logarithmic = bool(scores.min() > 0 and scores.max() > 20 * np.median(scores))
    edges = np.histogram_bin_edges(np.log(scores) if logarithmic else scores, min(40, max(10, len(scores) // 4)))
    if logarithmic:
        edges = np.exp(edges)
        edges[[0, -1]] = scores.min(), scores.max()  # the way there and back rounds the extremes out
    return edges, logarithmic


def roc(
    scores: Sequence[float], is_defect: Sequence[bool], label: str, point: tuple[float, float] | None, name: str
) -> "Markup":
    """ROC curve of image scores; `point` is (false-alarm rate, detection rate) at the threshold."""
    figure, axes = _chart("false-alarm rate: good parts judged defect", "detection rate: defects found")
    false_alarms, found, _ = roc_curve(scores, is_defect)
    axes.plot([0, 1], [0, 1], color=INK, linestyle=":", linewidth=1, alpha=0.6)
    axes.text(0.62, 0.58, "guessing", color=INK, rotation=28, alpha=0.8, fontsize="small")
    axes.plot(false_alarms, found, color=DEFECT, linewidth=2, label=label)
    if point:
        reached = f"at the threshold: {100 * point[1]:.1f} % found, {100 * point[0]:.1f} % false alarms"
        axes.plot(*point, "o", color=GOOD, markeredgecolor=INK, markersize=9, clip_on=False, zorder=5, label=reached)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    axes.legend(loc="lower right", fontsize="small", frameon=False, labelcolor=INK)
    return _svg(figure, f"ROC curve of {name}")


def trade_off(points: Sequence[tuple[str, float, tuple[float, float, float]]], x: str, y: str, name: str) -> "Markup":
    """What is gained for what it costs; points: (label, cost, (mean, lowest, highest) in [0, 1])."""
    figure, axes = _chart(x, y)
    for number, (label, cost, (mean, low, high)) in enumerate(points):
        mark = _mark(number)
        reach = [[100 * (mean - low)], [100 * (high - mean)]]
        axes.errorbar(cost, 100 * mean, reach, color=mark["color"], linewidth=1.3, capsize=3)
        axes.plot(cost, 100 * mean, linestyle="none", markersize=8, label=label, **mark)
    axes.set_xscale("log")
    axes.set_ylim(top=min(axes.get_ylim()[1], 100.6))  # nothing is better than perfect
    costs = [cost for _, cost, _ in points]
    axes.set_xlim(min(costs) / 1.6, max(costs) * 1.6)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "25" else "")
    axes.tick_params(which="minor", colors=INK)
    axes.grid(alpha=0.25, color=INK, linewidth=0.5)
    figure.legend(
        loc="outside upper left",
        ncols=_columns([label for label, _, _ in points]),
        frameon=False,
        labelcolor=INK,
        fontsize="small",
    )
    return _svg(figure, name)


def ranges(
    series: dict[str, dict[str, tuple[float, float, float]]], crosses: dict[str, float], cross: str, x: str, name: str
) -> "Markup":
    """A line for each set, a mark on it for each series that has it: (mean, lowest, highest) in [0, 1]. crosses: one
    more value of a set, of what `cross` says."""
    sets = list(dict.fromkeys([key for values in series.values() for key in values]))
    columns = _columns([*series, cross])
    figure, axes = _chart(x, "", (CHART[0], 1.6 + 0.22 * len(series) / columns + 0.45 * len(sets)))
    for number, (label, values) in enumerate(series.items()):
        mark = _mark(number)
        offset = 0.5 * (number - (len(series) - 1) / 2) / max(len(series), 3)  # beside one another
        rows = [sets.index(key) + offset for key in values]
        axes.hlines(
            rows, *([100 * v[end] for v in values.values()] for end in (1, 2)), color=mark["color"], linewidth=1.3
        )
        axes.plot([100 * v[0] for v in values.values()], rows, linestyle="none", markersize=7, label=label, **mark)
    if crosses:
        rows = [sets.index(key) for key in crosses]
        axes.plot([100 * v for v in crosses.values()], rows, "x", color=INK, markersize=8, alpha=0.7, label=cross)
    axes.axvline(50, color=INK, linestyle=":", linewidth=1, alpha=0.6)
    axes.set_yticks(range(len(sets)), sets)
    axes.set_ylim(len(sets) - 0.5, -0.5)
    axes.xaxis.grid(alpha=0.25, color=INK, linewidth=0.5)
    figure.legend(loc="outside upper left", ncols=columns, frameon=False, labelcolor=INK, fontsize="small")
    return _svg(figure, name)


def stacked(
    rows: dict[str, dict[str, float]], parts: Sequence[str], ends: Sequence[str], x: str, name: str, outlined: str = ""
) -> "Markup":
    """A bar for each row, made of its parts one after the other. ends: what is written behind each bar. outlined: a
    part that does not quite belong to the others and gets no colour."""
    figure, axes = _chart(x, "", (1.6 * CHART[0], 1.4 + 0.35 * len(rows)))
    labels, starts = list(rows), np.zeros(len(rows))
    for number, part in enumerate(part for part in parts if any(part in values for values in rows.values())):
        lengths = np.array([values.get(part, 0.0) for values in rows.values()])
        colour, hatch = SERIES[number % len(SERIES)], HATCHES[number % len(HATCHES)]
        colour, line = ("none", "--") if part == outlined else (colour, "-")
        hatch = "" if part == outlined else hatch
        axes.barh(labels, lengths, left=starts, color=colour, hatch=hatch, edgecolor=INK, linewidth=0.5, linestyle=line,
                  label=part)  # fmt: skip
        starts += lengths
    for row, (end, text) in enumerate(zip(starts, ends, strict=True)):
        axes.text(end, row, f"  {text}", va="center", color=INK, fontsize="small")
    axes.invert_yaxis()
    axes.margins(x=0.05 + 0.014 * max(map(len, ends)))  # room for what is written
    figure.legend(loc="outside upper left", ncols=5, frameon=False, labelcolor=INK, fontsize="small")
    return _svg(figure, name)


def evidence(points: Sequence[tuple[int, float]], limit: float, name: str) -> "Markup":
    """How evidence of a change (powers of ten) grew over a stream of pictures; from `limit` on it is an alarm."""
    figure, axes = _chart("pictures", "evidence of a change (power of ten)")
    axes.plot(*zip(*points), color=SERIES[0], linewidth=2)
    axes.axhline(limit, color=DEFECT, linestyle="--", linewidth=1.4)
    axes.text(points[0][0], limit, "alarm", color=INK, va="bottom", fontsize="small")
    return _svg(figure, f"Evidence of a change: {name}")


def ladders(
    panels: Sequence[tuple[str, Sequence[str], Sequence[float], Sequence[float] | None, int]], limit: float, name: str
) -> "Markup":
    """A panel for each kind of change: (title, sizes from none to strong, false-alarm rate and share of defects found
    at each, how many of the sizes keep the promise). limit: false-alarm rate from which on it is broken. All in [0, 1].
    """
    columns = 4
    lines = -(-len(panels) // columns)
    figure, grid = _charts(lines, columns, (11.6, 0.5 + 2.05 * lines))
    figure.supylabel("share of pictures, %", color=INK, fontsize="medium")
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    for axes, (title, sizes, alarms, found, kept) in zip(grid, panels):
        axes.set_title(title, color=INK, fontsize="medium", loc="left")
        if kept:
            axes.axvspan(-0.35, kept - 0.65, color=SERIES[2], alpha=0.16, linewidth=0, label="promise kept")
        if found is not None:
            axes.plot([100 * v for v in found], color=SERIES[0], marker="s", markersize=4, label="defects found")
        axes.plot([100 * v for v in alarms], color=DEFECT, marker="o", markersize=4, label="false alarms")
        axes.axhline(100 * limit, color=INK, linestyle="--", linewidth=1, label="broken from here on")
        axes.set_xticks(range(len(sizes)), sizes)
        axes.set(xlim=(-0.35, len(sizes) - 0.65), ylim=(-4, 104))
    handles = {label: handle for axes in grid for handle, label in zip(*axes.get_legend_handles_labels())}
    figure.legend(handles.values(), handles.keys(), loc="outside upper left", ncols=4, frameon=False, labelcolor=INK)
    return _svg(figure, name)


def detection(
    sizes: Sequence[float],
    found: Sequence[bool],
    curve: Sequence[tuple[float, float, float | None]],
    marks: Sequence[tuple[str, float]],
    x: str,
    name: str,
) -> "Markup":
    """Probability of detection over the size of a defect. curve: (size, probability, size of the 95 % bound at this
    probability, None: there is none). marks: sizes with names."""
    figure, axes = _chart(x, "probability of detection")
    axes.set_xscale("log")
    rng = np.random.default_rng(0)  # dots at one place would hide one another
    heights = np.where(found, 1.03, -0.03) + rng.uniform(-0.015, 0.015, len(sizes))
    axes.plot(sizes, heights, linestyle="none", marker="|", markersize=7, color=INK, alpha=0.6, clip_on=False)
    if curve:
        axes.plot(*zip(*((size, p) for size, p, _ in curve)), color=SERIES[0], linewidth=2, label="POD")
        bounds = [(bound, p) for _, p, bound in curve if bound is not None]
        if bounds:
            axes.plot(*zip(*bounds), color=SERIES[0], linestyle="--", linewidth=1.3, label="95 % confidence bound")
        axes.axhline(0.9, color=INK, linewidth=0.6, alpha=0.5)
        for number, (label, size) in enumerate(marks):
            axes.axvline(size, ymax=0.9, color=DEFECT, linestyle=("-", "--")[number % 2], linewidth=1.2)
            axes.annotate(label, (size, 0.06 + 0.1 * number), (3, 0), textcoords="offset points", color=INK,
                          fontsize="small")  # fmt: skip
        figure.legend(loc="outside upper left", ncols=2, frameon=False, labelcolor=INK)
        axes.set_xlim(min(sizes) / 1.2, 1.2 * max([*sizes, *(size for _, size in marks)]))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    axes.xaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "25" else "")
    axes.tick_params(which="minor", colors=INK)
    axes.set_ylim(-0.06, 1.06)
    return _svg(figure, name)


def _columns(labels: Iterable[str]) -> int:
    """Of a legend above a chart; a long label would be cut off beside another."""
    return 1 if max(map(len, labels), default=0) > LONG_LABEL else 2


def _mark(number: int) -> dict[str, Any]:
    return {"color": SERIES[number % len(SERIES)], "marker": MARKS[number % len(MARKS)], "markeredgecolor": INK,
            "markeredgewidth": 0.5}  # fmt: skip


def _chart(x: str, y: str, size: tuple[float, float] = CHART) -> tuple[Any, Any]:
    figure, (axes,) = _charts(1, 1, size)
    axes.set_xlabel(x, color=INK)
    axes.set_ylabel(y, color=INK)
    return figure, axes


def _charts(lines: int, columns: int, size: tuple[float, float]) -> tuple[Any, list[Any]]:
    """A figure, and its axes line by line."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as missing:
        raise InlierError("the report's charts need matplotlib: pip install 'inlier[report]'") from missing

    figure = Figure(size, layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False).ravel().tolist()
    for axes in grid:
        axes.tick_params(colors=INK)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(INK)
    return figure, grid


def _svg(figure: Any, title: str) -> "Markup":
    """The figure as an <svg> element for a page: text kept as text, ids of its own, the page's text colour."""
    from markupsafe import Markup, escape
    from matplotlib import rc_context

    text = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": title}):  # the salt: the same page for the same results
        figure.savefig(text, format="svg", transparent=True)
    svg = re.sub(r"<metadata>.*?</metadata>", "", text.getvalue(), flags=re.DOTALL)
    prefix = re.sub(r"\W", lambda found: f"-{ord(found[0])}-", title)  # ids must differ between the charts of a page
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}-", svg)
    box = re.findall(r'viewBox="[^"]*"', svg)[0]
    inner = re.split(r"<svg[^>]*>", svg, maxsplit=1)[1]
    svg = f'<svg {box} role="img" aria-label="{escape(title)}">{inner}'
    return Markup(svg.replace("xlink:href", "href").replace(INK, "currentColor"))
