import dataclasses
import json

import numpy as np
import pytest
from synthetic_traces import byte_tokenizer, difficulty, length, make_problems, selection

from ssgr.calibration import SOURCES, CalibrationRequest, check_source
from ssgr.config import TracesConfig
from ssgr.errors import CellError, UserError
from ssgr.traces.importing import Reading, import_traces
from ssgr.traces.kept import keep
from ssgr.traces.prompts import PromptTemplate
from ssgr.traces.rollouts import BUNDLED
from ssgr.traces.store import Trace, TraceStore

TEMPLATE = PromptTemplate(byte_tokenizer(), "", "</think>")
SIZE = len(TEMPLATE.tokenizer)


def config(path, tokens=40, **fields):
    made = {"name": "traces", "tokens": tokens, "sequences": None, "max_seq_len": 100, "token_weights": "all"}
    return TracesConfig(**made | fields, path=None if path is None else str(path))


def request(folder, path, *, weights="w1", split=False, **options):
    made = {"selection": selection(max_traces_per_problem=4), "difficulty": difficulty(), "length": length()}
    made |= {"config": config(path, **options.pop("config", {}))} | options

    def unread():
        raise AssertionError("the source reads neither problems nor rollouts")

    return CalibrationRequest(
        seed=0,
        split=split,
        template=TEMPLATE,
        weights_hash=weights,
        cache=folder / "cache",
        problems=unread,
        rollouts=unread,
        **made,
    )


def build(*arguments, **options):
    return SOURCES.get("traces")(request(*arguments, **options))


@pytest.fixture
def store(tmp_path):
    """Four problems x 4 rollouts of 10 + 10 tokens; problem i has i correct ones."""
    store = TraceStore.open(tmp_path / "s", {"model": "m", "weights": "w1"})
    store.set_problems(make_problems(4))
    rows = [(f"p{i}", rollout, rollout < i) for i in range(4) for rollout in range(4)]
    store.append([Trace(name, r, range(10), [r] * 10, "stop", right, "1") for name, r, right in rows])
    return store


def test_traces_of_the_whole_store_are_selected_token_for_token(tmp_path, store):
    made = build(tmp_path, store.folder, config={"tokens": 6 * 20 - 5})
    assert made.tokens == 115 and sorted(made.trace_ids) == ["p1/0", "p2/0", "p2/1", "p3/0", "p3/1", "p3/2"]
    assert made.sequences[0].tolist() == [*range(10), *[int(made.trace_ids[0][-1])] * 10]
    assert int(made.held["problems"].sum()) == 4
    assert not any("off-policy" in note for note in made.notes)
    whose = {"model": "m", "weights": "w1", "problem_set": None, "sampling": None}
    assert made.summary()["store"] == whose


def test_of_paths_in_a_stores_manifest_only_the_last_part_is_told(tmp_path):
    places = {"model": "/home/a/models/m", "weights": "w1", "problem_set": "/home/a/sets/math.jsonl 1a2b"}
    store = TraceStore.open(tmp_path / "s", places)
    store.set_problems(make_problems(2))
    store.append([Trace(f"p{i}", 0, range(10), [1] * 10, "stop", True, "1") for i in range(2)])
    told = build(tmp_path, store.folder, config={"tokens": 30}).summary()["store"]
    assert told == {"model": "m", "weights": "w1", "problem_set": "math.jsonl 1a2b", "sampling": None}


def test_k_is_the_stores_own(tmp_path, store):
    hard = difficulty([0.0, 0.25])
    assert build(tmp_path, store.folder, config={"tokens": 20}, difficulty=hard).trace_ids == ["p1/0"]
    with pytest.raises(UserError, match="4 rollouts"):
        build(tmp_path, store.folder, difficulty=difficulty([0.0, 0.2]))


def test_split_supplies_traces_of_the_second_half(tmp_path, store):
    made = build(tmp_path, store.folder, split=True, config={"tokens": 20})
    assert made.trace_ids == ["p3/2"]


def test_another_models_traces_are_said(tmp_path, store):
    (note,) = [note for note in build(tmp_path, store.folder, weights="w2").notes if "off-policy" in note]
    assert "m's traces" in note


def test_ids_beyond_the_vocabulary_are_refused(tmp_path, store):
    store.append([Trace("p0", 4, [1], [SIZE - 1], "stop", True), Trace("p0", 5, [1], [SIZE], "stop", True)])
    chosen = {"config": {"tokens": 124}, "selection": selection(max_traces_per_problem=9)}
    with pytest.raises(UserError, match=rf"token id {SIZE:,}.* has {SIZE:,}: the traces are another tokenizer's"):
        build(tmp_path, store.folder, **chosen)


def test_ungraded_traces_need_any_or_a_grade(tmp_path):
    store = TraceStore.open(tmp_path / "s", {})
    store.set_problems(make_problems(2))
    store.append([Trace(f"p{i}", 0, range(10), [1] * 10, "stop") for i in range(2)])
    with pytest.raises(UserError, match=r"selection\.correctness=any.*regrade"):
        build(tmp_path, store.folder)
    made = build(tmp_path, store.folder, selection=selection("any"))
    assert made.tokens == 40 and any("2 of its 2 traces are not graded" in note for note in made.notes)


@pytest.mark.parametrize(
    ("lost", "kind", "message"),
    [("part-*", UserError, "s: no trace in it$"), ("problems.parquet", CellError, "problems.parquet is missing$")],
)
def test_a_store_that_lost_a_file_is_neither_empty_nor_ungraded(lost, kind, message, tmp_path):
    store = TraceStore.open(tmp_path / "s", {})
    store.set_problems(make_problems(1))
    store.append([Trace("p0", 0, range(10), [1] * 10, "stop", True)])
    next(store.folder.rglob(lost)).unlink()
    with pytest.raises(kind, match=message):
        build(tmp_path, store.folder)


def test_a_store_that_holds_too_little_is_not_told_of_rollouts(tmp_path, store):
    with pytest.raises(CellError, match=r"needs 9,999; a store with more traces or a smaller .* would help$") as caught:
        build(tmp_path, store.folder, config={"tokens": 9_999})
    assert "rollouts." not in str(caught.value)


def test_problems_with_fewer_rollouts_are_said(tmp_path, store):
    store.append([Trace("p3", 4, range(10), [4] * 10, "stop", True)])
    assert any("3 of its 4 problems have fewer than 5 rollouts" in note for note in build(tmp_path, store.folder).notes)


def test_files_are_imported_into_the_cache_once_and_named_by_their_contents(tmp_path):
    rows = [
        {"problem_id": f"p{i}", "rollout": 0, "prompt_ids": [1] * 10, "output_ids": [i] * 10, "correct": True}
        for i in range(3)
    ]
    path = tmp_path / "r.jsonl"
    path.write_text("".join(json.dumps(row | {"finish_reason": "stop"}) + "\n" for row in rows))
    made = build(tmp_path, path)
    (folder,) = [found.parent for found in (tmp_path / "cache" / "traces").glob("*/manifest.json")]
    moved = path.rename(tmp_path / "elsewhere.jsonl")
    changed = (folder / "manifest.json").stat().st_mtime_ns
    again = build(tmp_path, moved)
    assert all(map(np.array_equal, made.sequences, again.sequences))
    assert (folder / "manifest.json").stat().st_mtime_ns == changed
    contents = SOURCES.get("traces").contents
    before = contents(config(moved))
    moved.write_text(moved.read_text().replace("[2, 2", "[2, 1"))
    assert contents(config(moved)) != before
    assert len(build(tmp_path, moved).sequences) == 2
    assert len(list((tmp_path / "cache" / "traces").glob("*/manifest.json"))) == 2


def test_contents_follow_parts_and_problems_but_not_the_place(tmp_path, store):
    contents = SOURCES.get("traces").contents
    before = contents(config(store.folder))
    assert contents(config(store.folder.rename(tmp_path / "t"))) == before
    moved = TraceStore.open(tmp_path / "t")
    moved.append([Trace("p0", 9, [1], [2], "stop", True)])
    after = contents(config(tmp_path / "t"))
    moved.set_problems([dataclasses.replace(make_problems(1)[0], level=5)])
    assert len({json.dumps(found) for found in (before, after, contents(config(tmp_path / "t")))}) == 3


@pytest.mark.parametrize("path", [None, "nothing", "empty"])
def test_a_path_without_traces_is_refused_before_anything_runs(tmp_path, path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"^calibration\.path"):
        check_source(config(path and tmp_path / path), difficulty(), length())


def test_a_damaged_store_is_no_smaller_store(tmp_path, store):
    path = store.folder / "traces" / store.parts[0]
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(CellError, match="damaged"):
        build(tmp_path, store.folder)


def test_a_kept_file_is_not_calibrated_on_before_it_is_a_store_again(tmp_path, store):
    problems = make_problems(4)
    whole = TraceStore.open(tmp_path / "whole", {"weights": "w1"})
    whole.set_problems(problems)
    rows = [(problem, rollout) for rollout in range(4) for problem in problems]
    prompts = {problem: TEMPLATE.prompt_ids(problem.question) for problem in problems}
    whole.append([Trace(p.problem_id, r, prompts[p], [r] * 10, "stop", r < 3, "1") for p, r in rows])
    keep(whole, tmp_path / "k.parquet")
    with pytest.raises(UserError, match=r"^calibration\.path=.*k\.parquet keeps no prompts: .*ssgr\.traces import "):
        check_source(config(tmp_path / "k.parquet"), difficulty(), length())
    reading = Reading({problem.problem_id: problem for problem in problems}, TEMPLATE)
    import_traces(tmp_path / "k.parquet", tmp_path / "again", reading)
    made, again = (build(tmp_path, tmp_path / name, config={"tokens": 300}) for name in ("whole", "again"))
    assert made.trace_ids == again.trace_ids and all(map(np.array_equal, made.sequences, again.sequences))
    assert made.summary() == again.summary() and made.notes == again.notes
    for correctness in ("incorrect", "any"):
        with pytest.raises(UserError, match=rf"^selection\.correctness={correctness}: .* correct traces alone"):
            build(tmp_path, tmp_path / "again", selection=selection(correctness))


def test_bundled_is_the_shipped_store():
    found = SOURCES.get("traces").contents(config("bundled"))
    assert len(found) > 1 and found == SOURCES.get("traces").contents(config(BUNDLED))
