"""A sheet that shows the steps of simulated defects, so that they can be judged before hours of training."""

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import binary_dilation

from inlier.data.simulation.foreground import Mask, Pixels
from inlier.data.simulation.noise import Noise
from inlier.data.simulation.simulator import THRESHOLD, Simulated, Simulator
from inlier.drawing import OUTLINE, RIM, legible, outline

PANEL = 256  # pixels of a panel's longer side: what networks often see, so that most pictures stay as they are
GAP = 10  # pixels
TEXT, SMALL = 19, 16  # pixels of the letters
LINE = TEXT * 3 // 2
SHADE = (40, 70, 110)  # where no defect may lie

Column = tuple[str, Callable[[Pixels, Simulated, Simulated], Pixels]]  # title; image, texture, structure -> panel


def preview_sheet(
    images: Sequence[Pixels], simulator: Simulator, names: Sequence[str] = (), inspected: Sequence[Mask] = ()
) -> Image.Image:
    """A row for each good image, uint8 (H, W, 3): the steps, and the same mask filled with texture and with structure.

    names: what to write beside the rows. inspected: (H, W) of each image, the region of interest; none: everything.
    Four images fill a screen. Without textures their two columns are left out.
    """
    columns = [column for column in COLUMNS if simulator.textures or "texture" not in column[0]]
    font, small = ImageFont.load_default(TEXT), ImageFont.load_default(SMALL)
    masks = inspected or len(images) * [None]
    rows = [_row(columns, image, simulator, n, mask) for n, (image, mask) in enumerate(zip(images, masks, strict=True))]
    left = GAP + (LINE if names else 0)
    middles = [left + number * (PANEL + GAP) + PANEL // 2 for number in range(len(columns))]
    width = left + len(columns) * (PANEL + GAP)
    per_line = int((width - 2 * GAP) / font.getlength("n"))  # letters are narrower than n on average
    lines = textwrap.wrap(legible(simulator.describe()), per_line, break_on_hyphens=False)
    top = 2 * GAP + LINE * (len(lines) + 1)  # the titles take one line too
    sheet = Image.new("RGB", (width, top + sum(row.height for row in rows) + LINE + GAP), "white")
    draw = ImageDraw.Draw(sheet)
    for number, line in enumerate(lines):
        draw.text((width / 2, GAP + LINE * number), line, "black", font, anchor="ma")
    for (title, _), x in zip(columns, middles):
        draw.text((x, top - GAP // 2), title, "black", font, anchor="md")
    for number, row in enumerate(rows):
        height = row.panels[0].height
        if number < len(names):
            name = _turned(names[number], small, height)
            sheet.paste(name, (GAP, top + (height - name.height) // 2))
        for x, panel in zip(middles, row.panels):
            sheet.paste(panel, (x - panel.width // 2, top))
        draw.text((middles[FOREGROUND], top + height + 2), row.note, "black", small, anchor="ma")
        top += row.height
    _legend(draw, font, simulator, width, top)
    return sheet


class Row(NamedTuple):
    """The panels of one image, and the note below its foreground."""

    panels: list[Image.Image]
    note: str

    @property
    def height(self) -> int:
        """With what is below it."""
        return self.panels[0].height + GAP + (LINE if self.note else 0)


def _row(columns: Sequence[Column], image: Pixels, simulator: Simulator, number: int, inspected: Mask | None) -> Row:
    simulators = (replace(simulator, texture_share=share) for share in (1.0, 0.0))
    texture, structure = (simulate(image, (0, number), inspected) for simulate in simulators)
    factor = PANEL / max(image.shape[:2])
    size = max(1, round(image.shape[1] * factor)), max(1, round(image.shape[0] * factor))
    panels = [Image.fromarray(panel(image, texture, structure)).resize(size) for _, panel in columns]
    return Row(panels, "none found: whole picture" if structure.whole_image else "")


def _turned(name: str, font: Any, room: int) -> Image.Image:
    """A name written upwards. Where there is little room the end stays: it says most of a path."""
    name = legible(name)
    shorter = ("\N{HORIZONTAL ELLIPSIS}" + name[start:] for start in range(1, len(name)))
    text = next((t for t in (name, *shorter) if font.getlength(t) <= room), "")
    picture = Image.new("RGB", (max(1, round(font.getlength(text))), LINE), "white")
    ImageDraw.Draw(picture).text((0, LINE // 2), text, "black", font, anchor="lm")
    return picture.transpose(Image.Transpose.ROTATE_90)


def _legend(draw: ImageDraw.ImageDraw, font: Any, simulator: Simulator, width: int, top: int) -> None:
    """The three keys in one line, in the middle."""
    keys = (
        (SHADE, "not foreground: no defect lies here"),
        ((255, 255, 255), f"noise above {THRESHOLD:g}, within foreground: mask"),
        (OUTLINE, "outline of the mask, drawn just around it"),
    )
    space, box = 3 * GAP, 2 * TEXT
    x = (width - sum(box + GAP + font.getlength(label) for _, label in keys) - 2 * space) / 2
    middle = top + LINE // 2
    for colour, label in keys:
        half = 3 if colour == OUTLINE else TEXT // 2  # a line, or an area
        draw.rectangle((x, middle - half, x + box, middle + half), colour, RIM)
        draw.text((x + box + GAP, middle), label, "black", font, anchor="lm")
        x += box + GAP + font.getlength(label) + space


def outlined(simulated: Simulated) -> Pixels:
    """The picture with its defect (H, W, 3). The outline lies around the mask, so that it hides no small defect."""
    line, rim = outline(binary_dilation(simulated.mask))
    pixels = simulated.image.copy()
    pixels[rim], pixels[line & ~simulated.mask] = RIM, OUTLINE
    return pixels


def _shaded(image: Pixels, foreground: Mask) -> Pixels:
    pixels = image.copy()
    pixels[~foreground] = image[~foreground] // 4 + np.array(SHADE, np.uint8) // 4 * 3
    return pixels


def _grey(noise: Noise) -> Pixels:
    """-1 is black, 1 is white."""
    return np.repeat(np.rint(127.5 * (noise.clip(-1, 1) + 1)).astype(np.uint8)[..., None], 3, axis=2)


COLUMNS: tuple[Column, ...] = (
    ("good image", lambda image, texture, structure: image),
    ("foreground", lambda image, texture, structure: _shaded(image, structure.foreground)),
    ("Perlin noise", lambda image, texture, structure: _grey(structure.noise)),
    ("mask", lambda image, texture, structure: np.repeat(structure.mask[..., None] * np.uint8(255), 3, axis=2)),
    ("texture source", lambda image, texture, structure: texture.source),
    ("structure source", lambda image, texture, structure: structure.source),
    ("result with texture", lambda image, texture, structure: outlined(texture)),
    ("result with structure", lambda image, texture, structure: outlined(structure)),
)
FOREGROUND = [title for title, _ in COLUMNS].index("foreground")
