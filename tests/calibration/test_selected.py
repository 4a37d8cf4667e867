import json
from pathlib import Path

import numpy as np
import pytest
from synthetic_traces import difficulty, length, make_view, selection

from ssgr.calibration import SOURCES, CalibrationRequest
from ssgr.calibration.selected import selected_traces
from ssgr.config import CalibrationConfig
from ssgr.errors import CellError, UserError

STORE = {f"p{i}": [3 + i % 5, 4 + i % 7, -(5 + i % 3), 6 + i if i % 2 else -6] for i in range(24)}


@pytest.fixture(scope="module")
def view(tmp_path_factory):
    return make_view(tmp_path_factory.mktemp("store"), STORE)


def request(view, tokens=120, sequences=None, max_seq_len=64, seed=0, weights="all", **chosen):
    bins = {"difficulty": difficulty(), "length": length(), "selection": selection()} | chosen
    config = CalibrationConfig("self_generated", tokens, sequences, max_seq_len, weights)
    rest = {"split": view.split, "template": None, "weights_hash": "w", "cache": Path("none"), "problems": lambda: []}
    return CalibrationRequest(config, **bins, seed=seed, rollouts=lambda: view, **rest)


def test_the_source_and_the_function_are_one(view):
    one, other = SOURCES.get("self_generated")(request(view)), selected_traces(request(view), view)
    assert one.trace_ids == other.trace_ids and one.details == other.details and one.notes == other.notes
    assert one.source == "self_generated" and one.tokens == 120


def test_so_many_traces_token_for_token(view):
    built = selected_traces(request(view, None, 9, weights="decode"), view)
    assert len(built.sequences) == built.traces == 9
    rows = view.traces.set_index(["problem_id", "rollout"])
    for sequence, weight, name in zip(built.sequences, built.weights, built.trace_ids, strict=True):
        problem, _, rollout = name.partition("/")
        ((prompt, output),) = view.sequences(rows.loc[[(problem, int(rollout))]])
        assert sequence.tolist() == [*prompt, *output] and sequence.dtype == np.int32
        assert weight.tolist() == [0] * len(prompt) + [1] * len(output)


def test_each_sequence_is_cut_and_none_is_filled_up(view):
    built = selected_traces(request(view, None, 12, max_seq_len=7), view)
    assert [len(sequence) for sequence in built.sequences] == [7] * 12


@pytest.mark.parametrize(
    "chosen", [{}, {"selection": selection(balance=["difficulty"])}, {"length": length(pick="longest")}]
)
def test_details_go_into_a_file_and_notes_are_lines(view, chosen):
    built = selected_traces(request(view, **chosen), view)
    summary = built.summary()
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert set(built.details) == {"profile", "pass_rate_reliability", "seed_overlap", "balance"}
    assert summary["profile"]["taken"]["sequences"] == built.traces
    assert summary["profile"]["held"]["sequences"] == view.traces["correct"].sum()
    assert 0 <= summary["seed_overlap"] <= 1
    assert (summary["balance"] is not None) == bool(chosen.get("selection"))
    assert built.notes and not any("\n" in line for line in built.notes)
    assert any(line.startswith("balance: ") for line in built.notes) == bool(chosen.get("selection"))


def test_a_bin_that_hardly_leaves_a_choice_is_said(view):
    everything = selected_traces(request(view, None, 24), view)
    assert "hardly vary" not in "\n".join(selected_traces(request(view, None, 3), view).notes)
    few = selected_traces(
        request(view, None, 24, selection=selection(max_traces_per_problem=4), length=length([0, 50])), view
    )
    assert few.details["seed_overlap"] > 0.5 and "hardly vary" in "\n".join(few.notes)
    assert everything.problems == 24


def test_under_split_the_traces_are_of_the_second_half(view):
    split = view.store.view(view.problems, 4, split=True)
    built = selected_traces(request(split, None, 8), split)
    assert {int(name.rpartition("/")[2]) for name in built.trace_ids} <= {2, 3}
    rates = [split.pass_rate[name.partition("/")[0]] for name in built.trace_ids]
    assert built.mean_pass_rate == built.details["profile"]["taken"]["pass_rate"] == pytest.approx(np.mean(rates))


def test_what_cannot_be_is_said_before_anything_is_read(view):
    with pytest.raises(UserError, match=r"rollouts\.k=10$"):
        selected_traces(request(view, difficulty=difficulty([0.0, 0.1])), view)
    with pytest.raises(UserError, match=r"selection\.correctness"):
        selected_traces(request(view, selection=selection("any", matched=True)), view)
    with pytest.raises(CellError, match=r"holds 24 traces of 24 problems and needs 25"):
        selected_traces(request(view, None, 25), view)
