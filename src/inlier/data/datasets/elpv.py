"""ELPV: electroluminescence pictures of solar cells, which come as a Python package."""

import importlib.util
from pathlib import Path

from inlier.data.datasets.sample import Dataset, Sample, split_good
from inlier.errors import InlierError


def open_elpv() -> Dataset:
    """Good cells are split 80 to 20 by `numpy.random.default_rng(0).permutation`, per category."""
    package = importlib.util.find_spec("elpv_dataset")
    if package is None or package.origin is None:
        raise InlierError("elpv: the package that carries this dataset is not installed: pip install elpv-dataset")
    root = Path(package.origin).parent / "data"
    good: dict[str, list[Path]] = {"mono": [], "poly": []}
    defects = []
    unsure = 0
    for line in (root / "labels.csv").read_text(encoding="utf-8").splitlines():
        name, probability, category = line.split()
        if float(probability) == 0:
            good[category].append(root / name)
        elif float(probability) == 1:
            defects.append(Sample(root / name, category, "test", "defect"))
        else:
            unsure += 1
    samples = []
    for category, paths in good.items():
        samples += [Sample(p, category, split, None) for p, split in zip(paths, split_good(len(paths)), strict=True)]
    notes = (
        f"{unsure} cells whose defect probability is neither 0 nor 1 are left out",
        "good cells are split 80 to 20 into train and test with a fixed seed",
        "licence of the pictures: CC BY-NC-SA 4.0 (no commercial use)",
    )
    return Dataset("elpv", "ELPV solar cells, Python package, 2 categories", tuple(samples + defects), notes)
