"""The choice for a part within a budget of time: candidates are fitted, tried on planted defects, and the best is kept.

Three parts of the good pictures have three uses: candidates are fitted on one, judged on another (bench/trial.py), and
the third is set aside before anything else: the very pictures that the last fit, on all of them, calibrates on where it
calibrates by a split. So the promise of the winner owes nothing to the choice. Test pictures are never opened.

Last, two of the candidates are joined as they are (methods/joined.py), where their scores of the same planted defects
say that they find more together than the best of all finds alone.

The budget holds because every fit knows its deadline and gives up as soon as its pace shows that it would miss it. A
candidate's fit gets at most half of what is left, and what the winner so far needs for its last fit is kept back. Where
no time is left for that all the same, the model of the search is calibrated on what the search never saw, and kept.
"""

import itertools
import logging
import random
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from inlier import methods
from inlier.bench import trial
from inlier.bench.choice import Choice, Row, able, decide, is_chance
from inlier.bench.examples import examples
from inlier.bench.seen import Seen, look
from inlier.bench.trial import Shares, Trial
from inlier.data.datasets import open_dataset
from inlier.data.datasets.sample import Dataset
from inlier.detector import Detector, geometry_of
from inlier.errors import InlierError, OutOfTime
from inlier.methods import joined
from inlier.settings import Settings

log = logging.getLogger("inlier")
UNITS = {"ms": 0.001, "s": 1.0, "sec": 1.0, "min": 60.0, "h": 3600.0}
MARGIN = 1.2  # the last fit may take so much longer than it seems
FOLDS = 2.0  # fits' worth of time that a fit takes where folds calibrate it in closed form: a second pass, in double
LEAST = 5  # pictures that candidates are fitted on
FEW = 20  # pictures to fit on, or held out, below which a choice is mostly chance
TILES = 2  # pictures must be so many tiles high and wide before tiles show the network anything finer
Model = Detector[Any, Any]


def auto(
    data: Any,
    budget: str | float = "10 min",
    latency: str | float | None = None,
    *,
    candidates: Sequence[Model] | None = None,
    categories: Sequence[str] = (),
    roi: Any = None,
    group: str | None = None,
    seed: int = 0,
    device: str = "auto",
    workers: int = 2,
    with_examples: bool = False,
) -> Model:
    """The detector that finds most planted defects on good pictures it was not fitted on, fitted on all of them.

    data, roi, group: as for `Detector.fit`, of one category. budget: seconds, or a text like "10 min", for all of it.
    latency: milliseconds, or a text like "50 ms", that a picture may take from file to verdict. candidates: detectors
    that are not fitted (default: what each method declares, see `Detector.candidates`, at its own size and at the one
    that shows what the pictures hold, see `Seen.size`); they get `seed` and `device`. Two of them may be joined.
    The result's `choice_` tells what was seen and tried; with_examples: with pictures of found and missed defects.
    Raises InlierError where no candidate can be chosen.
    """
    start = time.monotonic()
    length = seconds(budget)
    latency_ms = None if latency is None else 1000 * seconds(latency, "ms")
    whole = _good_pictures(data, categories)
    shares = trial.hold_out(whole, seed, group, aside=True)
    if not shares.held_out or len(shares.fitted_on.train) < LEAST:
        raise InlierError(
            f"{whole.name}: {len(whole.train)} good pictures are too few, or belong to too few groups, to hold some "
            "out for a choice: give 50 or more, or choose a method by hand"
        )
    seen = replace(look([*shares.fitted_on.train, *shares.held_out]), n=len(whole.train))
    for what, measure in seen.facts():
        log.info("%s: %s", what, measure)
    counts = len(shares.fitted_on.train), len(shares.held_out), len(shares.unseen)
    log.info("%d good pictures to fit on, %d to plant defects in, %d unseen by the search", *counts)
    if len(shares.held_out) < FEW:
        log.warning("%d pictures judge the candidates: they tell large differences only", len(shares.held_out))
    if len(shares.fitted_on.train) < FEW:
        log.warning("%d pictures fit the candidates: which is best may change with more of them", counts[0])
    if candidates is None:
        candidates = in_order([c for name in methods.names() for c in _declared(name, seen)], seen)
    proposed = [_with(detector, seed=seed, device=device) for detector in candidates]
    options = {"roi": roi, "group": group, "workers": workers}
    search = _Search(whole, shares, seen, Limits(start + length, latency_ms), options, seed, with_examples)
    fitted, winner, why = search.best_of(proposed)
    fitted.choice_ = Choice(
        data=whole.name,
        category=whole.categories[0],
        seen=seen,
        rows=tuple(search.rows),
        winner=winner,
        why=why,
        fitted_on=len(shares.fitted_on.train),
        held_out=len(shares.held_out),
        unseen=len(shares.unseen),
        fitted_again=not search.kept or fitted is not search.kept[1],
        budget=length,
        seconds=time.monotonic() - start,
        latency=latency_ms,
    )
    return fitted


def tune(
    method: str,
    data: Any,
    grid: Mapping[str, Sequence[Any]],
    budget: str | float = "10 min",
    latency: str | float | None = None,
    *,
    preset: str = "light",
    settings: Mapping[str, Any] | None = None,
    **options: Any,
) -> Model:
    """`auto` over the settings of one method.

    grid: values to try of each setting; all combinations, in an order that the seed shuffles, so that those a budget
    leaves room for are a fair sample; first what the preset has. settings: of all of them. options: as for `auto`.
    """
    if not grid:
        raise InlierError("the grid is empty: name a setting and the values to try")
    points = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    random.Random(options.get("seed", 0)).shuffle(points)
    detectors = [methods.create(method, preset, **(dict(settings or {}) | point)) for point in [{}, *points]]
    if detectors[0].settings in [detector.settings for detector in detectors[1:]]:
        del detectors[0]
    return auto(data, budget, latency, candidates=detectors, **options)


def seconds(duration: str | float, unit: str = "s") -> float:
    """Of a text such as "90 s", "10min" or "1.5 h"; a number alone is in `unit`. Raises InlierError.

    >>> seconds("10min"), seconds(90), seconds("50", "ms")
    (600.0, 90.0, 0.05)
    """
    found = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*([a-z]*)\s*", str(duration).lower())
    if not found or (found[2] or unit) not in UNITS or not float(found[1]):
        raise InlierError(
            f"{duration!r} is no duration: give a positive number and one of {', '.join(UNITS)}, such as 10min"
        )
    return float(found[1]) * UNITS[found[2] or unit]


def in_order(candidates: Sequence[Model], seen: Seen) -> list[Model]:
    """The cheapest first, by what their methods say of `light` and by the pixels that the network sees."""

    def cost(detector: Model) -> float:
        light = detector.presets["light"]
        return detector.light_seconds * _pixels(detector.settings, seen) / _pixels(light, seen)

    return sorted(candidates, key=cost)


def _pixels(s: Settings, seen: Seen) -> int:
    return s.size**2 * len(geometry_of(s).views(seen.height, seen.width))


def _declared(name: str, seen: Seen) -> list[Model]:
    """What a method declares, and the first of it at the size that shows what the pictures hold, too."""
    declared = list(methods.get(name).candidates)
    first = methods.create(name, **declared[0]).settings if declared else None
    if first and seen.size and first.size != seen.size and first.shorter_side is None:
        declared.append({**declared[0], "size": seen.size})
    return [methods.create(name, **settings) for settings in declared]


@dataclass(frozen=True)
class Limits:
    """What a search must keep to."""

    end: float  # of time.monotonic()
    latency: float | None  # milliseconds a picture may take

    @property
    def left(self) -> float:
        """Seconds."""
        return self.end - time.monotonic()


@dataclass
class _Search:
    """What is searched with, and what has come of the candidates so far."""

    whole: Dataset  # all good pictures
    shares: Shares
    seen: Seen
    limits: Limits
    options: dict[str, Any]  # of `Detector.fit`
    seed: int
    with_examples: bool
    detectors: list[Model] = field(default_factory=list)  # not fitted, one for each row
    rows: list[Row] = field(default_factory=list)
    kept: tuple[int, Model] | None = None  # the winner so far, as it was fitted here, and its place
    fitted: dict[int, Model] = field(default_factory=dict)  # by place: the best of each method that can be joined

    def best_of(self, proposed: Sequence[Model]) -> tuple[Model, int, str]:
        """The winner, fitted; its place, and why it is the winner. Raises InlierError without one."""
        try:
            for number, detector in enumerate(proposed, 1):
                row = self.consider(detector)
                log.info("candidate %d of %d, %s", number, len(proposed), _summary(row))
            if pair := self.pair():
                log.info("two together find more: %s", _summary(self.join(*pair)))
            fitted, winner, why = self.last_fit()
            doubtful = is_chance(self.rows[winner].trial, self.seed)  # type: ignore[arg-type]
            log.log(logging.WARNING if doubtful else logging.INFO, "%s", why)
        except KeyboardInterrupt:
            leader = self.winner()
            so_far = "none was judged so far" if leader is None else f"so far wins: {_summary(self.rows[leader])}"
            log.warning("stopped before a model was written; %s", so_far)
            raise
        return fitted, winner, why

    def reserve(self) -> float:
        """Seconds that are kept back for the last fit of the winner so far, or of the pair that would win."""
        if pair := self.pair():
            return self._pair_seconds(*pair)
        winner = self.winner()
        return 0.0 if winner is None else self.rows[winner].refit_seconds or 0.0

    def _pair_seconds(self, i: int, j: int) -> float:
        """What a fit of both on all pictures takes, about."""
        fit_seconds = sum(self.rows[place].fit_seconds or 0.0 for place in (i, j))
        ms = sum(self.rows[place].ms or 0.0 for place in (i, j))
        pair = joined.pair(self.fitted[i], self.fitted[j])
        assert pair
        return MARGIN * self._last_fit_seconds(pair, fit_seconds, ms / 1000)

    def winner(self) -> int | None:
        """Its place, if the search ended now."""
        return decide(self.rows, self.seed)[0] if able(self.rows) else None

    def pair(self) -> tuple[int, int] | None:
        """Places of the two candidates that find most together, where that is more than the best finds alone."""
        leader = self.winner()
        best = None if leader is None else self.rows[leader].trial
        found = None
        for i, j in itertools.combinations(self.fitted, 2) if best else ():
            if joined.pair(self.fitted[i], self.fitted[j]) is None:
                continue
            pair = self.together(i, j)
            if best and pair.quality > best.quality:
                found, best = (i, j), pair
        return found

    def together(self, i: int, j: int) -> Trial:
        one, other = self.rows[i].trial, self.rows[j].trial
        assert one and other
        return trial.together(one, other)

    def join(self, i: int, j: int) -> Row:
        """Two candidates as one more, from what they have learned; it joins the rows."""
        models = joined.in_order(self.fitted[i], self.fitted[j])
        places = [i, j] if models[0] is self.fitted[i] else [j, i]
        units = [trial.deviates(self.rows[place].trial) for place in places]  # type: ignore[arg-type]
        mean, deviation = zip(*units, strict=True)
        pair = joined.pair(*models)
        assert pair
        fitted = joined.assembled(pair.set_params(mean=mean, deviation=deviation), *models)
        held_out = self.shares.held_out
        ms = trial.milliseconds(fitted, held_out)
        found = self.together(i, j)
        told = {name: getattr(pair.settings, name) for name in ("first", "second")}
        fit_seconds = sum(self.rows[place].fit_seconds or 0.0 for place in places)
        row = Row(pair.name, pair.preset, told, ms=ms, fit_seconds=fit_seconds)
        if self.limits.latency is not None and ms > self.limits.latency:
            row = replace(row, reason=self._too_slow(ms))
        else:
            shown = examples(fitted, held_out, found, self.seed) if self.with_examples else ()
            row = replace(row, trial=found, refit_seconds=self._pair_seconds(i, j), examples=shown)
        return self._joins(_with(pair), row, fitted)

    def _joins(self, detector: Model, row: Row, fitted: Model | None) -> Row:
        """A candidate joins the rows; of the fitted ones the winner so far is kept, and the best of those to join."""
        place = len(self.rows)
        self.detectors.append(detector)
        self.rows.append(row)
        if fitted is None:
            return row
        if self.winner() == place:
            self.kept = place, fitted
        if row.trial and not row.reason and detector.name in joined.JOINABLE:
            alike = [k for k, of in self.fitted.items() if of.name == detector.name]
            if all(row.quality > self.rows[k].quality for k in alike):
                self.fitted = {k: of for k, of in self.fitted.items() if k not in alike} | {place: fitted}
        return row

    def consider(self, detector: Model) -> Row:
        """Fit, time and try a candidate; what comes of it joins the rows."""
        row = _row(detector)
        fitted = None
        try:
            row, fitted = self._tried(detector, row)
        except InlierError as error:  # OutOfTime, too little memory, settings that do not suit the pictures
            row = replace(row, reason=str(error))
        return self._joins(detector, row, fitted)

    def _tried(self, detector: Model, row: Row) -> tuple[Row, Model]:
        start = time.monotonic()
        left = self.limits.left
        tile = detector.settings.tile
        if tile is not None and min(self.seen.height, self.seen.width) < TILES * tile:
            size = f"{self.seen.width} x {self.seen.height}"
            raise InlierError(
                f"pictures of {size} pixels are smaller than {TILES} x {TILES} of its tiles: little is won"
            )
        reserve = self.reserve()
        allowed = min(left / 2, left - reserve)
        # a fit notices late that it is late where it has few pictures, and would eat up what is kept back
        if allowed <= min((row.fit_seconds for row in self.rows if row.fit_seconds), default=0.0):
            raise OutOfTime("no time was left for it")
        log.info("%s: at most %.0f s", row.name, allowed)
        fitted = _with(detector).fit(self.shares.fitted_on, calibration="none", time_limit=allowed, **self.options)
        fit_seconds = time.monotonic() - start
        held_out = self.shares.held_out
        ms = trial.milliseconds(fitted, held_out)
        row = replace(row, fit_seconds=fit_seconds, ms=ms)
        if self.limits.latency is not None and ms > self.limits.latency:
            return replace(row, reason=self._too_slow(ms)), fitted
        cheap_maps = not detector.maps_cost_extra
        found = trial.run(fitted, held_out, self.seed, deadline=self.limits.end - reserve, maps=cheap_maps)
        refit = MARGIN * self._last_fit_seconds(detector, fit_seconds, ms / 1000)
        shown = examples(fitted, held_out, found, self.seed) if self.with_examples else ()
        return replace(row, trial=found, refit_seconds=refit, examples=shown), fitted

    def _too_slow(self, ms: float) -> str:
        return f"takes {ms:.0f} ms a picture, {self.limits.latency:g} ms are allowed"

    def _last_fit_seconds(self, detector: Model, fit_seconds: float, a_picture: float) -> float:
        """What a fit on all pictures takes, about, with the method's own calibration, from what it took on some.

        Steps and inverse matrices take their time however many pictures there are. Each further picture takes about
        what it takes to judge one, except where training goes over the pictures in epochs: there all of it grows.
        """
        n = len(self.shares.fitted_on.train)
        unseen = len(self.shares.unseen)
        folds = detector.default_calibration == "folds"
        more = len(self.whole.train) - n - (0 if folds else unseen)
        in_epochs = getattr(detector.settings, "steps", 0) is None  # without steps of its own
        once = fit_seconds * (n + more) / n if in_epochs else fit_seconds + more * a_picture
        return FOLDS * once if folds else once + unseen * a_picture

    def last_fit(self) -> tuple[Model, int, str]:
        """The winner, fitted on all pictures; its place, and why it is the winner. Raises InlierError without one.

        Where no time is left for that, the model of the search is taken, and calibrated on pictures it never saw.
        """
        while True:
            winner, why = decide(self.rows, self.seed)
            try:
                return self._fitted_again(winner), winner, why
            except OutOfTime as error:
                if self.kept and self.kept[0] == winner:
                    n, unseen = len(self.shares.fitted_on.train), len(self.shares.unseen)
                    stays = f"it stays as fitted on {n}, calibrated on {unseen} unseen by the search"
                    return self._calibrated(), winner, f"{why}; a fit on all pictures {error}: {stays}"
                self.rows[winner] = replace(self.rows[winner], reason=f"a fit on all pictures {error}")

    def _fitted_again(self, place: int) -> Model:
        needed = (self.rows[place].refit_seconds or 0.0) / MARGIN  # room was kept for more; what fits may try
        left = self.limits.left
        if needed > left:
            raise OutOfTime(f"would take about {needed:.0f} s, {max(0.0, left):.0f} s are left for it")
        return _with(self.detectors[place]).fit(self.whole, time_limit=left, **self.options)

    def _calibrated(self) -> Model:
        assert self.kept is not None
        unseen = replace(self.whole, samples=tuple(self.shares.unseen))
        return self.kept[1].calibrate(unseen, group=self.options["group"], workers=self.options["workers"])


def _good_pictures(data: Any, categories: Sequence[str]) -> Dataset:
    """The good training pictures alone, of one category: what is not there cannot be read."""
    dataset = open_dataset(data, categories)
    log.info("data: %s", dataset.layout)
    for note in dataset.notes:
        log.info("note: %s", note)
    if not dataset.train:
        raise InlierError(f"{dataset.name}: holds no good training pictures")
    good = replace(dataset, samples=dataset.train, notes=(), left_out=())
    if len(good.categories) > 1:
        raise InlierError(
            f"{dataset.name}: holds {', '.join(good.categories)}; a choice is made for one kind of part: name its "
            "category"
        )
    return good


def _with(detector: Model, **changes: Any) -> Model:
    """The same with some changes, not fitted."""
    return type(detector)(**(detector.get_params() | changes))


def _row(detector: Model) -> Row:
    preset = detector.presets[detector.preset]
    values = {f.name: getattr(detector.settings, f.name) for f in fields(detector.settings)}
    changed = {name: value for name, value in values.items() if value != getattr(preset, name)}
    return Row(detector.name, detector.preset, changed)


def _summary(row: Row) -> str:
    if row.trial is None or row.reason:
        return f"{row.name}: {row.reason}"
    return (
        f"{row.name}: AUROC {100 * row.trial.auroc:.1f} %, {100 * row.trial.detection():.1f} % found, {row.ms:.0f} ms"
    )
