"""What is said of a selection, against counts by hand; the reliability against stores whose truth is known."""

import numpy as np
import pandas as pd
import pytest
from drawn_stores import PROMPT, confounded, view_of
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_traces import difficulty, length, selection

from ssgr.traces.problems import Problem
from ssgr.traces.profile import overlap_note, pass_rate_reliability, profile, profile_lines
from ssgr.traces.selection import select


def rolled(pass_rates, k, seed=0):
    random = np.random.default_rng(seed)
    return [
        (f"p{i:05d}", rollout, 5, random.random() < rate, "stop")
        for i, rate in enumerate(pass_rates)
        for rollout in range(k)
    ]  # fmt: skip


def test_a_profile_by_hand():
    rows = [
        ("a", 0, 10, True, "stop"),
        ("a", 1, 20, True, "stop"),
        ("b", 0, 40, True, "stop"),
        ("b", 1, 9, False, "stop"),
    ]
    named = [Problem("a", "a", "1", level=1, subject="sums"), Problem("b", "b", "1", level=4, subject="graphs")]
    view = view_of(rows, 2, problems=named)
    taken = view.traces[view.traces["tokens"] == 40].assign(kept=16)
    found = profile(view, taken, max_seq_len=20)
    assert found["taken"] == {
        "sequences": 1,
        "pass_rate": 0.5,
        "tokens": {"mean": 40.0, "q25": 40.0, "median": 40.0, "q75": 40.0},
        "prompt_share": PROMPT / 16,
        "level": 4.0,
        "subject": {"graphs": 1.0},
        "family": {},
    }
    held = found["held"]
    assert held["sequences"] == 3 and held["pass_rate"] == pytest.approx(2.5 / 3)
    assert held["tokens"] == {"mean": pytest.approx(70 / 3), "q25": 15.0, "median": 20.0, "q75": 30.0}
    assert held["prompt_share"] == pytest.approx(3 * PROMPT / (14 + 20 + 20)) and held["level"] == 2.0
    assert held["subject"] == {"graphs": pytest.approx(1 / 3)} and held["family"] == {}
    correct = view.traces[view.traces["correct"]]
    ranks = pd.DataFrame({"rate": correct["problem_id"].map(view.pass_rate), "tokens": correct["tokens"]})
    assert (
        found["pass_rate_length"] == pytest.approx(ranks.corr("spearman").iloc[0, 1]) and found["pass_rate_length"] < 0
    )


def test_only_the_most_frequent_are_named():
    rows = [(f"p{i:02d}", 0, 5, True, "stop") for i in range(28)]
    families = [name for count, name in enumerate("gfedcba", start=1) for _ in range(count)]
    view = view_of(rows, 1, problems=[Problem(f"p{i:02d}", "q", "1", family=f) for i, f in enumerate(families)])
    found = profile(view, view.traces.assign(kept=9), 99)["taken"]["family"]
    assert list(found.items()) == [
        (name, pytest.approx(n / 28)) for name, n in zip("abcde", (7, 6, 5, 4, 3), strict=True)
    ]


def test_the_lines_say_every_axis():
    view = confounded(80)
    chosen = select(view, selection(), difficulty([0, 1 / 3]), length(), 0, None, 99, 10)
    lines = profile_lines(profile(view, chosen.rows, 99), pass_rate_reliability(view), view.graded)
    text = "\n".join(lines)
    for word in ("10 (", "pass rate", "generated tokens", "quartiles", "prompts", "level", "by subject", "by family"):
        assert word in text
    assert "rank correlation of pass rate and length" in text and "reliability of a pass rate of 8 rollouts: 0." in text
    assert len(lines) <= 5 and not any("\n" in line or "nan" in line for line in lines)


def test_a_store_without_correct_traces_has_a_profile():
    view = view_of([("a", 0, 5, False, "stop"), ("b", 0, 6, False, "stop")], 1)
    chosen = select(view, selection("incorrect"), difficulty(), length(), 0, None, 99, 2)
    found = profile(view, chosen.rows, 99)
    assert found["held"]["pass_rate"] is None and found["pass_rate_length"] is None
    assert profile_lines(found, None, 1) == []


@pytest.mark.parametrize("k", [2, 5, 8])
def test_reliability_is_the_share_of_true_variance(k):
    """Pass rates drawn from Beta(a, b): k rollouts tell them apart with a reliability of k / (k + a + b)."""
    a, b = 0.8, 1.2
    rates = np.random.default_rng(1).beta(a, b, 6_000)
    view = view_of(rolled(rates, k), k)
    assert pass_rate_reliability(view) == pytest.approx(k / (k + a + b), abs=0.02)
    half = view_of(rolled(rates, k), k, split=True)
    assert pass_rate_reliability(half) == pytest.approx((k // 2) / (k // 2 + a + b), abs=0.025)


def test_reliability_of_noise_is_none():
    view = view_of(rolled(np.full(6_000, 0.5), 6), 6)
    assert abs(pass_rate_reliability(view)) < 0.05


@pytest.mark.parametrize(
    "rows",
    [
        [("a", 0, 5, True, "stop"), ("b", 0, 5, False, "stop")],  # one rollout
        [("a", r, 5, True, "stop") for r in range(4)] + [("b", r, 5, True, "stop") for r in range(4)],
        [("a", r, 5, r > 1, "stop") for r in range(4)],  # one problem
    ],
)
def test_without_halves_that_vary_there_is_no_reliability(rows):
    assert pass_rate_reliability(view_of(rows, len({row[1] for row in rows}))) is None


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 6), st.integers(0, 99))
def test_rollouts_that_agree_are_reliable_and_half_filled_problems_do_not_count(k, seed):
    random = np.random.default_rng(seed)
    rows = [(f"p{i}", r, 5, i % 2 == 0, "stop") for i in range(6) for r in range(k)]
    rows += [("partly", r, 5, bool(random.integers(2)), "stop") for r in range(k - 1)]
    assert pass_rate_reliability(view_of(rows, k)) == pytest.approx(1)


def test_a_bin_that_barely_holds_the_budget_is_said():
    assert "hardly vary" in overlap_note(0.51) and "51%" in overlap_note(0.51)
    assert "hardly vary" not in overlap_note(0.5)
