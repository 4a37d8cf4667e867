"""Balanced draws against means and shares counted by hand, on made-up stores and on a real one where it is there."""

import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from drawn_stores import confounded, view_of
from synthetic_traces import difficulty, length, selection

from ssgr.errors import CellError, UserError
from ssgr.traces.balance import BalancedDraw, balance_note, balance_target
from ssgr.traces.problems import Problem
from ssgr.traces.selection import select
from ssgr.traces.store import Trace, TraceStore
from ssgr.traces.strata import capped_weights

SHARED = Path(__file__).parents[3] / "shared" / "data"
ROLLOUTS = SHARED / "rollouts_qwen2_5_coder_1_5b.parquet"
BY_DIFFICULTY = [(difficulty(rate), length()) for rate in ([2 / 3, 1], [1 / 3, 2 / 3], [0, 1 / 3])]
BY_LENGTH = [(difficulty(), length(percentile)) for percentile in ([0, 33.3], [33.3, 66.7], [66.7, 100])]
VIEW = confounded(1500)


def arms(view, bins, seed=0, tokens=None, sequences=None, **options):
    return [
        select(view, selection(**options), *bin_, seed, tokens, 10_000, sequences)
        for bin_ in bins
    ]  # fmt: skip


def column(view, rows, variable):
    if variable == "length":
        return rows["tokens"]
    if variable == "difficulty":
        return rows["problem_id"].map(view.pass_rate)
    return rows["problem_id"].map({problem.problem_id: getattr(problem, variable) for problem in view.problems})


def largest_gap(view, chosen, variable):
    """Between two arms: of means, in standard deviations of all correct traces; of shares, total variation."""
    columns = [column(view, arm.rows, variable) for arm in chosen]
    if variable in ("subject", "family"):
        shares = [found.value_counts(normalize=True) for found in columns]
        return max(one.sub(other, fill_value=0).abs().sum() / 2 for one, other in combinations(shares, 2))
    deviation = column(view, view.traces[view.traces["correct"]], variable).std(ddof=0)
    means = [found.mean() for found in columns]
    return (max(means) - min(means)) / deviation


@pytest.mark.parametrize(
    ("bins", "balance"),
    [
        (BY_DIFFICULTY, ["length"]),
        (BY_LENGTH, ["difficulty"]),
        (BY_DIFFICULTY, ["level"]),
        (BY_LENGTH, ["subject"]),
        (BY_DIFFICULTY, ["subject", "family"]),
        (BY_DIFFICULTY, ["length", "subject"]),
        (BY_LENGTH, ["difficulty", "level"]),
        (BY_DIFFICULTY, ["length", "level", "subject"]),
    ],
)
def test_what_is_balanced_hardly_differs_between_the_bins(bins, balance):
    options = {"sequences": 60, "max_traces_per_problem": 4}
    plain, balanced = arms(VIEW, bins, **options), arms(VIEW, bins, balance=balance, **options)
    for variable in balance:
        gap, before = largest_gap(VIEW, balanced, variable), largest_gap(VIEW, plain, variable)
        assert gap < (0.1 if variable in ("subject", "family") else 0.05)
        if variable != "family":  # the others are confounded with both axes
            assert before > 0.15
    assert plain[0].balance is None
    for arm in balanced:
        assert list(arm.balance["differences"]) == balance


def test_the_report_says_the_distance_from_one_target():
    target = balance_target(VIEW, selection(balance=["length", "subject"]))
    lengths = VIEW.traces["tokens"].to_numpy(float)
    deviation = lengths[VIEW.traces["correct"]].std()
    goals = []
    for arm in arms(VIEW, BY_DIFFICULTY, sequences=40, balance=["length", "subject"]):
        off = arm.balance["differences"]
        goals.append(arm.rows["tokens"].mean() - off["length"] * deviation)
        codes, shares = target.categories["subject"]
        taken = column(VIEW, arm.rows, "subject").value_counts(normalize=True).sort_index().to_numpy()
        assert off["subject"] == pytest.approx(np.abs(taken - shares).sum() / 2)
        assert shares.sum() == pytest.approx(1) and codes.max() + 1 == len(shares)
    assert goals == pytest.approx([goals[0]] * 3)


def by_hand():
    """Subject x is 3 of 4 easy and 1 of 4 hard traces, z is easy alone; everything is of one length."""
    subjects = {"e1": "x", "e2": "x", "e3": "x", "e4": "y", "e5": "z", "h1": "x", "h2": "y", "h3": "y", "h4": "y"}
    rows = [
        (name, rollout, 5, name[0] == "e" or rollout == 0, "stop")
        for name in subjects
        for rollout in range(4)
    ]  # fmt: skip
    return view_of(rows, 4, problems=[Problem(name, name, "1", subject=of) for name, of in subjects.items()])


def test_a_strata_share_is_the_smallest_in_any_cell():
    view = by_hand()
    target = balance_target(view, selection(balance=["subject"]))
    # Easy: x 3/5, y 1/5, z 1/5. Hard: x 1/4, y 3/4. Smallest: x 1/4, y 1/5.
    assert target.shares == pytest.approx([5 / 9, 4 / 9])
    assert target.categories["subject"][1] == pytest.approx([5 / 9, 4 / 9, 0])
    assert target.support == pytest.approx((16 + 4) / (20 + 4))
    strata = dict(zip(view.traces["problem_id"], target.strata, strict=True))
    assert strata == {"e1": 0, "e2": 0, "e3": 0, "e4": 1, "e5": -1, "h1": 0, "h2": 1, "h3": 1, "h4": 1}
    capped = balance_target(view, selection(balance=["subject"], max_traces_per_problem=4))
    assert capped.shares == pytest.approx(target.shares), "each problem has as many traces as another of its bin"


def test_a_problem_counts_for_no_more_than_the_cap_lets_it_give():
    problems, cells = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 0, 0, 0, 1, 1])
    assert capped_weights(problems, cells, 1) == pytest.approx([1 / 3, 1 / 3, 1 / 3, 1, 1, 1])
    assert capped_weights(problems, cells, 2) == pytest.approx([2 / 3, 2 / 3, 2 / 3, 1, 1, 1])


def test_dry_strata_are_passed_over_and_said():
    chosen = select(by_hand(), selection(balance=["subject"]), BY_DIFFICULTY[2][0], length(), 0, None, 99, 4)
    assert set(chosen.rows["problem_id"]) == {"h1", "h2", "h3", "h4"}
    assert chosen.balance["dry_strata"] == 1 and chosen.balance["differences"]["subject"] == pytest.approx(
        5 / 9 - 1 / 4
    )
    note = balance_note(chosen.balance, "more traces")
    assert "subject 30.6% of the traces" in note and "1 of 2 strata ran dry" in note and "smaller budget" in note
    with pytest.raises(CellError, match=r"balance=\[subject\] holds 4 traces of 4 problems and needs 5"):
        select(by_hand(), selection(balance=["subject"]), difficulty([0, 1 / 3]), length(), 0, None, 99, 5)


def test_a_draw_follows_the_shares_all_the_way():
    target = balance_target(VIEW, selection(balance=["difficulty"]))
    candidates = np.flatnonzero(VIEW.traces["correct"])
    drawn = [place for place, _ in zip(BalancedDraw(target, candidates, 8), range(200), strict=False)]
    assert len(set(drawn)) == 200
    for count in range(1, 201):
        held = np.bincount(target.strata[candidates[drawn[:count]]], minlength=len(target.shares))
        assert np.abs(held - target.shares * count).max() < len(target.shares)
    off = np.cumsum(target.offsets[candidates[drawn], 0]) / np.arange(1, 201)
    assert np.abs(off[100:]).max() < 0.02


def test_where_bins_share_nothing_it_says_so():
    rows = [(f"e{i}", r, 5, True, "stop") for i in range(3) for r in range(3)]
    rows += [(f"h{i}", r, 50, r == 0, "stop") for i in range(3) for r in range(3)]
    problems = [Problem(f"{kind}{i}", f"{kind}{i}", "1", subject=kind) for kind in "eh" for i in range(3)]
    view = view_of(rows, 3, problems=problems)
    for variable in ("length", "subject"):
        with pytest.raises(CellError, match=r"no value of \w+ occurs in every bin .* would help$"):
            arms(view, BY_DIFFICULTY[:1], sequences=1, balance=[variable])


@pytest.mark.parametrize("variable", ["level", "subject", "family"])
def test_what_the_problems_do_not_have_cannot_be_held_still(variable):
    view = view_of([("a", 0, 5, True, "stop")], 1)
    with pytest.raises(UserError, match=f"holds {variable} still, which these problems do not have"):
        arms(view, [(difficulty(), length())], sequences=1, balance=[variable])


def test_matched_arms_hold_the_pass_rate_still_and_take_the_same_problems():
    options = {"sequences": 30, "matched": True, "balance": ["difficulty", "subject"]}
    right, wrong = (
        arms(VIEW, [(difficulty(), length())], correctness=c, **options)[0] for c in ("correct", "incorrect")
    )
    assert sorted(right.rows["problem_id"]) == sorted(wrong.rows["problem_id"])
    assert right.rows["correct"].all() and not wrong.rows["correct"].any()


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    if not ROLLOUTS.is_file():
        pytest.skip("the real rollouts are not here")
    lines = (SHARED / "math_train.jsonl").read_text(encoding="utf-8").splitlines()
    named = {row["unique_id"]: row for row in map(json.loads, lines)}
    rows = pq.read_table(ROLLOUTS).to_pylist()
    problems = [
        Problem(name, row["problem"], str(row["answer"]), level=int(row["level"]), subject=row["subject"])
        for name in dict.fromkeys(row["unique_id"] for row in rows)
        for row in [named[name]]
    ]
    store = TraceStore.open(tmp_path_factory.mktemp("real"), {})
    store.set_problems(problems)
    names = ("unique_id", "rollout", "prompt_ids", "output_ids", "finish_reason", "correct")
    store.append([Trace(*(row[name] for name in names)) for row in rows])
    return store.view(problems, 8)


@pytest.mark.parametrize(
    ("bins", "balance", "cap", "fits", "too_much"),
    [
        (BY_DIFFICULTY, "length", 1, 18_432, 32_768),
        (BY_DIFFICULTY, "length", 8, 28_672, 49_152),
        (BY_LENGTH, "difficulty", 1, 24_576, 36_864),
        (BY_LENGTH, "difficulty", 8, 98_304, 131_072),
    ],
)
def test_the_other_axis_is_held_still_in_a_real_store_or_it_is_said(real, bins, balance, cap, fits, too_much):
    for seed in range(2):
        options = {"balance": [balance], "max_traces_per_problem": cap, "seed": seed}
        plain = arms(real, bins, tokens=fits, seed=seed, max_traces_per_problem=cap)
        assert largest_gap(real, arms(real, bins, tokens=fits, **options), balance) < 0.05
        assert largest_gap(real, plain, balance) > 0.5
        beyond = arms(real, bins, tokens=too_much, **options)
        assert largest_gap(real, beyond, balance) > 0.05
        assert any("this store cannot hold" in balance_note(arm.balance, "more traces") for arm in beyond)


def test_two_arms_apart_by_more_than_5_percent_never_go_unsaid(real):
    for tokens in range(4_096, 21_000, 2_048):
        pairs = (
            (BY_DIFFICULTY, "length"),
            (BY_LENGTH, "difficulty"),
            (BY_DIFFICULTY, "subject"),
            (BY_LENGTH, "subject"),
        )
        for bins, balance in pairs:
            chosen = arms(real, bins, tokens=tokens, balance=[balance])
            said = any("would help" in balance_note(arm.balance, "more traces") for arm in chosen)
            assert said or largest_gap(real, chosen, balance) < 0.05
