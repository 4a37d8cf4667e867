import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from synthetic_traces import byte_tokenizer, make_problems

from ssgr.errors import UserError
from ssgr.traces import importing
from ssgr.traces.importing import Reading, import_traces
from ssgr.traces.problems import Problem
from ssgr.traces.prompts import PromptTemplate
from ssgr.traces.store import Trace, TraceStore

TOKENIZER = byte_tokenizer()
TEMPLATE = PromptTemplate(TOKENIZER, "", "</think>")
PROBLEMS = {problem.problem_id: problem for problem in make_problems(3)}


def ids_of(text):
    return TOKENIZER(text, add_special_tokens=False)["input_ids"]


def row(problem_id="p0", rollout=0, box="1", **fields):
    made = {"unique_id": problem_id, "rollout": rollout, "prompt_ids": [1, 2], "finish_reason": "stop", "correct": True}
    return made | {"output_ids": ids_of(f"hm</think>\\boxed{{{box}}}")} | fields


def write(path, rows):
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(made) + "\n" for made in rows), encoding="utf-8")
    return path


def ids_in(store):
    return [
        (prompt.tolist(), output.tolist()) for prompt, output in store.read(store.index["part"], store.index["row"])
    ]


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_rows_become_a_store_with_the_same_ids_verdicts_and_order(tmp_path, kind):
    rows = [row("p1", 1), row("p0", 0, correct=False), row("p1", 0, correct=None), row("p2", 0)]
    rows = [{**made, "answer": "x"} for made in rows]
    found = import_traces(write(tmp_path / f"r.{kind}", rows), tmp_path / "s", Reading(PROBLEMS))
    store = TraceStore.open(tmp_path / "s")
    assert found.traces == 4 and found.graded == 0
    assert list(zip(store.index["problem_id"], store.index["rollout"], strict=True)) == [
        ("p1", 1),
        ("p0", 0),
        ("p1", 0),
        ("p2", 0),
    ]
    assert store.index["correct"].tolist() == [True, False, None, True] and store.index["answer"].eq("x").all()
    assert ids_in(store) == [(made["prompt_ids"], made["output_ids"]) for made in rows]
    assert {problem.problem_id: problem for problem in store.problems} == PROBLEMS


def test_numbers_of_any_width_are_ids(tmp_path):
    lists = pa.array([[1, 2], [3]], pa.large_list(pa.uint32()))
    table = pa.table({"problem_id": ["a", "b"], "rollout": [0, 0], "prompt_ids": lists, "output_ids": lists[::-1]})
    table = table.append_column("finish_reason", pa.array(["stop", "length"]))
    pq.write_table(table, tmp_path / "r.parquet")
    import_traces(tmp_path / "r.parquet", tmp_path / "s", Reading())
    assert ids_in(TraceStore.open(tmp_path / "s")) == [([1, 2], [3]), ([3], [1, 2])]


BROKEN = [
    ({"finish_reason": None}, "no finish_reason"),
    ({"finish_reason": "eos"}, "choices: stop, length, repetition"),
    ({"output_ids": None}, "no output_ids"),
    ({"output_ids": [1, -5]}, "output_ids holds -5"),
    ({"output_ids": [1, 1 << 40]}, "at most 2147483647"),
    ({"output_ids": [1, 2.0]}, "whole numbers"),
    ({"output_ids": [1, True]}, "whole numbers"),
    ({"output_ids": "1 2"}, "whole numbers"),
    ({"rollout": -1}, "rollout must be a whole number of at least 0"),
    ({"rollout": True}, "rollout must be"),
    ({"rollout": 10**9}, r"rollout 1000000000: .* below 10,000"),
    ({"rollout": None}, "no rollout"),
    ({"unique_id": None}, "no problem_id or unique_id"),
    ({"unique_id": "p9"}, "'p9' is not among the 3 problems"),
    ({"correct": "yes"}, "true, false or null"),
    ({"answer": 5}, "answer must be text"),
    ({"answer": "\ud800"}, "half a character"),
    ({"rollout": 0}, r"stands in .*r\.jsonl:1 already"),
]


@pytest.mark.parametrize(("change", "words"), BROKEN, ids=range(len(BROKEN)))
def test_a_broken_row_is_named_and_nothing_is_left(tmp_path, change, words):
    path = write(tmp_path / "r.jsonl", [row(), row(rollout=1), {**row(rollout=2), **change}, row(rollout=3)])
    with pytest.raises(UserError, match=rf"r\.jsonl:3: .*{words}"):
        import_traces(path, tmp_path / "s", Reading(PROBLEMS))
    assert [made.name for made in tmp_path.iterdir()] == ["r.jsonl"]


def test_a_broken_row_of_a_parquet_file_is_named(tmp_path):
    rows = [row(rollout=n) for n in range(300)]
    rows[270]["output_ids"] = [3, -1]
    with pytest.raises(UserError, match=r"r\.parquet row 271: output_ids holds -1"):
        import_traces(write(tmp_path / "r.parquet", rows), tmp_path / "s", Reading(PROBLEMS))
    rows[270]["output_ids"] = [3, None]
    with pytest.raises(UserError, match=r"r\.parquet row 271: output_ids must be"):
        import_traces(write(tmp_path / "r.parquet", rows), tmp_path / "s", Reading(PROBLEMS))


def test_our_grader_takes_the_columns_place_where_it_is_asked_to_and_differences_are_listed(tmp_path):
    rows = [row("p0", 0), row("p0", 1, "4"), row("p1", 0, "2", correct=False, answer="two"), row("p1", 1, correct=None)]
    rows += [row("p2", 0, "3", finish_reason="length", correct=False)]
    reading = Reading(PROBLEMS, TEMPLATE, think_end="</think>", grade=True)
    found = import_traces(write(tmp_path / "r.jsonl", rows), tmp_path / "s", reading)
    store = TraceStore.open(tmp_path / "s")
    assert store.index["correct"].tolist() == [True, False, True, False, False]
    assert store.table(store.parts[0]).column("answer").to_pylist() == ["1", "4", "2", "1", None]
    counts = {(True, True): 1, (True, False): 1, (False, True): 1, (None, False): 1, (False, False): 1}
    assert found.agreement.counts == counts
    assert [
        (row["trace"], row["theirs"], row["answer"], row["their_answer"]) for row in found.agreement.differences
    ] == [
        ("p0/1", True, "4", None),
        ("p1/0", False, "2", "two"),
    ]


def test_another_store_is_imported_with_its_manifest_problems_and_order(tmp_path):
    theirs = TraceStore.open(tmp_path / "a", {"model": "m", "think_end": "</think>", "seed": 3})
    theirs.set_problems([*make_problems(2), Problem("old", "before", "1")])
    theirs.append([Trace("p1", 0, [1], [2, 3], "stop", True, "2"), Trace("old", 0, [9], [9], "stop", True)])
    theirs.set_problems([Problem("old", "now", "1")])
    theirs.append([Trace("p0", 0, [4], [], "length", None, None, text="hi")])
    import_traces(tmp_path / "a", tmp_path / "b", Reading(think_end="</think>"))
    store = TraceStore.open(tmp_path / "b")
    assert store.index["problem_id"].tolist() == ["p1", "p0"], "a trace of a question that changed is no trace of it"
    assert ids_in(store) == [([1], [2, 3]), ([4], [])]
    assert store.manifest["seed"] == 3 and store.manifest["think_end"] == "</think>"
    assert store.problems == [make_problems(2)[1], make_problems(2)[0]]
    assert store.table(store.parts[0]).column("text").to_pylist() == [None, "hi"]


def test_a_damaged_store_is_not_imported_in_part(tmp_path):
    theirs = TraceStore.open(tmp_path / "a", {})
    theirs.append([Trace("p", 0, [1], [2], "stop")])
    path = tmp_path / "a" / "traces" / theirs.parts[0]
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match=f"{path.name} is damaged"):
        import_traces(tmp_path / "a", tmp_path / "b", Reading())


def test_a_killed_import_leaves_no_store_and_the_next_one_begins_anew(tmp_path, monkeypatch):
    path = write(tmp_path / "r.jsonl", [row(rollout=n) for n in range(9)])
    monkeypatch.setattr(importing, "PART_ROWS", 4)
    append = TraceStore.append

    def killed(store, traces):
        if store.parts:
            raise KeyboardInterrupt
        append(store, traces)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(TraceStore, "append", killed)
        import_traces(path, tmp_path / "s", Reading(PROBLEMS))
    assert not (tmp_path / "s").exists()
    import_traces(path, tmp_path / "s", Reading(PROBLEMS))
    store = TraceStore.open(tmp_path / "s")
    assert len(store.index) == 9 and len(store.parts) == 3


def test_a_folder_that_holds_something_is_not_written_to(tmp_path):
    path = write(tmp_path / "r.jsonl", [row()])
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "mine").write_text("x")
    with pytest.raises(UserError, match="is there already"):
        import_traces(path, tmp_path / "s", Reading(PROBLEMS))
    (tmp_path / "s" / "mine").unlink()
    assert import_traces(path, tmp_path / "s", Reading(PROBLEMS)).traces == 1


@pytest.mark.parametrize(("name", "words"), [("nothing", "does not exist"), ("empty", "holds no"), ("r.csv", "is no")])
def test_what_holds_no_traces_is_said(tmp_path, name, words):
    (tmp_path / "empty").mkdir()
    (tmp_path / "r.csv").write_text("a,b")
    with pytest.raises(UserError, match=words):
        import_traces(tmp_path / name, tmp_path / "s", Reading())


def test_rows_without_known_problems_are_kept_for_what_they_are(tmp_path):
    import_traces(write(tmp_path / "r.jsonl", [row("x/1")]), tmp_path / "s", Reading())
    store = TraceStore.open(tmp_path / "s")
    assert store.problems == [Problem("x/1", "", "")]
    view = store.view(store.problems, 1)
    assert view.traces["correct"].tolist() == [True] and np.array_equal(view.sequences(view.traces)[0][0], [1, 2])
