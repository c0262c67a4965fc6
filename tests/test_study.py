"""Attribute agreement, sample sizes and probability of detection: published examples to the printed digit, statsmodels,
and promises by simulation."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binom

from inlier.errors import InlierError
from inlier.study import agreement, detection, parts, plan
from inlier.study.agreement import cohen_interval, cohen_kappa, crosstab, fleiss_interval, fleiss_kappa

# -- published examples -----------------------------------------------------------------------------------------------

# The attribute study of the AIAG's manual (50 parts, 3 appraisers, 3 trials): its cross-tabulations of 150 decisions
# (rows and columns: rejected, accepted), and the kappas that it prints (Measurement Systems Analysis, 4th edition,
# tables III-C 3 to 5).
AIAG = {
    ("A", "B"): ([[44, 6], [3, 97]], 0.86),
    ("B", "C"): ([[42, 5], [9, 94]], 0.79),
    ("A", "C"): ([[43, 7], [8, 92]], 0.78),
    ("A", "reference"): ([[45, 5], [3, 97]], 0.88),
    ("B", "reference"): ([[45, 2], [3, 100]], 0.92),
    ("C", "reference"): ([[42, 9], [6, 93]], 0.77),
}

# An inspection of plain bearings for black spots (15 parts, 3 appraisers, 3 trials), the example of attribute agreement
# analysis of JASP (jaspQualityControl, msaAttribute): three trials a part, D = spots, and JASP's figures below.
BEARINGS = {
    "EG": "DDD GGG DDD DGG DDD DDD DDD GGG GGG DDD GGG DDD DDD GGG DDD",
    "BL": "DDD GGG DDD DGG DDD DDD GGG GGG GGG DDD GGG DDD DDD GGG DDD",
    "MH": "DDD DDD DDD DDD DDD DDD DDD GGD DGG DDD DGD DDD DDD GGG DDD",
}
BEARINGS_TRUTH = "D G D D D G D G G D G D D D D"

# Fleiss (1971) as Wikipedia and many a textbook show it: 10 subjects, 14 raters, 5 categories.
FLEISS = [
    [0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1],
    [7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7],
]  # fmt: skip

# "EXAMPLE 3 hm" of MIL-HDBK-1823A: cracks by their depth in thousandths of an inch; those of unknown depth or none are
# left out.
HIT = """
    43 31 19 37 19 33 21 51 18 27 25 18 27 19 21 16 39 25 37 47 39 41 39 21 33 27 29 25 37 25 23 27 19 21 31 33 29
    41 76 97 33 62 49 57 41 49 47 43 43 49 68 68 45 31 45 41 58 68 58 62 53 53 60 41 64 60 37 49 43 66 57 84 49 39
    25 21 47 58 58 29 35 47 55 64 57 62 49 47 47
"""
MISS = "10 8 10 14 18 100 25 8 12 12 6 16 6 10 18 12 8 12 14 4 19 10 10 6 23 10 19 21 12 33"


def judged(words):
    return np.array([[letter == "D" for letter in word] for word in words.split()])


@pytest.fixture(scope="module")
def bearings():
    ratings = np.stack([judged(words) for words in BEARINGS.values()])
    return agreement.agreement(list(BEARINGS), ratings, judged(BEARINGS_TRUTH)[:, 0])


def of(study, name):
    return next(a for a in study.appraisers if a.name == name)


@pytest.mark.parametrize("pair", AIAG)
def test_kappas_are_those_printed_in_the_manual(pair):
    table, printed = AIAG[pair]
    assert np.sum(table) == 150 and round(cohen_kappa(table), 2) == printed


@pytest.mark.parametrize("right, low, high", [(42, 71, 93), (45, 78, 97), (40, 66, 90)])
def test_intervals_of_effectiveness_are_those_printed_in_the_manual(right, low, high):
    """Of A, B and C, 50 parts; in %."""
    assert [round(100 * edge) for edge in agreement.Share(right, 50).interval] == [low, high]


@pytest.mark.parametrize("name, miss, alarm", [("A", 6.3, 4.9), ("B", 6.3, 2.0), ("C", 12.5, 8.8)])
def test_rates_are_those_printed_in_the_manual(name, miss, alarm):
    """48 decisions on 16 bad parts, 102 on 34 good ones: the cross-tabulations are all that is needed."""
    ((_, false_alarms), (misses, _)) = AIAG[name, "reference"][0]
    bad, good = np.arange(150) < 48, np.arange(150) >= 48
    said_defect = np.where(bad, np.arange(150) >= misses, np.arange(150) < 48 + false_alarms)
    found = agreement.agreement([name], said_defect[None, :, None], bad).appraisers[0]
    assert (bad.sum(), good.sum()) == (found.miss_rate.n, found.false_alarm_rate.n)
    assert (round(100 * found.miss_rate.value + 1e-9, 1), round(100 * found.false_alarm_rate.value, 1)) == (miss, alarm)


@pytest.mark.parametrize(
    "name, within, right, miss, alarm, kappa_within, kappa_truth",
    [
        ("EG", (14, 68.052, 99.831), (12, 51.911, 95.669), 16.67, 20, 0.905462184873949, 0.612903225806452),
        ("BL", (14, 68.052, 99.831), (11, 44.900, 92.213), 26.67, 20, 0.91, 0.492307692307692),
        ("MH", (12, 51.911, 95.669), (9, 32.287, 83.664), 10, 66.67, 0.543918918918919, 0.264150943396226),
    ],
)
def test_an_appraisers_figures_are_those_of_jasp(bearings, name, within, right, miss, alarm, kappa_within, kappa_truth):
    a = of(bearings, name)
    for share, (k, low, high) in ((a.within, within), (a.effectiveness, right)):
        assert (share.k, share.n) == (k, 15)
        assert [round(100 * edge, 3) for edge in share.interval] == [low, high]
    assert (round(100 * a.miss_rate.value, 2), round(100 * a.false_alarm_rate.value, 2)) == (miss, alarm)
    assert (a.miss_rate.n, a.false_alarm_rate.n) == (30, 15)
    assert a.kappa_within.value == pytest.approx(kappa_within)
    assert a.kappa_truth.value == pytest.approx(kappa_truth)


def test_the_studys_figures_are_those_of_jasp(bearings):
    for share, k, low, high in ((bearings.between, 9, 32.287, 83.664), (bearings.effectiveness, 7, 21.267, 73.414)):
        assert (share.k, share.n) == (k, 15)
        assert [round(100 * edge, 3) for edge in share.interval] == [low, high]
    assert bearings.kappa_between.value == pytest.approx(0.641666666666666)
    assert list(bearings.pairs) == [("EG", "BL"), ("EG", "MH"), ("BL", "MH")]  # what JASP has there is Pearson's r


def test_fleiss_kappa_is_that_of_the_worked_example():
    assert round(fleiss_kappa(FLEISS), 3) == 0.210


def test_intervals_of_fleiss_kappa_are_those_of_irrcac(bearings):
    """The Python edition of Gwet's program, 0.4.4: `CAC(ratings, digits=10).fleiss()`."""
    assert fleiss_interval(FLEISS) == pytest.approx((0.0009727327, 0.4188886762), abs=1e-9)
    assert bearings.kappa_between.interval == pytest.approx((0.4066282278, 0.8767051055), abs=1e-9)
    for name, low, high in (("EG", 0.7053421884, 1), ("BL", 0.7180268712, 1), ("MH", 0.1186362053, 0.9692016325)):
        assert of(bearings, name).kappa_within.interval == pytest.approx((low, high), abs=1e-9)


def test_the_handbooks_cracks_give_the_published_curve():
    """Coefficients as JASP gives them for the handbook's data, over the logarithm of the depth in inches."""
    hit, miss = (np.array(text.split(), float) / 1000 for text in (HIT, MISS))
    curve = detection.fit(np.concatenate([hit, miss]), np.arange(len(hit) + len(miss)) < len(hit))
    assert curve.intercept == pytest.approx(17.6573206618451) and curve.slope == pytest.approx(4.39007841700679)


# -- the same by statsmodels ------------------------------------------------------------------------------------------


def test_kappas_are_those_of_statsmodels():
    from statsmodels.stats import inter_rater

    rng = np.random.default_rng(0)
    one, other = rng.integers(0, 2, (2, 60)).astype(bool)
    table = crosstab(one, other)
    np.testing.assert_array_equal(table, [[(~one & ~other).sum(), (~one & other).sum()],
                                          [(one & ~other).sum(), (one & other).sum()]])  # fmt: skip
    assert cohen_kappa(table) == pytest.approx(inter_rater.cohens_kappa(table).kappa)
    counts = rng.multinomial(9, [0.3, 0.7], 40)
    assert fleiss_kappa(counts) == pytest.approx(inter_rater.fleiss_kappa(counts))


@pytest.mark.parametrize("verdicts, n, right", [(2, 30, 0.8), (2, 30, 0.2), (3, 200, 0.7)])
def test_with_one_decision_a_part_intervals_of_cohens_kappa_are_those_of_statsmodels(verdicts, n, right):
    from statsmodels.stats import inter_rater

    rng = np.random.default_rng(5)
    one = rng.integers(0, verdicts, n)
    other = np.where(rng.random(n) < right, one, rng.integers(0, verdicts, n))
    tables = np.zeros((n, verdicts, verdicts))
    tables[np.arange(n), one, other] = 1
    theirs = inter_rater.cohens_kappa(tables.sum(0))
    assert cohen_interval(tables) == pytest.approx((theirs.kappa_low, min(theirs.kappa_upp, 1)))
    if verdicts == 2:
        study = agreement.agreement(["A", "B"], np.stack([one, other])[:, :, None] == 1, one == 1)
        assert study.pairs["A", "B"].interval == pytest.approx(cohen_interval(tables))


def test_the_manuals_tables_have_the_intervals_of_statsmodels_if_decisions_were_independent():
    from statsmodels.stats import inter_rater

    for table, _ in AIAG.values():
        each = np.repeat(np.eye(4).reshape(4, 2, 2), np.ravel(table), 0)
        theirs = inter_rater.cohens_kappa(np.array(table))
        assert cohen_interval(each) == pytest.approx((theirs.kappa_low, theirs.kappa_upp))


def test_exact_intervals_are_those_of_statsmodels():
    from statsmodels.stats.proportion import proportion_confint

    for k, n in ((0, 59), (3, 48), (45, 50), (50, 50)):
        assert agreement.Share(k, n).interval == pytest.approx(proportion_confint(k, n, 0.05, "beta"))
        assert plan.upper_limit(k, n) == pytest.approx(proportion_confint(k, n, 0.10, "beta")[1])  # one-sided


def draw_hits(rng, n, a50=5.0, slope=3.0):
    sizes = np.exp(rng.uniform(0, np.log(25), n))
    return sizes, rng.random(n) < 1 / (1 + (a50 / sizes) ** slope)


def test_the_curve_is_that_of_statsmodels():
    import statsmodels.api as sm

    sizes, found = draw_hits(np.random.default_rng(1), 120)
    curve = detection.fit(sizes, found)
    other = sm.Logit(found.astype(float), sm.add_constant(np.log(sizes))).fit(disp=False)
    np.testing.assert_allclose([curve.intercept, curve.slope], other.params, rtol=1e-6)
    assert curve.log_likelihood == pytest.approx(other.llf)
    assert curve.probability(curve.size(0.9)) == pytest.approx(0.9)


def test_the_bound_is_where_the_likelihood_of_all_curves_through_it_is_just_too_low():
    """Found anew by statsmodels, with the intercept tied to the slope by POD(bound) = 90 %."""
    import statsmodels.api as sm
    from scipy.stats import chi2

    sizes, found = draw_hits(np.random.default_rng(2), 120)
    curve = detection.fit(sizes, found)
    away = np.log(sizes / curve.bound(0.9))
    tied = sm.GLM(found.astype(float), away, family=sm.families.Binomial(), offset=np.full(len(sizes), np.log(9))).fit()
    assert 2 * (curve.log_likelihood - tied.llf) == pytest.approx(chi2.ppf(0.90, 1), rel=1e-5)


# -- promises, by simulation ------------------------------------------------------------------------------------------


def test_the_true_a90_lies_below_a90_95_in_95_of_100_studies():
    rng, true, below = np.random.default_rng(3), 5.0 * 9 ** (1 / 3), 0
    for _ in range(300):
        bound = detection.fit(*draw_hits(rng, 100)).bound(0.9)
        below += bound is None or true <= bound
    assert binom.cdf(below, 300, 0.95) > 0.005 and binom.sf(below - 1, 300, 0.95) > 0.005


def test_a_study_of_the_needed_size_is_wrong_at_most_as_often_as_it_says():
    """Of stations that let 5.01 % escape, fewer than 5 % pass."""
    for failures in (0, 1, 4):
        n = plan.parts_needed(0.05, 0.95, failures)
        assert plan.chance(0.0501, n, failures) < 0.05 < plan.chance(0.05, n - 1, failures)
        assert plan.upper_limit(failures, n) <= 0.05 < plan.upper_limit(failures, n - 1)


def test_bayes_promise_holds_over_the_prior():
    rng = np.random.default_rng(4)
    rates = rng.random(400_000)
    seen = rng.binomial(60, rates) == 2  # the stations whose study ended with 2 of 60
    below = rates[seen] <= plan.upper_limit_bayes(2, 60)
    assert abs(below.mean() - 0.95) < 4 * np.sqrt(0.05 * 0.95 / seen.sum())


def test_an_exact_interval_covers_at_least_as_often_as_it_says():
    for rate in (0.02, 0.1, 0.5):
        k = np.arange(51)
        edges = np.array([agreement.Share(int(i), 50).interval for i in k])
        assert binom.pmf(k, 50, rate)[(edges[:, 0] <= rate) & (rate <= edges[:, 1])].sum() >= 0.95


def test_trials_that_say_the_same_again_make_no_interval_of_kappa_narrower():
    rng = np.random.default_rng(6)
    truth = rng.random(40) < 0.5
    ratings = truth[None, :, None] ^ (rng.random((2, 40, 1)) < 0.2)
    once, thrice = (agreement.agreement(["A", "B"], np.repeat(ratings, n, 2), truth) for n in (1, 3))
    assert thrice.pairs["A", "B"].interval == pytest.approx(once.pairs["A", "B"].interval)
    for one, other in zip(once.appraisers, thrice.appraisers, strict=True):
        assert other.kappa_truth.interval == pytest.approx(one.kappa_truth.interval)


@pytest.mark.parametrize("n, least", [(50, 0.91), (200, 0.94)])
def test_the_true_kappas_lie_within_their_intervals_in_about_95_of_100_studies(n, least):
    """Some parts are hard, for all and in every trial: n parts, 2 appraisers, 3 trials. As if decisions were
    independent, the interval of Cohen's would be too narrow."""
    from statsmodels.stats import inter_rater

    rng = np.random.default_rng(7)

    def draw(n):
        truth, hard = rng.random(n) < 0.5, rng.random(n) < 0.3
        wrong = rng.random((2, n, 3)) < np.where(hard, rng.beta(0.5, 0.5, n), 0.01)[:, None]
        return truth, truth[None, :, None] ^ wrong

    def kappas(truth, ratings):
        study = agreement.agreement(["A", "B"], ratings, truth)
        a = study.appraisers[0]
        return study.pairs["A", "B"], a.kappa_truth, a.kappa_within, study.kappa_between

    true = np.mean([[k.value for k in kappas(*draw(10_000))] for _ in range(10)], 0)
    covered, as_if_independent = np.zeros(4), 0
    for _ in range(400):
        truth, ratings = draw(n)
        edges = np.array([k.interval or (-1, 1) for k in kappas(truth, ratings)])  # who says nothing is not wrong
        covered += (edges[:, 0] <= true) & (true <= edges[:, 1])
        theirs = inter_rater.cohens_kappa(crosstab(ratings[0], ratings[1]).sum(0))
        as_if_independent += theirs.kappa_low <= true[0] <= theirs.kappa_upp
    assert (binom.sf(covered - 1, 400, 0.95) > 0.005).all() and (binom.cdf(covered, 400, least) > 0.005).all()
    assert as_if_independent < covered[0] and binom.cdf(as_if_independent, 400, 0.95) < 0.005


# -- how many parts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate, needed", [(0.10, (29, 46, 61)), (0.05, (59, 93, 124)), (0.01, (299, 473, 628))])
def test_sample_sizes_are_those_of_the_tables(rate, needed):
    """With 0, 1 and 2 failures, 95 % confidence: 29 of 29, 45 of 46, ... as non-destructive testing tabulates them."""
    assert tuple(plan.parts_needed(rate, 0.95, failures) for failures in range(3)) == needed
    assert plan.parts_needed_bayes(rate) == needed[0] - 1
    assert plan.upper_limit_bayes(0, needed[0] - 1) <= rate < plan.upper_limit_bayes(0, needed[0] - 2)


def test_borderline_parts_are_those_nearest_to_the_threshold_of_both_kinds():
    defect = np.arange(100) >= 60
    scores = np.arange(100) / 10
    numbers, kinds = parts.draw(defect, scores, 6.0, (10, 12, 6), seed=0)
    drawn = {kind: sorted(n for n, k in zip(numbers, kinds) if k == kind) for kind in set(kinds)}
    assert drawn["borderline"] == [57, 58, 59, 60, 61, 62]
    assert len(drawn["good"]) == 10 and max(drawn["good"]) < 57
    assert len(drawn["defect"]) == 12 and min(drawn["defect"]) > 62
    assert numbers.tolist() == parts.draw(defect, scores, 6.0, (10, 12, 6), seed=0)[0].tolist()
    assert numbers.tolist() != parts.draw(defect, scores, 6.0, (10, 12, 6), seed=1)[0].tolist()
    assert numbers.tolist() != sorted(numbers)  # the order tells nothing


def test_too_few_parts_are_named():
    with pytest.raises(InlierError, match="5 defect parts are wanted, there are only 2 left"):
        parts.draw([False, True, True], None, None, (1, 5, 0), seed=0)
    with pytest.raises(InlierError, match="borderline parts are known by their scores"):
        parts.draw([False, True, True], None, None, (1, 1, 1), seed=0)


# -- what has no answer -----------------------------------------------------------------------------------------------


def test_kappa_of_nothing_but_agreement_by_chance_is_none():
    assert cohen_kappa([[10, 0], [0, 0]]) is None and fleiss_kappa([[3, 0], [3, 0]]) is None
    assert fleiss_kappa([[1, 0], [0, 1]]) is None  # one judgement a part agrees with no other
    with pytest.raises(ValueError, match="as many judgements"):
        fleiss_kappa([[2, 0], [1, 0]])


def test_there_is_no_interval_of_kappa_where_the_formula_would_give_one_of_no_width():
    good, defect = [[1, 0], [0, 0]], [[0, 0], [0, 1]]
    assert cohen_interval([good] * 9) is None and fleiss_interval([[3, 0], [3, 0]]) is None  # no kappa
    assert fleiss_interval([[1, 0], [0, 1]]) is None
    assert cohen_kappa([[9, 0], [0, 9]]) == 1 and cohen_interval([good, defect] * 9) is None  # all alike
    assert fleiss_kappa([[3, 0], [0, 3]]) == 1 and fleiss_interval([[3, 0], [0, 3]]) is None
    assert cohen_kappa([[9, 9], [0, 0]]) == 0  # one always says the same
    assert cohen_interval([good, [[0, 1], [0, 0]]] * 9) is None
    assert cohen_interval([[[2, 1], [0, 2]]]) is None and fleiss_interval([[2, 1]]) is None  # one part
    low, high = cohen_interval(np.repeat([good, defect, [[0, 1], [0, 0]]], [500_000, 500_000, 1], 0))
    assert 0 < 1 - low < 1e-4 and high == 1  # rounding is told from a single decision of a million


@pytest.mark.parametrize(
    "sizes, found, words",
    [
        ([], [], "no defect of known size"),
        ([1, 2], [True, True], "all 2 defects were found"),
        ([1, 2], [False, False], "none of 2 defects was found"),
        ([1, 2, 2, 3], [False, False, True, True], "do not overlap"),
    ],
)
def test_a_curve_that_cannot_be_fitted_says_why(sizes, found, words):
    assert words in detection.why_not(sizes, found)
    if sizes:
        with pytest.raises(ValueError, match=words):
            detection.fit(sizes, found)


def test_no_size_is_named_where_size_may_not_matter():
    curve = detection.fit([1, 2, 3, 4, 5, 6], [True, False, True, False, True, True])
    assert curve.slope > 0 and curve.size() is not None and curve.bound() is None
    hardly = detection.fit([1, 1, 1, 1, 2, 2, 2, 2, 2], [True, True, False, False, True, True, True, False, False])
    assert hardly.size() is not None and replace(hardly, slope=0.01).size() is None  # e^220 times larger
    falling = detection.fit([1, 2, 3, 4, 5, 6], [True, True, False, True, False, False])
    assert falling.slope < 0 and falling.size() is None and falling.bound() is None


def test_the_worst_figure_decides_by_the_manuals_limits():
    truth = np.arange(100) < 50

    def grade(misses, alarms):
        said = truth.copy()
        said[:misses], said[50 : 50 + alarms] = False, True
        return agreement.agreement(["A"], said[None, :, None], truth).appraisers[0]

    assert grade(1, 2).grade == "acceptable" and set(grade(1, 2).grades.values()) == {"acceptable"}
    assert grade(2, 0).grades == {
        "effectiveness": "acceptable",
        "miss rate": "marginal",
        "false-alarm rate": "acceptable",
    }
    assert grade(2, 0).grade == "marginal" and grade(0, 5).grade == "marginal" and grade(0, 6).grade == "unacceptable"
    assert grade(3, 0).grade == "unacceptable"


def test_ratings_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="are not those of 2 appraisers and 3 parts"):
        agreement.agreement(["A", "B"], np.zeros((2, 4, 1), bool), np.zeros(3, bool))
