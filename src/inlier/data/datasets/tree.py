"""A folder as the readers of layouts see it: the pictures below it, by the parts of their paths."""

import itertools
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from inlier.data.datasets.sample import GOOD, Dataset, Split
from inlier.data.images import count_kinds, find_pictures

Parts = tuple[str, ...]  # of a path below the root: ("test", "hole", "000.png")

# names of folders, in lower case
SPLITS: dict[str, Split] = {
    "train": "train",
    "validation": "validation",
    "val": "validation",
    "test": "test",
    "test_public": "test",
}
TRUTH = ("ground_truth", "groundtruth")
MASKS = frozenset(("mask", "masks", "gt", "label", "labels", "annotation", "annotations", "segmentation", *TRUTH))
# what holds something else than good parts, or more than them
OTHER = frozenset(SPLITS) | MASKS | {"training", "testing", "valid", "test_private"}
BAD = frozenset(
    ("bad", "defect", "defects", "defective", "anomaly", "anomalies", "anomalous", "abnormal", "ng", "nok", "ko")
    + ("faulty", "fault", "faults", "reject", "rejects", "rejected", "scrap", "flaw", "flaws", "notok")
    + ("ausschuss", "defekt", "defekte", "nio", "schlecht", "schlechte", "schlechtteile", "fehler", "fehlerhaft")
    + ("fehlerteile", "mangel", "mängel", "mangelhaft", "anomalie", "anomalien")
    + ("不良", "不良品", "缺陷", "次品", "废品", "不合格", "不合格品", "异常")
)
# what may be a word of a part's name, too: hole_plate
KINDS = frozenset(
    ("crack", "cracks", "scratch", "scratches", "hole", "holes", "dent", "dents", "broken", "damaged", "contamination")
    + ("beschädigt", "kaputt", "kratzer", "riss", "risse", "delle", "dellen", "loch", "löcher", "bruch")
)
NOT = frozenset({"no", "non", "not", "nicht"})  # not_ok
NEGATIONS = NOT | {"free", "without", "zero", "frei", "ohne", "kein", "keine"}  # defect_free


@dataclass(frozen=True)
class Tree:
    """The pictures below a folder, in natural order."""

    root: Path
    pictures: tuple[Parts, ...]

    @property
    def name(self) -> str:
        return self.root.resolve().name

    def path(self, parts: Parts) -> Path:
        return self.root.joinpath(*parts)

    def below(self, name: str) -> "Tree":
        """The same of one of its folders."""
        return Tree(self.root / name, tuple(p[1:] for p in self.pictures if len(p) > 1 and p[0] == name))

    def folders(self) -> list[str]:
        """Names of the folders directly below that hold pictures at any depth."""
        return list(dict.fromkeys(p[0] for p in self.pictures if len(p) > 1))

    def categories(self, is_category: Callable[["Tree"], bool]) -> dict[str, "Tree"]:
        """Name -> folder of each part: the root if it is one, else those of its folders that are."""
        if is_category(self):
            return {self.name: self}
        return {name: tree for name in self.folders() if is_category(tree := self.below(name))}


def open_tree(root: Path) -> tuple[Tree, Dataset]:
    """The tree below a folder, and an empty dataset that tells what was left out of it, and why.

    Raises InlierError where a folder cannot be read.
    """
    found = find_pictures(root)
    dataset = Dataset(root.resolve().name, "", ()).leaving_out(
        "folder<|s> of storage servers or systems <is|are> left out", found.folders
    )
    dataset = dataset.leaving_out(
        "<link leads|links lead> to folders that are listed already and <is|are> not followed", found.links
    )
    if found.unread:
        kinds = count_kinds(found.unread)
        dataset = dataset.leaving_out(
            f"file<|s> <is|are> of kinds that are not read ({kinds}), save <it|them> as PNG", found.unread
        )
    return Tree(root, tuple(path.relative_to(root).parts for path in found.pictures)), dataset


def is_good(name: str) -> bool:
    """Whether a folder is called as those of good parts are, in any case."""
    return name.casefold() in GOOD


def lower(parts: Sequence[str]) -> Parts:
    return tuple(part.casefold() for part in parts)


def is_other(name: str) -> bool:
    """Whether a folder is called as those of tests, defects or masks are: "Test", "NG parts", but not "defect-free"."""
    return name.casefold() in OTHER or is_bad(name, BAD | KINDS)


def is_bad(name: str, among: frozenset[str] = BAD) -> bool:
    """Whether a folder is called as those of defects are: "NG parts", "n.i.O.", "not ok". among: words that say so
    beside others; alone a kind of defect says so, too."""
    folded = unicodedata.normalize("NFC", name).casefold()
    if folded.replace(".", "") in BAD | KINDS:
        return True
    words = re.findall(r"[^\W\d_]+", folded)
    if any(one in NOT and other in GOOD for one, other in itertools.pairwise(words)):
        return True
    return bool(among.intersection(words)) and not NEGATIONS.intersection(words)
