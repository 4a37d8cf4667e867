"""Well-known problem sets, from the hub or a local file, and what is flawed in them."""

import json

import pytest
from command_line import config_of

from ssgr.config import HubDataset
from ssgr.errors import UserError
from ssgr.traces import problem_rows
from ssgr.traces import problems as problems_module
from ssgr.traces.problems import load_problems, problem_set, problems_hash

SETS = ("gsm8k_train", "math_train", "openr1_math")
MATH = {"problem": "1+1?", "solution": "It is \\boxed{2}.", "level": "Level 3", "type": "Algebra"}


@pytest.fixture
def said(monkeypatch):
    lines = []
    monkeypatch.setattr(problem_rows, "say", lines.append)
    return lines


@pytest.fixture
def hub(monkeypatch):
    """Hands out the rows that a test puts into it; remembers what was asked for."""

    class Hub:
        rows: list = []  # noqa: RUF012
        asked: list = []  # noqa: RUF012

    def download(dataset, option, override):
        Hub.asked.append((dataset, option, override))
        return iter(Hub.rows)

    monkeypatch.setattr(problems_module, "download_hub", download)
    Hub.asked = []
    problems_module._from_hub.cache_clear()
    yield Hub
    problems_module._from_hub.cache_clear()


def options(name, path=None, **fields):
    changes = [f"problems.{field}={value}" for field, value in fields.items()]
    return config_of(f"problems={name}", *([f"problems.path={path}"] if path else []), *changes).problems


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_an_answer_comes_from_its_field_else_from_the_last_box(tmp_path):
    rows = [
        MATH,
        MATH | {"problem": "2+2?", "answer": "4", "solution": "\\boxed{3} or \\boxed{5}"},
        MATH | {"problem": "3+3?", "answer": "", "solution": "\\boxed{3}, no: \\boxed{6}"},
    ]
    problems = {p.question: p for p in load_problems(options("math_train", write(tmp_path / "m.jsonl", *rows)))}
    assert {question: problem.answer for question, problem in problems.items()} == {
        "1+1?": "2",
        "2+2?": "4",
        "3+3?": "6",
    }
    assert problems["1+1?"].solution == MATH["solution"] and problems["1+1?"].level == 3


def test_a_part_of_a_set_that_is_sorted_by_subject_holds_every_subject(tmp_path):
    rows = [{**MATH, "problem": f"{kind} {n}", "type": kind} for kind in ("Algebra", "Geometry") for n in range(100)]
    problems = load_problems(options("math_train", write(tmp_path / "m.jsonl", *rows)))
    backwards = load_problems(options("math_train", write(tmp_path / "w.jsonl", *reversed(rows))))
    assert [p.question for p in problems] == [p.question for p in backwards]
    assert 25 < sum(problem.subject == "Algebra" for problem in problems[:80]) < 55


def test_a_subject_goes_by_either_name(tmp_path):
    rows = [MATH, {**MATH, "problem": "b", "subject": "x"}, {**MATH, "problem": "c"}]
    del rows[1]["type"], rows[2]["type"]
    problems = load_problems(options("math_train", write(tmp_path / "m.jsonl", *rows)))
    assert {p.question: p.subject for p in problems} == {"1+1?": "Algebra", "b": "x", "c": None}
    (problem,) = load_problems(options("math_train", write(tmp_path / "n.jsonl", rows[1]), subject_field="null"))
    assert problem.subject is None


def test_problems_without_an_answer_are_left_out_and_said(tmp_path, said):
    empty = [MATH | {"problem": f"{i}?", "solution": "\\boxed{}", "answer": ""} for i in range(5)]
    path = write(tmp_path / "m.jsonl", empty[0], MATH, *empty[1:])
    for _ in range(2):
        assert [problem.question for problem in load_problems(options("math_train", path))] == ["1+1?"]
    assert said == ["problems=math_train: 5 problems without an answer are left out (lines 1, 3, 4, …)"]
    path = write(tmp_path / "g.jsonl", {"question": "q", "answer": "so ####"}, {"question": "r", "answer": "#### 1"})
    assert len(load_problems(options("gsm8k_train", path))) == 1
    assert said[1:] == ["problems=gsm8k_train: 1 problems without an answer are left out (line 1)"]


def test_repeated_problems_are_left_out_and_said(tmp_path, said):
    rows = [{"uuid": "a", "problem": "p", "answer": "1"}, {"uuid": "b", "problem": "q", "answer": "1"}]
    again = [{"uuid": "a", "problem": "other", "answer": "3"}, {"uuid": "c", "problem": "p", "answer": "4"}]
    problems = load_problems(options("openr1_math", write(tmp_path / "o.jsonl", *rows, *again)))
    assert [(problem.problem_id, problem.answer) for problem in problems] == [("a", "1"), ("b", "1")]
    assert said == ["problems=openr1_math: 2 problems that repeat an earlier one are left out (lines 3, 4)"]


def test_a_file_of_the_users_own_is_refused_for_the_same_flaws(tmp_path):
    names = {"question_field": "problem", "answer_field": "null", "solution_field": "solution"}
    path = write(tmp_path / "m.jsonl", MATH, MATH | {"problem": "q", "solution": "no box"})
    with pytest.raises(UserError, match=r"m\.jsonl:2: a problem without an answer \(problems\.answer_field=null"):
        load_problems(options("jsonl", path, **names))
    path = write(tmp_path / "n.jsonl", MATH, MATH)
    with pytest.raises(UserError, match=r"n\.jsonl:2: problem '.*' stands on line 1 already"):
        load_problems(options("jsonl", path, **names))


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"problem": "q", "solution": "no box"}, "no row has an answer (problems.answer_field=null)"),
        (
            {"problem": " ", "answer": "1"},
            "m.jsonl:1: a problem without a question (problems.question_field='problem')",
        ),
        ({"problem": "q", "answer": [1]}, "m.jsonl:1: 'answer' must be text or a number, not list"),
        ({"problem": "q", "answer": "1", "level": "high"}, "m.jsonl:1: a level must be a whole number"),
    ],
)
def test_any_other_flaw_of_a_well_known_set_is_an_error(row, words, tmp_path, said):
    with pytest.raises(UserError) as caught:
        load_problems(options("math_train", write(tmp_path / "m.jsonl", row)))
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", SETS)
def test_without_a_file_the_hubs_set_is_read_once(name, hub, said):
    field = "question" if name == "gsm8k_train" else "problem"
    hub.rows = [{field: f"{i}?", "answer": f"so #### {i}"} for i in (1, 2, 1)]
    config = options(name)
    for _ in range(2):
        assert [problem.answer for problem in load_problems(config)] == ["1", "2"]
    ((dataset, option, override),) = hub.asked
    assert (dataset, option, override) == (config.dataset, "problems.dataset", "problems.path=FILE")
    assert said == [f"problems={name}: 1 problems that repeat an earlier one are left out (row 3)"]
    load_problems(options(name, **{"dataset.revision": "v1"}))
    assert len(hub.asked) == 2


def test_sets_are_named_by_what_they_hold_or_by_their_data_set(tmp_path):
    here, there = write(tmp_path / "a.jsonl", MATH), write(tmp_path / "b.jsonl", MATH)
    other = write(tmp_path / "c.jsonl", MATH | {"problem": "q"})
    for named in (problem_set, problems_hash):
        assert named(options("math_train", here)) == named(options("math_train", there))
        assert named(options("math_train", here)) != named(options("math_train", other))
        assert named(options("math_train")) != named(options("math_train", **{"dataset.revision": "v1"}))
    assert problems_hash(options("gsm8k_train")) == ["openai/gsm8k", "main", "train", None]
    assert problem_set(options("gsm8k_train")) == "gsm8k_train openai/gsm8k/main/train"
    assert problem_set(config_of().problems) == "bundled"


def test_a_file_that_is_read_otherwise_is_another_set(tmp_path):
    rows = [{"id": name, "question": "q", "answer": "1"} for name in "ab"]
    named, own = (options(name, write(tmp_path / "p.jsonl", *rows)) for name in ("gsm8k_train", "jsonl"))
    assert [len(load_problems(config)) for config in (named, own)] == [1, 2], "a repeated question is a flaw of one"
    assert problems_hash(named) != problems_hash(own)


def test_a_hub_out_of_reach_names_the_local_file(monkeypatch):
    def unreachable(*_, **__):
        raise OSError("nobody there\nat all")

    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", unreachable)
    monkeypatch.setattr("ssgr.hub_data._kept_copy", lambda dataset: None)
    config = options("openr1_math")
    config.dataset = HubDataset("someone/set", "all", "train", "v3")
    with pytest.raises(UserError) as caught:
        load_problems(config)
    assert str(caught.value) == (
        "problems.dataset: someone/set/all/train@v3 could not be had from the hub (the hub cannot be reached: "
        "nobody there); problems.path=FILE reads a local file instead"
    )
