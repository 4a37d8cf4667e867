"""Equivalence that is claimed rarely where it is false and nearly always where it is true, and the words for it."""

import re
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats as scipy_stats

from analysis.equivalence import Equivalence, best, claim, equivalence, verdict
from analysis.stats import BOOTSTRAP, COMPONENTS, Estimate, difference
from analysis.verdicts import ACCURACY, KL

NONE = Estimate(0.002, 0.004, 40.0, -0.006, 0.010, 0.62, COMPONENTS, 500, (8, 8))
INSIDE = replace(NONE, low=-0.005, high=0.009, confidence=0.9)
SHOWN = Estimate(0.0213, 0.008, 40.0, 0.0052, 0.0374, 0.0109, COMPONENTS, 500, (8, 8))
ABOVE = replace(SHOWN, low=0.0078, high=0.0348, confidence=0.9)
EQUAL, OUTSIDE = Equivalence(INSIDE, 0.015, 0.002), Equivalence(ABOVE, 0.015, 0.78)


def share_called_equivalent(truth, margin, seeds, problems, seed_sd=0.02, draws=600):
    """Of so many studies, whose arms differ by `truth` in the populations of problems and of seeds."""
    rng = np.random.default_rng(21)
    found = 0
    for _ in range(draws):
        base = rng.normal(0.5, 0.3, problems)
        arms = [
            level + base + rng.normal(0, 0.1, problems) + rng.normal(0, seed_sd, (seeds, 1)) + noise
            for level, noise in zip((truth, 0.0), rng.normal(0, 0.3, (2, seeds, problems)), strict=True)
        ]
        found += equivalence(*arms, margin).shown
    return found / draws


@pytest.mark.parametrize("side", [1, -1])
@pytest.mark.parametrize(("seeds", "problems", "seed_sd"), [(8, 500, 0.02), (4, 300, 0.02), (8, 500, 0.0)])
def test_at_the_margin_it_is_claimed_in_no_more_than_5_of_100_studies(side, seeds, problems, seed_sd):
    margin = 0.05
    assert share_called_equivalent(side * margin, margin, seeds, problems, seed_sd) <= 0.07


def test_without_a_difference_it_is_claimed_nearly_always_where_there_is_enough_data_and_seldom_where_there_is_not():
    assert share_called_equivalent(0.0, 0.05, seeds=8, problems=1000, seed_sd=0.01) >= 0.98
    assert share_called_equivalent(0.0, 0.05, seeds=4, problems=20) <= 0.3


def test_of_models_that_no_seed_chose_it_is_the_paired_two_one_sided_t_tests():
    rng = np.random.default_rng(22)
    arm, other = rng.normal(0.01, 1, (2, 400))
    found = equivalence(arm, other, 0.15)
    sides = [
        scipy_stats.ttest_rel(arm + 0.15, other, alternative="greater").pvalue,
        scipy_stats.ttest_rel(arm - 0.15, other, alternative="less").pvalue,
    ]
    assert found.p == pytest.approx(max(sides))


@pytest.mark.parametrize("seeds", [1, 4])
def test_p_is_below_the_level_where_the_interval_lies_inside_the_margin(seeds):
    rng = np.random.default_rng(23)
    sides = set()
    for _ in range(60):
        arm, other = rng.normal(rng.normal(0, 0.2, (2, 1, 1)), 1, (2, seeds, 150))
        found = equivalence(arm, other, 0.25)
        assert found.inside == difference(arm, other, 0.9) or seeds == 1  # of which df is NaN
        if abs(found.p - 0.05) > 0.01 * (seeds == 1):  # the bootstrap counts resamples
            assert found.shown == (found.p < 0.05)
            sides.add(found.shown)
    assert sides == {True, False}


@pytest.mark.parametrize("margin", [0, -1, float("nan")])
def test_a_margin_of_nothing_is_refused(margin):
    with pytest.raises(ValueError, match="a margin must be above 0"):
        equivalence(np.ones((2, 5)), np.ones((2, 5)), margin)


def test_equal_arms_are_equivalent_by_any_margin():
    found = equivalence(np.ones((3, 5)), np.ones((3, 5)), 1e-9)
    assert found.shown and found.p < 1e-9


def test_the_four_verdicts():
    assert verdict(SHOWN, OUTSIDE, ACCURACY) == "better" and verdict(SHOWN, OUTSIDE, KL) == "worse"
    lower = replace(SHOWN, value=-0.0213, low=-0.0374, high=-0.0052)
    assert verdict(lower, OUTSIDE, ACCURACY) == "worse" and verdict(lower, OUTSIDE, KL) == "better"
    assert verdict(NONE, EQUAL, ACCURACY) == "equivalent"
    assert verdict(SHOWN, OUTSIDE, ACCURACY, adjusted=0.08) == "not resolved", "lost to the correction"
    assert verdict(SHOWN, replace(EQUAL, margin=0.05), ACCURACY) == "better", "a difference that is shown comes first"


def same_sentence(found, wanted):
    assert found == re.sub(r"\s+", " ", wanted.strip())


def test_a_claim_quotes_both_intervals_the_margin_and_what_it_rests_on():
    same_sentence(
        claim("hard − easy, matched by length", NONE, EQUAL, ACCURACY, 0.9),
        """Hard − easy, matched by length, in accuracy: +0.002 [−0.006, +0.010], Holm-adjusted p = 0.90, 90 % interval
        [−0.005, +0.009] for a margin of ± 0.015 (half width 0.008, 500 problems, 8 seeds): equivalent.""",
    )
    assert claim("a − b", SHOWN, OUTSIDE, ACCURACY).endswith("(half width 0.016, 500 problems, 8 seeds): better.")
    assert claim("a − b", SHOWN, OUTSIDE, ACCURACY, 0.08).endswith(
        "): not resolved (p = 0.011 before Holm's correction)."
    )
    small = Equivalence(replace(ABOVE, low=0.001, high=0.004), 0.015, 0.001)
    assert claim("a − b", SHOWN, small, ACCURACY).endswith(": better, by less than the margin.")
    alone = replace(SHOWN, method=BOOTSTRAP, seeds=(1, 1), df=float("nan"))
    assert claim("a − b", alone, OUTSIDE, ACCURACY).endswith(
        "1 seed, bootstrap over problems only): better, with these calibration sets."
    )


def test_a_margin_far_below_the_interval_does_not_read_as_0():
    tiny = Equivalence(replace(ABOVE, low=-0.01, high=0.03), 0.0004, 0.9)
    assert "for a margin of ± 0.0004 (" in claim("a − b", SHOWN, tiny, KL)


def test_the_best_is_better_than_each():
    than = {"short": "better", "long": "better"}
    assert best("moderate", than, "unmatched", KL) == (
        "Moderate is best, unmatched, in KL: shown (against short better, against long better)."
    )
    assert "not shown (against short better, against long equivalent)" in best(
        "moderate", than | {"long": "equivalent"}, "unmatched", KL
    )
