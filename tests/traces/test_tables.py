import io

import pandas as pd
from rich.console import Console
from synthetic_traces import difficulty, length, make_view, selection

from ssgr.traces.selection import select
from ssgr.traces.tables import ROWS, render_table, selection_table

STORE = {"easy": [10, 10, 20], "medium": [20, 30, -5], "hard": [30, -5, -5], "never": [-5, -5, -5]}


def test_the_table_counts_correct_traces_and_their_tokens(tmp_path):
    table = selection_table(make_view(tmp_path, STORE))
    assert table.index.tolist() == ["easy", "medium", "hard", "never solved"]
    assert table["problems"].tolist() == [1, 1, 1, 1]
    assert table["short_traces"].tolist() == [2, 0, 0, 0]
    assert table["moderate_traces"].tolist() == [1, 1, 0, 0]
    assert table["long_traces"].tolist() == [0, 1, 1, 0]
    assert table["short_tokens"].tolist() == [28, 0, 0, 0]
    assert table["long_tokens"].tolist() == [0, 34, 34, 0]


def test_a_selections_table_counts_what_was_kept(tmp_path):
    view = make_view(tmp_path, STORE)
    chosen = select(view, selection("any", 3), difficulty(), length(), 0, 150, 64)
    columns = [column for column in chosen.table if column.endswith("_tokens")]
    assert chosen.table[columns].to_numpy().sum() == 150
    traces = [column for column in chosen.table if column.endswith("_traces")]
    assert chosen.table[traces].to_numpy().sum() == len(chosen.rows)


def test_an_unsolved_store_has_a_table(tmp_path):
    table = selection_table(make_view(tmp_path, {"a": [-1, -2]}))
    assert table.to_numpy().sum() == 1 and table.loc["never solved", "problems"] == 1


def test_it_prints(tmp_path):
    view = make_view(tmp_path, STORE)
    chosen = select(view, selection(), difficulty(), length(), 0, 20, 64)
    text = io.StringIO()
    Console(file=text, width=120).print(render_table(selection_table(view), chosen.table))
    for word in ("short", "moderate", "long", "easy", "medium", "hard", "never solved", "↳"):
        assert word in text.getvalue()


def test_the_table_of_a_large_store_fits_80_columns():
    counts = {"problems": 2048, **{f"{name}_traces": 5454 for name in ("short", "moderate", "long")}}
    counts |= {
        f"{name}_tokens": tokens for name, tokens in (("short", 99_999), ("moderate", 436_341), ("long", 1.94e6))
    }
    held = pd.DataFrame([counts] * len(ROWS), index=list(ROWS)).astype(int)
    text = io.StringIO()
    Console(file=text, width=80).print(render_table(held))
    for cell in ("5,454 · 99,999", "5,454 · 436k", "5,454 · 1.94M"):
        assert text.getvalue().count(cell) == len(ROWS)


def test_under_split_the_row_never_solved_is_empty_and_not_drawn(tmp_path):
    store = {"late": [-5, -5, 10, 20], "never": [-5, -5, -5, -5], "lucky": [10, 10, -5, -5]}
    view = make_view(tmp_path, store)
    table = selection_table(view.store.view(view.problems, 4, split=True))
    assert table["problems"].tolist() == [1, 0, 2, 0]
    assert table.loc["hard"].filter(like="_traces").sum() == table.filter(like="_traces").to_numpy().sum() == 2
    text = io.StringIO()
    Console(file=text, width=120).print(render_table(table))
    assert "never solved" not in text.getvalue() and "easy" in text.getvalue()
