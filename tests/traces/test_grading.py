import threading
import time

import pytest

from ssgr.traces import grading
from ssgr.traces.grading import Grade, equivalent, extract_answer, grade, last_boxed


@pytest.mark.parametrize(
    ("answer", "gold", "same"),
    [
        ("72", "72.0", True),
        ("1,024", "1024", True),
        ("1{,}024", "1024", True),
        ("\\frac{3}{6}", "1/2", True),
        ("\\dfrac12", "0.5", True),
        ("-\\frac{1}{2}", "-0.5", True),
        ("$5$", "5", True),
        ("5\\text{ cm}", "5", True),
        ("x=5", "5", True),
        ("\\sqrt{8}", "2\\sqrt{2}", True),
        ("2^{10}", "1024", True),
        ("90^\\circ", "90", True),
        ("\\text{Evelyn}", "Evelyn", True),
        ("\\left(3,\\frac{\\pi}{2}\\right)", "(3, \\pi/2)", True),
        ("\\{1,2\\}", "\\{2,1\\}", True),
        ("3", "4", False),
        ("0.333", "1/3", False),
        ("1/0", "1", False),
        ("(2,1)", "(1,2)", False),
        ("\\text{Evelyn}", "Angela", False),
        ("", "1", False),
    ],
)
def test_equivalence(answer, gold, same):
    assert equivalent(answer, gold) is same


def test_whole_numbers_need_no_math_verify(monkeypatch):
    monkeypatch.setattr(grading, "_worker", None)
    assert equivalent("100001", "100,001")
    assert not equivalent("100001", "100,002")


def test_it_works_outside_the_main_thread():
    found = []
    thread = threading.Thread(target=lambda: found.append(equivalent("\\sqrt{12}", "2\\sqrt{3}")))
    thread.start()
    thread.join()
    assert found == [True]


def test_an_answer_that_costs_too_much_is_wrong_and_the_next_is_graded(monkeypatch):
    monkeypatch.setattr(grading, "ANSWER_SECONDS", 1)
    started = time.monotonic()
    assert not equivalent("9^{9^{9^{9}}}", "8")
    assert time.monotonic() - started < 10
    assert equivalent("\\sqrt{27}", "3\\sqrt{3}")


def test_a_math_verify_that_does_not_start_is_no_wrong_answer(monkeypatch, tmp_path):
    (tmp_path / "broken.py").write_text("import nothing_of_this_name")
    monkeypatch.setattr(grading, "_WORKER", tmp_path / "broken.py")
    monkeypatch.setattr(grading, "_worker", grading._Worker())
    with pytest.raises(RuntimeError, match="does not start"):
        equivalent("\\sqrt{48}", "4\\sqrt{3}")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("no \\boxed{5}, so \\boxed{\\frac{1}{2}}.", "\\frac{1}{2}"),
        ("\\boxed{\\{1, 2\\}} \\boxed{ 3", "\\{1, 2\\}"),
        ("The answer is **12**.", "12"),
        ("answer: 5 apples", "5"),
        ("24 + 48\n#### 1,234", "1,234"),
        ("we get 3, then 4.5.", "4.5"),
        ("no idea", None),
        ("\\boxed{}", None),
    ],
)
def test_extraction(text, answer):
    assert extract_answer(text) == answer


def test_hostile_boxes_take_no_time():
    started = time.monotonic()
    assert last_boxed("\\boxed{" * 2_000) is None
    assert time.monotonic() - started < 5


def test_truncated_is_never_correct():
    for reason in ("length", "repetition"):
        assert grade("</think>\\boxed{1}", "1", "</think>", reason) == Grade(False, None)


def test_only_what_follows_the_tag_counts():
    assert grade("\\boxed{1}</think> hm", "1", "</think>", "stop") == Grade(False, None)
    assert grade("\\boxed{1}", "1", "</think>", "stop") == Grade(False, None)
    assert grade("\\boxed{2}</think>\\boxed{1}", "1", "</think>", "stop") == Grade(True, "1")
    assert grade("\\boxed{1}", "1", None, "stop") == Grade(True, "1")


def test_a_very_long_answer_is_wrong():
    found = grade("\\boxed{" + "1+" * 600 + "1}", "601", None, "stop")
    assert not found.correct and len(found.answer) == 1_000
