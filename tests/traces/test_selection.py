"""Bins are checked against counts made by hand or by brute force, not against the code's own masks."""

import tempfile
from collections import Counter
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_traces import difficulty, length, make_view, selection

from ssgr.errors import CellError, UserError
from ssgr.traces.bins import check_bins, counts_in_bin, length_mask
from ssgr.traces.selection import eligible, select, trace_names

EASY, MEDIUM, HARD = [2 / 3, 1.0], [1 / 3, 2 / 3], [0.0, 1 / 3]
SHORT, MODERATE, LONG = [0, 33.3], [33.3, 66.7], [66.7, 100]

stores = st.dictionaries(
    st.sampled_from([f"p{i}" for i in range(8)]),
    st.lists(st.integers(-9, 9).filter(bool), min_size=3, max_size=3),
    min_size=1,
)
quick = settings(max_examples=60, deadline=None)


def view_of(lengths, **options):
    return make_view(Path(tempfile.mkdtemp(dir=BASE.name)) / "s", lengths, **options)


BASE = tempfile.TemporaryDirectory()


def names(view, difficulty_=None, length_=None, correctness="correct"):
    mask = eligible(view, correctness, difficulty_ or difficulty(), length_ or length())
    return set(trace_names(view.traces[mask]))


@quick
@given(stores)
def test_every_correct_trace_has_one_length_and_equal_lengths_share_it(lengths):
    view = view_of(lengths)
    bins = [names(view, length_=length(percentile)) for percentile in (SHORT, MODERATE, LONG)]
    correct = {f"{p}/{r}": n for p, row in lengths.items() for r, n in enumerate(row) if n > 0}
    assert Counter(name for bin_ in bins for name in bin_) == Counter(correct.keys())
    for generated in set(correct.values()):
        same = {name for name, n in correct.items() if n == generated}
        assert sum(bool(same & bin_) for bin_ in bins) == 1
    ordered = [[correct[name] for name in bin_] for bin_ in bins if bin_]
    assert all(max(shorter) < min(longer) for shorter, longer in pairwise(ordered))


@quick
@given(stores)
def test_every_solved_problem_has_one_difficulty(lengths):
    view = view_of(lengths)
    bins = [names(view, difficulty(pass_rate), correctness="any") for pass_rate in (EASY, MEDIUM, HARD)]
    for problem, row in lengths.items():
        solved = sum(n > 0 for n in row)
        found = [any(name.startswith(f"{problem}/") for name in bin_) for bin_ in bins]
        assert found == [solved == 3, solved == 2, solved == 1]


@quick
@given(st.integers(1, 40), st.integers(0, 40))
def test_the_thirds_partition_every_pass_rate_whatever_digits_they_are_written_with(k, solved):
    solved = min(solved, k)
    for a, b in ((1 / 3, 2 / 3), (0.3333, 0.6667), (0.333333, 0.666667)):
        found = [counts_in_bin(k, bin_)[solved] for bin_ in ([b, 1.0], [a, b], [0.0, a])]
        exact = Fraction(solved, k)
        assert found == [exact > Fraction(2, 3), Fraction(1, 3) < exact <= Fraction(2, 3), 0 < exact <= Fraction(1, 3)]


@quick
@given(stores, st.integers(1, 3), st.integers(1, 120), st.integers(3, 12), st.integers(0, 5))
def test_a_selection_keeps_budget_cap_and_rarity(lengths, cap, tokens, max_seq_len, seed):
    view = view_of(lengths)
    held = sum(
        sum(sorted((min(4 + n, max_seq_len) for n in row if n > 0), reverse=True)[:cap]) for row in lengths.values()
    )
    try:
        chosen = select(view, selection(max_traces_per_problem=cap), difficulty(), length(), seed, tokens, max_seq_len)
    except CellError as error:
        assert "\n" not in str(error)
        least = sum(sum(sorted(min(4 + n, max_seq_len) for n in row if n > 0)[:cap]) for row in lengths.values())
        assert least < tokens
        return
    rows = chosen.rows
    assert held >= tokens == chosen.tokens == rows["kept"].sum()
    assert rows["correct"].all() and len(set(trace_names(rows))) == len(rows)
    assert rows["problem_id"].value_counts().max() <= cap
    whole = np.minimum(rows["prompt_tokens"] + rows["tokens"], max_seq_len)
    assert (rows["kept"][:-1] == whole[:-1]).all() and 0 < rows["kept"].iloc[-1] <= whole.iloc[-1]


MANY = {f"p{i}": [3 + i % 5, 4 + i % 7, -(5 + i % 3), 6] for i in range(30)}


def test_seeds_give_orders(tmp_path):
    view = make_view(tmp_path, MANY)

    def drawn(seed):
        rows = select(view, selection(), difficulty(), length(), seed, 120, 64).rows
        return trace_names(rows)

    assert drawn(0) == drawn(0)
    assert len({tuple(drawn(seed)) for seed in range(10)}) == 10


def test_the_budget_only_decides_where_the_draw_ends(tmp_path):
    view = make_view(tmp_path, MANY)
    small, large = (select(view, selection(), difficulty(), length(), 1, n, 64).rows for n in (60, 200))
    assert trace_names(large)[: len(small)] == trace_names(small)
    assert small["kept"].tolist()[:-1] == large["kept"].tolist()[: len(small) - 1]


def test_a_draw_does_not_favour_problems_with_many_traces(tmp_path):
    view = make_view(tmp_path, {f"p{i}": [1] * 8 if i % 2 else [1] + [-1] * 7 for i in range(40)})
    first = [select(view, selection(), difficulty(), length(), seed, 50, 64).rows for seed in range(60)]
    share = np.mean([[int(name[1:]) % 2 for name in rows["problem_id"]] for rows in first])
    assert abs(share - 0.5) < 0.08


def test_correctness(tmp_path):
    view = make_view(tmp_path, {"a": [3, -4], "b": [-5, 6]})
    assert names(view, correctness="correct") == {"a/0", "b/1"}
    assert names(view, correctness="incorrect") == {"a/1", "b/0"}
    assert names(view, correctness="any") == {"a/0", "a/1", "b/0", "b/1"}


def test_percentiles_are_of_the_store_or_of_the_difficulty_bin(tmp_path):
    view = make_view(tmp_path, {"easy": [1, 2, 3], "hard": [30, -1, -1], "none": [-9, -9, -9]})
    hard = difficulty(HARD)
    assert names(view, hard, length(SHORT)) == set()
    assert names(view, hard, length(LONG)) == {"hard/0"}
    assert names(view, hard, length(SHORT, within="difficulty")) == {"hard/0"}
    assert names(view, None, length([0, 50])) == {"easy/0", "easy/1"}


def test_percentiles_match_a_sorted_list():
    tokens = np.array([5, 1, 9, 7, 3, 2, 8, 4, 6, 10])
    everything = np.ones(10, bool)
    assert sorted(tokens[length_mask(tokens, everything, [20, 50])]) == [3, 4, 5]
    assert sorted(tokens[length_mask(tokens, everything, [0, 20])]) == [1, 2]
    assert length_mask(np.array([7, 7, 7]), np.ones(3, bool), SHORT).tolist() == [True] * 3


def test_absolute_lengths_and_levels(tmp_path):
    view = make_view(tmp_path, {"a": [3, 4], "b": [5, 6], "c": [7, 8]}, levels={"a": 1, "b": 2})
    assert names(view, length_=length(tokens=[4, 6])) == {"a/1", "b/0", "b/1"}
    assert names(view, difficulty(level=[2, 5])) == {"b/0", "b/1"}
    bare = make_view(tmp_path / "bare", {"a": [3, 4]})
    with pytest.raises(UserError, match=r"problems\.level_field"):
        names(bare, difficulty(level=[2, 5]))


def test_too_few_traces_say_what_and_how_many(tmp_path):
    view = make_view(tmp_path, {"a": [3, 4], "b": [-5, 6]})
    with pytest.raises(CellError) as caught:
        select(view, selection(), difficulty(MEDIUM, name="medium"), length(name="all"), 0, 500, 64)
    line = str(caught.value)
    for part in ("difficulty=medium", "length=all", "holds 10 tokens in 1 traces of 1 problems", "500", "rollouts.k"):
        assert part in line
    assert "\n" not in line


ROLLOUTS = "more rollouts.problems, a larger rollouts.k"
LESS = "a smaller calibration.tokens"
CAP = "a larger selection.max_traces_per_problem (now 1)"


@pytest.mark.parametrize(
    ("bins", "cap", "max_seq_len", "bin_", "helps"),
    [
        (length(), 2, 64, "length=all", [ROLLOUTS, LESS]),
        (length(), 1, 64, "length=all", [ROLLOUTS, CAP, LESS]),
        (length([0, 33.3], name="mine"), 2, 64, "length=short", [ROLLOUTS, LESS]),
        (length(tokens=[1, 5]), 2, 64, "length=tokens1to5", [ROLLOUTS, "a wider length.tokens (now [1, 5])", LESS]),
        (length(), 2, 5, "length=all", [ROLLOUTS, "a larger calibration.max_seq_len (now 5)", LESS]),
        (length(tokens=[8, 9]), 2, 64, "holds 0 tokens", [ROLLOUTS, "a wider length.tokens (now [8, 9])"]),
    ],
)
def test_what_would_help_is_what_keeps_traces_out(bins, cap, max_seq_len, bin_, helps, tmp_path):
    view = make_view(tmp_path, {"a": [3, 4], "b": [5, 6]})
    with pytest.raises(CellError) as caught:
        select(view, selection(max_traces_per_problem=cap), difficulty(), bins, 0, 500, max_seq_len)
    assert bin_ in str(caught.value)
    assert str(caught.value).endswith(f" 500; {', '.join(helps[:-1])} or {helps[-1]} would help")


@pytest.mark.parametrize(
    ("k", "pass_rate", "smallest"),
    [(1, HARD, 3), (2, HARD, 3), (1, MEDIUM, 2), (4, [0.0, 0.1], 10), (2, [0.6, 0.9], 3)],
)
def test_a_bin_that_k_rollouts_cannot_populate_names_the_smallest_k(k, pass_rate, smallest):
    with pytest.raises(UserError, match=rf"rollouts\.k={smallest}$"):
        check_bins(k, difficulty(pass_rate))
    check_bins(smallest, difficulty(pass_rate))
    exact = [n for n in range(1, smallest + 1) if any(pass_rate[0] < c / n <= pass_rate[1] for c in range(1, n + 1))]
    assert exact == [smallest]


def test_populated_bins_pass():
    for k, pass_rate in ((1, EASY), (2, MEDIUM), (3, HARD), (1, None)):
        check_bins(k, difficulty(pass_rate), length(SHORT), selection())


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        ((2, difficulty([0.7, 0.3])), "difficulty.pass_rate"),
        ((2, difficulty([0.5, 1.5])), "difficulty.pass_rate"),
        ((2, difficulty([0.5])), "difficulty.pass_rate"),
        ((2, difficulty(level=[5, 3])), "difficulty.level"),
        ((2, difficulty(), length([50, 50])), "length.percentile"),
        ((2, difficulty(), length([50, 101])), "length.percentile"),
        ((2, difficulty(), length(tokens=[9, 3])), "length.tokens"),
        ((0, difficulty()), "rollouts.k"),
        ((2, difficulty(), length(), selection(max_traces_per_problem=0)), "max_traces_per_problem"),
    ],
)
def test_bins_that_make_no_sense_name_the_option(arguments, option):
    with pytest.raises(UserError, match=option):
        check_bins(*arguments)
