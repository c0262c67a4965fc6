"""From rows to comparisons: means and spreads over seeds, and differences on the very same pictures."""

import itertools
import json
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from inlier.bench.rows import Row
from inlier.errors import InlierError
from inlier.settings import as_text

RESAMPLES = 2000
BLOCK = 2**24  # numbers held at a time by the bootstrap
Floats = NDArray[np.float64]
# what a table can show: name -> value of a row, None where it has none
VALUES: dict[str, Callable[[Row], Any]] = {
    "image AUROC": lambda row: row["image"]["auroc"],
    "image AP": lambda row: row["image"]["ap"],
    "pixel AUROC": lambda row: row["pixel"] and row["pixel"]["auroc"],
    "AUPRO": lambda row: row["pixel"] and row["pixel"]["aupro"],
    "false alarms": lambda row: row["at_alpha"] and row["at_alpha"]["false_alarm_rate"],
    "detected": lambda row: row["at_alpha"] and row["at_alpha"]["detection_rate"],
    # rows of before this command have no measurements, and whole seconds of the fit at most
    "fit, s": lambda row: row["fit"]["wall"] if "fit" in row else row.get("fit_seconds"),
    "fit, processor s": lambda row: row["fit"]["processor"] if "fit" in row else None,
    "picture, s": lambda row: row["predict"]["wall"] if "predict" in row else None,
    "picture, processor s": lambda row: row["predict"]["processor"] if "predict" in row else None,
    "peak memory, bytes": lambda row: row.get("peak_memory"),
    "file, bytes": lambda row: row.get("artifact_bytes"),
}
TIMES = {"fit, s", "fit, processor s", "picture, s", "picture, processor s"}


class Spread(NamedTuple):
    """A value over seeds."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Group:
    """The rows that differ in their seed alone."""

    rows: tuple[Row, ...]
    set: str  # the category, with its set where another set has one of that name
    variant: str  # method and settings

    @property
    def first(self) -> Row:
        return self.rows[0]

    def spread(self, value: str) -> Spread | None:
        """None where no row has the value. Times are those of one machine, the first row's: others' say nothing."""
        rows = [row for row in self.rows if _machine(row) == _machine(self.first)] if value in TIMES else self.rows
        found = [v for row in rows if (v := VALUES[value](row)) is not None]
        return Spread(statistics.mean(found), min(found), max(found)) if found else None


def _machine(row: Row) -> tuple[Any, ...]:
    return tuple(row.get(name) for name in ("processor", "threads", "device"))


def grouped(rows: Iterable[Row]) -> list[Group]:
    """Finished tests by set, then by variant, both in the order in which they first come."""
    tested = [row for row in rows if row.get("kind", "test") == "test" and not row.get("error")]
    found: dict[tuple[Any, ...], list[Row]] = {}
    alphas: dict[tuple[str, str], set[Any]] = {}
    for row, name in zip(tested, set_names(tested), strict=True):
        alphas.setdefault((name, variant(row)), set()).add(_alpha(row))
    for row, name in zip(tested, set_names(tested), strict=True):
        several = f", alpha {_alpha(row)}" if len(alphas[name, variant(row)]) > 1 else ""
        found.setdefault((name, variant(row) + several, _alpha(row)), []).append(row)
    sets, variants = (list(dict.fromkeys(names)) for names in list(zip(*found, strict=True))[:2] or ((), ()))
    groups = [Group(tuple(own), name, label) for (name, label, _), own in found.items()]
    return sorted(groups, key=lambda group: (sets.index(group.set), variants.index(group.variant)))


def variant(row: Row) -> str:
    """Method, preset, and what was changed, for people.

    >>> variant({"method": "padim", "preset": "light", "settings": {"size": 128, "taps": [4, 8]}})
    'padim light, size=128, taps=4,8'
    """
    changed = [f", {key}={as_text(value)}" for key, value in row["settings"].items()]
    joint = f", one model for {len(row['joint'])}" if row.get("joint") else ""
    return f"{row['method']} {row['preset']}{''.join(changed)}{joint}"


def differences(groups: Sequence[Group], folder: Path) -> dict[str, dict[tuple[str, str], Spread]]:
    """Set -> pair of variants -> AUROC of the first minus that of the second, with its 95 % interval.

    Only where the scores of both lie in the folder, of the same pictures. "" holds the means over all sets, of variants
    that have them all. Raises InlierError for a file of scores that is damaged.
    """
    draws: dict[str, dict[tuple[str, str], Floats]] = {}
    for number, (name, of) in enumerate(itertools.groupby(groups, lambda group: group.set)):
        known = {group.variant: scores for group in of if (scores := read_scores(group, folder))}
        for (one, first), (other, second) in itertools.combinations(known.items(), 2):
            if first.pictures == second.pictures and 0 < first.defect.sum() < len(first.defect):
                found = draw_differences(first.scores, second.scores, first.defect, seed=number)
                draws.setdefault(name, {})[one, other] = found
    everywhere = [pair for pair in next(iter(draws.values()), {}) if all(pair in of for of in draws.values())]
    if len(draws) > 1 and everywhere:
        draws[""] = {pair: np.mean([of[pair] for of in draws.values()], axis=0) for pair in everywhere}
    return {name: {pair: _interval(found) for pair, found in of.items()} for name, of in draws.items()}


class Scores(NamedTuple):
    pictures: list[str]  # their names
    defect: NDArray[np.bool_]  # (n,)
    scores: Floats  # (seeds, n)


def read_scores(group: Group, folder: Path) -> Scores | None:
    """None where a row has none. Raises InlierError for a damaged file."""
    found = []
    for row in group.rows:
        path = folder / row.get("scores", "")
        if not path.is_file():
            return None
        try:
            content = json.loads(path.read_bytes())
            defect = np.array([kind is not None for kind in content["defects"]])
            found.append(Scores(content["pictures"], defect, np.array(content["scores"], np.float64)))
            if len({len(content["pictures"]), len(defect), *found[-1].scores.shape, len(found[0].pictures)}) > 1:
                raise ValueError("its lists differ in length")
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise InlierError(f"{path}: is no file of scores of a benchmark ({error}); run its row again") from None
    return Scores(found[0].pictures, found[0].defect, np.stack([one.scores for one in found]))


def draw_differences(
    first: Floats, second: Floats, defect: NDArray[np.bool_], resamples: int = RESAMPLES, seed: int = 0
) -> Floats:
    """(1 + resamples,) AUROC of `first` (seeds, n) minus that of `second` (seeds, n), each the mean over its seeds, of
    the n pictures as they are and of as many draws of them with replacement, the same pictures for both; good ones and
    defects are drawn apart, so their ratio stays (paired bootstrap, Efron and Tibshirani, 1993).

    It says how far these pictures decide; the spread over seeds stands beside it.

    >>> labels = np.array([False, False, True, True])
    >>> draw_differences(np.array([[1, 2, 3, 4.0]]), np.array([[1, 3, 2, 4.0]]), labels, 0)
    array([0.25])
    """
    rng = np.random.default_rng(seed)
    good, bad = np.flatnonzero(~defect), np.flatnonzero(defect)

    def drawn(n: int) -> Floats:  # (1 + resamples, n) how often each picture is in a draw
        counts = rng.multinomial(n, np.full(n, 1 / n), resamples)
        return np.concatenate([np.ones((1, n)), counts])

    of_good, of_bad = drawn(len(good)), drawn(len(bad))
    total = np.zeros(1 + resamples)
    step = max(1, BLOCK // (len(good) * (len(first) + len(second))))
    for start in range(0, len(bad), step):  # some defects at a time, however many there are
        part = bad[start : start + step]
        won = _won(first, good, part) - _won(second, good, part)
        total += ((of_bad[:, start : start + step] @ won) * of_good).sum(1)
    return total / (len(good) * len(bad))


def _won(scores: Floats, good: NDArray[Any], bad: NDArray[Any]) -> Floats:
    """(bad, good) how often over the seeds a defect scores higher than a good picture; equal is half."""
    higher, lower = scores[:, bad, None], scores[:, None, good]
    won: Floats = ((higher > lower) + 0.5 * (higher == lower)).mean(0)
    return won


def _interval(draws: Floats) -> Spread:
    low, high = np.quantile(draws[1:], (0.025, 0.975))
    return Spread(float(draws[0]), float(low), float(high))


def set_names(rows: Sequence[Row]) -> list[str]:
    """Of each row the shortest name that tells its set: screw, mvtec/screw, mvtec/screw (3f2a91)."""
    seen: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row.get("fingerprint"):
            seen.setdefault((row["data"], row["category"]), []).append(row["fingerprint"])
    sets = []
    for row in rows:
        own = row["data"], row["category"]
        # rows of before there were fingerprints are of the one set of that name, or of the first
        fingerprint = row.get("fingerprint") or next(iter(seen.get(own, ())), "")
        sets.append((*own, fingerprint[:6]))
    forms = {of: (of[1], f"{of[0]}/{of[1]}", f"{of[0]}/{of[1]} ({of[2]})") for of in sets}
    names = {
        of: next((name for name in own[:-1] if sum(name in other for other in forms.values()) == 1), own[-1])
        for of, own in forms.items()
    }
    return [names[of] for of in sets]


def _alpha(row: Row) -> Any:
    return row.get("alpha", (row.get("at_alpha") or {}).get("alpha"))
