"""The alarm "the parts no longer look like the calibration" keeps its promise for all time, and comes soon enough."""

import bisect
import contextlib
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inlier import InlierError, drift
from inlier.data.cues import WATCHED
from inlier.drift import BETS, LEVEL, SCORE, Monitor, Stream, play, ranked_p, shorten, waiting

PICTURES = 2000


def online(calibration, stream, ties):
    """p-value of each score of a stream among the calibration and all scores before it."""
    seen, found = sorted(calibration.tolist()), []
    for score, tie in zip(stream.tolist(), ties.tolist()):
        low, high = bisect.bisect_left(seen, score), bisect.bisect_right(seen, score)
        found.append(ranked_p(len(seen) - high, high - low, len(seen), tie))
        seen.insert(high, score)
    return found


def p_values(n, streams, pictures=PICTURES, change=lambda scores, rng: None, rng=None):
    """(streams, pictures), each with a calibration of its own; `change` alters the stream's scores in place."""
    rng, rows = rng or np.random.default_rng(n), []
    for _ in range(streams):
        scores = rng.gamma(9.0, size=pictures)  # skewed, as real scores are; one deviation is 3
        change(scores, rng)
        rows.append(online(rng.gamma(9.0, size=n), scores, rng.random(pictures)))
    return np.array(rows)


def first_alarm(p, tolerated=drift.TOLERATED):
    """(streams,) number of the picture at which each alarms; infinite where none does."""
    capital, first = np.zeros((len(p), len(BETS))), np.full(len(p), np.inf)
    for t in range(p.shape[1]):
        capital = play(capital, t, p[:, t], tolerated)
        alarmed = waiting(t + 1) + capital.sum(1) >= 1 / LEVEL
        first[alarmed] = np.minimum(first[alarmed], t + 1)
    return first


def most(share, n):
    """A share of n draws that hardly any chance exceeds."""
    return share + 4 * np.sqrt(share * (1 - share) / n)


# -- the promise ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [40, 100, 500])
def test_of_unchanged_streams_at_most_the_level_ever_alarms(n):
    """300 factories, each with its own calibration of n, each judges 2,000 good parts."""
    p = p_values(n, 300)
    assert np.mean(first_alarm(p, tolerated=0) < np.inf) <= most(LEVEL, 300)
    assert np.mean(first_alarm(p) < np.inf) <= most(LEVEL, 300)


def test_the_promise_holds_for_as_long_as_one_looks():
    """Ranks that are independent and uniform, 10,000 streams of 1,000: the game itself, at more levels."""
    p = np.random.default_rng(0).random((10_000, 1000))
    capital, highest = np.zeros((len(p), len(BETS))), np.ones(len(p))
    for t in range(p.shape[1]):
        capital = play(capital, t, p[:, t], tolerated=0)
        highest = np.maximum(highest, waiting(t + 1) + capital.sum(1))
    for level in (0.2, 0.05, 0.01, 0.001):
        assert level / 10 <= np.mean(highest >= 1 / level) <= most(level, len(p))  # and no stricter than it must be


def test_online_ranks_are_uniform_and_independent():
    p = p_values(40, 2000, pictures=40)
    assert np.histogram(p, 10, (0, 1))[0] == pytest.approx(8000, abs=5 * np.sqrt(8000))
    correlation = np.corrcoef(p.T)
    assert np.abs(correlation[~np.eye(40, dtype=bool)]).max() < 5 / np.sqrt(2000)


def test_bets_on_ranks_among_the_calibration_alone_alarm_without_any_change():
    """Why a stream's earlier scores must take part."""
    rng, rows = np.random.default_rng(0), []
    for _ in range(100):
        calibration = np.sort(rng.gamma(9.0, size=40))
        above = 40 - np.searchsorted(calibration, rng.gamma(9.0, size=PICTURES))
        rows.append(ranked_p(above, 0, 40, rng.random(PICTURES)))
    assert np.mean(first_alarm(np.array(rows)) < np.inf) > 10 * LEVEL


def test_a_picture_that_is_given_again_does_not_count_again():
    """100 factories judge the same three good parts thirty times; if each time counted, half of them would alarm."""
    rng, alarms, careless = np.random.default_rng(0), 0, 0
    for seed in range(100):
        calibration, scores = rng.gamma(9.0, size=100), rng.gamma(9.0, size=3)
        told, untold = (Stream.start({SCORE: calibration}, seed=seed) for _ in range(2))
        for _ in range(30):
            for name, score in zip("abc", scores):
                told.update({SCORE: score}, name)
                untold.update({SCORE: score})
        assert told.pictures == 3 and untold.pictures == 90
        alarms, careless = alarms + bool(told.alarm), careless + bool(untold.alarm)
    assert alarms / 100 <= most(LEVEL, 100) and careless > 30


@pytest.mark.parametrize("n", [40, 500])
def test_tolerated_defects_are_no_change(n):
    """A steady share of 5 %, above all good parts, and as much below 20 % of them."""
    for low in (60.0, 13.0):

        def defects(scores, rng, low=low):
            scores[rng.random(len(scores)) < drift.TOLERATED] = low

        assert np.mean(first_alarm(p_values(n, 100, change=defects)) < np.inf) <= most(LEVEL, 100)


def test_equal_scores_are_no_change():
    rng, rows = np.random.default_rng(0), []
    for _ in range(400):
        scores = np.rint(rng.gamma(9.0, size=540) / 3)  # about 8 different ones
        rows.append(online(scores[:40], scores[40:], rng.random(500)))
    assert np.mean(first_alarm(np.array(rows), tolerated=0) < np.inf) <= most(LEVEL, 400)


# -- what it finds ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "n, start, deviations, within",
    [
        (40, 0, 2, 20),
        (40, 0, 1, 60),
        (100, 0, 1, 50),
        (100, 0, -1, 50),
        (500, 0, 0.5, 200),
        (40, 500, 2, 50),
        (40, 500, -1, 100),
        (500, 1500, 1, 100),
    ],
)
def test_a_change_is_found_soon(n, start, deviations, within):
    """Three of four streams alarm within so many pictures after the scores rose or fell by so many deviations."""

    def shift(scores, rng):
        scores[start:] += 3 * deviations

    first = first_alarm(p_values(n, 60, pictures=start + within, change=shift))
    assert np.mean((first > start) & (first <= start + within)) >= 0.75


def test_many_defects_are_a_change():
    def defects(scores, rng):
        scores[rng.random(len(scores)) < 0.4] = 60

    assert np.median(first_alarm(p_values(100, 60, pictures=300, change=defects))) < 120


@pytest.mark.parametrize("direction, deviations", [("rise", 2), ("fall", -1.5)])
def test_the_alarm_says_when_the_change_began_and_where_scores_went(direction, deviations):
    began = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        scores = rng.gamma(9.0, size=460)
        scores[360:] += 3 * deviations
        monitor = Monitor.start(scores[:60], seed=seed)
        alarms = [alarm for score in scores[60:] if (alarm := monitor.update(score))]
        assert len(alarms) == 1 and alarms[0] == monitor.alarm and alarms[0].direction == direction
        assert alarms[0].picture > 300
        began.append(alarms[0].began)
    assert np.median(np.abs(np.array(began) - 301)) <= 3


# -- the monitor ------------------------------------------------------------------------------------------------------


def test_the_monitor_plays_as_the_functions_do():
    rng = np.random.default_rng(0)
    scores = rng.gamma(9.0, size=340).astype(np.float32)
    scores[200:] += 2
    monitor = Monitor.start(scores[:40], seed=3)
    for score in scores[40:]:
        monitor.update(score)
    ties = np.array([np.random.default_rng([3, t]).random() for t in range(300)])
    p = np.array([online(scores[:40], scores[40:], ties)])
    capital = np.zeros((1, len(BETS)))
    for t in range(300):
        capital = play(capital, t, p[:, t])
    assert monitor.capital == pytest.approx(capital[0].tolist())
    assert monitor.alarm and monitor.alarm.picture == first_alarm(p)[0]


def test_a_state_that_was_saved_goes_on_as_if_unbroken():
    rng = np.random.default_rng(0)
    pictures = [dict(zip((SCORE, "brightness"), row)) for row in rng.gamma(9.0, size=(650, 2)).tolist()]
    for picture in pictures[550:]:
        picture["brightness"] *= 2
    known = {what: rng.gamma(9.0, size=50) for what in (SCORE, "brightness")}
    unbroken, broken = Stream.start(known), Stream.start(known)
    for k, picture in enumerate(pictures):
        alarms = unbroken.update(picture, f"{k}")
        assert broken.update(picture, f"{k}") == alarms
        if k % 97 == 0:
            broken = Stream.from_dict(json.loads(json.dumps(broken.to_dict(), allow_nan=False)))
    assert broken == unbroken and unbroken.alarm.what == "brightness" and len(unbroken.seen) == 650
    broken.update({SCORE: 99.0, "brightness": 99.0}, "7")  # counted long ago, by another process
    assert broken == unbroken
    assert Stream.from_dict(json.loads(json.dumps(broken.to_dict()))) == unbroken


def test_a_state_of_before_cues_were_watched_goes_on():
    stream = Stream.start({SCORE: [1.0, 2.0]})
    [monitor] = stream.to_dict()["monitors"]
    old = {name: value for name, value in monitor.items() if name != "what"}
    assert Stream.from_dict(old | {"schema": 2, "seen": ["a"]}) == Stream(stream.monitors, {"a": None})
    assert Stream.from_dict(old | {"schema": 1}) == stream


def watched(pictures, change=0.0, tolerated=drift.TOLERATED):
    """A stream that has seen so many pictures, all of which changed so much, and how it began."""
    rng, whats = np.random.default_rng(pictures), (SCORE, "brightness")
    known = dict(zip(whats, rng.gamma(9.0, size=(2, 40))))
    stream, start = (Stream.start(known, tolerated=tolerated) for _ in range(2))
    for row in rng.gamma(9.0, size=(pictures, 2)).tolist():
        stream.update({SCORE: row[0] + change, "brightness": row[1]}, f"{len(stream.seen)}")
    return stream, start


@pytest.mark.parametrize("pictures, change", [(0, 0), (1, 0), (700, 0), (60, 90.0), (2500, 9.0)])
def test_every_true_state_is_taken_whatever_it_won_and_however_its_digits_were_cut(pictures, change):
    stream, start = watched(pictures, change)
    assert bool(stream.alarm) == bool(change)
    cut = {monitor.bits < drift.BITS for monitor in stream.monitors.values()}
    assert cut == {pictures == 2500}, "of 2,540 different scores not all digits are kept"
    again = Stream.from_json(json.dumps(stream.to_dict(), allow_nan=False).encode())
    assert again == stream and again.goes_on_from(start)


DAMAGED = {
    "monitors": [[], 5, None, "one of two", "the same twice"],
    "calibration": [None, 7],
    "values": [[], ["x"], None, "turned", "cut", [1e400]],
    "counts": [[], [1], None, "zeros", "negative"],
    "level": [0, 5, "0.005", True, 1e-12, None, 0.004],
    "tolerated": [5, -1, None, 0.06],
    "seed": [-1, "0", 0.5, None, 7],
    "bits": [0, -3, 25, 1e9, None],
    "pictures": [-1, 12, 10**6, "a", 1.5, None],
    "capital": [["a"] * 4, [1.0], [1e3] * 4, [1e300] * 4, [-1.0] * 4, [float("nan")] * 4, [0.3] * 4, None],
    "rises": [[], [None] * 4, 5],
    "starts": [[], [0] * 4, [99] * 4, [1.5] * 4],
    "alarm": [5, {}, {"picture": 1, "began": 1, "direction": "rise", "what": "dust"}, False],
    "every": [0, 3, -1, "x"],
    "history": [[], [[1]], [[0, 0.0]], [[0, 0.0, 0.0]], 5, None],
    "what": ["dust", 5, "brightness"],
    "seen": [5, "abcdef", [1], ["a", "a"], None, {}],
    "schema": [True, 0, 1, "3", None],
    "dust": [1],
}


@pytest.mark.parametrize("name, value", [(name, value) for name, values in DAMAGED.items() for value in values])
def test_a_state_in_which_anything_is_damaged_is_refused(name, value):
    """Or alarms would come at once, or never, and nobody would know why."""
    stream, start = watched(11)
    state = json.loads(json.dumps(stream.to_dict()))
    first = state["monitors"][0]
    made = {
        "one of two": [first],
        "the same twice": [first, first],
        "turned": first["values"][::-1],
        "cut": first["values"][:-1],
        "zeros": [0] * len(first["counts"]),
        "negative": [-1] * len(first["counts"]),
    }
    of = state if name in ("monitors", "seen", "schema") else first
    of[name] = made.get(value, value) if isinstance(value, str) else value

    def taken():
        with contextlib.suppress(InlierError):
            return Stream.from_dict(state).goes_on_from(start)
        return False

    assert not taken()


def test_a_file_that_is_no_state_says_so_in_plain_words():
    for content in (b"", b"{", b"[1] 2", b"\xff\xfe", b"[" * 100_000, b"[]", b"null", b"1" * 5000):
        with pytest.raises(
            InlierError, match="not the state of a monitor \\((it is no whole JSON|it has no schema)\\)"
        ):
            Stream.from_json(content)


def test_what_scores_overlook_is_seen_and_the_level_is_shared():
    """Of 60 streams where nothing changes hardly any alarms; a lamp that fades is found by brightness."""
    rng, alarms, whats = np.random.default_rng(0), 0, (SCORE, *WATCHED)
    for seed in range(60):
        stream = Stream.start(dict(zip(whats, rng.gamma(9.0, size=(4, 60)))), tolerated=0, seed=seed)
        for row in rng.gamma(9.0, size=(120, 4)).tolist():
            stream.update(dict(zip(whats, row)))
        alarms += stream.alarm is not None
    assert alarms / 60 <= most(LEVEL, 60) and sum(m.level for m in stream.monitors.values()) == pytest.approx(LEVEL)
    stream = Stream.start(dict(zip(whats, rng.gamma(9.0, size=(4, 200)))))
    told = []
    for k, row in enumerate(rng.gamma(9.0, size=(200, 4)).tolist()):
        told += stream.update({**dict(zip(whats, row)), "brightness": row[1] - 6 * (k >= 100)})
    assert [alarm.what for alarm in told] == ["brightness"] and told[0].direction == "fall"
    assert 95 <= told[0].began <= 110 and "the brightness of the pictures falls" in str(told[0])
    assert stream.strongest is stream.monitors["brightness"] and stream.alarm == told[0]


def test_memory_is_bounded_and_the_promise_kept(monkeypatch):
    monkeypatch.setattr(drift, "KEPT", 20)
    monkeypatch.setattr(drift, "POINTS", 10)
    monkeypatch.setattr(drift, "REMEMBERED", 5)
    rng, alarms = np.random.default_rng(0), 0
    for seed in range(60):
        stream = Stream.start({SCORE: rng.gamma(9.0, size=30)}, tolerated=0, seed=seed)
        for k, score in enumerate(rng.gamma(9.0, size=200)):
            alarms += len(stream.update({SCORE: score}, f"{k}"))
        monitor = stream.monitors[SCORE]
        assert list(stream.seen) == ["195", "196", "197", "198", "199"]
        assert len(monitor.values) <= 20 and sum(monitor.counts) == 230 and len(monitor.history) <= 10
    assert alarms / 60 <= most(LEVEL, 60)
    monitor = Monitor.start(rng.gamma(9.0, size=30))
    found = next(t for t in range(40) if monitor.update(rng.gamma(9.0) + 9))
    assert found < 30  # and it still sees


@given(st.floats(-1e6, 1e6, width=32), st.floats(-1e6, 1e6, width=32), st.integers(1, 24), st.integers(1, 24))
def test_cutting_digits_keeps_the_order_and_can_be_done_in_steps(a, b, bits, more):
    assert shorten(a, 24) == a
    fewer = min(bits, more)
    assert shorten(shorten(a, max(bits, more)), fewer) == shorten(a, fewer)
    assert (shorten(a, bits) <= shorten(b, bits)) or a > b


def test_scores_that_rise_for_ever_break_nothing():
    monitor = Monitor.start(np.arange(40.0))
    for score in range(100, 3000):
        monitor.update(score)
    assert np.isfinite(monitor.evidence) and monitor.alarm and monitor.alarm.began == 1


def test_what_cannot_be_watched():
    with pytest.raises(InlierError, match="train with --calibration split"):
        Monitor.start([])
    with pytest.raises(InlierError, match="level must be a share"):
        Monitor.start([1.0], level=0)
    with pytest.raises(InlierError, match="finite"):
        Monitor.start([1.0]).update(float("nan"))
    with pytest.raises(InlierError, match="not the state of a monitor"):
        Stream.from_dict({"schema": 1, "values": []})
    with pytest.raises(InlierError, match="please upgrade"):
        Stream.from_dict({"schema": 4})
    assert drift.fingerprint([1.0, 2.0]) != drift.fingerprint([1.0, 2.5])
