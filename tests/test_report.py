"""What the end of a cell prints, of tables made by hand."""

from io import StringIO
from types import SimpleNamespace

import pandas as pd
from rich.console import Console

from ssgr.report import EXCERPT, LINES, differences, excerpt, show_example


def samples(*correct, repeats=1):
    rows = [("t", f"p{i // repeats}", bool(right)) for i, right in enumerate(correct)]
    return pd.DataFrame(rows, columns=["task", "problem_id", "correct"]).assign(
        finish_reason="stop", tokens=range(len(rows)), output_ids=[[number] for number in range(len(rows))]
    )


def test_of_one_problem_there_is_no_interval():
    assert differences(samples(1), samples(0)) == ["pruned − dense: -1.000, of one problem"]
    assert "95 % interval [" in differences(samples(1, 1, 1), samples(0, 1, 0))[0]


def test_a_text_of_nearly_no_characters_does_not_fill_the_screen():
    assert excerpt("so\n\n\n \n\nit is\n\n2") == "so\n\nit is\n\n2"
    assert excerpt("\n" * 500) == "\n\n"
    shown = excerpt("\n".join(map(str, range(100)))).split("\n")
    assert len(shown) == LINES + 1 and (shown[0], shown[-1]) == ("0", "99") and "[…]" in shown
    assert len(excerpt("a" * 5000)) < EXCERPT + 10


def test_the_example_says_that_it_was_chosen_and_how_many_answers_were_right():
    subject = SimpleNamespace(template=SimpleNamespace(completion_text=lambda ids: f"answer {ids[0]}"))
    dense = samples(1, 1, 1, 0, 0, 1, repeats=3)
    for pruned, words in {
        (1, 0): ["Problem p1, before and after, chosen because it was lost (right: dense 1 of 3, pruned 0 of 1):"],
        (1, 1): ["Problem p0, before and after (right: dense 3 of 3, pruned 1 of 1):", "dense (correct, 0 tokens):"],
    }.items():
        out = StringIO()
        show_example(Console(file=out, width=200), subject, dense, samples(*pruned))
        assert all(line in out.getvalue() for line in words), out.getvalue()
