"""What the end of a cell prints, of tables made by hand."""

import pandas as pd

from ssgr.report import EXCERPT, LINES, differences, excerpt


def samples(*correct, repeats=1):
    rows = [("t", f"p{i // repeats}", bool(right)) for i, right in enumerate(correct)]
    return pd.DataFrame(rows, columns=["task", "problem_id", "correct"])


def test_of_one_problem_there_is_no_interval():
    assert differences(samples(1), samples(0)) == ["pruned − dense: -1.000, of one problem"]
    assert "95 % interval [" in differences(samples(1, 1, 1), samples(0, 1, 0))[0]


def test_a_text_of_nearly_no_characters_does_not_fill_the_screen():
    assert excerpt("so\n\n\n \n\nit is\n\n2") == "so\n\nit is\n\n2"
    assert excerpt("\n" * 500) == "\n\n"
    shown = excerpt("\n".join(map(str, range(100)))).split("\n")
    assert len(shown) == LINES + 1 and (shown[0], shown[-1]) == ("0", "99") and "[…]" in shown
    assert len(excerpt("a" * 5000)) < EXCERPT + 10
