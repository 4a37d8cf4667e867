"""Properties of every kind of draw: exact budgets, nothing twice, caps, and an order that only names decide."""

import numpy as np
import pytest
from drawn_stores import PROMPT, confounded, stores, view_of
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_traces import difficulty, length, selection

from ssgr.errors import CellError
from ssgr.traces.selection import Draw, eligible, select, trace_names

quick = settings(max_examples=60, deadline=None)
MAX_SEQ_LEN = 10

large_stores = stores(least_k=3, least_problems=6)  # small ones hold too little for most draws
modes = st.fixed_dictionaries(
    {
        "correctness": st.sampled_from(["correct", "incorrect", "any"]),
        "max_traces_per_problem": st.integers(1, 3),
        "balance": st.lists(st.sampled_from(["length", "difficulty"]), max_size=2, unique=True),
        "matched": st.booleans(),
    }
).filter(lambda mode: not (mode["matched"] and (mode["correctness"] == "any" or "length" in mode["balance"])))
budgets = st.one_of(
    st.integers(1, 40).map(lambda n: {"tokens": n}), st.integers(1, 4).map(lambda n: {"tokens": None, "sequences": n})
)
picks = st.sampled_from([None, "shortest", "longest"])


def drawn(view, mode, pick, budget, seed=0, bins=(None, None)):
    """The rows, or None where the bin holds too little."""
    pick = None if "length" in mode["balance"] else pick
    rate, percentile = bins
    budget = {"max_seq_len": MAX_SEQ_LEN, **budget}
    try:
        return select(view, selection(**mode), difficulty(rate), length(percentile, pick=pick), seed, **budget).rows
    except CellError as error:
        assert "\n" not in str(error)
        return None


@quick
@given(large_stores, modes, picks, budgets, st.booleans(), st.integers(0, 4))
def test_a_draw_meets_its_budget_and_repeats_nothing(store, mode, pick, budget, split, seed):
    view = view_of(*store, split=split)
    rows = drawn(view, mode, pick, budget, seed)
    if rows is None:
        return
    names = trace_names(rows)
    assert len(set(names)) == len(names)
    assert rows["problem_id"].value_counts().max() <= mode["max_traces_per_problem"]
    assert set(names) <= set(trace_names(view.traces[eligible(view, mode["correctness"], difficulty(), length())]))
    whole = np.minimum(PROMPT + rows["tokens"], MAX_SEQ_LEN)
    if budget["tokens"] is None:
        assert len(rows) == budget["sequences"] and (rows["kept"] == whole).all()
    else:
        assert rows["kept"].sum() == budget["tokens"]
        assert (rows["kept"][:-1] == whole[:-1]).all() and 0 < rows["kept"].iloc[-1] <= whole.iloc[-1]


@quick
@given(large_stores, modes, picks, budgets, st.booleans(), st.randoms(use_true_random=False))
def test_the_order_of_the_store_decides_nothing(store, mode, pick, budget, split, random):
    rows, k = store
    order = list(range(len(rows)))
    random.shuffle(order)
    one = drawn(view_of(rows, k, split), mode, pick, budget)
    other = drawn(view_of(rows, k, split, order=order), mode, pick, budget)
    assert (one is None) == (other is None)
    if one is not None:
        assert trace_names(one) == trace_names(other) and one["kept"].tolist() == other["kept"].tolist()


@quick
@given(large_stores, modes.filter(lambda mode: not mode["matched"]), budgets, budgets, st.booleans())
def test_traces_that_two_arms_share_keep_their_order(store, mode, budget, other_budget, split):
    view = view_of(*store, split=split)
    rate = None if "difficulty" in mode["balance"] else [0.0, 2 / 3]
    percentile = None if "length" in mode["balance"] else [0, 66.7]
    arms = drawn(view, mode, None, budget), drawn(view, mode, None, other_budget, bins=(rate, percentile))
    if any(arm is None for arm in arms):
        return
    uncut = [trace_names(arm[arm["kept"] == np.minimum(PROMPT + arm["tokens"], MAX_SEQ_LEN)]) for arm in arms]
    shared = set(uncut[0]) & set(uncut[1])
    one, other = ([name for name in arm if name in shared] for arm in uncut)
    assert one == other


@quick
@given(large_stores, modes, budgets, st.booleans())
def test_shortest_and_longest_take_the_same_problems(store, mode, budget, split):
    if "length" in mode["balance"]:
        return
    view = view_of(*store, split=split)
    short, long = (drawn(view, mode, pick, budget) for pick in ("shortest", "longest"))
    if short is None or (long is None and budget["tokens"] is None):
        assert short is None or long is not None
        return
    pool = view.traces[eligible(view, mode["correctness"], difficulty(), length())]
    if mode["matched"]:
        pool = pool[pool["finish_reason"] == "stop"]
    cap = mode["max_traces_per_problem"]
    for rows, ascending in ((short, True), (long, False)):
        for problem, taken in rows.groupby("problem_id"):
            held = pool[pool["problem_id"] == problem].sort_values(["tokens", "rollout"], ascending=[ascending, True])
            best = set(trace_names(held[:cap]))
            assert held["tokens"].nunique() > 1 and set(trace_names(taken)) <= best
    if budget["tokens"] is None:
        assert short["problem_id"].tolist() == long["problem_id"].tolist()
    elif not mode["balance"]:
        # Of several traces of a problem the n-th shortest may be longer than the n-th longest, and fill it sooner.
        assert len(long) <= len(short) or cap > 1
        both = min(len(long), len(short))
        assert long["problem_id"].tolist()[:both] == short["problem_id"].tolist()[:both]


@quick
@given(large_stores, modes.filter(lambda mode: mode["matched"]), picks, budgets, st.booleans())
def test_matched_arms_take_the_same_problems(store, mode, pick, budget, split):
    view = view_of(*store, split=split)
    right, wrong = (drawn(view, mode | {"correctness": side}, pick, budget) for side in ("correct", "incorrect"))
    finished = view.traces[view.traces["finish_reason"] == "stop"]
    both = finished.groupby("problem_id")["correct"].nunique().eq(2)
    for rows, correct in ((right, True), (wrong, False)):
        if rows is not None:
            assert (rows["correct"] == correct).all() and (rows["finish_reason"] == "stop").all()
            assert both[rows["problem_id"]].all()
    if budget["tokens"] is None:
        assert (right is None) == (wrong is None)
        assert right is None or right["problem_id"].tolist() == wrong["problem_id"].tolist()
    elif right is not None and wrong is not None and not mode["balance"]:
        fewer, more = sorted((right["problem_id"].tolist(), wrong["problem_id"].tolist()), key=len)
        assert more[: len(fewer)] == fewer


def test_the_shortest_and_longest_of_a_hand_made_store():
    rows = [("a", 0, 5, True, "stop"), ("a", 1, 3, True, "stop"), ("a", 2, 3, True, "stop"), ("a", 3, 9, False, "stop")]
    rows += [("b", r, 6, True, "stop") for r in range(4)]  # all of one length: in neither arm
    rows += [("c", 0, 1, True, "stop"), ("c", 1, 8, True, "stop"), ("c", 2, 9, True, "length")]
    view = view_of(rows, 4)

    def names(pick, cap, count):
        chosen = selection(max_traces_per_problem=cap)
        return set(trace_names(select(view, chosen, difficulty(), length(pick=pick), 0, None, 99, count).rows))

    assert names("shortest", 1, 2) == {"a/1", "c/0"} and names("longest", 1, 2) == {"a/0", "c/1"}
    # c/2 was cut, so that it counts as wrong
    assert names("shortest", 2, 4) == {"a/1", "a/2", "c/0", "c/1"}
    assert names("longest", 2, 4) == {"a/0", "a/1", "c/0", "c/1"}


def test_a_cut_trace_is_no_match():
    rows = [
        ("a", 0, 5, True, "stop"),
        ("a", 1, 99, False, "length"),
        ("b", 0, 4, True, "stop"),
        ("b", 1, 6, False, "stop"),
    ]
    view = view_of(rows, 2)
    for side, wanted in (("correct", ["b/0"]), ("incorrect", ["b/1"])):
        chosen = select(view, selection(side, matched=True), difficulty(), length(), 0, None, 99, 1)
        assert trace_names(chosen.rows) == wanted
    with pytest.raises(CellError, match=r"correctness=correct matched holds 1 traces of 1 problems and needs 2"):
        select(view, selection(matched=True), difficulty(), length(), 0, None, 99, 2)


def test_length_bins_leave_matched_arms_alike():
    """A pair both of whose traces must lie in the bin: else one arm would have problems that the other has not."""
    rows = [
        ("a", 0, 2, True, "stop"),
        ("a", 1, 9, False, "stop"),
        ("b", 0, 2, True, "stop"),
        ("b", 1, 2, False, "stop"),
    ]
    view = view_of(rows, 2)
    for side in ("correct", "incorrect"):
        chosen = select(view, selection(side, matched=True), difficulty(), length(tokens=[1, 3]), 0, None, 99, 1)
        assert chosen.rows["problem_id"].tolist() == ["b"]


def test_so_many_sequences_whatever_they_hold():
    view = confounded(60)
    for count in (1, 7, 20):
        rows = select(view, selection(), difficulty(), length(), 3, None, 40, count).rows
        assert len(rows) == count and (rows["kept"] == np.minimum(PROMPT + rows["tokens"], 40)).all()
    with pytest.raises(CellError, match=r"holds \d+ traces of \d+ problems and needs 99,999; .*calibration\.sequences"):
        select(view, selection(), difficulty(), length(), 3, None, 40, 99_999)


def test_under_split_luck_does_not_choose():
    """A problem that one half never solved is hard, and its correct traces of the other half can be taken."""
    rows = [("a", r, 5 + r, r >= 2, "stop") for r in range(4)] + [("b", r, 3, True, "stop") for r in range(4)]
    view = view_of(rows, 4, split=True)
    hard = select(view, selection("correct", 2), difficulty([0, 1 / 3]), length(), 0, None, 99, 2)
    assert set(trace_names(hard.rows)) == {"a/2", "a/3"}
    assert hard.table.loc["hard"].filter(like="_traces").sum() == 2 and hard.table.loc["never solved"].sum() == 0
    with pytest.raises(CellError):
        select(view_of(rows, 4), selection("correct", 2), difficulty([0, 1 / 3]), length(), 0, None, 99, 1)


def test_overlap_of_seeds_counts_what_the_next_three_take():
    view = confounded(60)
    for chosen in (selection(), selection(balance=["length"])):
        draw = Draw(view, chosen, difficulty(), length(), None, 99, 20)
        sets = [set(trace_names(draw.select(seed).rows)) for seed in range(5, 9)]
        wanted = np.mean([len(sets[0] & other) / 20 for other in sets[1:]])
        assert draw.seed_overlap(5) == pytest.approx(wanted) and 0 < wanted < 1
    everything = Draw(
        view, selection(max_traces_per_problem=8), difficulty(), length(), None, 99, int(view.solved.sum())
    )
    assert everything.seed_overlap(0) == 1.0
