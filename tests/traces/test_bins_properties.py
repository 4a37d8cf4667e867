"""Whatever the store and the edges, bins partition what can be drawn."""

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from drawn_stores import stores, view_of
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from synthetic_traces import difficulty, length, selection

from ssgr.errors import UserError
from ssgr.traces.bins import check_bins, counts_in_bin
from ssgr.traces.selection import eligible
from ssgr.traces.tables import COLUMNS, ROWS, difficulty_names, difficulty_thirds, length_thirds, selection_table

quick = settings(max_examples=60, deadline=None)


def edges(most):
    inner = st.lists(st.floats(0, most, exclude_min=True, exclude_max=True), max_size=4, unique=True)
    return inner.map(lambda found: [0.0, *sorted(found), float(most)])


token_edges = st.lists(st.integers(1, 12), max_size=4, unique=True).map(lambda found: [0, *sorted(found), 12])


@quick
@given(stores(least_k=2), edges(1), edges(100), st.sampled_from(["store", "difficulty"]), st.booleans())
def test_every_correct_trace_of_a_solved_problem_falls_into_one_cell(store, rates, percentiles, within, split):
    view = view_of(*store, split=split)
    cells = [
        eligible(view, "correct", difficulty(list(rate)), length(list(percentile), within))
        for rate in pairwise(rates)
        for percentile in pairwise(percentiles)
    ]
    assert np.array_equal(np.sum(cells, axis=0), view.traces["correct"].to_numpy(int))


@quick
@given(stores(), edges(1), token_edges)
def test_token_counts_partition_too(store, rates, counts):
    view = view_of(*store)
    cells = [
        eligible(view, "correct", difficulty(list(rate)), length(tokens=[low + 1, high]))
        for rate in pairwise(rates)
        for low, high in pairwise(counts)
    ]
    assert np.array_equal(np.sum(cells, axis=0), view.traces["correct"].to_numpy(int))


@quick
@given(stores(), edges(1))
def test_without_split_a_problem_never_solved_is_in_no_bin(store, rates):
    view = view_of(*store)
    solved = view.traces["problem_id"].map(view.solved > 0).to_numpy(int)
    bins = [eligible(view, "any", difficulty(list(rate)), length()) for rate in pairwise(rates)]
    assert np.array_equal(np.sum(bins, axis=0), solved)


@quick
@given(stores(least_k=2), edges(1))
def test_under_split_every_problem_is_in_one_bin(store, rates):
    view = view_of(*store, split=True)
    assert (view.traces["rollout"] >= view.k // 2).all()
    bins = [eligible(view, "any", difficulty(list(rate)), length()) for rate in pairwise(rates)]
    assert (np.sum(bins, axis=0) == 1).all()


@quick
@example(low=0.0, high=1e-5, k=4, split=True)
@given(st.floats(0, 1), st.floats(0, 1), st.integers(1, 9), st.booleans())
def test_check_bins_refuses_exactly_what_cannot_be_populated(low, high, k, split):
    assume(low < high and k >= (2 if split else 1))
    graded = k // 2 if split else k
    bin_ = difficulty([low, high])
    if counts_in_bin(graded, [low, high], closed=split).any():
        check_bins(k, bin_, split=split)
        return
    with pytest.raises(UserError, match=r"cannot have such a pass rate") as caught:
        check_bins(k, bin_, split=split)
    if "rollouts.k=" in str(caught.value):
        smallest = int(str(caught.value).rpartition("=")[2])
        check_bins(smallest, bin_, split=split)
        for smaller in range(2 if split else 1, smallest):
            with pytest.raises(UserError):
                check_bins(smaller, bin_, split=split)


@pytest.mark.parametrize(
    ("pass_rate", "k", "smallest"), [([0.4, 0.5], 3, 4), ([0.0, 0.1], 2, None), ([0.7, 0.9], 8, 8)]
)
def test_under_split_half_of_the_rollouts_must_populate_a_bin(pass_rate, k, smallest):
    if smallest in (None, k):
        check_bins(k, difficulty(pass_rate), split=True)
        return
    with pytest.raises(UserError, match=rf"1 of 3 rollouts .*rollouts\.k={smallest}$"):
        check_bins(k, difficulty(pass_rate), split=True)
    check_bins(smallest, difficulty(pass_rate), split=True)


def test_one_rollout_cannot_be_split():
    with pytest.raises(UserError, match=r"rollouts\.k=1: rollouts\.split"):
        check_bins(1, difficulty(), split=True)


@quick
@given(stores(least_k=2), st.booleans())
def test_the_table_counts_what_the_bins_hold(store, split):
    view = view_of(*store, split=split)
    table, wanted = selection_table(view), {"easy": [2 / 3, 1], "medium": [1 / 3, 2 / 3], "hard": [0, 1 / 3]}
    percentiles = dict(zip(COLUMNS, ([0, 33.3], [33.3, 66.7], [66.7, 100]), strict=True))
    for row, rate in wanted.items():
        for column, percentile in percentiles.items():
            held = eligible(view, "correct", difficulty(rate), length(percentile)).sum()
            assert table.loc[row, f"{column}_traces"] == held
    never = 0 if split else int((view.solved == 0).sum())
    assert table["problems"].sum() == len(view.problems) and table.loc["never solved", "problems"] == never


@quick
@given(stores(least_k=2), st.booleans())
def test_thirds_are_exact(store, split):
    view = view_of(*store, split=split)
    for name, solved in zip(np.array(ROWS)[difficulty_thirds(view)], view.solved, strict=True):
        rate = Fraction(int(solved), view.graded)
        exact = "easy" if rate > Fraction(2, 3) else "medium" if rate > Fraction(1, 3) else "hard"
        assert name == ("never solved" if solved == 0 and not split else exact)
    assert list(difficulty_names(view)) == view.solved.index.tolist()
    assert length_thirds(np.array([1, 2, 3]), np.array([1, 2, 3, 9])).tolist() == [0, 1, 2, 2]


@pytest.mark.parametrize(
    ("chosen", "bins", "named"),
    [
        (selection("any", matched=True), (difficulty(), length()), "selection.correctness"),
        (selection(balance=["difficulty"]), (difficulty([0, 0.5]), length()), "difficulty.pass_rate"),
        (selection(balance=["level"]), (difficulty(level=[1, 2]), length()), "difficulty.level"),
        (selection(balance=["length"]), (difficulty(), length([0, 50])), "length.percentile"),
        (selection(balance=["length"]), (difficulty(), length(tokens=[1, 9])), "length.tokens"),
        (selection(balance=["length"]), (difficulty(), length(pick="longest")), "length.pick"),
        (selection(balance=["length"], matched=True), (difficulty(), length()), "selection.matched"),
    ],
)
def test_what_a_bin_varies_cannot_be_held_still(chosen, bins, named):
    with pytest.raises(UserError, match=named.replace(".", r"\.")) as caught:
        check_bins(8, *bins, chosen)
    assert "\n" not in str(caught.value)


def test_bins_of_one_axis_go_with_the_other_held_still():
    check_bins(8, difficulty([0, 0.5]), length(), selection(balance=["length", "level", "subject"]))
    check_bins(8, difficulty(level=[1, 2]), length(), selection(balance=["difficulty", "length"]))
    check_bins(8, difficulty(), length(pick="longest"), selection(balance=["difficulty"], matched=True))
