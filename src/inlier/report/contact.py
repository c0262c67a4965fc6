"""A contact sheet of a dataset: one self-contained page with samples of each role, and of all that looks wrong."""

from collections.abc import Callable, Sequence
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from PIL import Image

from inlier import artifact, drawing
from inlier.data.check import Report
from inlier.data.datasets.sample import Dataset, Sample, evenly
from inlier.data.images import read_image
from inlier.errors import ImageError
from inlier.report.charts import data_uri
from inlier.report.pages import render

SHOWN = 6  # pictures of each role
SIDE = 160  # pixels


def write_contact_sheet(
    dataset: Dataset, found: Report, folder: Path, roles: Callable[[Sequence[Sample]], dict[str, list[Sample]]]
) -> Path:
    """Write folder/index.html and return its path. Masks are outlined. Raises ArtifactError if it cannot be written."""
    sections = []
    for category in dataset.categories:
        by_role = roles([s for s in dataset.samples if s.category == category])
        tiles = [(role, len(own), [_tile(s) for s in evenly(own, SHOWN)]) for role, own in by_role.items()]
        sections.append((category, tiles))
    first: dict[int, Sample] = {}
    copies = [
        (first[group], sample)
        for sample, group in zip(dataset.train, found.groups, strict=True)
        if first.setdefault(group, sample) is not sample and group >= 0
    ]
    shown = [s for pair in copies[: SHOWN // 2] for s in pair]
    strange = [(what, len(own), [_tile(s) for s in own[:SHOWN]]) for what, own in found.suspicious]
    if copies:
        strange.append(("look like one another, saved again", len(copies), [_tile(s) for s in shown]))
    page = render("contact.html.j2", dataset=dataset, found=found, sections=sections, strange=strange)
    path = Path(folder) / "index.html"
    artifact.write_bytes(path, page.encode(errors="backslashreplace"))
    return path


def _tile(sample: Sample) -> dict[str, Any]:
    """A small picture with the outline of its defect, and its name; without a picture where it cannot be read."""
    name = "/".join(PurePath(sample.name).parts[-3:])
    try:
        picture = drawing.to_rgb(read_image(sample.source))
        picture.thumbnail((SIDE, SIDE))
        mask = sample.read_mask()
    except ImageError:
        return {"name": name, "uri": None}
    if mask is not None and mask.any():
        small = Image.fromarray(mask.astype(np.float32)).resize(picture.size, Image.Resampling.BOX)
        picture = drawing.outlined(picture, np.asarray(small) > 0)
    return {"name": name, "uri": data_uri(picture)}
