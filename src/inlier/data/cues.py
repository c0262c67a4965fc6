"""What a picture is like at a glance: no method is needed for it, and it may give away which pictures are defects."""

import numpy as np
from PIL import Image

CUES = ("brightness", "contrast", "sharpness", "picture area", "aspect ratio", "bytes of the file")
WATCHED = CUES[:3]  # of a stream of pictures, beside their scores (drift.py)
LOOKED_AT = 250_000  # pixels, evenly spread


def cues(image: Image.Image, file_size: float = np.nan) -> tuple[float, ...]:
    """All of CUES, of a picture of `read_image`; file_size: in bytes, NaN where there is no file.

    The first three are grey levels in [0, 1]: mean, standard deviation, and mean difference of neighbours.
    """
    # 16-bit grey is mode F in [0, 1] already
    grey = np.asarray(image if image.mode == "F" else image.convert("L"))
    step = max(1, int(np.sqrt(grey.size / LOOKED_AT)))
    rows, columns = (
        part.astype(np.float32) / (1 if image.mode == "F" else 255) for part in (grey[::step], grey[:, ::step])
    )
    steps = np.abs(np.diff(rows, axis=1)).sum() + np.abs(np.diff(columns, axis=0)).sum()
    pairs = rows[:, 1:].size + columns[1:].size
    width, height = image.size
    of_grey = float(rows.mean()), float(rows.std()), float(steps / max(pairs, 1))
    return (*of_grey, float(width * height), width / height, file_size)
