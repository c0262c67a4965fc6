"""The choice among the settings of a grid, by trials on planted defects: the test set has no say in it."""

import statistics
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from inlier.bench import rows as stored
from inlier.bench.compare import set_names, variant
from inlier.bench.plan import Cell, Source, Variant
from inlier.bench.rows import Row


class Tried(NamedTuple):
    """What came of some settings: means over the seeds, and over the categories of one model."""

    ap: float  # average precision
    detection: float


class Model(NamedTuple):
    """What one choice is made for."""

    sets: str
    method: str
    preset: str


def tried(rows: Iterable[Row]) -> dict[Model, dict[str, Tried]]:
    """Model -> variant -> what came of it, of the trials among the rows. Those that lack a seed that others have, since
    they failed, are left out: they would be compared on other pictures."""
    trials = [row for row in rows if row.get("kind") == "trial" and not row.get("error")]
    found: dict[Model, dict[str, list[Row]]] = {}
    for row, name in zip(trials, set_names(trials), strict=True):
        model = Model(" + ".join(row["joint"]) if row["joint"] else name, row["method"], row["preset"])
        found.setdefault(model, {}).setdefault(variant(row), []).append(row)
    chosen = {}
    for model, of in found.items():
        whole = max(map(len, of.values()))
        chosen[model] = {
            name: Tried(*(statistics.mean(row["trial"][value] for row in own) for value in Tried._fields))
            for name, own in of.items()
            if len(own) == whole
        }
    return chosen


def best(of: dict[str, Tried]) -> str:
    """The highest average precision; of equal ones the highest detection, then the first.

    >>> best({"a": Tried(0.8, 0.5), "b": Tried(0.9, 0.4), "c": Tried(0.9, 0.6), "d": Tried(0.9, 0.6)})
    'c'
    """
    return max(of, key=lambda name: of[name])


def choose(cells: Sequence[Cell], rows: Iterable[Row]) -> dict[tuple[tuple[Source, ...], str, str], Variant]:
    """(sources, method, preset) of these trials -> the settings that did best; none where all of them failed."""
    found = list(rows)
    chosen = {}
    for model in dict.fromkeys(cell.model for cell in cells):
        own = [cell for cell in cells if cell.model == model]
        variants = {variant(cell.rows()[0]): cell.variant for cell in own}
        wanted = [row for cell in own for row in cell.rows()]
        for results in tried(stored.about_same(wanted, found)).values():
            chosen[model] = variants[best(results)]
    return chosen
