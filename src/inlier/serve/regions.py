"""Where a defect lies, as polygons in pixels of the original picture."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import label

from inlier.inspection.result import EIGHT_NEIGHBOURS, Box, Prediction

MOST = 20  # regions that are told; a noisy map has hundreds of specks
FINE = 160  # pixels of a region's longer side that its outline is followed with
SLACK = 0.5  # pixels, of those, that an outline may lie off


def outlines(p: Prediction) -> list[dict[str, Any]]:
    """The strongest regions: polygon [[x, y], ...], box, area in pixels and highest value of the map."""
    found, region = [], p.region  # once: it is computed over the whole picture
    for box in p.boxes()[:MOST]:
        assert region is not None
        inside, _ = label(region[box.top : box.bottom, box.left : box.right], EIGHT_NEIGHBOURS)
        sizes = np.bincount(inside.ravel())
        sizes[0] = 0
        found.append(
            {
                "polygon": _polygon(inside == _number(sizes, box), box),
                "box": [box.left, box.top, box.right, box.bottom],
                "area": box.area,
                "peak": box.peak,
            }
        )
    return found


def _number(sizes: NDArray[Any], box: Box) -> int:
    """Which of the parts in a box it was drawn around: others reach into it, but are never as large as the box."""
    same = np.flatnonzero(sizes == box.area)
    return int(same[0]) if len(same) else int(sizes.argmax())


def _polygon(mask: NDArray[np.bool_], box: Box) -> list[list[float]]:
    """The longest outline of a mask, (x, y), in pixels of the whole picture."""
    from contourpy import contour_generator

    step = max(1, -(-max(mask.shape) // FINE))
    small = np.pad(mask[::step, ::step], 1).astype(float)  # the frame closes what touches the box's edge
    lines = contour_generator(z=small).lines(0.5)
    if not lines:  # too thin for the step
        corners = [(box.left, box.top), (box.right, box.top), (box.right, box.bottom), (box.left, box.bottom)]
        return [[float(x), float(y)] for x, y in corners]
    longest = simplified(max(map(np.asarray, lines), key=len), SLACK)
    x = box.left + np.clip((longest[:, 0] - 0.5) * step, 0, box.right - box.left)
    y = box.top + np.clip((longest[:, 1] - 0.5) * step, 0, box.bottom - box.top)
    return np.round(np.stack([x, y], 1), 1).tolist()


def simplified(points: NDArray[np.float64], slack: float) -> NDArray[np.float64]:
    """Fewer points (n, 2) of a line, none of the others farther from it than `slack` (Douglas and Peucker, 1973).

    >>> simplified(np.array([[0, 0], [1, 0.1], [2, 0], [2, 5.0]]), 0.5).tolist()
    [[0.0, 0.0], [2.0, 0.0], [2.0, 5.0]]
    """
    keep = np.zeros(len(points), bool)
    keep[[0, -1]] = True
    spans = [(0, len(points) - 1)]
    while spans:
        first, last = spans.pop()
        if last - first < 2:
            continue
        start, along = points[first], points[last] - points[first]
        length = float(np.hypot(*along))
        between = points[first + 1 : last] - start
        if length:
            apart = np.abs(along[0] * between[:, 1] - along[1] * between[:, 0]) / length
        else:  # a closed line
            apart = np.hypot(between[:, 0], between[:, 1])
        farthest = int(apart.argmax())
        if apart[farthest] > slack:
            middle = first + 1 + farthest
            keep[middle] = True
            spans += [(first, middle), (middle, last)]
    return points[keep]
