"""Intervals that hold what they promise, and known answers."""

import numpy as np
import pytest
from scipy import stats as scipy_stats

from analysis.stats import (
    BOOTSTRAP,
    COMPONENTS,
    components,
    contrast,
    difference,
    holm,
    inverted_u,
    mean,
    mean_squares,
    trend,
)


def draw(rng, mean, problems, seeds, problem_sd=0.6, seed_sd=0.1, base=None):
    """0/1 outcomes [seeds, problems] on problems that other arms share."""
    base = rng.normal(-0.5, 1.5, problems) if base is None else base
    logits = base + mean + rng.normal(0, problem_sd, problems) + rng.normal(0, seed_sd, (seeds, 1))
    return (rng.random((seeds, problems)) < 1 / (1 + np.exp(-logits))).astype(float)


@pytest.fixture
def three_arms():
    """Of 4 seeds on 200 shared problems, the middle one far above the others."""
    rng = np.random.default_rng(11)
    base = rng.normal(-0.5, 1.5, 200)
    return [draw(rng, level, 200, 4, base=base) for level in (0.0, 2.0, 0.0)]


@pytest.mark.parametrize(
    ("problems", "seeds", "seed_sd", "problem_sd"),
    [(1000, 4, 0.1, 0.6), (300, 4, 0.3, 0.6), (500, 8, 0.0, 0.6), (300, 4, 0.0, 0.0), (300, 2, 0.3, 0.6)],
)
def test_the_interval_holds_the_truth_in_95_of_100_draws(problems, seeds, seed_sd, problem_sd):
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(400):
        base = rng.normal(-0.5, 1.5, problems)
        arms = [draw(rng, 0.0, problems, seeds, problem_sd, seed_sd, base) for _ in range(2)]
        estimate = difference(*arms)
        held += estimate.low <= 0 <= estimate.high
    assert 0.92 <= held / 400 <= 0.98


def test_a_bootstrap_over_problems_would_be_too_narrow_where_seeds_differ():
    rng = np.random.default_rng(2)
    held = 0
    for _ in range(300):
        base = rng.normal(-0.5, 1.5, 1000)
        arms = [draw(rng, 0.0, 1000, 2, seed_sd=0.5, base=base) for _ in range(2)]
        per_problem = arms[0].mean(0) - arms[1].mean(0)
        reach = 1.96 * per_problem.std(ddof=1) / np.sqrt(1000)
        held += abs(per_problem.mean()) <= reach
    assert held / 300 < 0.6


def test_an_inverted_u_is_rarely_found_where_the_middle_only_equals_the_better_end():
    rng = np.random.default_rng(12)
    found = 0
    for _ in range(400):
        base = rng.normal(-0.5, 1.5, 300)
        found += inverted_u(*(draw(rng, level, 300, 4, base=base) for level in (-3.0, 0.0, 0.0))).shown
    assert 0.02 <= found / 400 <= 0.08


def test_the_variance_of_a_contrast_is_that_of_a_balanced_two_way_analysis():
    """From sums of squares over a long table, fitted by least squares with dummy variables."""
    rng = np.random.default_rng(13)
    seeds, problems = 3, 12
    effects = rng.normal(0, 1, problems), rng.normal(0, 1, (2, seeds, 1))
    arms = [effects[0] + rng.normal(0, 1, problems) + effects[1][arm] + rng.normal(0, 0.3, (3, 12)) for arm in (0, 1)]
    wanted, d = 0.0, arms[0].mean(0) - arms[1].mean(0)
    for arm in arms:
        rows, columns = (part.ravel() for part in np.indices(arm.shape))
        dummies = np.eye(seeds)[rows], np.eye(problems)[columns]
        full, without_seeds = (
            ((arm.ravel() - design @ np.linalg.lstsq(design, arm.ravel(), rcond=None)[0]) ** 2).sum()
            for design in (np.hstack(dummies), dummies[1])
        )
        seed_square, residual = (without_seeds - full) / (seeds - 1), full / ((seeds - 1) * (problems - 1))
        assert mean_squares(arm) == pytest.approx((seed_square, residual))
        wanted += (seed_square - residual) / (seeds * problems)
    wanted += ((d - d.mean()) ** 2).sum() / (problems - 1) / problems
    estimate = difference(*arms)
    assert estimate.se**2 == pytest.approx(wanted)
    assert estimate.value == pytest.approx(arms[0].mean() - arms[1].mean())


def test_the_standard_error_is_the_spread_over_repeated_studies():
    rng = np.random.default_rng(14)
    found = []
    for _ in range(1500):
        base = rng.normal(0, 2, 40)
        arms = [base + rng.normal(0, 1, 40) + rng.normal(0, sd, (s, 1)) + rng.normal(0, 1, (s, 40))
                for sd, s in ((0.3, 4), (0.1, 6), (0.0, 3))]  # fmt: skip
        found.append([(e.value, e.se**2) for e in (contrast(arms, [1, -0.5, -0.5]), trend(arms), mean(arms[0]))])
    values, variances = np.moveaxis(np.array(found), 2, 0)
    assert variances.mean(0) == pytest.approx(values.var(0), rel=0.1)


def test_seeds_alone_give_welchs_t_test_and_the_t_test_of_the_means():
    """Where problems do not differ there are only the seeds' means, as in a textbook."""
    rng = np.random.default_rng(15)
    arms = [np.repeat(rng.normal(level, sd, (5, 1)), 30, axis=1) for level, sd in ((1.0, 0.5), (0.0, 2.0))]
    wanted = scipy_stats.ttest_ind(arms[0][:, 0], arms[1][:, 0], equal_var=False)
    estimate = difference(*arms)
    assert (estimate.p, estimate.df) == pytest.approx((wanted.pvalue, wanted.df))
    assert (estimate.low, estimate.high) == pytest.approx(wanted.confidence_interval())
    alone = scipy_stats.ttest_1samp(arms[1][:, 0], 0)
    assert (mean(arms[1]).p, mean(arms[1]).df) == pytest.approx((alone.pvalue, 4))


def orthogonal(seed, problem, rest):
    """[4, 4] whose mean squares are 16/3 seed², 16/3 problem² (of the means: a quarter) and 16/9 rest²."""
    a, b, c = np.array([(-1, -1, 1, 1), (-1, 1, -1, 1), (1, -1, 1, -1)])
    return 5 + seed * a[:, None] + problem * b + rest * np.outer(c, a)


def test_degrees_of_freedom_on_a_worked_example():
    estimate = mean(orthogonal(0.5, 3.0, 0.5))
    seeds, residual, problems = 4 / 3 / 16, 4 / 9 / 16, 12 / 4
    assert estimate.se**2 == pytest.approx(problems - residual + seeds)
    cautious = seeds * 5 / 3
    spread = problems**2 / 3 + cautious**2 / 3 + residual**2 / 9
    assert estimate.df == pytest.approx((problems - residual + cautious) ** 2 / spread)


def test_seeds_that_agree_by_chance_promise_neither_certainty_nor_degrees_of_freedom():
    estimate = mean(orthogonal(0.0, 0.1, 2.0))
    residual, problems = 64 / 9 / 16, 0.04 / 3 / 4
    assert estimate.se**2 == pytest.approx(problems / 4)
    assert estimate.df == pytest.approx(residual**2 / (problems**2 / 3 + residual**2 / 3 + residual**2 / 9))
    few = difference([[1, 1, 0, 0, 1, 0], [0, 1, 0, 1, 1, 0]], [[1, 0, 0, 0, 1, 0], [0, 0, 0, 1, 1, 0]])
    assert few.low < 0 < few.high


@pytest.mark.parametrize("alternative", ["two-sided", "greater", "less"])
@pytest.mark.parametrize("copies", [0, 4], ids=["not drawn", "equal seeds"])
def test_without_seed_variance_it_is_the_paired_t_test(alternative, copies):
    rng = np.random.default_rng(3)
    arm, other = draw(rng, 0.3, 200, 1)[0], draw(rng, 0.0, 200, 1)[0]
    wanted = scipy_stats.ttest_rel(arm, other, alternative=alternative)
    pair = [np.tile(row, (copies, 1)) if copies else row for row in (arm, other)]
    estimate = difference(*pair, confidence=0.9, alternative=alternative)
    interval = wanted.confidence_interval(0.9)
    assert estimate.method == COMPONENTS
    assert (estimate.p, estimate.df) == pytest.approx((wanted.pvalue, 199))
    assert (estimate.low, estimate.high) == pytest.approx((interval.low, interval.high))
    assert estimate.seeds == (copies, copies)


def test_the_dense_model_has_no_seed_variance_and_a_single_draw_has_an_unknown_one():
    rng = np.random.default_rng(4)
    arm, dense = draw(rng, 0.0, 300, 4), np.full(300, 0.9)
    estimate = difference(arm, dense)
    assert (estimate.method, estimate.seeds, estimate.problems) == (COMPONENTS, (4, 0), 300)
    assert (estimate.value, estimate.se) == pytest.approx((mean(arm).value - 0.9, mean(arm).se))
    assert difference(arm, dense[None]).method == BOOTSTRAP


def test_one_seed_is_a_bootstrap_over_problems_labelled_so_and_the_same_every_time():
    rng = np.random.default_rng(5)
    base = rng.normal(-0.5, 1.5, 400)
    arm, other = draw(rng, 0.5, 400, 1, base=base), draw(rng, 0.0, 400, 1, base=base)
    estimate = difference(arm, other)
    assert estimate.method == "bootstrap over problems (one seed)"
    assert repr(estimate) == repr(difference(arm.copy(), other.copy()))  # repr: df is NaN
    paired = scipy_stats.ttest_rel(arm[0], other[0])
    interval = paired.confidence_interval()
    assert (estimate.low, estimate.high) == pytest.approx((interval.low, interval.high), abs=0.003)
    assert estimate.p == pytest.approx(paired.pvalue, abs=0.02)  # sums of 0 and 1 tie with 0
    assert np.isnan(estimate.df)


def test_one_seed_and_a_handful_of_problems_are_no_surer_than_students_t():
    arm, other = np.zeros((1, 4)), np.array([[0.625, 0.5, 1.0, 0.375]])
    estimate, paired = difference(arm, other), scipy_stats.ttest_rel(arm[0], other[0])
    interval = paired.confidence_interval()
    assert (estimate.low, estimate.high, estimate.p) == pytest.approx((interval.low, interval.high, paired.pvalue))


@pytest.mark.parametrize("alternative", ["two-sided", "greater", "less"])
@pytest.mark.parametrize("seeds", [1, 4])
def test_the_interval_excludes_0_exactly_where_p_says_so(alternative, seeds):
    rng = np.random.default_rng(6)
    sides = set()
    for _ in range(40):
        arm, other = rng.normal(rng.normal(0, 0.3), 1, (2, seeds, 60))
        estimate = difference(arm, other, 0.8, alternative)
        excluded = not estimate.low <= 0 <= estimate.high
        if abs(estimate.p - 0.2) > 0.001:  # the bootstrap counts resamples
            assert excluded == (estimate.p < 0.2)
            sides.add(excluded)
    assert sides == {True, False}


def test_one_sided_tests_are_halves_of_the_two_sided_one(three_arms):
    low, middle, _ = three_arms
    p = {side: difference(middle, low, alternative=side).p for side in ("two-sided", "greater", "less")}
    assert p["greater"] == pytest.approx(p["two-sided"] / 2)
    assert p["less"] == pytest.approx(1 - p["greater"])
    assert difference(middle, low, alternative="greater").high == np.inf
    assert difference(middle, low, alternative="less").low == -np.inf


def test_a_trend_is_the_slope_of_a_fitted_line():
    rng = np.random.default_rng(7)
    arms = [rng.normal(0.5 * step, 1, (3, 50)) for step in range(5)]
    estimate = trend(arms)
    assert estimate.value == pytest.approx(np.polyfit(range(5), [arm.mean() for arm in arms], 1)[0])
    assert estimate.p < 0.001
    assert trend(arms[::-1]).value == pytest.approx(-estimate.value)


def test_an_arm_in_the_middle_of_a_trend_of_three_adds_no_variance(three_arms):
    low, middle, high = three_arms
    ends = difference(high, low)
    slope = trend(three_arms)
    assert (slope.value, slope.se, slope.p) == pytest.approx((ends.value / 2, ends.se / 2, ends.p))
    assert trend([low, middle[:1], high]).method == COMPONENTS


def test_an_inverted_u_needs_both_sides(three_arms):
    low, middle, high = three_arms
    found = inverted_u(low, middle, high)
    assert found.shown
    assert found.p == max(found.rise.p, found.fall.p) < 0.001
    assert found.rise == difference(middle, low, alternative="greater")
    assert not inverted_u(low, middle, middle).shown
    assert inverted_u(low, middle, middle).rise.p < 0.001
    assert not inverted_u(low, middle, high, better="lower").shown
    assert inverted_u(-low, -middle, -high, better="lower").p == pytest.approx(found.p)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: difference(np.ones((2, 10)), np.ones((2, 11))), "10 and 11 problems: they must be the same ones"),
        (lambda: trend([np.ones((2, 10))]), "at least two arms, not 1"),
        (lambda: contrast([np.ones((2, 10))], [1, -1]), "1 arms with the weights"),
        (lambda: contrast([], []), "0 arms"),
        (lambda: contrast([np.ones((2, 10))] * 2, [0, 0]), "not all 0"),
        (lambda: mean(np.ones((2, 1))), "one problem"),
        (lambda: mean(np.ones((2, 3, 4))), "seeds, problems"),
        (lambda: mean(np.array([[1, np.nan], [0, 1]])), "missing values"),
        (lambda: difference(np.ones(5), np.ones(5), alternative="larger"), "two-sided, greater, less"),
        (lambda: mean(np.ones((2, 5)), confidence=95), "not between 0 and 1"),
        (lambda: inverted_u(*np.ones((3, 2, 5)), better="more"), "higher, lower"),
        (lambda: components(np.ones((1, 5))), "at least two calibration seeds"),
        (lambda: components(np.ones(5)), "at least two calibration seeds"),
    ],
)
def test_what_makes_no_sense_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("seeds", [0, 1, 4])
def test_arms_that_never_differ_differ_by_nothing(seeds):
    arm = np.ones((seeds, 20)) if seeds else np.ones(20)
    estimate = difference(arm, arm)
    assert (estimate.value, estimate.se, estimate.low, estimate.high, estimate.p) == (0, 0, 0, 0, 1)


def test_variance_components_find_what_was_put_in():
    rng = np.random.default_rng(5)
    found = []
    for _ in range(200):
        arm = rng.normal(0, 2, 300) + rng.normal(0, 0.5, (6, 1)) + rng.normal(0, 1, (6, 300))
        parts = components(arm)
        found.append((parts.seed * 6, parts.problem * 300, parts.residual * 1800))
    assert np.mean(found, 0) == pytest.approx([0.25, 4, 1], rel=0.1)


def test_shares_are_of_the_variance_of_the_mean():
    rng = np.random.default_rng(8)
    parts = components(rng.normal(0, 2, 300) + rng.normal(0, 0.5, (6, 1)) + rng.normal(0, 1, (6, 300)))
    assert parts.seed_share + parts.problem_share + parts.residual_share == pytest.approx(1)
    assert parts.problem_share == pytest.approx(parts.problem / parts.total)
    assert (parts.problems, parts.seeds) == (300, 6)
    assert np.isnan(components(np.ones((2, 5))).seed_share)


def test_seeds_that_differ_own_a_share_of_the_variance_and_equal_ones_none():
    rng = np.random.default_rng(6)
    assert components(draw(rng, 0, 1000, 8, seed_sd=1.0)).seed_share > 0.5
    same = np.tile(draw(rng, 0, 1000, 1), (4, 1))
    assert components(same).seed_share == pytest.approx(0, abs=1e-9)


def test_holm_on_a_worked_example():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []
