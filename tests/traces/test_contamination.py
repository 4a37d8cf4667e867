import pytest
from command_line import config_of

from ssgr.cell import describe
from ssgr.errors import UserError
from ssgr.traces.contamination import contaminated
from ssgr.traces.problems import Problem

EIGHT = "how many of the seven red boats sail"


def shared(question, *evaluation):
    asked = tuple(Problem(str(i), text, "1") for i, text in enumerate(evaluation))
    (found,) = contaminated((Problem("p", question, "1"),), asked)
    return found


def test_eight_words_in_a_row_count_wherever_they_stand_and_however_they_are_written():
    assert shared(f"Well, {EIGHT} away?", f"It is said: {EIGHT} north")
    assert shared(EIGHT.upper().replace(" ", " \n "), EIGHT)
    assert not shared(EIGHT, EIGHT.replace("red", "blue"))
    assert not shared(" ".join(EIGHT.split()[:7]) + " sink", EIGHT), "seven words in a row are not eight"
    assert not shared(EIGHT)


def test_a_short_question_is_contaminated_by_itself_alone():
    assert shared("What is 1 + 1?", "what is  1 + 1?")
    assert not shared("What is 1 + 1?", "What is 1 + 1? Say it.")


@pytest.fixture
def line(tmp_path):
    rows = [f"{EIGHT} today?", "What is 2 + 2?", f"Where {EIGHT} to?"]
    (tmp_path / "p.jsonl").write_text("".join(f'{{"question": "{row}", "answer": "1"}}\n' for row in rows))
    (tmp_path / "e.jsonl").write_text(f'{{"question": "{EIGHT} now?", "answer": "1"}}\n')
    (tmp_path / "all.jsonl").write_text("".join(f'{{"question": "{row}", "answer": "1"}}\n' for row in rows))
    return [
        "problems=jsonl",
        f"problems.path={tmp_path}/p.jsonl",
        "evaluation=jsonl",
        f"evaluation.path={tmp_path}/e.jsonl",
    ]


def test_a_cell_counts_them_and_drops_them_when_asked(line):
    cell = describe(config_of(*line))
    assert cell.contaminated == (True, False, True) and len(cell.problems) == 3
    clean = describe(config_of(*line, "problems.decontaminate=true"))
    assert [problem.question for problem in clean.problems] == ["What is 2 + 2?"]
    assert clean.hash != cell.hash


def test_nothing_left_is_one_line(line, tmp_path):
    line[-1] = f"evaluation.path={tmp_path}/all.jsonl"
    with pytest.raises(UserError, match="leaves none of the 3 problems"):
        _ = describe(config_of(*line, "problems.decontaminate=true")).problems
