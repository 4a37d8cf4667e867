"""Sentences that quote what was estimated and claim no more than the test allows."""

import re
from dataclasses import replace

import numpy as np
import pytest

from analysis import verdicts
from analysis.stats import BOOTSTRAP, COMPONENTS, Components, Estimate, InvertedU, components, inverted_u, trend
from analysis.stats import difference as estimated_difference
from analysis.verdicts import ACCURACY, KL

SHOWN = Estimate(0.0213, 0.008, 40.0, 0.0042, 0.0384, 0.0141, COMPONENTS, 1000, (4, 4))
OPEN = Estimate(0.0213, 0.012, 40.0, -0.0029, 0.0455, 0.0834, COMPONENTS, 1000, (4, 4))
LOWER = Estimate(-0.00281234, 0.0007, 40.0, -0.0042111, -0.00141, 0.0002, COMPONENTS, 500, (4, 4))
ONE_SEED = replace(SHOWN, method=BOOTSTRAP, seeds=(1, 1), df=float("nan"))
RISE = replace(SHOWN, alternative="greater", high=np.inf, p=0.007)
FALL = replace(SHOWN, value=0.0151, low=0.0011, alternative="greater", high=np.inf, p=0.031)
LENGTHS = ("short", "moderate", "long")


def same_sentence(found, wanted):
    assert found == re.sub(r"\s+", " ", wanted.strip())


def test_a_difference_that_is_shown_names_its_direction():
    same_sentence(
        verdicts.difference("hard", "easy", SHOWN, ACCURACY, adjusted=0.0423),
        """Hard − easy in accuracy: +0.021 [+0.004, +0.038], Holm-adjusted p = 0.042 (1,000 problems, 4 seeds):
        accuracy is higher for hard.""",
    )
    same_sentence(
        verdicts.difference("hard", "easy", LOWER, KL),
        """Hard − easy in KL (nats per token, lower is better): −0.00281 [−0.00421, −0.00141], p < 0.001
        (500 problems, 4 seeds): KL is lower for hard.""",
    )


def test_a_difference_that_is_not_shown_is_not_called_absent():
    same_sentence(
        verdicts.difference("hard", "all", OPEN, ACCURACY),
        "Hard − all in accuracy: +0.021 [−0.003, +0.045], p = 0.083 (1,000 problems, 4 seeds): no difference shown.",
    )


def test_a_difference_lost_to_the_correction_says_why_its_interval_leaves_0_out():
    same_sentence(
        verdicts.difference("hard", "easy", SHOWN, ACCURACY, adjusted=0.0834),
        """Hard − easy in accuracy: +0.021 [+0.004, +0.038], Holm-adjusted p = 0.083 (1,000 problems, 4 seeds):
        no difference shown (p = 0.014 before Holm's correction).""",
    )


def test_one_seed_speaks_of_its_own_calibration_sets():
    same_sentence(
        verdicts.difference("hard", "easy", ONE_SEED, ACCURACY),
        """Hard − easy in accuracy: +0.021 [+0.004, +0.038], p = 0.014 (1,000 problems, 1 seed, bootstrap over
        problems only): accuracy is higher for hard, with these calibration sets.""",
    )


def test_the_dense_model_counts_no_seeds_and_unequal_seeds_are_all_named():
    dense = replace(LOWER, seeds=(4, 0))
    assert "(500 problems, 4 seeds): accuracy is lower for hard" in verdicts.difference(
        "hard", "dense", dense, ACCURACY
    )
    assert "4 and 3 seeds" in verdicts.difference("hard", "all", replace(SHOWN, seeds=(4, 3)), ACCURACY)
    assert "(1,000 problems)" in verdicts.difference("magnitude", "dense", replace(SHOWN, seeds=(0, 0)), ACCURACY)


def test_several_arms_against_one_stand_in_one_sentence():
    same_sentence(
        verdicts.against("all", {"easy": OPEN, "hard": SHOWN}, ACCURACY, {"easy": 0.0834, "hard": 0.0282}),
        """Against all in accuracy (1,000 problems, 4 seeds): easy +0.021 [−0.003, +0.045], Holm-adjusted p = 0.083:
        no difference shown; hard +0.021 [+0.004, +0.038], Holm-adjusted p = 0.028: accuracy is higher for hard.""",
    )
    apart = verdicts.against("dense", {"easy": OPEN, "hard": ONE_SEED}, ACCURACY)
    assert "easy +0.021 [−0.003, +0.045], p = 0.083 (1,000 problems, 4 seeds): no difference shown" in apart
    assert "(1,000 problems, 1 seed, bootstrap over problems only): accuracy is higher for hard, with these" in apart


def test_a_trend_names_its_order_and_direction_only_where_it_is_shown():
    arms = ("easy", "medium", "hard")
    same_sentence(
        verdicts.trend(arms, replace(LOWER, seeds=(4, 4, 4)), KL),
        """Trend over easy, medium, hard in KL (nats per token, lower is better): −0.00281 [−0.00421, −0.00141]
        per step, p < 0.001 (500 problems, 4 seeds): KL falls on average.""",
    )
    same_sentence(
        verdicts.trend(arms, OPEN, ACCURACY),
        """No trend shown over easy, medium, hard in accuracy: +0.021 [−0.003, +0.045] per step, p = 0.083
        (1,000 problems, 4 seeds).""",
    )
    assert "rises" in verdicts.trend(arms, SHOWN, ACCURACY)
    assert verdicts.trend(arms, SHOWN, ACCURACY, 0.2).endswith("(p = 0.014 before Holm's correction).")


def test_an_inverted_u_quotes_both_sides_and_the_larger_p():
    same_sentence(
        verdicts.inverted_u(LENGTHS, InvertedU(RISE, FALL, 0.031, True, "higher"), ACCURACY),
        """Inverted U shown in accuracy: moderate − short +0.021 [+0.004, ∞), moderate − long +0.015 [+0.001, ∞),
        the larger one-sided p = 0.031 (1,000 problems, 4 seeds):
        accuracy is better for moderate than for short and for long.""",
    )
    fall = replace(FALL, low=-0.0011, p=0.062)
    same_sentence(
        verdicts.inverted_u(LENGTHS, InvertedU(RISE, fall, 0.062, False, "higher"), ACCURACY),
        """No inverted U shown in accuracy: moderate − short +0.021 [+0.004, ∞), moderate − long +0.015 [−0.001, ∞),
        the larger one-sided p = 0.062 (1,000 problems, 4 seeds).""",
    )
    lost = verdicts.inverted_u(LENGTHS, InvertedU(RISE, FALL, 0.031, True, "higher"), ACCURACY, adjusted=0.062)
    assert lost.startswith("No inverted U shown")
    assert "Holm-adjusted one-sided p = 0.062" in lost
    assert lost.endswith("(p = 0.031 before Holm's correction).")


def test_where_lower_is_better_the_shape_is_a_u_and_the_wrong_side_is_refused():
    side = replace(LOWER, alternative="less", low=-np.inf)
    test = InvertedU(side, side, 0.0002, True, "lower")
    same_sentence(
        verdicts.inverted_u(LENGTHS, test, KL),
        """U shown in KL (nats per token, lower is better): moderate − short −0.00281 (−∞, −0.00141],
        moderate − long −0.00281 (−∞, −0.00141], the larger one-sided p < 0.001 (500 problems, 4 seeds):
        KL is better for moderate than for short and for long.""",
    )
    with pytest.raises(ValueError, match="of accuracy higher is"):
        verdicts.inverted_u(LENGTHS, test, ACCURACY)
    home = verdicts.inverted_u(LENGTHS, test, KL, elsewhere=False)
    assert home.startswith("U shown") and home.endswith("not both leads hold, so that it does not count.")


def test_shares_say_which_is_which():
    parts = {"easy": Components(2.0, 7.0, 1.0, 1000, 4), "hard": Components(0.0, 0.997, 0.003, 1000, 4)}
    same_sentence(
        verdicts.shares(parts, ACCURACY),
        """Where the variance of an arm's mean accuracy comes from, estimated (1,000 problems, 4 seeds):
        easy: problems 70 %, calibration seeds 20 %, rest 10 %;
        hard: problems 100 %, calibration seeds 0 % (none found), rest < 1 %;
        the rest is seed × problem and sampling. What all arms find hard or easy is gone from their differences.""",
    )
    assert "hard: it does not vary" in verdicts.shares({"hard": Components(0, 0, 0, 10, 2)}, KL)


MATRIX = np.array([[0.0717, 0.0697, 0.0689], [0.0690, 0.0680, 0.0690], [0.0700, 0.0693, 0.0676]])
BINS = ("easy", "medium", "hard")


def test_an_advantage_counts_where_bins_of_neither_arm_share_its_sign():
    check = verdicts.same_sign(MATRIX, BINS, BINS, "hard", "easy", -0.0028)
    assert check.elsewhere == pytest.approx({"medium": -0.0004})
    assert check.sign == -1
    assert verdicts.same_sign(MATRIX, BINS, BINS, "easy", "hard", 0.0028).sign == 1
    same_sentence(
        verdicts.signs(check, KL),
        """Hard − easy in KL (nats per token, lower is better): −0.00280 over all held-out problems; in held-out bins
        that belong to neither, medium −0.00040: the same sign, so that the lead of hard holds there too
        (signs, not a test).""",
    )
    accurate = verdicts.same_sign(MATRIX, BINS, BINS, "hard", "easy", -0.0028)
    assert "the lead of easy holds there too" in verdicts.signs(accurate, ACCURACY)


def test_an_advantage_at_home_only_does_not_count():
    home = np.array([[0.5, 0.6, 0.7, 0.8], [0.4, 0.7, 0.6, np.nan]])
    arms, bins = ("all", "hard"), ("hard", "easy", "medium", "never")
    check = verdicts.same_sign(home, arms, bins, "hard", "all", -0.02)
    assert check.elsewhere == pytest.approx({"easy": 0.1, "medium": -0.1})  # the empty bin says nothing
    assert check.sign == 0
    assert verdicts.signs(check, KL).endswith("not the same sign, so that neither counts as better.")
    against_the_mean = verdicts.same_sign(home, arms, bins, "hard", "all", -0.02, own={"hard", "medium"})
    assert against_the_mean.sign == 0


def test_without_a_bin_of_neither_nothing_is_claimed():
    check = verdicts.same_sign(MATRIX[:, ::2], BINS, ("easy", "hard"), "hard", "easy", -0.0028)
    assert check.sign == 0
    assert verdicts.signs(check, KL).endswith("no held-out bin belongs to neither: nothing is claimed.")


def test_a_matrix_that_does_not_fit_its_names_is_refused():
    with pytest.raises(ValueError, match="3 arms and 2 held-out bins"):
        verdicts.same_sign(MATRIX, BINS, BINS[:2], "hard", "easy", 0.0)
    with pytest.raises(ValueError, match="no arm never among easy, medium, hard"):
        verdicts.same_sign(MATRIX, BINS, BINS, "never", "easy", 0.0)


@pytest.mark.parametrize(
    ("p", "text"),
    [
        (0.234, "= 0.23"),
        (0.0421, "= 0.042"),
        (0.0004, "< 0.001"),
        (0.04996, "= 0.04996"),
        (0.0504, "= 0.050"),
        (1, "= 1.00"),
    ],
)
def test_p_is_never_rounded_across_the_level(p, text):
    assert verdicts.p_text(p, 0.05) == text


def test_numbers_are_readable_and_nothing_but_0_reads_as_0():
    tight = replace(SHOWN, value=0.02, low=0.0002, high=0.0398)
    assert "+0.0200 [+0.0002, +0.0398]" in verdicts.difference("a", "b", tight, ACCURACY)
    none = replace(OPEN, value=0.0, low=0.0, high=0.0, p=1.0)
    assert "a − b in KL (nats per token, lower is better): 0.000 [0.000, 0.000], p = 1.00" in (
        verdicts.difference("a", "b", none, KL).replace("A −", "a −")
    )
    assert "+12.3 [+1.0, +23.7]" in verdicts.difference("a", "b", replace(SHOWN, value=12.3456, low=1, high=23.7), KL)
    assert "+0.021 90 % interval [" in verdicts.difference("a", "b", replace(SHOWN, confidence=0.9), ACCURACY)


def test_p_below_the_level_of_another_confidence():
    strict = replace(SHOWN, confidence=0.99)
    assert "no difference shown" in verdicts.difference("a", "b", strict, ACCURACY)
    assert "accuracy is higher for a" in verdicts.difference("a", "b", replace(OPEN, confidence=0.9), ACCURACY)


def test_sentences_of_real_estimates_hold_their_numbers():
    rng = np.random.default_rng(3)
    base = rng.exponential(0.02, 200)
    arms = [base * np.exp(rng.normal(level, 0.2, (3, 200))) for level in (0.0, -0.3, 0.1)]
    test = inverted_u(*arms, better="lower")
    sentence = verdicts.inverted_u(LENGTHS, test, KL)
    assert sentence.startswith("U shown in KL")
    assert f"−{-test.rise.value:.6f}"[:7] in sentence
    assert verdicts.trend(LENGTHS, trend(arms), KL).startswith("Trend over short, moderate, long in KL")
    assert "200 problems, 3 seeds" in verdicts.shares({"short": components(arms[0])}, KL)
    alone = estimated_difference(arms[1][:1], arms[0])
    assert "3 and 1 seeds" not in verdicts.difference("moderate", "short", alone, KL)
    assert "1 and 3 seeds, bootstrap over problems only" in verdicts.difference("moderate", "short", alone, KL)
