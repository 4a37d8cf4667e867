"""Intervals that hold what they promise, and known answers."""

import numpy as np
import pytest
from scipy import stats as scipy_stats

from analysis.stats import components, difference, holm


def draw(rng, mean, problems, seeds, problem_sd=0.6, seed_sd=0.1, base=None):
    """0/1 outcomes [seeds, problems] on problems that other arms share."""
    base = rng.normal(-0.5, 1.5, problems) if base is None else base
    logits = base + mean + rng.normal(0, problem_sd, problems) + rng.normal(0, seed_sd, (seeds, 1))
    return (rng.random((seeds, problems)) < 1 / (1 + np.exp(-logits))).astype(float)


@pytest.mark.parametrize(("problems", "seeds", "seed_sd"), [(1000, 4, 0.1), (300, 4, 0.3), (500, 8, 0.0)])
def test_the_interval_holds_the_truth_in_95_of_100_draws(problems, seeds, seed_sd):
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(400):
        base = rng.normal(-0.5, 1.5, problems)
        arms = [draw(rng, 0.0, problems, seeds, seed_sd=seed_sd, base=base) for _ in range(2)]
        estimate = difference(*arms)
        held += estimate.low <= 0 <= estimate.high
    assert 0.92 <= held / 400 <= 0.985


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


def test_with_one_seed_it_is_the_paired_t_test_and_says_so():
    rng = np.random.default_rng(3)
    arm, other = draw(rng, 0.3, 200, 1), draw(rng, 0.0, 200, 1)
    estimate = difference(arm, other)
    wanted = scipy_stats.ttest_rel(arm[0], other[0])
    interval = wanted.confidence_interval()
    assert estimate.method == "problems only (one seed)"
    assert estimate.p == pytest.approx(wanted.pvalue)
    assert (estimate.low, estimate.high) == pytest.approx((interval.low, interval.high))


def test_the_dense_model_is_one_row():
    rng = np.random.default_rng(4)
    estimate = difference(draw(rng, 0.0, 300, 4), np.full(300, 0.9))
    assert estimate.method == "variance components"
    assert estimate.value < 0


def test_different_problems_are_refused():
    with pytest.raises(ValueError, match="same ones"):
        difference(np.ones((2, 10)), np.ones((2, 11)))


def test_variance_components_find_what_was_put_in():
    rng = np.random.default_rng(5)
    found = []
    for _ in range(200):
        arm = rng.normal(0, 2, 300) + rng.normal(0, 0.5, (6, 1)) + rng.normal(0, 1, (6, 300))
        parts = components(arm)
        found.append((parts.seed * 6, parts.problem * 300, parts.residual * 1800))
    assert np.mean(found, 0) == pytest.approx([0.25, 4, 1], rel=0.1)


def test_seeds_that_differ_own_a_share_of_the_variance_and_equal_ones_none():
    rng = np.random.default_rng(6)
    assert components(draw(rng, 0, 1000, 8, seed_sd=1.0)).seed_share > 0.5
    same = np.tile(draw(rng, 0, 1000, 1), (4, 1))
    assert components(same).seed_share == 0


def test_holm_on_a_worked_example():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []
