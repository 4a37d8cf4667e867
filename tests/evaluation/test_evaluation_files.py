"""What is checked of an evaluation before torch is loaded."""

import subprocess
import sys

import pytest
from evaluation_fixtures import make_config, write_problems

from ssgr.errors import UserError
from ssgr.evaluation.files import load_evaluation_problems, task_hash, task_names


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"problems.jsonl:1: malformed JSON"),
        ('{"problem": "x", "gold": "1"}\n\n{"problem": "y"}', r"problems.jsonl:3: a problem without an answer"),
        ('{"gold": "1"}', r"problems.jsonl:1: a problem without a question \(evaluation.question_field='problem'\)"),
        ('{"problem": "x", "gold": "so #### "}', r"problems.jsonl:1: a problem without an answer"),
        ('{"problem": "x", "gold": 1}\n{"problem": "x", "gold": 1}', r"problems.jsonl:2: .* stands on line 1 already"),
        ("", r"no problems in the file"),
    ],
)
def test_bad_files_are_one_line_with_the_place(text, message, tmp_path):
    path = tmp_path / "problems.jsonl"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        load_evaluation_problems(make_config(path))
    assert "\n" not in str(caught.value)


def test_missing_file_and_unknown_task(tmp_path):
    with pytest.raises(UserError, match=r"evaluation\.path=.*: no such file"):
        task_hash(make_config(tmp_path / "none.jsonl"))
    with pytest.raises(UserError, match=r"evaluation\.path is not set"):
        task_hash(make_config(None))
    with pytest.raises(UserError, match=r"no evaluation is named 'maths'; choices: .*jsonl.*tiny_math"):
        task_hash(make_config(tmp_path, name="maths"))


def test_gsm8k_answers_and_missing_ids(tmp_path):
    path = tmp_path / "problems.jsonl"
    path.write_text('{"problem": "x", "gold": "2+2 is 4\\n#### 4"}')
    (problem,) = load_evaluation_problems(make_config(path))
    assert (problem.answer, problem.solution) == ("4", "2+2 is 4") and problem.problem_id


def test_the_hash_is_of_contents_and_fields(tmp_path):
    for name in ("a.jsonl", "b.jsonl"):
        write_problems(tmp_path / name, 3)
    assert task_hash(make_config(tmp_path / "a.jsonl")) == task_hash(make_config(tmp_path / "b.jsonl", seed=9))
    assert task_hash(make_config(tmp_path / "a.jsonl")) != task_hash(
        make_config(tmp_path / "a.jsonl", answer_field="x")
    )
    write_problems(tmp_path / "b.jsonl", 4)
    assert task_hash(make_config(tmp_path / "a.jsonl")) != task_hash(make_config(tmp_path / "b.jsonl"))


def test_the_field_whose_box_may_be_the_answer_enters_the_hash(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text('{"problem": "x", "a": "\\\\boxed{1}", "b": "\\\\boxed{2}"}')
    configs = [make_config(path, answer_field=None, solution_field=field) for field in ("a", "b")]
    assert [load_evaluation_problems(config)[0].answer for config in configs] == ["1", "2"]
    assert task_hash(configs[0]) != task_hash(configs[1])


def test_checking_needs_no_torch(tmp_path):
    assert {"jsonl", "tiny_math"} <= set(task_names())
    code = "import sys, ssgr.evaluation.files; print({'torch', 'lm_eval', 'transformers'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"
