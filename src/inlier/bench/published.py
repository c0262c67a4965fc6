"""Published figures, each with its protocol: most are the best epoch *on the test set*, which is no fair comparison.

AUROC of images, AUROC of pixels and AUPRO in %, on MVTec AD (Bergmann et al., CVPR 2019) at its own resolution.
"""

from collections.abc import Collection
from typing import NamedTuple

# the pictures of MVTec AD's tests: category -> good, defects. A set of other counts is another set.
COUNTS = {"screw": (41, 119), "transistor": (60, 40)}
MVTEC = ("bottle", "cable", "capsule", "carpet", "grid", "hazelnut", "leather", "metal_nut", "pill", "screw", "tile",
         "toothbrush", "transistor", "wood", "zipper")  # fmt: skip
MEAN = "mean of 15"
CATEGORIES = (MEAN, "screw", "transistor")  # the order of the figures below
LAST, BEST, SHARED, FREE = "last step", "best on test", "last step, one model for all", "no step to choose"
ADER, ANOMALIB, TOOTOUCH = "ADer logs (zhangzjn/data)", "anomalib", "TooTouch, its latest_score.json"
BAOIAD = "BaoIAD, its configs and notes"
RUNS: tuple[tuple[str, str, str, str, tuple[tuple[float, ...], ...]], ...] = (
    # run, protocol, source, note, (image, pixel, AUPRO) as far as they are known
    ("SimpleNet WRN50, 100 epochs", SHARED, ADER, "", ((95.4, 96.8, 86.9), (77.5, 95.8, 83.1), (97.8,))),
    ("SimpleNet WRN50, 300 epochs", SHARED, ADER, "screw: 34 to 82 between looks",
     ((79.2, 82.4, 62.0), (63.0,), (81.8,))),
    ("SimpleNet WRN50", BEST, BAOIAD, "", ((99.5, 97.6, 90.7), (99.1,), (100.0,))),
    ("SimpleNet, noise adapted to the features", "not said", "a port", "", ((98.4, 97.5), (96.5, 99.2), (99.8,))),
    ("SuperSimpleNet WRN50", LAST, "its results_avg_std.json",
     "5 seeds; mean +-0.1, screw +-1.5, with the map's maximum as score 94.7 +-1.2",
     ((98.4, 97.5, 91.1), (92.9,), (99.9,))),
    ("GLASS WRN50", BEST, ANOMALIB, "", ((97.2,), (90.9,), (89.7,))),
    ("MemSeg ResNet18, 5000 steps", LAST, TOOTOUCH, "", ((97.4, 93.8, 95.0), (93.2, 94.2, 92.4), (95.7, 74.2, 83.2))),
    ("MemSeg ResNet18", BEST, BAOIAD, "mean +-0.7; screw 97.1 in a run of 100 steps", ((97.7,), (88.5,), (89.7,))),
    ("DifferNet AlexNet", LAST, BAOIAD, "best on test: mean 95.0", ((93.2,), (95.1,), (89.2,))),
    ("PaDiM ResNet18", FREE, ANOMALIB, "", ((89.1,), (75.9,), (92.0,))),
    ("PaDiM WRN50", FREE, ANOMALIB, "", ((95.0,), (84.5,), (97.6,))),
    ("PatchCore ResNet18", FREE, ANOMALIB, "", ((97.3, 97.6), (94.3, 99.1), (99.6, 97.4))),
    ("DiAD, 100 epochs", SHARED, ADER, "", ((88.9,), (), ())),
    ("DiAD, 300 epochs", SHARED, ADER, "", ((92.0, 89.3, 64.4), (), ())),
    ("Dinomaly (DINOv2)", SHARED, ANOMALIB, "", ((99.6,), (98.6,), (99.7,))),
)  # fmt: skip


class Figure(NamedTuple):
    """What somebody published for one category; None where they did not say."""

    category: str
    run: str
    protocol: str
    source: str
    note: str
    image: float
    pixel: float | None = None
    aupro: float | None = None


def figures(categories: Collection[str]) -> list[Figure]:
    """Those of these categories, and the means where all fifteen are among them."""
    wanted = [name for name in CATEGORIES if name in categories or (name == MEAN and set(MVTEC) <= set(categories))]
    return [
        Figure(category, run, protocol, source, note, *numbers)
        for category in wanted
        for run, protocol, source, note, columns in RUNS
        if (numbers := columns[CATEGORIES.index(category)])
    ]


def doubt(category: str, n_good: int, n_defect: int) -> str:
    """Why a set of these numbers of test pictures is not the published one; "" where they fit or nobody knows."""
    good, defect = COUNTS.get(category, (n_good, n_defect))
    if (good, defect) == (n_good, n_defect):
        return ""
    return (
        f"{category} of MVTec AD has {good} good and {defect} defective test pictures, this set {n_good} and {n_defect}"
    )
