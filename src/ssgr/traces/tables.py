"""The table of pass rate x length: what a store holds, and what a cell took of it."""

import numpy as np
import pandas as pd
from rich.table import Table

from ssgr.traces.bins import length_at
from ssgr.traces.store import StoreView

ROWS = ("easy", "medium", "hard", "never solved")
COLUMNS = ("short", "moderate", "long")
LENGTH_PERCENTILES = (33.3, 66.7)  # the bounds of length=short, moderate, long


def selection_table(view: StoreView, rows: pd.DataFrame | None = None) -> pd.DataFrame:
    """Counts by pass rate (thirds: easy, medium, hard, never solved) and length (thirds of all correct traces).

    Of all correct traces of the view, or of `rows` (rows of view.traces; `kept` tokens where that column is there).
    Index ROWS; columns problems, then for each of short, moderate, long: <length>_traces and <length>_tokens
    (prompts included), all int.
    """
    correct = view.traces[view.traces["correct"]]
    counted = correct if rows is None else rows
    names = list(ROWS)
    level = pd.Categorical(counted["problem_id"].map(difficulty_names(view)), categories=names)
    length = pd.Categorical(_length_names(correct["tokens"], counted["tokens"]), categories=list(COLUMNS))
    tokens = counted["kept"] if "kept" in counted else counted["prompt_tokens"] + counted["tokens"]
    cells = pd.DataFrame({"level": level, "length": length, "tokens": tokens.to_numpy()})
    sums = cells.groupby(["level", "length"], observed=False)["tokens"].agg(["size", "sum"])
    in_level = counted["problem_id"].drop_duplicates() if rows is not None else pd.Series(view.solved.index)
    problems = in_level.map(difficulty_names(view)).value_counts()
    table = pd.DataFrame({"problems": problems.reindex(names, fill_value=0)}, index=pd.Index(names))
    for column in COLUMNS:
        part = sums.xs(column, level="length")
        table[f"{column}_traces"], table[f"{column}_tokens"] = part["size"], part["sum"]
    return table.fillna(0).astype(int)


def difficulty_names(view: StoreView) -> dict[str, str]:
    """Problem id -> easy (above two thirds), medium (above one third), hard (above 0) or never solved."""
    return {problem: _difficulty_name(int(solved), view.k) for problem, solved in view.solved.items()}


def render_table(held: pd.DataFrame, taken: pd.DataFrame | None = None, title: str | None = None) -> Table:
    """For the console: each cell's traces and tokens, below them what was taken where anything was."""
    table = Table("", "problems", *COLUMNS, title=title or "correct traces · tokens, by pass rate and length")
    for column in table.columns[1:]:
        column.justify = "right"
    for name in held.index:
        cells = [("problems",), *((f"{length}_traces", f"{length}_tokens") for length in COLUMNS)]
        table.add_row(name, *(_cell(held, taken, name, columns) for columns in cells))
    return table


def _difficulty_name(solved: int, k: int) -> str:
    if solved == 0:
        return "never solved"
    return "easy" if 3 * solved > 2 * k else "medium" if 3 * solved > k else "hard"


def _length_names(population: pd.Series, tokens: pd.Series) -> np.ndarray:
    if population.empty:
        return np.full(len(tokens), COLUMNS[0], dtype=object)
    edges = [length_at(population.to_numpy(), percentile) for percentile in LENGTH_PERCENTILES]
    return np.array(COLUMNS, dtype=object)[np.searchsorted(edges, tokens.to_numpy())]


def _cell(held: pd.DataFrame, taken: pd.DataFrame | None, row: str, columns: tuple[str, ...]) -> str:
    lines = [
        " · ".join(_short(int(frame.loc[row, column])) for column in columns)
        for frame in (held, taken)
        if frame is not None
    ]
    if taken is None or not taken.loc[row, columns[0]]:
        return lines[0]
    return f"{lines[0]}\n↳ {lines[1]}"


def _short(count: int) -> str:
    """Large counts in thousands (k) and millions (M), so that the table of a large store fits 80 columns."""
    if count < 100_000:
        return f"{count:,}"
    return f"{count / 1e3:.0f}k" if count < 999_500 else f"{count / 1e6:.2f}M"
