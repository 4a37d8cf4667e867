import dataclasses
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from synthetic_traces import byte_tokenizer, difficulty, length, make_problems, selection

from ssgr.composition import folder
from ssgr.errors import UserError
from ssgr.traces import __main__ as command_line
from ssgr.traces.importing import Reading, import_traces
from ssgr.traces.kept import INSTRUCTION, SCHEMA, keep, kept_manifest
from ssgr.traces.problems import Problem
from ssgr.traces.prompts import PromptTemplate
from ssgr.traces.selection import select, trace_names
from ssgr.traces.store import Trace, TraceStore
from ssgr.traces.stores import whole_view

TOKENIZER = byte_tokenizer()
TEMPLATE = PromptTemplate(TOKENIZER, "Box it.", "</think>")
PROBLEMS = [dataclasses.replace(problem, level=n % 5 + 1) for n, problem in enumerate(make_problems(30))]
BY_ID = {problem.problem_id: problem for problem in PROBLEMS}


@pytest.fixture
def store(tmp_path):
    """30 problems x 6 rollouts in two parts, the later rollouts first; some wrong, some cut, one not graded."""
    random = np.random.default_rng(0)
    manifest = {"model": "mine", "path": str(tmp_path / "model"), "template": TEMPLATE.hash, "weights": "w1"}
    manifest |= {"instruction": "Box it.", "think_end": "</think>", "rac_manifest": {"model_path": str(tmp_path)}}
    store = TraceStore.open(tmp_path / "s", manifest)
    store.set_problems(PROBLEMS)
    for rollouts in ((3, 4, 5), (0, 1, 2)):
        traces = []
        for number, problem in enumerate(PROBLEMS):
            for rollout in rollouts:
                ids = random.integers(0, 250, random.integers(5, 30) + 2 * number).tolist()
                cut = random.random() < 0.1
                correct = None if (number, rollout) == (7, 2) else bool(random.random() < 1 - number / 35)
                prompt = TEMPLATE.prompt_ids(problem.question)
                reason = "length" if cut else "stop"
                traces.append(Trace(problem.problem_id, rollout, prompt, ids, reason, correct, "1"))
        store.append(traces)
    return store


@pytest.fixture
def again(tmp_path, store):
    """The store that comes of the kept file."""
    keep(store, tmp_path / "k.parquet")
    import_traces(tmp_path / "k.parquet", tmp_path / "again", Reading(BY_ID, TEMPLATE, think_end="</think>"))
    return TraceStore.open(tmp_path / "again")


def is_right(store):
    return store.index["correct"].eq(True) & (store.index["finish_reason"] == "stop")


def test_a_kept_file_holds_outcomes_and_the_correct_traces_ids_alone(tmp_path, store):
    keep(store, tmp_path / "k.parquet")
    table = pq.read_table(tmp_path / "k.parquet")
    rows = table.to_pylist()
    assert table.column_names == SCHEMA.names and len(rows) == 180
    assert [(row["problem_id"], row["rollout"]) for row in rows] == [
        (p.problem_id, r) for p in PROBLEMS for r in range(6)
    ]
    pairs = store.read(store.index["part"], store.index["row"])
    theirs = dict(zip(trace_names(store.index), zip(pairs, is_right(store), strict=True), strict=True))
    for row in rows:
        (_, output), right = theirs[f"{row['problem_id']}/{row['rollout']}"]
        assert row["tokens"] == len(output) and row["output_ids"] == (output.tolist() if right else None)
    assert 0 < sum(row["output_ids"] is None for row in rows) < 180


def test_its_manifest_names_no_place_on_this_machine(tmp_path, store):
    keep(store, tmp_path / "k.parquet")
    made = kept_manifest(tmp_path / "k.parquet")
    assert made == {
        "model": "mine",
        "path": "model",
        "template": TEMPLATE.hash,
        "weights": "w1",
        "instruction": "Box it.",
        "think_end": "</think>",
        "kept": "correct",
    }
    assert str(tmp_path).encode() not in (tmp_path / "k.parquet").read_bytes()


def test_the_way_back_has_every_row_and_the_same_tables(store, again):
    before, after = (s.index.sort_values(["problem_id", "rollout"], ignore_index=True) for s in (store, again))
    same = ["problem_id", "rollout", "finish_reason", "correct", "prompt_tokens", "tokens", "content"]
    assert before[same].equals(after[same])
    assert again.problems == store.problems and again.manifest["kept"] == "correct"
    whole, kept = whole_view(store), whole_view(again)
    assert whole.pass_rate.equals(kept.pass_rate)


@pytest.mark.parametrize(
    ("options", "bins", "split"),
    [
        ({}, (difficulty(), length()), False),
        ({"max_traces_per_problem": 6}, (difficulty([0.0, 0.7]), length([30, 70])), False),
        ({"max_traces_per_problem": 2}, (difficulty([0.5, 1.0]), length([0, 60], "difficulty")), True),
        ({"max_traces_per_problem": 3, "balance": ["length"]}, (difficulty([0.3, 0.9]), length()), False),
        ({"max_traces_per_problem": 3, "balance": ["level", "difficulty"]}, (difficulty(), length([20, 90])), False),
        ({"matched": True}, (difficulty(), length()), False),
        ({}, (difficulty(), length(pick="longest")), False),
    ],
)
def test_it_selects_the_same_traces_token_by_token(store, again, options, bins, split):
    views = [whole_view(s, split) for s in (store, again)]
    for seed in range(2):
        first, second = (select(view, selection(**options), *bins, seed, 500, 64) for view in views)
        assert trace_names(first.rows) == trace_names(second.rows) and len(first.rows) > 3
        assert first.table.equals(second.table) and first.balance == second.balance
        for view, rows in ((views[0], first.rows), (views[1], second.rows)):
            assert [len(output) for _, output in view.sequences(rows)] == rows["tokens"].tolist()
        pairs = [view.sequences(found.rows) for view, found in zip(views, (first, second), strict=True)]
        assert all(np.array_equal(a, b) for one, two in zip(*pairs, strict=True) for a, b in zip(one, two, strict=True))


def test_a_store_of_a_kept_file_can_be_kept_and_imported_again(tmp_path, again):
    keep(again, tmp_path / "2.parquet")
    assert (tmp_path / "2.parquet").read_bytes() == (tmp_path / "k.parquet").read_bytes()
    import_traces(again.folder, tmp_path / "3", Reading())
    third = TraceStore.open(tmp_path / "3")
    assert third.manifest["kept"] == "correct" and third.index["tokens"].equals(again.index["tokens"])


@pytest.mark.parametrize(
    ("problems", "template", "words"),
    [
        ({**BY_ID, "p4": dataclasses.replace(BY_ID["p4"], answer="6")}, TEMPLATE, "'p4' has another question or gold"),
        ({**BY_ID, "p4": dataclasses.replace(BY_ID["p4"], question="?")}, TEMPLATE, "'p4' has another question or"),
        ({name: BY_ID[name] for name in ("p0", "p1")}, TEMPLATE, "'p2' is not among the 2 problems"),
        (BY_ID, PromptTemplate(TOKENIZER, "Box!", None), "the prompt of problem 'p0' is not the one"),
        (BY_ID, PromptTemplate(byte_tokenizer("{{ messages[0]['content'] }}"), "Box it.", None), "chat template"),
        (BY_ID, None, "--problems FILE and --tokenizer DIR"),
        (None, TEMPLATE, "--problems FILE and --tokenizer DIR"),
    ],
)
def test_another_problem_or_prompt_is_refused(tmp_path, store, problems, template, words):
    keep(store, tmp_path / "k.parquet")
    with pytest.raises(UserError, match=words) as error:
        import_traces(tmp_path / "k.parquet", tmp_path / "t", Reading(problems, template))
    assert "\n" not in str(error.value) and not (tmp_path / "t").exists()


def test_damage_is_said(tmp_path, store):
    keep(store, tmp_path / "k.parquet")
    path, data = tmp_path / "k.parquet", bytearray((tmp_path / "k.parquet").read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match="damaged"):
        import_traces(path, tmp_path / "t", Reading(BY_ID, TEMPLATE))


def test_what_cannot_be_kept_is_refused(tmp_path, store):
    keep(store, tmp_path / "k.parquet")
    with pytest.raises(UserError, match="is there already"):
        keep(store, tmp_path / "k.parquet")
    with pytest.raises(UserError, match=r"must end in \.parquet"):
        keep(store, tmp_path / "k.json")
    other = TraceStore.open(tmp_path / "o", {})
    other.set_problems([Problem("x", "", "1")])
    other.append([Trace("x", 0, [1], [2], "stop", True)])
    with pytest.raises(UserError, match="1 problems have no question"):
        keep(other, tmp_path / "o.parquet")
    other.set_problems(make_problems(1))
    wrong = TraceStore.open(tmp_path / "w", {})
    wrong.set_problems(make_problems(1))
    wrong.append([Trace("p0", 0, [1], [2], "stop", False), Trace("p0", 1, [1], [2], "length", True)])
    with pytest.raises(UserError, match="no correct trace"):
        keep(wrong, tmp_path / "w.parquet")


def test_only_files_that_were_kept_say_so(tmp_path):
    pq.write_table(pa.table({"a": [1]}), tmp_path / "a.parquet")
    (tmp_path / "b.parquet").write_bytes(b"PAR1")
    assert [kept_manifest(tmp_path / name) for name in ("a.parquet", "b.parquet", "c.parquet", "")] == [None] * 4


def test_stores_that_name_no_instruction_have_that_of_every_problem_set():
    files = (folder("conf") / "problems").glob("*.yaml")
    said = {yaml.safe_load(path.read_text(encoding="utf-8"))["instruction"] for path in files}
    assert said == {INSTRUCTION}


def run(capsys, *arguments):
    """Exit status, standard output, standard error."""
    status = command_line.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_the_commands_know_what_was_kept(tmp_path, store, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    TOKENIZER.save_pretrained(tmp_path / "model")
    rows = ({"id": p.problem_id, "problem": p.question, "answer": p.answer} for p in PROBLEMS)
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    kept, target = tmp_path / "k.parquet", tmp_path / "t"
    status, out, _ = run(capsys, "keep", store.folder, kept)
    assert status == 0 and f"180 rollouts, the ids of {int(is_right(store).sum())} correct ones" in out
    options = ["--problems", tmp_path / "p.jsonl", "--tokenizer", tmp_path / "model"]
    status, _, err = run(capsys, "import", kept, target, *options, "--grade")
    assert status == 2 and "correct traces alone" in err and err.count("\n") == 1
    assert run(capsys, "import", kept, target, *options)[0] == 0
    status, out, _ = run(capsys, "show", target)
    assert status == 0 and "ids of the correct ones alone" in out
    wrong = store.index[~is_right(store)].iloc[0]
    status, out, _ = run(capsys, "show", target, f"{wrong['problem_id']}/{wrong['rollout']}")
    assert status == 0 and f"completion, {wrong['tokens']} tokens:\n(its ids were not kept)" in out
    assert run(capsys, "regrade", target)[0] == run(capsys, "export", target, tmp_path / "o")[0] == 2
    status, out, _ = run(capsys, "export", target, tmp_path / "o", "--correct")
    assert status == 0 and f"{int(is_right(store).sum())} traces" in out
    assert run(capsys, "plot", target, tmp_path / "p.png")[0] == 0


def test_the_rollouts_in_the_repository_hold_no_text_and_say_whose_they_are():
    path = Path(__file__).parents[2] / "analysis" / "example" / "rollouts" / "qwen2_5_coder_1_5b.parquet"
    rows, manifest = pq.read_table(path).to_pandas(), kept_manifest(path)
    assert list(rows.columns) == SCHEMA.names and path.stat().st_size < 2_000_000
    assert len(rows) == 8 * rows["problem_id"].nunique() == 8000
    assert (rows["correct"] == rows["output_ids"].notna()).all()
    assert all(len(ids) == tokens for ids, tokens in rows.loc[rows["correct"], ["output_ids", "tokens"]].to_numpy())
    assert manifest["model"] == "qwen2_5_coder_1_5b" and manifest["sampling"]["max_new_tokens"] == 2048
    assert not any(str(value).startswith("/") for value in manifest.values())
