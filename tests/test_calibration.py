"""p-values and thresholds keep their promise."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import write_dataset
from inlier import InlierError, PaDiM
from inlier.calibration import (
    Calibration,
    confident_rate,
    folds,
    needed_scores,
    p_values,
    rank,
    smallest_alpha,
    split,
    threshold,
)
from inlier.evaluation import evaluate

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
    """10,000 factories, each with its own calibration set and one new good part."""
    if alpha < smallest_alpha(n):
        pytest.skip("cannot be promised with so few")
    rng = np.random.default_rng(0)
    draws = 10_000
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


# -- with confidence --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "alpha"), [(299, 0.01), (60, 0.05), (99, 0.05), (40, 0.2)])
def test_nineteen_of_twenty_factories_keep_the_confident_rate(n, alpha):
    """Uniform scores: a factory's true false-alarm rate is 1 - threshold."""
    rng = np.random.default_rng(2)
    draws = 4000
    rates = np.array([1 - threshold(row, alpha, confidence=0.95) for row in rng.uniform(size=(draws, n))])
    error = 4 * np.sqrt(0.05 * 0.95 / draws)
    assert np.mean(rates <= alpha) >= 0.95 - error
    k = rank(n, alpha, 0.95)  # and one score less strict would not keep it
    assert confident_rate(k, n, 0.95) <= alpha < confident_rate(k + 1, n, 0.95)


@pytest.mark.parametrize(("n", "alpha"), [(40, 1 / 41), (99, 0.01), (99, 0.05), (470, 0.01)])
def test_what_an_average_rule_says_of_confidence_is_true_in_nineteen_of_twenty_factories(n, alpha):
    rng = np.random.default_rng(3)
    rates, said = [], set()
    for row in rng.uniform(size=(4000, n)):
        rule = Calibration("split", row, row).rule(alpha)
        rates.append(1 - rule.threshold)
        said.add((rule.average, rule.confident))
    ((average, confident),) = said  # decided by n and alpha, not by the scores
    assert abs(np.mean(np.array(rates) <= confident) - 0.95) < 4 * np.sqrt(0.05 * 0.95 / 4000)
    assert np.mean(rates) == pytest.approx(average, rel=0.05) and average <= alpha + 1e-12


def test_faults_figure_of_forty_pictures():
    """Above alpha in 37 % of factories, 95th percentile 7.2 %; with 99 pictures and 1 %: 3.0 %."""
    forty = Calibration("split", np.arange(40.0), np.arange(40.0)).rule()
    assert forty.average == pytest.approx(1 / 41) and forty.confident == pytest.approx(0.0722, abs=5e-5)
    many = Calibration("split", np.arange(99.0), np.arange(99.0)).rule(0.01)
    assert many.confident == pytest.approx(0.0298, abs=5e-5)


@pytest.mark.parametrize(("alpha", "confidence"), [(0.01, 0.95), (0.05, 0.95), (0.01, 0.99), (0.2, 0.5)])
def test_needed_scores_with_confidence_is_the_smallest_number(alpha, confidence):
    n = needed_scores(alpha, confidence)
    threshold(np.arange(n), alpha, confidence=confidence)
    with pytest.raises(ValueError, match=f"needs at least {n}"):
        threshold(np.arange(n - 1), alpha, confidence=confidence)


def test_a_confident_rule_is_stricter_and_names_both_numbers():
    calibration = Calibration("split", np.arange(99.0), np.arange(99.0))
    average, sure = calibration.rule(0.05), calibration.rule(0.05, 0.95)
    assert sure.threshold > average.threshold and sure.confident <= 0.05 < average.confident
    assert "with 95 % confidence at most 4.7 %" in str(sure)
    assert "with 95 % confidence, so alpha is 0.0298" in calibration.note(None, 0.95)
    with pytest.raises(InlierError, match="alpha 0.01 needs at least 299"):
        calibration.rule(0.01, 0.95)


# -- groups -----------------------------------------------------------------------------------------------------------


def drawn_groups(rng, n_groups, spread=0.3):
    """Scores of groups of 1 to 8 pictures that resemble each other, and the group of each."""
    sizes = rng.integers(1, 9, n_groups)
    groups = np.repeat(np.arange(n_groups), sizes)
    return rng.normal(size=n_groups)[groups] + spread * rng.normal(size=len(groups)), groups


@pytest.mark.parametrize("spread", [0.0, 0.3, 3.0])
def test_groups_keep_the_promise_for_a_picture_of_a_new_group(spread):
    """3,000 factories with 24 parts of 1 to 8 pictures each; copies where the spread is 0."""
    rng, alarms, draws = np.random.default_rng(4), [], 3000
    for _ in range(draws):
        scores, groups = drawn_groups(rng, 25, spread)
        new = rng.choice(np.flatnonzero(groups == 24))
        rest = groups < 24
        rule = Calibration("split", scores[rest], scores[rest], groups=groups[rest]).rule(0.1)
        alarms.append(scores[new] > rule.threshold)
    assert np.mean(alarms) <= 0.1 + 4 * np.sqrt(0.09 / draws)
    assert np.mean(alarms) >= 0.03  # and finds something


def test_without_groups_copies_would_break_it():
    """10 parts, each 4 times: taken for 40 pictures, one new good part in ten alarms at a stated 2.4 %."""
    rng = np.random.default_rng(5)
    alarms = {"alone": [], "grouped": []}
    for _ in range(3000):
        parts = rng.normal(size=11)
        scores, groups = np.repeat(parts[:10], 4), np.repeat(np.arange(10), 4)
        alarms["alone"].append(parts[10] > Calibration("split", scores, scores).rule(1 / 41).threshold)
        grouped = Calibration("split", scores, scores, groups=groups)
        alarms["grouped"].append(parts[10] > grouped.rule(1 / 11).threshold)
    assert np.mean(alarms["alone"]) > 0.07 and abs(np.mean(alarms["grouped"]) - 1 / 11) < 0.025
    with pytest.raises(InlierError, match="10 calibration groups can promise no false-alarm rate below 0.09091"):
        grouped.rule(1 / 41)


@pytest.mark.parametrize("confidence", [None, 0.95])
def test_the_confident_rate_of_groups_is_kept(confidence):
    rng, kept, draws = np.random.default_rng(6), [], 400
    for _ in range(draws):
        scores, groups = drawn_groups(rng, 60)
        rule = Calibration("split", scores, scores, groups=groups).rule(0.1, confidence)
        new, of = drawn_groups(rng, 1500)
        share = np.bincount(of, new > rule.threshold) / np.bincount(of)
        kept.append(share.mean() <= rule.confident)
    assert np.mean(kept) >= 0.95 - 4 * np.sqrt(0.05 * 0.95 / draws)


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 4)), min_size=1, max_size=40), st.floats(0.05, 0.95))
def test_verdict_and_p_value_agree_with_groups_and_ties(pairs, alpha):
    scores, groups = np.array(pairs, float).T
    calibration = Calibration("split", scores, scores, groups=groups.astype(int))
    if alpha < smallest_alpha(calibration.n_groups):
        return
    rule = calibration.rule(alpha)
    for score in np.arange(-1, 8, 0.5):
        assert (rule.verdict(score) == "defect") == (calibration.p_values(score) <= alpha + 1e-9)


# -- categories -------------------------------------------------------------------------------------------------------


def two_categories(rng, n=60):
    scores = np.concatenate([rng.normal(0, 1, n), rng.normal(10, 3, n)])
    return Calibration("split", scores, scores, np.repeat(["bolt", "nut"], n))


def test_every_category_keeps_its_own_rate():
    rng, alarms = np.random.default_rng(7), {"bolt": [], "nut": []}
    for _ in range(4000):
        calibration = two_categories(rng, 20)
        for category, new in (("bolt", rng.normal(0, 1)), ("nut", rng.normal(10, 3))):
            alarms[category].append(calibration.rule(0.1, category=category).verdict(new) == "defect")
    for seen in alarms.values():
        assert abs(np.mean(seen) - 2 / 21) < 0.02


def test_of_unknown_category_the_largest_p_value_counts():
    calibration = two_categories(np.random.default_rng(8))
    rule = calibration.rule(0.1)
    own = [calibration.rule(0.1, category=name) for name in ("bolt", "nut")]
    assert rule.threshold == max(r.threshold for r in own)
    for score in np.linspace(-3, 20, 50):
        p = [float(calibration.p_values(score, name)) for name in ("bolt", "nut")]
        assert calibration.p_values(score) == max(p)
        assert (rule.verdict(score) == "defect") == (max(p) <= 0.1)
    with pytest.raises(InlierError, match="knows no category 'screw', only: bolt, nut"):
        calibration.rule(0.1, category="screw")


def test_a_category_with_too_few_pictures_is_named():
    scores = np.arange(25.0)
    calibration = Calibration("split", scores, scores, np.array(20 * ["bolt"] + 5 * ["nut"]))
    with pytest.raises(InlierError, match="nut: 5 calibration pictures can promise no false-alarm rate below 0.1667"):
        calibration.rule(0.1)
    assert calibration.rule().alpha == pytest.approx(1 / 6) and "nut: 5 calibration pictures" in calibration.note(None)
    assert calibration.rule(0.1, category="bolt").alpha == 0.1


def test_a_category_with_few_pictures_costs_no_other_its_evaluation(tmp_path):
    write_dataset(tmp_path, train=20, category="bolt")
    write_dataset(tmp_path, train=4, category="nut")
    detector = PaDiM("light", backbone="tiny", size=64).fit(tmp_path)
    assert evaluate(detector, tmp_path, categories=["bolt"], alpha=0.05).categories["bolt"].rule.alpha == 0.05
    with pytest.raises(InlierError, match="nut: 4 calibration pictures can promise no false-alarm rate below 0.2"):
        evaluate(detector, tmp_path, alpha=0.05)


def test_more_pictures_extend_a_calibration():
    rng = np.random.default_rng(9)
    old = Calibration("split", *rng.normal(size=(2, 10)), np.repeat(["bolt"], 10), np.repeat(np.arange(5), 2))
    new = Calibration("split", *rng.normal(size=(2, 4)), np.repeat(["bolt"], 4), np.arange(4))
    both = old.extended(new)
    assert len(both) == 14 and both.n_groups == 9 and both.kind == "split"
    np.testing.assert_array_equal(both.scores, np.concatenate([old.scores, new.scores]))


def test_an_empty_calibration_that_is_extended_is_what_extends_it():
    new = Calibration("split", *np.random.default_rng(9).normal(size=(2, 4)))
    assert Calibration("none").extended(new) is new


# -- who is held out --------------------------------------------------------------------------------------------------


@given(st.integers(2, 500), st.integers(0, 5))
def test_split_holds_out_a_fifth_at_least_20_never_more_than_half(n, seed):
    fitting, held_out = split(range(n), n * ["bolt"], seed)
    assert sorted(fitting + held_out) == list(range(n)) and len(held_out) <= max(n / 2, 1)
    assert len(held_out) >= min(20, n // 2) and len(held_out) >= n // 5
    assert split(range(n), n * ["bolt"], seed) == (fitting, held_out)


grouped_pictures = st.lists(st.tuples(st.integers(0, 12), st.sampled_from(["bolt", "nut"])), min_size=2, max_size=60)


@given(grouped_pictures, st.integers(0, 5))
def test_groups_are_never_split_and_every_category_is_held_out(pairs, seed):
    groups = [2 * group + (category == "nut") for group, category in pairs]  # a group has one category
    categories = [category for _, category in pairs]
    fitting, held_out = split(groups, categories, seed)
    assert sorted(fitting + held_out) == list(range(len(pairs)))
    assert not {groups[i] for i in fitting} & {groups[i] for i in held_out}
    for category in set(categories):
        n = len({g for g, c in zip(groups, categories) if c == category})
        assert len({groups[i] for i in held_out if categories[i] == category}) == n // 2


@given(grouped_pictures, st.integers(0, 5))
def test_every_picture_is_held_out_of_one_fold_its_group_with_it(pairs, seed):
    groups = [2 * group + (category == "nut") for group, category in pairs]
    made = folds(groups, [category for _, category in pairs], seed)
    assert sorted(i for _, held_out in made for i in held_out) == list(range(len(pairs)))
    for fitting, held_out in made:
        assert not {groups[i] for i in fitting} & {groups[i] for i in held_out}


# -- defaults ---------------------------------------------------------------------------------------------------------


def test_default_alpha_is_lowered_to_what_can_be_promised_and_a_note_says_so():
    few = Calibration("split", np.arange(40.0), np.arange(40.0))
    assert few.rule().alpha == pytest.approx(1 / 41)
    assert "40 calibration pictures promise no false-alarm rate below 0.02439" in few.note(None)
    assert few.note(0.05) == "" and few.rule(0.05).alpha == 0.05
    one, copies_of_one = Calibration("split", np.ones(1), np.ones(1)), np.zeros(9)
    assert "1 calibration picture promises no false-alarm rate below 0.5" in one.note(None)
    nine = Calibration("split", copies_of_one, copies_of_one, groups=copies_of_one)
    assert "9 calibration pictures in 1 group promise no false-alarm rate below 0.5" in nine.note(None)
    with pytest.raises(InlierError, match="1 calibration picture can promise no false-alarm rate below 0.5"):
        one.rule(0.1)
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


def test_folds_that_are_extended_by_held_out_pictures_promise_no_more_than_folds():
    folds, more = (
        Calibration("folds", *np.random.default_rng(0).random((2, 12))),
        Calibration("split", *np.ones((2, 3))),
    )
    assert folds.extended(more).kind == more.extended(folds).kind == "folds"
    assert more.extended(more).kind == "split"
