"""Pictures for the report and for `inlier predict`: heat maps, overlays, small panels, and two charts as SVG.

A colour scale is (low, high) in raw scores; whoever draws several maps passes the same one, so colours compare.
"""

import base64
import functools
import io
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import binary_dilation, binary_erosion

from inlier.metrics import roc_curve

Scale = tuple[float, float]
Map = NDArray[np.float32]
Mask = NDArray[np.bool_]

PALETTE = "inferno"  # even steps for the eye, readable with colour blindness, and no grey that parts have themselves
OUTLINE, RIM = (0, 255, 255), (0, 0, 0)  # cyan is not in the palette; the black rim carries it over bright parts
HATCH = (150, 150, 150), (205, 205, 205)  # greys of "not inspected"
STRENGTH = 0.6  # share of the heat map in an overlay at the top of the scale; none at the bottom
PANEL_HEIGHT, PANEL_WIDTH = 300, 450  # pixels; shown at about 230 high, so that dense screens have some more
LINE = 1 / 200  # width of outlines as a share of the longer side, so that they are seen when shrunk
GOOD, DEFECT = "#56B4E9", "#D55E00"  # Okabe and Ito's colours; hatching tells them apart without colour
INK = "#010203"  # stands for the page's text colour, which is light in dark mode
CHART = (5.4, 3.3)  # inches


def drawable(values: Any, logarithmic: bool) -> Any:
    """Maps and thresholds as they are drawn: themselves, or their logarithms to base 10."""
    return np.log10(np.maximum(values, 1e-30)) if logarithmic and values is not None else values


def colour_scale(maps: Sequence[Map], pixel_threshold: float | None = None) -> Scale:
    """(low, high) for a group of maps: the middle of their quiet parts, and a peak that a tenth of them exceed.

    Single extreme maps do not decide it, or all others would look alike. `pixel_threshold` lies always within.
    """
    inspected = [values for map in maps if (values := map[np.isfinite(map)]).size]
    if not inspected:
        return 0.0, 1.0
    low = float(np.median([np.quantile(values, 0.05) for values in inspected]))
    high = float(np.quantile([values.max() for values in inspected], 0.9))
    if pixel_threshold is not None:
        low, high = min(low, pixel_threshold), max(high, pixel_threshold)
    return low, high if high > low else low + 1


def heat_map(map: Map, scale: Scale) -> Image.Image:
    """RGB of a map (H, W); NaN (not inspected) is hatched grey, values beyond the scale take its end colours."""
    pixels = _palette()[np.rint(_level(map, scale) * 255).astype(np.uint8)]
    hole = np.isnan(map)
    pixels[hole] = _hatch(map)[hole]
    return Image.fromarray(pixels)


def overlay(image: Image.Image, map: Map, pixel_threshold: float | None, scale: Scale) -> Image.Image:
    """RGB: the picture, the heat map over it (stronger where higher), and the outline of map > pixel_threshold.

    The outline lies inside the region, its dark rim outside. image: of `read_image`, H x W as the map.
    """
    if image.size != map.shape[::-1]:
        raise ValueError(f"picture and map differ in size: {image.size} and {map.shape[::-1]}")
    part = np.asarray(to_rgb(image), np.float32)
    share = STRENGTH * _level(map, scale)[..., None]
    share[np.isnan(map)] = 0.35  # the hatching shows, and so does the part
    pixels = np.rint(part * (1 - share) + np.asarray(heat_map(map, scale), np.float32) * share).astype(np.uint8)
    if pixel_threshold is not None:
        line, rim = outline(map > pixel_threshold)  # NaN > threshold is False
        pixels[rim], pixels[line] = RIM, OUTLINE
    return Image.fromarray(pixels)


def outline(region: Mask) -> tuple[Mask, Mask]:
    """(line, rim) of a region (H, W): its outermost pixels, and those around it. Thicker on large pictures."""
    width = _width(region)
    line = region & ~binary_erosion(region, iterations=width)
    return line, binary_dilation(region, iterations=width) & ~region


def to_rgb(image: Image.Image) -> Image.Image:
    """8-bit colour of a picture of `read_image`, whose 16-bit grey is mode F in [0, 1]: Pillow would turn it black."""
    if image.mode == "F":
        image = Image.fromarray(np.rint(np.asarray(image).clip(0, 1) * 255).astype(np.uint8))
    return image.convert("RGB")


def shrink(image: Image.Image, mask: Mask | None, map: Map) -> tuple[Image.Image, Mask | None, Map]:
    """A picture, its mask and its map at panel size, aspect kept."""
    factor = min(PANEL_HEIGHT / image.height, PANEL_WIDTH / image.width)
    size = max(1, round(image.width * factor)), max(1, round(image.height * factor))
    small = np.asarray(Image.fromarray(map).resize(size, Image.Resampling.BILINEAR))
    if mask is not None:  # a pixel that holds any defect stays one: small defects must not vanish
        mask = np.asarray(Image.fromarray(mask.astype(np.float32)).resize(size, Image.Resampling.BOX)) > 0
    return to_rgb(image).resize(size, Image.Resampling.LANCZOS), mask, small


def ground_truth(mask: Mask) -> Image.Image:
    """Defects white on black."""
    return Image.fromarray(mask)


def colour_bar() -> Image.Image:
    """The palette from low to high, one pixel high."""
    return Image.fromarray(_palette()[None])


def data_uri(image: Image.Image) -> str:
    """The picture inside a URI: photos as JPEG, two-colour pictures and thin strips (exact and small) as PNG."""
    data = io.BytesIO()
    if image.mode == "1" or image.height == 1:
        image.save(data, kind := "png", optimize=True)
    else:  # full colour resolution, or thin coloured lines turn grey; Pillow cannot optimize a noisy picture
        image.save(data, kind := "jpeg", quality=85, subsampling=0)
    return f"data:image/{kind};base64,{base64.b64encode(data.getvalue()).decode()}"


def histogram(
    good: Sequence[float], defect: Sequence[float], threshold: tuple[float, float] | None, name: str
) -> Markup:
    """Scores of good and defect images; `threshold` is (score, alpha)."""
    figure, axes = _chart("image score (higher = more anomalous)", "images")
    axes.yaxis.get_major_locator().set_params(integer=True)
    edges, logarithmic = bin_edges(np.concatenate([good, defect]))
    if logarithmic:
        axes.set_xscale("log")
    if len(good):
        axes.hist(good, edges, color=GOOD, edgecolor=INK, linewidth=0.6, label=f"good ({len(good)})", alpha=0.85)
    if len(defect):
        axes.hist(
            defect,
            edges,
            histtype="stepfilled",
            facecolor="none",
            edgecolor=DEFECT,
            hatch="////",
            linewidth=1.3,
            label=f"defect ({len(defect)})",
        )
    if threshold is not None:
        axes.axvline(
            threshold[0],
            color=INK,
            linestyle="--",
            linewidth=1.4,
            label=f"threshold {threshold[0]:.4g} (alpha {threshold[1]:.2g})",
        )
    figure.legend(loc="outside upper left", ncols=3, frameon=False, labelcolor=INK)
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
) -> Markup:
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


def _chart(x: str, y: str) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(CHART, layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel(x, color=INK)
    axes.set_ylabel(y, color=INK)
    axes.tick_params(colors=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(INK)
    return figure, axes


def _svg(figure: Any, title: str) -> Markup:
    """The figure as an <svg> element for a page: text kept as text, ids of its own, the page's text colour."""
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


def _level(map: Map, scale: Scale) -> NDArray[np.float32]:
    """Place of each value on the scale, in [0, 1]; 0 for NaN, and everywhere when the scale is a point."""
    low, high = scale
    return np.nan_to_num(np.clip((map - low) / ((high - low) or 1), 0, 1), nan=0.0).astype(np.float32)


@functools.cache
def _palette() -> NDArray[np.uint8]:
    """(256, 3) RGB."""
    from matplotlib import colormaps

    return np.asarray(colormaps[PALETTE](np.arange(256), bytes=True))[:, :3]


def _hatch(map: Map) -> NDArray[np.uint8]:
    """(H, W, 3) diagonal stripes."""
    y, x = np.indices(map.shape)
    period = 5 * _width(map)
    return np.array(HATCH, np.uint8)[((x + y) % period < _width(map)).astype(int)]


def _width(pixels: NDArray[Any]) -> int:
    return max(1, round(max(pixels.shape) * LINE))
