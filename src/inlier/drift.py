"""Do the parts of a stream still look like the calibration? A conformal test martingale, valid for all time.

Every new score is ranked among the calibration's scores AND all earlier scores of the stream. While good parts come as
they came to the calibration (exchangeably), these ranks, ties broken at random, are independent and uniform, exactly,
whatever the scores' distribution, for any number n of calibration scores (Vovk et al., "Algorithmic Learning in a
Random World", 2005; Vovk, "Testing randomness online", 2021). The p-values of the verdicts are not: all are ranks
among the same n scores, share their chance error, and bets on them grow without bound on a stream in which nothing
changed (tests/test_drift.py shows it).

A game against the ranks: a capital of 1, bets that the ranks are too small (scores rise) or too large (they fall). If
nothing changed the game is fair, so P(the capital ever reaches 1 / level) <= level (Ville's inequality), however long
it goes on. A change may begin at any picture. The capital is therefore shared out beforehand among all starts: half
begins to bet at once, the rest later and later. CUSUM and Shiryaev-Roberts weigh all starts alike, which finds a late
change a little earlier, but sooner or later they alarm on any stream.

Defects are part of every stream, and none were in the calibration. The monitor does not look away from them: leaving
out what is judged defect would make it blind where a change turns all parts into "defects". A bet wins a bounded
amount from one picture, and pays for as many defects as are `tolerated`, whatever their scores (Huber's contamination).
More defects than these, or runs of them, raise the alarm: they are a change. Without defects the level is a theorem;
with a steady share of up to `tolerated` it was measured (same tests).

A method need not see every change: features are made to overlook light, so the scores of a lamp that fades may stay
where they were. Brightness, contrast and sharpness of the pictures (data/cues.py) are therefore watched beside the
score, each by a monitor of its own that may use its share of the level (Boole's inequality).

What the stream must be: one picture a part (several pictures of one part are not exchangeable; watch one of them), one
category, in the order in which parts were made, and scored as the calibration was. A picture that is given again is no
new part and does not count again: its bytes decide that and never its score, so what counts is the stream without it,
for which the theorem holds. (The same few pictures, judged thirty times, would raise the alarm in every other stream;
same tests.) Of the last REMEMBERED pictures that counted the digests are kept; older ones would count again. Leave-out
calibrations ("folds") come from models with fewer pictures than the one that judges, so the theorem holds
approximately. What changes slowly becomes part of the past it is compared with: a change is found within about as many
pictures as came before it, the calibration included, or never."""

import bisect
import hashlib
import json
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from inlier.errors import InlierError

LEVEL = 0.01  # the share of unchanged streams that ever alarm is at most this
TOLERATED = 0.05  # share of defects that is no change
BETS = np.array([-2.0, -1.0, 1.0, 2.0])  # on falling scores (negative) or rising ones; 2 stakes all
LARGEST = 1e300  # capital above it is given away, which keeps the game fair for whoever runs the stream
KEPT = 2000  # different scores
POINTS = 500  # of the drawing, at most
BITS = 24  # of a float32 score
REMEMBERED = 100_000  # pictures
DIGITS = 16  # of a digest: of so many pictures no two share them
SCORE = "score"  # what a monitor watches, unless it is a cue


def ranked_p(above: int, equal: int, n: int, tie: float) -> float:
    """p-value in (0, 1) of a score that so many of n others lie above and so many equal; tie: uniform on (0, 1).

    >>> ranked_p(above=9, equal=0, n=99, tie=0.5)
    0.095
    """
    return (above + tie * (equal + 1)) / (n + 1)


def waiting(pictures: int) -> float:
    """Share of the capital that has not begun to bet after so many pictures: falls to 0, but ever more slowly."""
    return 1.0 if pictures == 0 else 0.5 / math.log2(pictures + 1)


def gains(p: ArrayLike, tolerated: float = TOLERATED) -> NDArray[np.float64]:
    """(..., bets) by how much each bet multiplies its capital, for p-values (...)."""
    fair = 1 + BETS * (0.5 - np.asarray(p, np.float64)[..., None])
    return fair / (1 + tolerated * np.abs(BETS) / 2)  # type: ignore[no-any-return]


def play(capital: NDArray[Any], pictures: int, p: ArrayLike, tolerated: float = TOLERATED) -> NDArray[np.float64]:
    """(..., bets) capital of each bet after one more p-value (...), from that after so many pictures."""
    entering = (waiting(pictures) - waiting(pictures + 1)) / len(BETS)
    return np.minimum((capital + entering) * gains(p, tolerated), LARGEST)


def shorten(value: float, bits: int) -> float:
    """The value cut down to so many binary digits.

    >>> shorten(13.7, 3), shorten(-0.3, 24) == -0.3
    (12.0, False)
    """
    mantissa, exponent = math.frexp(value)
    return math.ldexp(math.floor(math.ldexp(mantissa, bits)), exponent - bits)


def fingerprint(calibration: ArrayLike) -> str:
    """What tells calibrations apart: other models, or other good pictures, give other scores."""
    return hashlib.sha256(np.asarray(calibration, "<f4").tobytes()).hexdigest()[:16]


@dataclass(frozen=True)
class Alarm:
    """What is watched of the pictures from `began` to `picture` (counted from 1) is not what it was before.

    began: where the change most likely began. direction: "rise" or "fall". what: "score", or a cue such as brightness.
    """

    picture: int
    began: int
    direction: str
    what: str = SCORE

    def __str__(self) -> str:
        if self.what == SCORE:
            words = "rise: parts look stranger" if self.direction == "rise" else "fall: parts look less strange"
            words = f"the scores {words} than before"
        else:
            words = f"the {self.what} of the pictures {self.direction}s"
        return (
            f"the parts no longer look like the calibration: since picture {self.began} of this stream {words} (seen "
            f"at picture {self.picture})"
        )


@dataclass
class Monitor:
    """The game of one score; `start` begins it, `update` takes the scores in order. Bounded, whatever the stream.

    Beyond KEPT different scores, all are cut to fewer digits, alike, so that they coincide more often. Ranks stay
    exactly uniform: where to cut depends only on which scores there are, the newest included, not on their order.
    """

    calibration: str  # its fingerprint
    values: list[float]  # the calibration's and the stream's scores, ascending, each once
    counts: list[int]  # how often each came
    level: float = LEVEL
    tolerated: float = TOLERATED
    seed: int = 0  # of what breaks ties
    bits: int = BITS
    pictures: int = 0  # judged so far
    capital: list[float] = field(default_factory=lambda: [0.0] * len(BETS))
    # for each bet, how its log capital rose since it was lowest, and the picture after that: the most likely start
    rises: list[float] = field(default_factory=lambda: [0.0] * len(BETS))
    starts: list[int] = field(default_factory=lambda: [1] * len(BETS))
    alarm: Alarm | None = None  # the first
    every: int = 1  # so many pictures lie between two points of `history`
    history: list[tuple[int, float]] = field(default_factory=lambda: [(0, 0.0)])  # (pictures, evidence)
    what: str = SCORE

    @classmethod
    def start(
        cls,
        calibration: ArrayLike,
        *,
        level: float = LEVEL,
        tolerated: float = TOLERATED,
        seed: int = 0,
        what: str = SCORE,
    ) -> Self:
        """Before the first picture. calibration: (n,) scores. Raises InlierError."""
        scores = np.asarray(calibration, np.float64)
        if scores.ndim != 1 or not len(scores) or not np.isfinite(scores).all():
            raise InlierError("a stream can only be compared with a calibration: train with --calibration split")
        for name, share in (("level", level), ("tolerated", tolerated)):
            if not 0 <= share < 1 or (name == "level" and share == 0):
                raise InlierError(f"{name} must be a share between 0 and 1, not {share!r}")
        monitor = cls(fingerprint(calibration), [], [], float(level), float(tolerated), int(seed), what=what)
        for score in scores.tolist():
            monitor._count(score)
        return monitor

    @property
    def evidence(self) -> float:
        """log10 of all capital: 0 at the start, below where nothing speaks for a change."""
        return math.log10(waiting(self.pictures) + sum(self.capital))

    @property
    def limit(self) -> float:
        """The evidence at which there is an alarm."""
        return -math.log10(self.level)

    @property
    def points(self) -> list[tuple[int, float]]:
        """(pictures, evidence) from the first picture to the last."""
        return [*self.history, (self.pictures, self.evidence)]

    def update(self, score: float) -> Alarm | None:
        """Take the score of the stream's next picture; the alarm, if this one raises it (once)."""
        if not math.isfinite(score):
            raise InlierError(f"a score must be a finite number, not {score!r}")
        place = self._count(float(score))
        above, equal = sum(self.counts[place + 1 :]), self.counts[place] - 1
        others = sum(self.counts) - 1
        p = ranked_p(above, equal, others, np.random.default_rng([self.seed, self.pictures]).random())
        self.capital = play(np.array(self.capital), self.pictures, p, self.tolerated).tolist()
        self.pictures += 1
        for k, gain in enumerate(gains(p, self.tolerated).tolist()):
            if self.rises[k] <= 0:
                self.rises[k], self.starts[k] = 0.0, self.pictures
            self.rises[k] += math.log(max(gain, 1e-300))
        if self.pictures % self.every == 0:
            self.history.append((self.pictures, self.evidence))
        if len(self.history) > POINTS:
            self.history, self.every = self.history[::2], 2 * self.every
        if self.alarm or self.evidence < self.limit:
            return None
        best = int(np.argmax(self.capital))
        direction = "rise" if BETS[best] > 0 else "fall"
        self.alarm = Alarm(self.pictures, self.starts[best], direction, self.what)
        return self.alarm

    def _count(self, score: float) -> int:
        """Add a score; its place among the different ones."""
        short = shorten(score, self.bits)
        place = bisect.bisect_left(self.values, short)
        if place < len(self.values) and self.values[place] == short:
            self.counts[place] += 1
            return place
        self.values.insert(place, short)
        self.counts.insert(place, 1)
        while len(self.values) > KEPT:
            self.bits -= 1
            counts: dict[float, int] = {}
            for value, count in zip(self.values, self.counts):
                shorter = shorten(value, self.bits)
                counts[shorter] = counts.get(shorter, 0) + count
            self.values, self.counts = list(counts), list(counts.values())
        return bisect.bisect_left(self.values, shorten(score, self.bits))


@dataclass
class Stream:
    """The monitors of one stream of pictures, by what they watch. Bounded, whatever the stream."""

    monitors: dict[str, Monitor]
    seen: dict[str, None] = field(default_factory=dict)  # digests of the last pictures that counted, in their order

    @classmethod
    def start(
        cls, calibration: Mapping[str, ArrayLike], *, level: float = LEVEL, tolerated: float = TOLERATED, seed: int = 0
    ) -> Self:
        """Before the first picture. calibration: "score", and cues that are to be watched, -> (n,) of good pictures.

        At most `level` of unchanged streams ever raise an alarm, whichever. Raises InlierError.
        """
        if not 0 < level < 1:
            raise InlierError(f"level must be a share between 0 and 1, not {level!r}")
        share = level / len(calibration)
        return cls(
            {
                what: Monitor.start(scores, level=share, tolerated=tolerated, seed=seed + k, what=what)
                for k, (what, scores) in enumerate(calibration.items())
            }
        )

    @property
    def fingerprints(self) -> dict[str, str]:
        """What each is compared with."""
        return {what: monitor.calibration for what, monitor in self.monitors.items()}

    @property
    def pictures(self) -> int:
        """Judged so far."""
        return next(iter(self.monitors.values())).pictures

    @property
    def alarm(self) -> Alarm | None:
        """The first."""
        alarms = [monitor.alarm for monitor in self.monitors.values() if monitor.alarm]
        return min(alarms, key=lambda alarm: alarm.picture, default=None)

    @property
    def strongest(self) -> Monitor:
        """The monitor that raised the first alarm, or else the one with the most evidence."""
        alarm = self.alarm
        if alarm:
            return self.monitors[alarm.what]
        return max(self.monitors.values(), key=lambda monitor: monitor.evidence)

    def update(self, values: Mapping[str, float], digest: str = "") -> list[Alarm]:
        """Take what is watched of the stream's next picture; the alarms that this one raises, each once.

        digest: what tells the picture from others; nothing is counted where it is among those `seen`. "": not known.
        """
        digest = digest[:DIGITS]
        if digest in self.seen:
            return []
        if digest:
            self.seen[digest] = None
        if len(self.seen) > REMEMBERED:
            del self.seen[next(iter(self.seen))]
        found = [monitor.update(values[what]) for what, monitor in self.monitors.items()]
        return [alarm for alarm in found if alarm]

    def __str__(self) -> str:
        monitor = self.strongest
        state = f"alarm at picture {self.alarm.picture}" if self.alarm else "no alarm"
        watched = f" of the {monitor.what}" if len(self.monitors) > 1 else ""
        level = sum(monitor.level for monitor in self.monitors.values())
        return (
            f"{self.pictures} pictures watched, {state}; evidence of a change{watched} 10^{monitor.evidence:.1f}, "
            f"alarm from 10^{monitor.limit:.1f} (at most {100 * level:.3g} % of unchanged streams ever reach it)"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values that JSON can hold."""
        return {"schema": 3, "monitors": list(map(asdict, self.monitors.values())), "seen": list(self.seen)}

    def goes_on_from(self, start: "Stream") -> bool:
        """Whether it can have come from `start`, before its first picture: the same bets, and no score went lost."""
        return self.monitors.keys() == start.monitors.keys() and all(
            _goes_on_from(monitor, start.monitors[what]) for what, monitor in self.monitors.items()
        )

    @classmethod
    def from_json(cls, content: bytes) -> Self:
        """The state in a file. Raises InlierError."""
        try:
            state = json.loads(content)
        except (ValueError, RecursionError):  # the latter where brackets are nested without end
            raise InlierError("not the state of a monitor (it is no whole JSON)") from None
        return cls.from_dict(state)

    @classmethod
    def from_dict(cls, state: Any) -> Self:
        """Undo `to_dict`. Raises InlierError for anything that cannot have come from it."""
        _require(isinstance(state, dict) and _is_whole(state.get("schema")), "it has no schema")
        if state["schema"] not in (1, 2, 3):
            raise InlierError("state of a newer inlier: please upgrade")
        old = {name: value for name, value in state.items() if name not in ("schema", "seen")}
        monitors = state.get("monitors") if state["schema"] == 3 else [old]  # before cues were watched
        _require(isinstance(monitors, list) and len(monitors) > 0, "it has no monitors")
        found = [_monitor(values) for values in monitors]
        _require(len({monitor.what for monitor in found}) == len(found), "two monitors watch the same")
        of_all = {(monitor.pictures, monitor.level, monitor.tolerated) for monitor in found}
        _require(len(of_all) == 1, "its monitors differ in pictures, level or tolerated")
        seen = state.get("seen", [])
        texts = isinstance(seen, list) and all(isinstance(digest, str) and digest for digest in seen)
        _require(texts and len(set(seen)) == len(seen) <= REMEMBERED, "seen is no list of digests, each once")
        return cls({monitor.what: monitor for monitor in found}, dict.fromkeys(seen))


def _goes_on_from(monitor: Monitor, start: Monitor) -> bool:
    bets = ("calibration", "level", "tolerated", "seed")
    if any(getattr(monitor, name) != getattr(start, name) for name in bets):
        return False
    known = dict(zip(monitor.values, monitor.counts, strict=True))
    needed: dict[float, int] = {}
    for value, count in zip(start.values, start.counts, strict=True):
        short = shorten(value, monitor.bits)
        needed[short] = needed.get(short, 0) + count
    of_calibration = sum(monitor.counts) - monitor.pictures
    return of_calibration == sum(start.counts) and all(known.get(v, 0) >= n for v, n in needed.items())


def _monitor(state: Any) -> Monitor:
    """All is checked that a true state fulfils: with damaged bets the alarm would come at once or never, unnoticed."""
    names = {f.name for f in fields(Monitor)}
    given = state if isinstance(state, dict) else {}
    _require(names - {"what"} <= given.keys() <= names, "a monitor lacks an entry, or has one that is not known")
    m = Monitor(**given)
    _require(all(isinstance(name, str) and name for name in (m.calibration, m.what)), "calibration or what is no text")
    _require(_is_number(m.level) and 0 < m.level < 1, "level is no share between 0 and 1")
    _require(_is_number(m.tolerated) and 0 <= m.tolerated < 1, "tolerated is no share between 0 and 1")
    for name, high in (("seed", math.inf), ("bits", BITS), ("pictures", math.inf)):
        value = getattr(m, name)
        _require(_is_whole(value) and 0 <= value <= high, f"{name} is no such whole number")
    _require(_are(_is_number, m.values) and 0 < len(m.values) <= KEPT, "values are no scores")
    _require(all(a < b for a, b in zip(m.values, m.values[1:])), "values do not ascend")
    _require(all(shorten(value, m.bits) == value for value in m.values), "values have more digits than bits")
    _require(_are(_is_whole, m.counts, len(m.values)) and min(m.counts) > 0, "counts are not one for each value")
    _require(sum(m.counts) > m.pictures, "counts are fewer than its pictures and a calibration")
    n, most = len(BETS), 2.0 ** min(m.pictures, 1000)  # no bet wins more than as much again from a picture
    _require(_are(_is_number, m.capital, n) and min(m.capital) >= 0, f"capital is not {n} amounts")
    _require(sum(m.capital) <= 1.001 * most, "capital is more than can be won")
    _require(_are(_is_number, m.rises, n), f"rises are not {n} numbers")
    _require(_are(_is_whole, m.starts, n), f"starts are not {n} pictures")
    _require(all(1 <= start <= max(m.pictures, 1) for start in m.starts), "starts are no pictures of the stream")
    m.alarm = None if m.alarm is None else _alarm(m.alarm, m)
    _require(_is_whole(m.every) and m.every > 0, "every is no number of pictures")
    pairs = isinstance(m.history, list) and all(_are(_is_number, pair, 2) for pair in m.history)
    _require(pairs, "history is no list of pictures and evidence")
    m.history = [(int(picture), float(evidence)) for picture, evidence in m.history]
    steps = [picture for picture, _ in m.history]
    points = m.pictures // m.every + 1
    whole = len(steps) == points <= POINTS and steps == [k * m.every for k in range(points)]
    _require(whole, "history does not have the stream's pictures")
    told = math.isclose(m.history[-1][1], m.evidence, abs_tol=1e-6) or steps[-1] < m.pictures
    _require(told and m.history[0][1] == 0, "history and capital do not fit")
    unalarmed = [evidence for picture, evidence in m.points if m.alarm is None or picture < m.alarm.picture]
    _require(max(unalarmed, default=0.0) < m.limit, "capital and level do not fit its alarm")
    return m


def _alarm(state: Any, of: Monitor) -> Alarm:
    _require(isinstance(state, dict), "alarm is none")
    known = {"what": of.what} | state  # before cues were watched it was not said
    _require(known.keys() == {f.name for f in fields(Alarm)}, "alarm lacks an entry, or has one that is not known")
    whole = _is_whole(known["picture"]) and _is_whole(known["began"])
    _require(whole and 1 <= known["began"] <= known["picture"] <= of.pictures, "alarm is of no picture of the stream")
    _require(known["direction"] in ("rise", "fall") and known["what"] == of.what, "alarm is of another monitor")
    return Alarm(**known)


def _require(is_true: bool, why: str) -> None:
    if not is_true:
        raise InlierError(f"not the state of a monitor ({why})")


def _are(kind: Callable[[Any], bool], values: Any, n: int | None = None) -> bool:
    return isinstance(values, (list, tuple)) and all(map(kind, values)) and (n is None or len(values) == n)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    """A finite one that is no truth value."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
