import multiprocessing
import signal
import threading

import pytest

from ssgr.traces import answers, grading, grading_worker
from ssgr.traces.answers import extract_answer, last_boxed
from ssgr.traces.grading import Grade, equivalent, grade


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


def test_numbers_and_words_need_no_math_verify(monkeypatch):
    monkeypatch.setattr(grading_worker, "verify", None)
    assert equivalent("100001", "100,001")
    assert not equivalent("100001", "100,002")
    assert not equivalent("Tuesday1", "\\text{Tuesday}")


def test_it_works_outside_the_main_thread():
    found = []
    thread = threading.Thread(target=lambda: found.append(equivalent("\\sqrt{12}", "2\\sqrt{3}")))
    thread.start()
    thread.join()
    assert found == [True]


@pytest.fixture
def one_second(monkeypatch):
    monkeypatch.setattr(grading_worker, "ANSWER_SECONDS", 1)
    equivalent.cache_clear()


HOSTILE = [
    "10^{10^{10}}",
    "9^{9^{9^{9}}}",
    "(x+y+z+w)^{200}",
    "\\frac{1}{" * 1000 + "1" + "}" * 1000,
    "(" * 499 + "1" + ")" * 499,
    "{" * 10_000,
    "\\" * 900,
    "x" * 3_000_000,
    "9" * 999 + "^{99999}",
    "1\x002",
    "\ud800 + \udfff",
    "5" + "a" * 900 + "!",
]


@pytest.mark.parametrize("answer", HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_answer_is_wrong_and_the_next_is_graded(one_second, answer):
    assert not grade(f"\\boxed{{{answer}}}", "8", None, "stop").correct
    assert equivalent("\\sqrt{27}", "3\\sqrt{3}")


def test_hostile_answers_leave_no_process_behind(one_second, monkeypatch):
    made = []

    class Remembered(grading_worker._Worker):
        def __init__(self):
            super().__init__()
            made.append(self.process)

    monkeypatch.setattr(grading_worker, "_Worker", Remembered)
    monkeypatch.setattr(grading_worker, "_workers", grading_worker._Workers())
    for answer in ("9^{9^{9}}", "8^{8^{8^{8}}}"):
        assert not equivalent(answer, "7")
    assert equivalent("\\sqrt{75}", "5\\sqrt{3}")
    assert [process.returncode for process in made] == [-signal.SIGPROF, -signal.SIGPROF, None]
    grading_worker._workers.close()
    assert made[-1].returncode == -signal.SIGKILL
    assert all(process.stdin.closed and process.stdout.closed for process in made)


def test_gold_beyond_the_digits_that_python_reads_is_no_error():
    assert not equivalent("9" * 900, "9" * 5_000)
    assert not equivalent("9" * 5_000 + "+x", "9")


def test_a_worker_that_somebody_ended_is_replaced():
    assert equivalent("\\sqrt{12}+1", "1+2\\sqrt{3}")
    for worker in grading_worker._workers._idle:
        worker.process.kill()
        worker.process.wait()
    assert equivalent("\\sqrt{12}+2", "2+2\\sqrt{3}")


def test_a_forked_process_grades_with_workers_of_its_own():
    assert equivalent("\\sqrt{20}", "2\\sqrt{5}")
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply(equivalent, ("\\sqrt{45}", "3\\sqrt{5}"))
    assert equivalent("\\sqrt{80}", "4\\sqrt{5}")


def test_a_math_verify_that_does_not_start_is_no_wrong_answer(monkeypatch, tmp_path):
    (tmp_path / "broken.py").write_text("import nothing_of_this_name")
    monkeypatch.setattr(grading_worker, "_PROGRAM", tmp_path / "broken.py")
    monkeypatch.setattr(grading_worker, "_workers", grading_worker._Workers())
    with pytest.raises(RuntimeError, match="does not start"):
        equivalent("\\sqrt{48}", "4\\sqrt{3}")


def test_all_rows_as_one_by_one():
    answers = ["1", "\\sqrt{12}", "2\\sqrt{3}", "3", "x+1", "1+x", "\\text{odd}", "no idea", "1/2", "10^{-1}"]
    rows = [(f"so \\boxed{{{answer}}}", gold, "stop") for answer in answers for gold in answers]
    rows += [("\\boxed{1}", "1", "length"), ("no idea", "1", "stop"), ("\\boxed{" + "1+" * 600 + "1}", "601", "stop")]
    one_by_one = [grade(text, gold, None, reason) for text, gold, reason in rows]
    equivalent.cache_clear()
    assert grading.grade_all(iter(rows), None, workers=2) == one_by_one
    assert grading.grade_all(rows, "</think>") == [Grade(False, None)] * len(rows)
    assert grading.grade_all([], None) == []


def test_a_thousand_pairs_run_on_all_workers(monkeypatch):
    monkeypatch.setattr(grading, "PAIRS_PER_WORKER", 1)
    meeting = threading.Barrier(2, timeout=30)
    monkeypatch.setattr(grading_worker, "verify", lambda answer, gold: meeting.wait() >= 0)
    rows = [("\\boxed{x+1}", "1+x", "stop"), ("\\boxed{x+2}", "2+x", "stop")]
    equivalent.cache_clear()
    assert all(found.correct for found in grading.grade_all(rows, None, workers=2))
    equivalent.cache_clear()


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("no \\boxed{5}, so \\boxed{\\frac{1}{2}}.", "\\frac{1}{2}"),
        ("\\boxed{\\{1, 2\\}} \\boxed{ 3", "\\{1, 2\\}"),
        ("The answer is **12**.", "12"),
        ("answer: 5 apples", "5"),
        ("24 + 48\n#### 1,234", "1,234"),
        ("we get 3, then 4.5.", "4.5"),
        ("\\boxed{4}, in a \\boxed{}", "4"),
        ("\\fbox{7}", "7"),
        ("\\boxed 9.", "9"),
        ("no idea", None),
        ("\\boxed{}", None),
    ],
)
def test_extraction(text, answer):
    assert extract_answer(text) == answer


def test_of_hostile_boxes_only_a_limited_part_is_read(monkeypatch):
    brace, read = answers._BRACE, []

    class Counting:
        @staticmethod
        def finditer(text, start, end):
            read.append(min(end, len(text)) - start)
            return brace.finditer(text, start, end)

    monkeypatch.setattr(answers, "_BRACE", Counting)
    assert last_boxed("\\boxed{" * 200_000) is None
    assert len(read) == answers.MAX_BOXES and max(read) <= 4 * answers.MAX_ANSWER_CHARS


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
