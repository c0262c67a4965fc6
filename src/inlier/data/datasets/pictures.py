"""Good pictures only: a folder of them, or a list."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from inlier.data.datasets.sample import Dataset, Sample, first_names
from inlier.data.images import ImageSource, list_images
from inlier.errors import InlierError


def open_pictures(root: Path) -> Dataset:
    """All pictures in a folder and its subfolders are good; there may be none."""
    real = root.resolve()
    # part/train/good is the training folder of `part`: a model of it should fit the whole dataset later
    name = real.parent.parent.name if (real.parent.name, real.name) == ("train", "good") else real.name
    images = list_images(root)
    inside = sorted({path.relative_to(root).parts[0] for path in images if path.parent != root})
    notes = (f"images in folders inside {name} are taken as good too: {first_names(inside)}",) if inside else ()
    samples = tuple(Sample(path, name, "train", None) for path in images)
    return Dataset(name, "folder of good images", samples, notes)


def open_list(images: Iterable[ImageSource]) -> Dataset:
    """All pictures of a list or generator are good. Raises InlierError for none, and for what is no picture."""
    samples = []
    for number, image in enumerate(images):
        if not isinstance(image, (str, Path, np.ndarray, Image.Image)):
            raise InlierError(f"image {number}: expected a path, an array or a PIL image, got {type(image).__name__}")
        source = Path(image) if isinstance(image, str) else image
        samples.append(Sample(source, "parts", "train", None, number=number))
    if not samples:
        raise InlierError("an empty list of images: pass the pictures of good parts")
    return Dataset("parts", f"list of {len(samples)} good images", tuple(samples))
