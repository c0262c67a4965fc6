"""p-values and thresholds keep their promise."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inlier import InlierError
from inlier.calibration import Calibration, folds, needed_scores, p_values, smallest_alpha, split, threshold

scores = st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=60)
alphas = st.floats(0.001, 0.999)


@given(scores, st.floats(-1e6, 1e6, width=32))
def test_p_value_counts_good_parts_that_score_at_least_this_high(calibration, score):
    expected = (1 + sum(c >= score for c in calibration)) / (len(calibration) + 1)
    assert p_values(calibration, score) == expected


@given(scores, st.floats(-1e6, 1e6, width=32), alphas)
def test_above_the_threshold_means_p_at_most_alpha(calibration, score, alpha):
    if alpha < smallest_alpha(len(calibration)):
        with pytest.raises(ValueError, match="can promise no false-alarm rate below"):
            threshold(calibration, alpha)
    else:
        assert (score > threshold(calibration, alpha)) == (p_values(calibration, score) <= alpha + 1e-9)


@pytest.mark.parametrize("n", [20, 50, 99, 200])
@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.1])
def test_false_alarms_stay_at_the_promised_rate_over_many_draws(n, alpha):
    """20,000 factories, each with its own calibration set and one new good part."""
    if alpha < smallest_alpha(n):
        pytest.skip("cannot be promised with so few")
    rng = np.random.default_rng(0)
    draws = 20_000
    parts = rng.gamma(2.0, size=(draws, n + 1))  # skewed, as real scores are
    alarms = np.mean([p_values(row[1:], row[0]) <= alpha for row in parts])
    error = 4 * np.sqrt(alpha * (1 - alpha) / draws)
    assert alarms <= alpha + error
    assert alarms >= np.floor(alpha * (n + 1)) / (n + 1) - error  # and is no stricter than it must be


def test_ties_make_it_stricter_never_looser():
    rng = np.random.default_rng(1)
    parts = rng.integers(0, 5, size=(20_000, 51))
    assert np.mean([p_values(row[1:], row[0]) <= 0.1 for row in parts]) <= 0.1


@pytest.mark.parametrize("alpha", [0.5, 0.1, 0.05, 0.01, 0.003])
def test_needed_scores_is_the_smallest_number_that_can_promise_alpha(alpha):
    n = needed_scores(alpha)
    threshold(np.arange(n), alpha)
    with pytest.raises(ValueError, match="needs at least"):
        threshold(np.arange(n - 1), alpha)


@pytest.mark.parametrize("alpha", [0.0, 1.0, -1.0, 2.0, float("nan")])
def test_alpha_outside_0_and_1(alpha):
    with pytest.raises(ValueError, match="alpha must lie between"):
        threshold(np.arange(200), alpha)


@given(st.integers(2, 500), st.integers(0, 5))
def test_split_holds_out_a_fifth_at_least_20_never_more_than_half(n, seed):
    fitting, held_out = split(n, seed)
    assert sorted(fitting + held_out) == list(range(n)) and len(held_out) <= max(n / 2, 1)
    assert len(held_out) >= min(20, n // 2) and len(held_out) >= n // 5
    assert split(n, seed) == (fitting, held_out)


@given(st.integers(2, 60), st.integers(0, 5))
def test_every_image_is_held_out_of_one_fold(n, seed):
    assert sorted(i for _, held_out in folds(n, seed) for i in held_out) == list(range(n))
    assert all(not set(fitting) & set(held_out) for fitting, held_out in folds(n, seed))


def test_default_alpha_is_lowered_to_what_can_be_promised_and_a_note_says_so():
    few = Calibration("split", np.arange(40.0), np.arange(40.0))
    assert few.rule().alpha == pytest.approx(1 / 41)
    assert "40 calibration images promise no false-alarm rate below 0.02439" in few.note(None)
    assert few.note(0.05) == "" and few.rule(0.05).alpha == 0.05
    enough = Calibration("split", np.arange(99.0), np.arange(99.0))
    assert enough.rule().alpha == 0.01 and enough.note(None) == ""
    with pytest.raises(InlierError, match="alpha 0.01 needs at least 99"):
        few.rule(0.01)


def test_without_calibration_there_is_no_verdict():
    assert Calibration("none").rule() is None and Calibration("none").note(None) == ""
    with pytest.raises(InlierError, match="no calibration"):
        Calibration("none").rule(0.05)


def test_the_scale_of_drawn_maps_has_room_on_both_sides_of_good_ones():
    peaks = np.array([1.0, 10.0, 100.0])
    assert Calibration("split", peaks, peaks).map_scale() == (10 - 90, 100 + 180)
    assert Calibration("split", peaks, peaks).map_scale(np.log10) == (0, 4)
    assert Calibration("none").map_scale() is None
