"""The benchmarks' problem sets: from local files without any field options, and from the hub's columns."""

import json
from pathlib import Path

import pytest
from command_line import config_of

from ssgr.cell import describe
from ssgr.config import HubDataset
from ssgr.errors import UserError
from ssgr.evaluation import files, named_tasks
from ssgr.evaluation.files import load_evaluation_problems, task_hash
from ssgr.traces import problem_rows
from ssgr.traces.grading import equivalent

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
LOCAL = {  # task: file, problems, first gold answer
    "math500": ("math500.jsonl", 500, "\\left( 3, \\frac{\\pi}{2} \\right)"),
    "math": ("math_test.jsonl", 4500, "8"),
    "aime24": ("aime24.jsonl", 30, "204"),
    "amc23": ("amc23.jsonl", 40, "27.0"),
    "gsm8k": ("gsm8k_test.jsonl", 1319, "18"),
}
GPQA = {
    "Record ID": "rec1",
    "Question": "Which?",
    "Correct Answer": "ant",
    "Incorrect Answer 1": "bee",
    "Incorrect Answer 2": "cow",
    "Incorrect Answer 3": "dog",
}


def evaluation(name, *options):
    return config_of(f"evaluation={name}", *options).evaluation


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def hub(monkeypatch):
    """Data sets by their ids, and which were asked for."""
    held, asked = {}, []

    def download(dataset, option, override):
        asked.append((dataset, option, override))
        return iter(held[dataset.id])

    monkeypatch.setattr(named_tasks, "download_hub", download)
    files._from_hub.cache_clear()
    yield held, asked
    files._from_hub.cache_clear()


@pytest.mark.parametrize("name", LOCAL)
def test_local_samples_load_without_field_options(name):
    file, count, answer = LOCAL[name]
    if not (SHARED / file).is_file():
        pytest.skip(f"no {file} beside the checkout")
    problems = load_evaluation_problems(evaluation(name, f"evaluation.path={SHARED / file}"))
    assert (len(problems), problems[0].answer) == (count, answer)
    assert all(problem.question and problem.answer for problem in problems)


def test_numbers_of_competitions_are_compared_as_numbers():
    assert equivalent("73", "073") and equivalent("073", "73") and equivalent("27", "27.0")
    assert not equivalent("730", "073") and not equivalent("27.5", "27.0")


@pytest.mark.parametrize(
    ("name", "repeats", "dataset"),
    [
        ("math500", 4, HubDataset("HuggingFaceH4/MATH-500", None, "test", None)),
        ("aime24", 64, HubDataset("HuggingFaceH4/aime_2024", None, "train", None)),
        ("aime25", 64, HubDataset("math-ai/aime25", None, "test", None)),
        ("amc23", 16, HubDataset("math-ai/amc23", None, "test", None)),
        ("gsm8k", 1, HubDataset("openai/gsm8k", "main", "test", None)),
    ],
)
def test_a_benchmark_comes_from_the_hub(name, repeats, dataset, hub):
    held, asked = hub
    config = evaluation(name)
    held[dataset.id] = [{config.question_field: "1+1?", "answer": 2}, {config.question_field: "2+2?", "answer": "4"}]
    assert [(p.question, p.answer) for p in load_evaluation_problems(config)] == [("1+1?", "2"), ("2+2?", "4")]
    assert asked == [(dataset, "evaluation.dataset", "evaluation.path=FILE")]
    assert (config.repeats, config.dense_repeats) == (repeats, repeats)
    assert (config.temperature, config.top_p, config.max_new_tokens) == (None, None, None)
    assert task_hash(config) != task_hash(evaluation(name, "evaluation.dataset.revision=abc"))


def test_math_asks_the_problems_of_math500_first_and_none_twice(hub, monkeypatch):
    held, _ = hub
    said = []
    monkeypatch.setattr(named_tasks, "say", said.append)
    held["DigitalLearningGmbH/MATH-lighteval"] = [
        {"problem": f"{n} +1?", "solution": f"It is \\boxed{{{n + 1}}}.", "type": "Algebra"} for n in range(5)
    ]
    held["HuggingFaceH4/MATH-500"] = [
        {"problem": f"{n} + 1?", "answer": str(n + 1), "unique_id": f"t/{n}"} for n in (3, 1)
    ]
    problems = load_evaluation_problems(evaluation("math"))
    assert {problem.problem_id for problem in problems[:2]} == {"t/3", "t/1"} and not said
    assert sorted(problem.answer for problem in problems[2:]) == ["1", "3", "5"]
    files._from_hub.cache_clear()
    held["HuggingFaceH4/MATH-500"].append({"problem": "9+9?", "answer": "18"})
    assert len(load_evaluation_problems(evaluation("math"))) == 6
    assert said == ["evaluation=math: 1 of the first 3 problems are not in the whole set"]


def test_math_from_several_files_in_the_order_of_their_names(tmp_path):
    write(tmp_path / "b.jsonl", {"problem": "2?", "solution": "\\boxed{2}"})
    write(tmp_path / "a.jsonl", {"problem": "1?", "answer": "1"})
    problems = load_evaluation_problems(evaluation("math", f"evaluation.path='{tmp_path}/*.jsonl'"))
    assert [problem.answer for problem in problems] == ["1", "2"]


def test_the_first_problems_of_math_are_of_every_subject(tmp_path):
    rows = [
        {"problem": f"{subject} {n}?", "answer": "1", "subject": subject}
        for subject in ("A", "B", "C")
        for n in range(99)
    ]
    path = write(tmp_path / "m.jsonl", *rows)
    problems = load_evaluation_problems(evaluation("math", f"evaluation.path={path}"))
    backwards = write(tmp_path / "w.jsonl", *reversed(rows))
    again = load_evaluation_problems(evaluation("math", f"evaluation.path={backwards}"))
    assert len(problems) == 297 and [p.question for p in problems] == [p.question for p in again]
    first = [problem.question[0] for problem in problems[:90]]
    assert min(first.count(subject) for subject in "ABC") > 15


def test_the_choices_of_gpqa_follow_from_the_problem_and_not_from_where_it_stands(tmp_path):
    rows = [GPQA | {"Record ID": f"rec{n}", "Question": f"Which of {n}?"} for n in range(40)]
    config = evaluation("gpqa_diamond", f"evaluation.path={write(tmp_path / 'g.jsonl', *rows)}")
    problems = {problem.problem_id: problem for problem in load_evaluation_problems(config)}
    for number, row in enumerate(rows):
        problem = problems[row["Record ID"]]
        question, empty, *choices = problem.question.splitlines()
        assert (question, empty) == (f"Which of {number}?", "") and [choice[:3] for choice in choices] == [
            "A) ",
            "B) ",
            "C) ",
            "D) ",
        ]
        assert sorted(choice[3:] for choice in choices) == ["ant", "bee", "cow", "dog"]
        assert choices["ABCD".index(problem.answer)].endswith("ant")
    assert {problem.answer for problem in problems.values()} == set("ABCD")
    moved = [row | {"Incorrect Answer 1": "dog", "Incorrect Answer 3": "bee"} for row in reversed(rows)]
    again = evaluation("gpqa_diamond", f"evaluation.path={write(tmp_path / 'h.jsonl', *moved)}")
    assert {problem.problem_id: problem for problem in load_evaluation_problems(again)} == problems
    assert "letter" in config.instruction and "\\boxed{}" in config.instruction
    assert equivalent("(B)", "B") and equivalent("B) cow", "B") and not equivalent("A", "B")


def test_flaws_of_a_well_known_set_are_left_out_and_said(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(problem_rows, "say", said.append)
    row = {"problem": "1+1?", "answer": "2"}
    path = write(tmp_path / "m.jsonl", row, row, {"problem": "2+2?", "answer": ""})
    assert len(load_evaluation_problems(evaluation("math500", f"evaluation.path={path}"))) == 1
    assert said == [
        "evaluation=math500: 1 problems without an answer are left out (line 3)",
        "evaluation=math500: 1 problems that repeat an earlier one are left out (line 2)",
    ]


def test_a_row_without_a_question_is_one_line_with_its_place(tmp_path):
    path = write(tmp_path / "m.jsonl", {"text": "1+1?", "answer": "2"})
    with pytest.raises(UserError, match=r"m\.jsonl:1: a problem without a question \(evaluation.question_field="):
        load_evaluation_problems(evaluation("aime24", f"evaluation.path={path}"))
    path = write(tmp_path / "g.jsonl", {name: value for name, value in GPQA.items() if name != "Incorrect Answer 2"})
    with pytest.raises(UserError, match=r"g\.jsonl:1: a problem without a field 'Incorrect Answer 2'"):
        load_evaluation_problems(evaluation("gpqa_diamond", f"evaluation.path={path}"))


def test_a_hub_out_of_reach_is_one_line_that_names_the_local_way_out(monkeypatch):
    monkeypatch.setattr("ssgr.hub_data._commit", lambda dataset: (_ for _ in ()).throw(OSError("no network\nat all")))
    files._from_hub.cache_clear()
    with pytest.raises(UserError) as caught:
        describe(config_of("evaluation=gpqa_diamond"))
    line = str(caught.value)
    assert "Idavidrein/gpqa" in line and "evaluation.path=FILE" in line and "\n" not in line
