"""Which of several candidates wins, and why: decided on trials alone. Nothing is fitted or read here."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inlier import methods
from inlier.bench.examples import Example
from inlier.bench.seen import Seen
from inlier.bench.trial import ALPHA, UP_TO, Trial, areas
from inlier.errors import InlierError
from inlier.settings import as_text

RESAMPLES = 2000
CONFIDENCE = 0.95
FASTER = 0.9  # of the time of the best: less of a difference is none
NO_BETTER = (
    "it finds planted defects no better than chance, so do not rely on it: a larger budget, more good pictures or "
    "larger pictures of the part may help"
)
Draws = NDArray[np.int64]  # (resamples, n): how often each of n pictures is drawn


@dataclass(frozen=True)
class Row:
    """A candidate, and what came of it."""

    method: str
    preset: str
    settings: Mapping[str, Any]  # that differ from the preset's
    reason: str = ""  # why it takes no part in the choice; empty: it does
    trial: Trial | None = None
    ms: float | None = None  # from a picture's file to its verdict
    fit_seconds: float | None = None  # on the pictures of the search
    refit_seconds: float | None = None  # what its fit on all pictures would take, about
    examples: tuple[Example, ...] = field(default=(), repr=False, compare=False)
    unchanged: Mapping[str, Any] = field(default_factory=dict)  # what others of a grid change, and its preset's values

    @property
    def changes(self) -> list[str]:
        """What tells it from other candidates of its method: preset (where it is not `light`) and settings."""
        preset = [] if self.preset == "light" else [self.preset]
        changed = [shlex.quote(f"{key}={as_text(value)}") for key, value in self.settings.items()]  # as --set takes it
        return preset + changed + [f"{key}={as_text(value)} (preset)" for key, value in self.unchanged.items()]

    @property
    def name(self) -> str:
        return " ".join([self.method, *self.changes])

    @property
    def quality(self) -> float:
        """What candidates are ranked by, see `trial.areas`."""
        assert self.trial is not None
        return self.trial.quality

    def to_dict(self) -> dict[str, Any]:
        t = self.trial
        return {
            "method": self.method,
            "preset": self.preset,
            "settings": dict(self.settings),
            "reason": self.reason or None,
            "quality": t and self.quality,
            "detection": t and t.detection(),
            "auroc": t and t.auroc,
            "partial_auroc": t and t.partial_auroc,
            "ap": t and t.ap,
            "pixel_ap": t and t.pixel_ap,
            "by_kind": t and t.by_kind(),
            "ms": self.ms,
            "fit_seconds": self.fit_seconds,
        }


@dataclass(frozen=True)
class Choice:
    """All of a search: what was seen, what was tried, what won."""

    data: str
    category: str
    seen: Seen
    rows: tuple[Row, ...]
    winner: int  # place in `rows`
    why: str
    fitted_on: int  # good pictures that candidates were fitted on
    held_out: int  # ... and judged on, with defects planted in them
    unseen: int  # ... that took no part in the search, among them those that a split calibrates the winner on
    fitted_again: bool  # on all pictures; else there was no time, and the winner is as it was fitted for the search
    budget: float  # seconds
    seconds: float  # what search and last fit took
    latency: float | None = None  # milliseconds a picture that were allowed

    def __post_init__(self) -> None:
        object.__setattr__(self, "rows", with_unchanged(self.rows))

    @property
    def ranked(self) -> list[int]:
        """Places of all that were judged, the best first; some may take no part for want of time."""
        judged = [i for i, row in enumerate(self.rows) if row.trial]
        return sorted(judged, key=lambda i: -self.rows[i].quality)

    @property
    def left_out(self) -> dict[str, list[Row]]:
        """Why candidates take no part, and those of which that is true."""
        found: dict[str, list[Row]] = {}
        for row in self.rows:
            if row.reason:
                found.setdefault(row.reason, []).append(row)
        return found

    def to_dict(self) -> dict[str, Any]:
        """The fixed layout of `--json`, but for the model."""
        plain = (
            "data",
            "category",
            "winner",
            "why",
            "fitted_on",
            "held_out",
            "unseen",
            "fitted_again",
            "budget",
            "seconds",
        )
        return {
            "schema": 1,
            **{name: getattr(self, name) for name in plain},
            "latency_ms": self.latency,
            "alpha": ALPHA,
            "seen": self.seen.to_dict(),
            "candidates": [row.to_dict() for row in self.rows],
        }


def with_unchanged(rows: Sequence[Row]) -> tuple[Row, ...]:
    """The rows; those of a grid, which are all of one method and preset, with what they leave as the preset has it."""
    if len({(row.method, row.preset) for row in rows}) != 1:
        return tuple(rows)
    keys = dict.fromkeys(key for row in rows for key in row.settings)
    preset = methods.get(rows[0].method).presets[rows[0].preset] if keys else None
    left = ({key: getattr(preset, key) for key in keys if key not in row.settings} for row in rows)
    return tuple(replace(row, unchanged=unchanged) for row, unchanged in zip(rows, left, strict=True))


def able(rows: Sequence[Row]) -> list[int]:
    """Places of the candidates that take part in the choice."""
    return [i for i, row in enumerate(rows) if row.trial and not row.reason]


def decide(rows: Sequence[Row], seed: int = 0) -> tuple[int, str]:
    """(place of the winner, why it wins). Raises InlierError where no candidate takes part.

    The highest mean of AUROC and partial AUROC wins. Chance may have put faster ones behind it; they are named, but who
    wants them says so by a latency: what is likelier the worse one is not taken unasked.
    """
    rows = with_unchanged(rows)
    places = able(rows)
    if not places:
        reasons = "\n  ".join(f"{row.name}: {row.reason}" for row in rows)
        advice = "give them a larger budget or latency, or mend what is wrong"
        raise InlierError(f"no candidate can be chosen; {advice}:\n  {reasons}")
    best = max(places, key=lambda i: (rows[i].quality, -(rows[i].ms or 0), -i))
    trial = rows[best].trial
    assert trial is not None
    doubt = f"; {NO_BETTER}" if is_chance(trial, seed) else ""
    return best, _why(rows, places, best, seed) + doubt


def is_chance(trial: Trial, seed: int = 0) -> bool:
    """Whether what finds nothing, and so as many defects as it raises false alarms, might have done as well: it lies in
    the 95 % interval of a bootstrap over the pictures, or above."""
    low, _ = _interval(areas(trial, _draws(trial, seed)).mean(0))
    return low <= (0.5 + UP_TO / 2) / 2


def _why(rows: Sequence[Row], places: Sequence[int], best: int, seed: int) -> str:
    """Why the best of these places wins."""
    if len(places) == 1:
        return f"{rows[best].name} is the only candidate that could be judged"
    trial = rows[best].trial
    spans = {i: difference(trial, rows[i].trial, seed) for i in places if i != best}  # type: ignore[arg-type]
    equal = [i for i, (low, _) in spans.items() if low <= 0]
    top = f"{rows[best].name} has the highest mean of AUROC and partial AUROC, {_percent(rows[best].quality)} %"
    if not equal:
        low, high = min(spans.values())
        return f"{top}, more than chance explains (against the next: {_span(low, high)})"
    fastest = min(equal, key=lambda i: (rows[i].ms or 0, i))
    if (rows[fastest].ms or 0) > FASTER * (rows[best].ms or 0):
        others = ", ".join(rows[i].name for i in equal)
        return f"{top}, and none of those within chance of it is a tenth faster ({others})"
    low, high = spans[fastest]
    return (
        f"{top}; {rows[fastest].name} with {_percent(rows[fastest].quality)} % is within chance of it "
        f"({_span(low, high)}) and faster, {rows[fastest].ms:.0f} against {rows[best].ms:.0f} ms a picture: a latency "
        "between the two takes it"
    )


def difference(one: Trial, other: Trial, seed: int = 0) -> tuple[float, float]:
    """95 % interval of how much better the first is: paired bootstrap over the pictures, with all planted in them.

    Both must have seen the same pictures and defects. Beyond chance where the interval leaves 0 out.
    """
    if not np.array_equal(one.pictures, other.pictures) or one.kinds != other.kinds:
        raise ValueError("the two trials are of different defects")
    drawn = _draws(one, seed)
    return _interval((areas(one, drawn) - areas(other, drawn)).mean(0))


def _draws(trial: Trial, seed: int) -> Draws:
    n = len(trial.good)
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), RESAMPLES)


def _interval(values: NDArray[np.float64]) -> tuple[float, float]:
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(values, [tail, 1 - tail]).tolist()
    return low, high


def _span(low: float, high: float) -> str:
    return f"the difference lies between {_percent(low)} and {_percent(high)} points with 95 % confidence"


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"
