import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command_line import config_of as composed

from ssgr.config import ProblemsConfig
from ssgr.errors import UserError
from ssgr.traces import problems as problems_module
from ssgr.traces.problems import load_problems, problems_hash

SHARED = Path(__file__).parents[2].parent / "shared" / "data"


def config(path, name="jsonl", **fields):
    names = {"question_field": "question", "answer_field": "answer", "solution_field": None}
    names |= {"level_field": None, "subject_field": None, **fields}
    path = None if path is None else str(path)
    return ProblemsConfig(name, path, dataset=None, instruction="", decontaminate=False, **names)


def write(path, *rows):
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8")
    return path


def test_fields_are_read_by_name_and_numbers_become_text(tmp_path):
    row = {"problem": "1+1?", "final": 2, "steps": "add", "level": "Level 3", "type": "Algebra", "unique_id": "a/1"}
    path = write(tmp_path / "p.jsonl", row, "", {"problem": "2+2?", "final": "4"})
    names = {"question_field": "problem", "answer_field": "final", "solution_field": "steps"}
    first, second = load_problems(config(path, **names, level_field="level", subject_field="type"))
    assert (first.problem_id, first.answer, first.solution, first.level, first.subject) == (
        "a/1",
        "2",
        "add",
        3,
        "Algebra",
    )
    assert (second.level, second.solution, second.subject) == (None, None, None)
    assert len(second.problem_id) == 16


def test_gsm8k_answers_follow_the_hashes(tmp_path):
    path = write(tmp_path / "p.jsonl", {"question": "q", "answer": "Half of 48 is 24.\n#### 1,024"})
    (problem,) = load_problems(config(path))
    assert (problem.answer, problem.solution) == ("1,024", "Half of 48 is 24.")


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ('{"question": "q", "answer": ', "malformed JSON"),
        ("[1, 2]", "JSON object"),
        ({"question": "q"}, "without an answer"),
        ({"question": "q", "answer": "  "}, "without an answer"),
        ({"question": "q", "answer": "work ####"}, "without an answer"),
        ({"question": "", "answer": "1"}, "without a question"),
        ({"question": {"a": 1}, "answer": "1"}, "must be text"),
        ({"id": "x", "question": "other", "answer": "1"}, "stands on line 1"),
    ],
)
def test_errors_name_file_and_line(tmp_path, row, words):
    path = write(tmp_path / "p.jsonl", {"id": "x", "question": "first", "answer": "1"}, "", row)
    with pytest.raises(UserError, match=words) as caught:
        load_problems(config(path))
    assert f"{path}:3:" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bytes_that_are_not_utf8_are_a_user_error(tmp_path):
    (tmp_path / "p.jsonl").write_bytes(b'{"question": "\xff"}\n')
    with pytest.raises(UserError, match=r"p\.jsonl:1: not UTF-8"):
        load_problems(config(tmp_path / "p.jsonl"))


@pytest.mark.parametrize("path", [None, "nowhere.jsonl"])
def test_a_missing_file_names_the_option(path):
    for read in (load_problems, problems_hash):
        with pytest.raises(UserError, match=r"problems\.path"):
            read(config(path))


def test_an_unknown_problem_set_lists_the_choices(tmp_path):
    with pytest.raises(UserError, match="choices: bundled, jsonl, gsm8k_train, math_train, openr1_math"):
        load_problems(config(None, name="elsewhere"))


def test_the_hash_follows_the_contents_not_the_place(tmp_path):
    row = {"question": "q", "answer": "1"}
    here, there = write(tmp_path / "a.jsonl", row), write(tmp_path / "b.jsonl", row)
    changed = write(tmp_path / "c.jsonl", {**row, "answer": "2"})
    assert problems_hash(config(here)) == problems_hash(config(there)) != problems_hash(config(changed))


def test_bundled_problems_come_from_the_packages_parquet(tmp_path, monkeypatch):
    row = {"problem_id": "b1", "question": "q", "answer": "1", "solution": "s", "level": 2, "family": "sums"}
    path = tmp_path / "calibration.parquet"
    pq.write_table(pa.Table.from_pylist([{**row, "subject": None}]), path)
    monkeypatch.setattr(problems_module, "BUNDLED", path)
    (problem,) = load_problems(config(None, name="bundled"))
    assert (problem.problem_id, problem.level, problem.family, problem.subject) == ("b1", 2, "sums", None)


def test_parquet_is_read_as_json_lines_are(tmp_path):
    rows = [{"question": f"{i}+1?", "answer": str(i + 1)} for i in range(3)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "p.parquet")
    assert load_problems(config(tmp_path / "p.parquet")) == load_problems(config(write(tmp_path / "p.jsonl", *rows)))
    pq.write_table(pa.Table.from_pylist([*rows, {"question": "q", "answer": None}]), tmp_path / "p.parquet")
    with pytest.raises(UserError, match=r"p\.parquet row 4: a problem without an answer"):
        load_problems(config(tmp_path / "p.parquet"))
    (tmp_path / "p.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"p\.parquet: no parquet file, or a broken one"):
        load_problems(config(tmp_path / "p.parquet"))


def test_a_file_is_read_once_until_it_changes(tmp_path, monkeypatch):
    path = write(tmp_path / "p.jsonl", {"question": "q", "answer": "1"})
    reads = []
    real = problems_module.read_problems
    monkeypatch.setattr(problems_module, "read_problems", lambda *a: reads.append(a) or real(*a))
    first = load_problems(config(path))
    first.append("the caller's own list")
    assert len(load_problems(config(path))) == 1 and len(reads) == 1
    write(path, {"question": "q", "answer": "1"}, {"question": "r", "answer": "2"})
    assert len(load_problems(config(path))) == 2 and len(reads) == 2
    assert len(load_problems(config(path, question_field="answer"))) == 2 and len(reads) == 3


@pytest.mark.skipif(not SHARED.is_dir(), reason="no real data here")
def test_real_sets_load_without_further_options():
    gsm8k = load_problems(composed("problems=gsm8k_train", f"problems.path={SHARED / 'gsm8k_train.jsonl'}").problems)
    assert len(gsm8k) == 7473 and all(problem.solution for problem in gsm8k)
    assert all(problem.answer.replace(",", "").lstrip("-").replace(".", "").isdigit() for problem in gsm8k)
    math = load_problems(composed("problems=math_train", f"problems.path={SHARED / 'math_train.jsonl'}").problems)
    assert len(math) == 7498  # of 7,500: two have an empty box
    assert {problem.level for problem in math} == {None, 1, 2, 3, 4, 5} and len({p.subject for p in math}) == 7
    assert all(problem.answer and problem.solution for problem in math)


def test_selection_problems_and_calibration_import_no_torch():
    code = (
        "import sys, ssgr.traces.selection, ssgr.traces.problems, ssgr.calibration\n"
        "ssgr.calibration.SOURCES.names()\n"
        "print([name for name in ('torch', 'transformers', 'lm_eval', 'sympy') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
