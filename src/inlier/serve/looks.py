"""Verdicts as pictures."""

from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from inlier import drawing
from inlier.data.images import decode_image
from inlier.errors import InlierError
from inlier.serve.station import Remembered


def drawn(found: Remembered, what: str) -> Any:
    """A picture of a verdict. Raises InlierError where there is none."""
    p = found.prediction
    map_ = p.map
    assert map_ is not None
    if what == "reconstruction.png":
        if p.reconstruction is None:
            raise InlierError("this model repaints nothing")
        return Image.fromarray(p.reconstruction)
    shown = drawing.drawable(map_, p.log_map)
    limit = drawing.drawable(p.pixel_threshold, p.log_map)
    scale = found.model.inspector.calibration_.map_scale(lambda v: drawing.drawable(v, p.log_map))
    scale = scale or drawing.colour_scale([shown], limit)
    if what == "heat.png":
        return heat_layer(shown, scale)
    if what == "map.png":
        return drawing.heat_map(shown, scale)
    return drawing.overlay(decode_image(found.raw, "the picture"), shown, limit, scale)


def heat_layer(map: drawing.Map, scale: drawing.Scale) -> Image.Image:
    """RGBA to lie over the picture: the higher, the less of it shows through; hatched where nothing was inspected."""
    low, high = scale
    level = np.clip((map - low) / ((high - low) or 1), 0, 1)
    layer = drawing.heat_map(map, scale).convert("RGBA")
    layer.putalpha(Image.fromarray(np.where(np.isnan(level), 150, 255 * np.nan_to_num(level)).astype(np.uint8)))
    return layer


def outlined(raw: bytes, regions: list[dict[str, Any]], side: int) -> Image.Image:
    """A small picture with the outlines of its regions."""
    image = drawing.to_rgb(decode_image(raw, "the picture"))
    scale = min(1.0, side / max(image.size))
    image = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
    draw = ImageDraw.Draw(image)
    for region in regions:
        line = [(x * scale, y * scale) for x, y in region["polygon"]]
        draw.line([*line, line[0]], drawing.RIM, 4)
        draw.line([*line, line[0]], drawing.OUTLINE, 2)
    return image
