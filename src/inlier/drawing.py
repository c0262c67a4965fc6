"""Maps drawn on pictures: heat maps, overlays with outlines, ground truth, and rows of pictures with captions.

A colour scale is (low, high) in raw scores; whoever draws several maps passes the same one, so colours compare.
"""

import bisect
import functools
import io
import math
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import distance_transform_cdt

from inlier.names import shown

Scale = tuple[float, float]
Map = NDArray[np.float32]
Mask = NDArray[np.bool_]

# every eighth colour of matplotlib's inferno, whose data is CC0, and the last one:
# even steps for the eye, readable with colour blindness, and no grey that parts have themselves
PALETTE = """
    000003 030212 0A0723 140B36 200C4A 2E0A5A 3C0965 4A0B6A 570F6D 63146E 70196E
    7D1D6C 892269 962666 A32B61 AF315B BB3754 C73E4C D14643 DB4F3A E45A31 EB6527
    F1721D F68012 F98E08 FB9D06 FBAC10 FABB21 F8CB34 F4DB4B F1E968 F3F689 FCFEA4
"""
OUTLINE, RIM = (0, 255, 255), (0, 0, 0)  # cyan is not in the palette; the black rim carries it over bright parts
CURVE, LIMIT, CHANGED = "#0072B2", "#D55E00", "#F6D9C5"  # Okabe and Ito's blue and vermilion, and a light one
HATCHED = 256  # the first of two colours after the palette's
HATCH = (150, 150, 150), (205, 205, 205)  # greys of "not inspected"
STRENGTH = 0.6  # share of the heat map in an overlay at the top of the scale; none at the bottom
PANEL_HEIGHT, PANEL_WIDTH = 300, 450  # pixels; shown at about 230 high, so that dense screens have some more
SPELT = {"ä": "ae", "ö": "oe", "ü": "ue", "Ä": "Ae", "Ö": "Oe", "Ü": "Ue", "ß": "ss", "ẞ": "SS", "–": "-", "µ": "u"}
LINE = 1 / 200  # width of outlines as a share of the longer side, so that they are seen when shrunk


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
    pixels = np.empty((*map.shape, 3), np.uint8)
    for rows in _bands(map):
        pixels[rows] = _colours()[_codes(map, rows, scale)]
    return Image.fromarray(pixels)


def overlay(image: Image.Image, map: Map, pixel_threshold: float | None, scale: Scale) -> Image.Image:
    """RGB: the picture, the heat map over it (stronger where higher), and the outline of map > pixel_threshold.

    The outline lies inside the region, its dark rim outside. image: of `read_image`, H x W as the map. Takes little
    memory beyond the result's, whatever the size.
    """
    if image.size != map.shape[::-1]:
        raise ValueError(f"picture and map differ in size: {image.size} and {map.shape[::-1]}")
    drawn, width = Image.new("RGB", image.size), _width(map)
    for rows in _bands(map):
        box = (0, rows.start, image.width, rows.stop)
        pixels = np.array(to_rgb(image.crop(box)))
        codes = _codes(map, rows, scale).astype(np.intp) * 256
        for channel, mixed in enumerate(_mixtures()):
            pixels[..., channel] = mixed[codes + pixels[..., channel]]
        if pixel_threshold is not None:
            top = max(rows.start - width, 0)  # the outline sees as far as it is wide
            region = map[top : rows.stop + width] > pixel_threshold  # NaN > threshold is False
            if region.any():
                line, rim = (mask[rows.start - top :][: len(pixels)] for mask in outline(region, width))
                pixels[rim], pixels[line] = RIM, OUTLINE
        drawn.paste(Image.fromarray(pixels), box)
    return drawn


def marked(image: Image.Image, region: Mask) -> Image.Image:
    """RGB at panel size: the picture, dark outside of a region (H, W), with the region's outline. image: H x W."""
    factor = min(PANEL_HEIGHT / image.height, PANEL_WIDTH / image.width)
    size = max(1, round(image.width * factor)), max(1, round(image.height * factor))
    inside = np.asarray(Image.fromarray(region).resize(size, Image.Resampling.NEAREST))
    pixels = np.array(to_rgb(image).resize(size, Image.Resampling.LANCZOS))
    pixels[~inside] //= 3
    line, rim = outline(inside, 2)
    pixels[rim], pixels[line] = RIM, OUTLINE
    return Image.fromarray(pixels)


def stacked(pictures: Sequence[Image.Image]) -> Image.Image:
    """RGB: pictures below one another on white."""
    sheet = Image.new("RGB", (max(p.width for p in pictures), sum(p.height for p in pictures)), "white")
    top = 0
    for picture in pictures:
        sheet.paste(picture, (0, top))
        top += picture.height
    return sheet


def outline(region: Mask, width: int | None = None) -> tuple[Mask, Mask]:
    """(line, rim) of a region (H, W): its outermost pixels, and those around it.

    width: pixels; None: thicker on large pictures. What lies beyond the picture is not of the region.
    """
    width = width or _width(region)
    framed = np.pad(region, 1)
    # steps to the nearest pixel across the border; -1 where there is none
    inside, outside = (distance_transform_cdt(side, "taxicab")[1:-1, 1:-1] for side in (framed, ~framed))
    return (inside > 0) & (inside <= width), (outside > 0) & (outside <= width)


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


def as_file(image: Image.Image, kind: str, **options: Any) -> bytes:
    """What a file of this kind holds. options: Pillow's, of that kind."""
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def colour_bar() -> Image.Image:
    """The palette from low to high, one pixel high."""
    return Image.fromarray(_palette()[None])


def panels(pictures: Sequence[Image.Image], captions: Sequence[str], title: str = "") -> Image.Image:
    """RGB: pictures of one height side by side on white, a caption above each, the title above all.

    Letters grow with the pictures. Text too long for its place is cut and ends in an ellipsis.
    """
    images = [to_rgb(picture) for picture in pictures]
    height = max(image.height for image in images)
    size = max(12, height // 18)
    gap, line = size // 2, size * 3 // 2
    width = sum(image.width + gap for image in images) + gap
    top = gap + (line if title else 0)
    sheet = Image.new("RGB", (width, top + line + height + gap), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size)
    draw.text((gap, gap), _cut(title, font, width - 2 * gap), "black", font)
    left = gap
    for image, caption in zip(images, captions, strict=True):
        draw.text((left, top), _cut(caption, font, image.width), "black", font)
        sheet.paste(image, (left, top + line))
        left += image.width + gap
    return sheet


def legible(text: str) -> str:
    """The text with what Pillow's own font lacks: German letters spelt out, accents dropped, else an escape.

    >>> legible("Prüfling é 中")
    'Pruefling e \\\\u4e2d'
    """
    return "".join(map(_legible, unicodedata.normalize("NFC", shown(text))))


@functools.cache
def _legible(sign: str) -> str:
    font = ImageFont.load_default(20)
    box = bytes(font.getmask("\uffff"))  # drawn for all that a font lacks

    def is_drawn(text: str) -> bool:
        return all(sign == " " or bytes(font.getmask(sign)) != box for sign in text)

    bare = "".join(part for part in unicodedata.normalize("NFKD", sign) if not unicodedata.combining(part))
    options = (sign, SPELT.get(sign, bare))
    return next(filter(is_drawn, options), sign.encode("unicode_escape").decode())


def evidence(
    points: Sequence[tuple[int, float]],
    limit: float,
    change: tuple[int, int] | None,
    size: tuple[int, int] = (900, 420),
) -> Image.Image:
    """RGB: how evidence of a change (powers of ten) grew over a stream, and the limit from which it is an alarm.

    points: (picture, evidence), ascending. change: pictures at which a change began and was seen.
    """
    sheet = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    left, top, right, bottom = 60, 40, size[0] - 30, size[1] - 40
    last = max(points[-1][0], 1)
    low = math.floor(min(0.0, *(value for _, value in points)))
    high = math.ceil(max(limit, *(value for _, value in points))) + 1

    def place(picture: float, value: float) -> tuple[float, float]:
        return left + (right - left) * picture / last, bottom - (bottom - top) * (value - low) / (high - low)

    if change:
        began, seen = (place(picture, low)[0] for picture in change)
        draw.rectangle((began, top, seen, bottom), CHANGED)
        draw.text((left, 10), f"alarm at picture {change[1]}; the change began at about {change[0]}", "black", font)
    else:
        draw.text((left, 10), "no alarm", "black", font)
    for power in range(low, high + 1, max(1, (high - low) // 8)):
        y = place(0, power)[1]
        draw.line((left, y, right, y), "#DDDDDD")
        draw.text((left - 8, y), f"1e{power}", "black", font, anchor="rm")
    for picture in range(0, last + 1, max(1, last // 5)):
        draw.text((place(picture, low)[0], bottom + 8), str(picture), "black", font, anchor="ma")
    draw.text((right, bottom + 22), "pictures", "black", font, anchor="ra")
    draw.line((place(0, limit), place(last, limit)), LIMIT, 2)
    draw.text(place(0, limit), " alarm", LIMIT, font, anchor="lb")
    draw.line([place(*point) for point in points], CURVE, 3)
    return sheet


def _bands(map: Map) -> list[slice]:
    """Rows of a map in parts of about a million pixels, and of several widths of an outline."""
    height = max(2**20 // max(1, map.shape[1]), 4 * _width(map))
    return [slice(top, min(top + height, len(map))) for top in range(0, len(map), height)]


def _codes(map: Map, rows: slice, scale: Scale) -> NDArray[np.uint16]:
    """Numbers of the colours (of `_colours`) of a map's rows: place on the scale, or the stripe of the hatching.

    All is 0 when the scale is a point.
    """
    low, high = scale
    band = map[rows]
    level = np.clip((band - low) / ((high - low) or 1), 0, 1)
    hole = np.isnan(level)
    level[hole] = 0
    codes = np.rint(level * 255).astype(np.uint16)
    if hole.any():
        y, x = np.nonzero(hole)
        width = _width(map)
        codes[y, x] = HATCHED + ((x + y + rows.start) % (5 * width) < width)
    return codes


@functools.cache
def _palette() -> NDArray[np.uint8]:
    """(256, 3) RGB."""
    anchors = np.frombuffer(bytes.fromhex(PALETTE), np.uint8).reshape(-1, 3)
    places = [*range(0, 256, 8), 255]
    return np.rint(np.transpose([np.interp(range(256), places, c) for c in anchors.T])).astype(np.uint8)


def _colours() -> NDArray[np.uint8]:
    """(258, 3) RGB: the palette, then the two greys of the hatching."""
    return np.concatenate([_palette(), np.array(HATCH, np.uint8)])


@functools.cache
def _mixtures() -> NDArray[np.uint8]:
    """(3, 258 * 256) what becomes of a channel's value where a colour of `_colours` lies over it."""
    share = np.append(STRENGTH * np.arange(256) / 255, [0.35, 0.35])  # the hatching shows, and so does the part
    part = np.arange(256) * (1 - share[:, None])
    return np.rint(part + (share[:, None] * _colours())[..., None].transpose(1, 0, 2)).astype(np.uint8).reshape(3, -1)


def _width(pixels: NDArray[Any]) -> int:
    return max(1, round(max(pixels.shape) * LINE))


def _cut(text: str, font: Any, room: int) -> str:
    """As much of the text as fits into `room` pixels, in one line."""
    text = legible(" ".join(text.split()))
    if font.getbbox(text)[2] <= room:
        return text

    def shortened(end: int) -> str:
        return text[:end].rstrip() + "\N{HORIZONTAL ELLIPSIS}"

    too_long = bisect.bisect_right(range(len(text)), room, key=lambda end: font.getbbox(shortened(end))[2])
    return shortened(too_long - 1) if too_long else ""
