import json

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from synthetic_traces import byte_tokenizer, make_problems

from ssgr.errors import UserError
from ssgr.traces.importing import Reading, import_traces
from ssgr.traces.interchange import export
from ssgr.traces.problems import Problem
from ssgr.traces.prompts import PromptTemplate
from ssgr.traces.questions import Questions
from ssgr.traces.store import Trace, TraceStore

TOKENIZER = byte_tokenizer()
TEMPLATE = PromptTemplate(TOKENIZER, "Box it.", "</think>")
MANIFEST = {"model_path": "org/model", "calibration_mode": "rac", "dataset": "org/problems", "num_rows": 6}
MANIFEST |= {"max_new_tokens": 40, "temperature": 0.6, "top_p": 0.95, "seed": 42, "num_generations": 2}


def sglang_row(question, completion, text=True):
    prompt = TEMPLATE.prompt_ids(question)
    output = TOKENIZER(completion, add_special_tokens=False)["input_ids"]
    row = {"input_ids": prompt + output, "num_prompt_tokens": len(prompt), "num_decode_tokens": len(output)}
    return row | ({"text": TOKENIZER.decode(prompt + output)} if text else {})


@pytest.fixture
def rows():
    """Prompts out of order, one of them asked again later, one completion as long as the cap, one empty."""
    made = [
        sglang_row("What is 1 + 1?", "so</think>\\boxed{2}<|eos|>"),
        sglang_row("What is 0 + 1?", "</think>\\boxed{4}"),
    ]
    made += [sglang_row("What is 1 + 1?", "m" * 40), sglang_row("Something else?", "</think>\\boxed{1}"), made[0]]
    return [*made, sglang_row("What is 0 + 1?", "")]


def written(folder, rows, manifest=MANIFEST):
    folder.mkdir()
    (folder / "traces.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    (folder / "rac_manifest.json").write_text(json.dumps(manifest))
    return folder


def read(folder):
    return [json.loads(line) for line in (folder / "traces.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("template", [None, TEMPLATE], ids=["no tokenizer", "tokenizer"])
def test_there_and_back_again_gives_the_same_rows(tmp_path, rows, template):
    import_traces(written(tmp_path / "a", rows), tmp_path / "s", Reading(template=template))
    store = TraceStore.open(tmp_path / "s")
    assert ("text" in store.table(store.parts[0]).column_names) == (template is None), "kept only where it is needed"
    made = export(store, tmp_path / "b", TOKENIZER.decode if template else None)
    assert read(tmp_path / "b") == rows
    tokens = [sum(row[name] for row in rows) for name in ("num_prompt_tokens", "num_decode_tokens")]
    wanted = MANIFEST | {
        "num_prompt_tokens": tokens[0],
        "num_decode_tokens": tokens[1],
        "num_total_tokens": sum(tokens),
    }
    assert made == wanted == json.loads((tmp_path / "b" / "rac_manifest.json").read_text())


def test_a_store_of_ours_goes_there_and_back(tmp_path):
    store = TraceStore.open(tmp_path / "s", {"model": "m", "path": "org/m", "sampling": {"temperature": 0.6}})
    store.set_problems(make_problems(2))
    store.append([Trace("p1", 1, [1, 2], [3], "stop", True), Trace("p0", 0, [1], [4, 5], "length", False)])
    store.append([Trace("p1", 0, [1, 2], [7, 7], "stop", False)])
    export(store, tmp_path / "a", TOKENIZER.decode)
    import_traces(tmp_path / "a", tmp_path / "t", Reading())
    export(TraceStore.open(tmp_path / "t"), tmp_path / "b", None)
    assert read(tmp_path / "a") == read(tmp_path / "b")
    assert [row["input_ids"] for row in read(tmp_path / "a")] == [[1, 2, 3], [1, 4, 5], [1, 2, 7, 7]]
    manifest = json.loads((tmp_path / "a" / "rac_manifest.json").read_text())
    assert (manifest["model_path"], manifest["num_rows"], manifest["num_generations"]) == ("org/m", 3, 2)
    assert export(store, tmp_path / "c", None, only_correct=True)["num_rows"] == 1


def test_problems_are_named_by_their_prompts_and_rollouts_count(tmp_path, rows):
    import_traces(written(tmp_path / "a", rows), tmp_path / "s", Reading())
    index = TraceStore.open(tmp_path / "s").index
    assert index["rollout"].tolist() == [0, 0, 1, 0, 2, 1]
    assert index["problem_id"].nunique() == 3 and index["correct"].isna().all()
    assert index["finish_reason"].tolist() == ["stop", "stop", "length", "stop", "stop", "stop"]


def test_questions_found_in_the_prompts_give_problems_and_verdicts(tmp_path, rows):
    problems = {problem.problem_id: problem for problem in make_problems(3)}
    found = import_traces(written(tmp_path / "a", rows), tmp_path / "s", Reading(problems, TEMPLATE))
    store = TraceStore.open(tmp_path / "s")
    assert store.index["problem_id"].tolist()[:3] == ["p1", "p0", "p1"]
    assert store.index["correct"].tolist() == [True, False, False, None, True, False]
    assert (found.graded, found.unmatched) == (5, 1)


def test_without_a_tokenizer_questions_cannot_be_found(tmp_path, rows):
    problems = {problem.problem_id: problem for problem in make_problems(3)}
    with pytest.raises(UserError, match=r"traces\.jsonl:1: .*--tokenizer"):
        import_traces(written(tmp_path / "a", rows), tmp_path / "s", Reading(problems))


@pytest.mark.parametrize("kind", ["parquet", "data set", "data set of splits", "file"])
def test_other_kinds_of_files_hold_the_same_rows(tmp_path, rows, kind):
    source = tmp_path / "a"
    if kind == "parquet":
        source = tmp_path / "a.parquet"
        pq.write_table(pa.Table.from_pylist(rows), source)
    elif kind == "file":
        source = written(tmp_path / "a", rows) / "traces.jsonl"
    else:
        made = datasets.Dataset.from_list(rows)
        (made if kind == "data set" else datasets.DatasetDict(train=made)).save_to_disk(str(source))
    import_traces(source, tmp_path / "s", Reading())
    export(TraceStore.open(tmp_path / "s"), tmp_path / "b", None)
    assert read(tmp_path / "b") == rows


def test_rows_without_text_stay_without_it(tmp_path):
    rows = [sglang_row("What?", "yes", text=False)]
    import_traces(written(tmp_path / "a", rows), tmp_path / "s", Reading())
    store = TraceStore.open(tmp_path / "s")
    export(store, tmp_path / "b", None)
    export(store, tmp_path / "c", TOKENIZER.decode, with_text=False)
    assert read(tmp_path / "b") == read(tmp_path / "c") == rows


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_decode_tokens": 3}, "do not add up"),
        ({"num_prompt_tokens": -1}, "num_prompt_tokens must be a whole number"),
        ({"num_prompt_tokens": None}, "no num_prompt_tokens"),
        ({"input_ids": [1, "2"]}, "whole numbers"),
        ({"input_ids": None}, "whole numbers"),
        ({"text": ["a"]}, "text must be text"),
    ],
)
def test_a_broken_row_is_named(tmp_path, rows, change, words):
    rows[3] = rows[3] | change
    with pytest.raises(UserError, match=rf"traces\.jsonl:4: .*{words}"):
        import_traces(written(tmp_path / "a", rows), tmp_path / "s", Reading())


def test_nothing_is_overwritten(tmp_path, rows):
    import_traces(written(tmp_path / "a", rows), tmp_path / "s", Reading())
    with pytest.raises(UserError, match=r"holds traces\.jsonl already"):
        export(TraceStore.open(tmp_path / "s"), tmp_path / "a", None)


def test_the_longest_question_in_a_prompt_is_meant():
    texts = {
        "a": "What is 2 + 2?",
        "b": "Tell me without haste: What is 2 + 2?",
        "c": "Tell me without haste, please",
        "d": "",
    }
    questions = Questions([Problem(name, text, "4") for name, text in texts.items()])
    assert questions.find("<user>Tell me without haste: What is 2 + 2? Box it.").problem_id == "b"
    assert questions.find("<user>Now, What is 2 + 2?").problem_id == "a"
    assert questions.find("<user>What is 3?") is None
    assert questions.find("") is None
