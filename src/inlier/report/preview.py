"""Sheets that show simulated defects and training views, so that they can be judged before hours of training."""

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import binary_dilation

from inlier.data.simulation import Mask, Pixels, Simulated, Simulator
from inlier.report.figures import OUTLINE, RIM, outline

IMAGES = 4  # rows that fill a screen
VIEWS = 6  # columns of DifferNet's views
GAP = 6  # pixels between them
PANEL = 1.75  # inches
DOTS = 150  # pixels per inch
SHADE = (40, 70, 110)  # where no defect may lie

Column = tuple[str, Callable[[Pixels, Simulated, Simulated], np.ndarray]]  # title; image, texture, structure -> panel


def preview_sheet(images: Sequence[Pixels], simulator: Simulator, names: Sequence[str] = ()) -> Image.Image:
    """A row for each good image, uint8 (H, W, 3): the steps, and the same mask filled with texture and with structure.

    names: what to write beside the rows. Four images fill a screen. Without textures their two columns are left out.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = [column for column in COLUMNS if simulator.textures or "texture" not in column[0]]
    width, height = PANEL * len(columns) + 0.4, (PANEL + 0.06) * len(images) + 1.0
    figure = Figure((width, height), dpi=DOTS, layout="constrained")
    grid = figure.subplots(len(images), len(columns), squeeze=False)
    for row, image in enumerate(images):
        texture, structure = (replace(simulator, texture_share=share)(image, (0, row)) for share in (1.0, 0.0))
        for axes, (title, panel) in zip(grid[row], columns):
            pixels = panel(image, texture, structure)
            axes.imshow(pixels, cmap="gray", vmin=-1, vmax=1)  # the grey scale is for the noise only
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
            if row == 0:
                axes.set_title(title, fontsize=9)
            if title == "foreground" and structure.whole_image:
                axes.set_xlabel("none found: whole picture", fontsize=8)
        if row < len(names):
            # the end of a path says most
            grid[row, 0].set_ylabel(names[row][-22:], fontsize=8)
    figure.suptitle(textwrap.fill(simulator.describe(), round(11 * width), break_on_hyphens=False), fontsize=10)
    _legend(figure, simulator)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())


def view_sheet(images: Sequence[Pixels], s: Any, seed: int = 0) -> tuple[Image.Image, str]:
    """A row for each good image: the picture, then views that DifferNet with these settings sees."""
    from inlier.methods.differnet import training_views

    rows, n = [], min(s.view_pool or VIEWS, VIEWS)  # a pool has no more than those
    for row, image in enumerate(images):
        views = training_views(torch.from_numpy(image).permute(2, 0, 1) / 255, s, seed + row, n)
        panels = [image, *((255 * view).byte().permute(1, 2, 0).numpy() for view in views)]
        rows.append(np.concatenate([np.pad(p, ((0, GAP), (0, GAP), (0, 0)), constant_values=255) for p in panels], 1))
    names = ("rotation", "mirror", "flip", "brightness", "contrast", "fill", "view_pool")
    shown = ", ".join(f"{name}={getattr(s, name)}" for name in names)
    return Image.fromarray(np.concatenate(rows)), f"the picture, then views of it: {shown}"


def _legend(figure: Any, simulator: Simulator) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    shade, line = ("#{:02x}{:02x}{:02x}".format(*colour) for colour in (SHADE, OUTLINE))
    mask = f"noise above {simulator.threshold:g}, within foreground: mask"
    keys = [
        Patch(facecolor=shade, label="not foreground: no defect lies here"),
        Patch(facecolor="white", edgecolor="black", label=mask),
        Line2D([], [], color=line, linewidth=3, label="outline of the mask, drawn just around it"),
    ]
    figure.legend(handles=keys, loc="outside lower center", ncols=len(keys), frameon=False, fontsize=9)


def _foreground(image: Pixels, foreground: Mask) -> Pixels:
    pixels = image.copy()
    pixels[~foreground] = image[~foreground] // 4 + np.array(SHADE, np.uint8) // 4 * 3
    return pixels


def _result(simulated: Simulated) -> Pixels:
    """The outline lies around the mask, so that small defects are not hidden by it."""
    line, rim = outline(binary_dilation(simulated.mask))
    pixels = simulated.image.copy()
    pixels[rim], pixels[line & ~simulated.mask] = RIM, OUTLINE
    return pixels


COLUMNS: tuple[Column, ...] = (
    ("good image", lambda image, texture, structure: image),
    ("foreground", lambda image, texture, structure: _foreground(image, structure.foreground)),
    ("Perlin noise", lambda image, texture, structure: structure.noise),
    ("mask", lambda image, texture, structure: np.repeat(structure.mask[..., None] * np.uint8(255), 3, axis=2)),
    ("texture source", lambda image, texture, structure: texture.source),
    ("structure source", lambda image, texture, structure: structure.source),
    ("result with texture", lambda image, texture, structure: _result(texture)),
    ("result with structure", lambda image, texture, structure: _result(structure)),
)
