import numpy as np
import pyarrow.parquet as pq
import pytest
from synthetic_traces import make_problems

from ssgr.engines.base import Sampling
from ssgr.errors import CellError, UserError
from ssgr.traces import parts
from ssgr.traces.problems import Problem
from ssgr.traces.store import Trace, TraceStore, row_seed, store_key


def trace(problem_id, rollout, output=(7, 8), correct=True, finish_reason="stop"):
    return Trace(problem_id, rollout, [1, 2, 3], list(output), finish_reason, correct, "1")


@pytest.fixture
def store(tmp_path):
    store = TraceStore.open(tmp_path / "s", {"model": "m"})
    store.set_problems(make_problems(3))
    return store


def test_what_is_missing_goes_rollout_by_rollout(store):
    assert store.missing(["p1", "p0"], 2) == [("p1", 0), ("p0", 0), ("p1", 1), ("p0", 1)]
    store.append([trace("p0", 0), trace("p1", 1)])
    for opened in (store, TraceStore.open(store.folder)):
        assert opened.missing(["p1", "p0"], 2) == [("p1", 0), ("p0", 1)]


def test_rows_come_back_exactly_and_in_the_order_asked_for(store):
    store.append([trace("p1", 0, [5]), trace("p0", 1, [6, 6])])
    store.append([trace("p0", 0, [], finish_reason="length", correct=False)])
    view = TraceStore.open(store.folder).view(store.problems, 2)
    assert view.traces[["problem_id", "rollout"]].values.tolist() == [["p0", 0], ["p0", 1], ["p1", 0]]
    assert view.traces["tokens"].tolist() == [0, 2, 1] and view.traces["prompt_tokens"].tolist() == [3, 3, 3]
    outputs = [output.tolist() for _, output in view.sequences(view.traces.iloc[[2, 0, 1]])]
    assert outputs == [[5], [], [6, 6]]
    prompts = [prompt for prompt, _ in view.sequences(view.traces)]
    assert all(np.array_equal(prompt, [1, 2, 3]) and prompt.dtype == np.int32 for prompt in prompts)


def test_pass_rates_count_every_rollout_and_no_truncated_trace(store):
    store.append([trace("p0", 0), trace("p0", 1, correct=False), trace("p1", 0, finish_reason="length")])
    store.append([trace("p1", 1, correct=None)])
    view = store.view(store.problems, 2)
    assert view.pass_rate.to_dict() == {"p0": 0.5, "p1": 0.0, "p2": 0.0}


def test_a_view_does_not_see_what_else_the_store_holds(store):
    store.append([trace("p0", 0), trace("p1", 0)])
    before = store.view(store.problems[:1], 1)
    store.set_problems([Problem("new", "q", "1")])
    store.append([trace("p0", 1), trace("new", 0), trace("p2", 0)])
    after = store.view(store.problems[:1], 1)
    assert before.traces.equals(after.traces) and before.pass_rate.equals(after.pass_rate)


@pytest.mark.parametrize("changed", [Problem("p0", "another question", "1"), Problem("p0", "What is 0 + 1?", "2")])
def test_traces_of_a_changed_problem_are_not_used(store, changed):
    store.append([trace("p0", 0), trace("p1", 0)])
    store.set_problems([changed])
    for opened in (store, TraceStore.open(store.folder)):
        assert opened.missing(["p0", "p1"], 1) == [("p0", 0)]
        assert opened.view([changed], 1).traces.empty
    store.append([trace("p0", 0, [9])])
    view = store.view([changed], 1)
    assert view.sequences(view.traces)[0][1].tolist() == [9]
    store.set_problems(make_problems(1))  # and back: the first trace is the right one again
    view = store.view(store.problems[:1], 1)
    assert view.sequences(view.traces)[0][1].tolist() == [7, 8]


@pytest.mark.parametrize("damage", [lambda whole: whole[: len(whole) // 2], lambda whole: whole[:-1] + b"x"])
def test_damaged_parts_are_ignored_said_and_replaced(store, damage, capsys):
    store.append([trace("p0", 0)])
    store.append([trace("p1", 0)])
    folder = store.folder / "traces"
    (second,) = folder.glob("part-00001-*.parquet")
    leftover = folder / ".part-00002.parquet.abc.partial"
    leftover.write_bytes(b"PAR1")
    whole = second.read_bytes()
    second.write_bytes(damage(whole))
    opened = TraceStore.open(store.folder)
    assert opened.missing(["p0", "p1"], 1) == [("p1", 0)]
    assert second.exists(), "a reader without the lock removes nothing"
    opened = TraceStore.open(store.folder, {"the": "manifest"})
    assert f"{second.name} is damaged" in capsys.readouterr().err.replace("\n", "")
    opened.append([trace("p1", 0)])
    assert not leftover.exists()
    assert second.read_bytes() == whole


def test_a_broken_manifest_is_said_and_written_again_and_broken_problems_too(store, capsys):
    store.append([trace("p0", 0)])
    manifest = store.manifest
    for name in ("manifest.json", "problems.parquet"):
        (store.folder / name).write_text("{")
    with pytest.raises(UserError, match="broken"):
        TraceStore.open(store.folder)
    opened = TraceStore.open(store.folder, manifest)
    assert "manifest.json is damaged" in capsys.readouterr().err.replace("\n", "") and opened.manifest == manifest
    opened.set_problems(make_problems(2))
    assert opened.missing(["p0", "p1"], 1) == [("p1", 0)]


def test_a_part_holds_the_documented_columns(store):
    store.append([trace("p0", 0)])
    (part,) = (store.folder / "traces").iterdir()
    columns = pq.read_schema(part).names
    wanted = ["problem_id", "rollout", "prompt_ids", "output_ids", "finish_reason", "correct", "answer"]
    assert columns[:7] == wanted


def test_ids_are_read_one_by_one_from_a_part_of_many_row_groups(store):
    store.append([trace("p0", rollout, [rollout] * (rollout % 7)) for rollout in range(3 * parts.GROUP + 5)])
    view = TraceStore.open(store.folder).view(store.problems[:1], 1_000)
    chosen = view.traces.iloc[[196, 0, 64, 63, 130, 128]]
    wanted = [[rollout] * (rollout % 7) for rollout in chosen["rollout"]]
    assert [output.tolist() for _, output in view.sequences(chosen)] == wanted


def test_a_bit_that_flips_after_opening_is_seen_when_its_part_is_read(store):
    store.append([trace("p0", 0)])
    store.append([trace("p1", 0)])
    opened = TraceStore.open(store.folder)
    path = store.folder / "traces" / opened.parts[1]
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 3] ^= 1
    path.write_bytes(whole)
    view = opened.view(store.problems, 1)
    assert len(view.sequences(view.traces.iloc[:1])) == 1, "the other part is as it was"
    with pytest.raises(CellError, match=f"{opened.parts[1]} is damaged"):
        view.sequences(view.traces)


def test_any_integers_are_ids_and_too_large_ones_are_refused(store):
    store.append([Trace("p0", 0, np.array([5, 6], np.uint32), (7,), "stop", True), trace("p0", 1, range(3))])
    view = TraceStore.open(store.folder).view(store.problems[:1], 2)
    (first, second), (_, third) = view.sequences(view.traces)
    assert (first.tolist(), second.tolist(), third.tolist()) == ([5, 6], [7], [0, 1, 2])
    with pytest.raises(OverflowError):
        store.append([trace("p0", 2, [1 << 31])])


def test_a_text_that_came_with_a_trace_is_kept_and_no_other_part_has_the_column(store):
    store.append([trace("p0", 0)])
    store.append([Trace("p1", 0, [1], [2], "stop", text="<s> hi"), trace("p1", 1)])
    first, second = (store.table(part) for part in TraceStore.open(store.folder).parts)
    assert "text" not in first.column_names and second.column("text").to_pylist() == ["<s> hi", None]


def test_opening_nothing_is_a_user_error_and_makes_nothing(tmp_path):
    with pytest.raises(UserError, match="no trace store"):
        TraceStore.open(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


def test_the_manifest_stays_as_it_was_first_written(store):
    assert TraceStore.open(store.folder, {"model": "other"}).manifest == {"model": "m"}


def test_the_key_follows_everything_that_changes_a_token():
    base = {"weights_hash": "w", "dtype": "bfloat16", "engine": "hf", "template": "t", "seed": 0, "problem_set": "b"}
    base["think_end"] = None
    base["sampling"] = Sampling(0.6, 0.95, 100)
    other = {"weights_hash": "v", "dtype": "float32", "engine": "vllm", "template": "u", "seed": 1, "problem_set": "c"}
    other["think_end"] = "</think>"
    keys = {store_key(**base)} | {store_key(**{**base, name: value}) for name, value in other.items()}
    keys |= {store_key(**{**base, "sampling": s}) for s in (Sampling(0.7, 0.95, 100), Sampling(0.6, 0.95, 99))}
    assert len(keys) == 1 + len(other) + 2


def test_row_seeds_differ_and_fit_63_bits():
    seeds = {row_seed(s, p, r) for s in range(3) for p in ("a", "b", "a/1") for r in range(20)}
    assert len(seeds) == 180 and all(0 <= seed < 2**63 for seed in seeds)
    assert row_seed(0, "a", 1) == row_seed(0, "a", 1)
