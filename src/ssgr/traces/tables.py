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
    difficulty = pd.Series(difficulty_thirds(view), index=view.solved.index)
    level = pd.Categorical.from_codes(counted["problem_id"].map(difficulty), categories=names)
    thirds = length_thirds(correct["tokens"].to_numpy(), counted["tokens"].to_numpy())
    length = pd.Categorical.from_codes(thirds, categories=list(COLUMNS))
    tokens = counted["kept"] if "kept" in counted else counted["prompt_tokens"] + counted["tokens"]
    cells = pd.DataFrame({"level": level, "length": length, "tokens": tokens.to_numpy()})
    sums = cells.groupby(["level", "length"], observed=False)["tokens"].agg(["size", "sum"])
    in_level = counted["problem_id"].drop_duplicates() if rows is not None else pd.Series(view.solved.index)
    problems = np.bincount(in_level.map(difficulty), minlength=len(names))
    table = pd.DataFrame({"problems": problems}, index=pd.Index(names))
    for column in COLUMNS:
        part = sums.xs(column, level="length")
        table[f"{column}_traces"], table[f"{column}_tokens"] = part["size"], part["sum"]
    return table.fillna(0).astype(int)


def difficulty_names(view: StoreView) -> dict[str, str]:
    """Problem id -> easy (above two thirds), medium (above one third), hard (above 0) or never solved.

    Under split a problem that the estimating half never solved is hard, as the bins have it: its other half is not
    known to be wrong.
    """
    return dict(zip(view.solved.index, np.array(ROWS, dtype=object)[difficulty_thirds(view)], strict=True))


def difficulty_thirds(view: StoreView) -> np.ndarray:
    """For each problem of the view, the place in ROWS of its difficulty: int, shape (problems,)."""
    solved, graded = view.solved.to_numpy(), view.graded
    thirds = np.where(3 * solved > 2 * graded, 0, np.where(3 * solved > graded, 1, 2))
    return thirds if view.split else np.where(solved == 0, ROWS.index("never solved"), thirds)


def length_thirds(correct: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """For each of these lengths the place in COLUMNS of its third of the lengths of correct traces."""
    if not len(correct):
        return np.zeros(len(tokens), dtype=int)
    edges = [length_at(correct, percentile) for percentile in LENGTH_PERCENTILES]
    return np.searchsorted(edges, tokens)


def render_table(held: pd.DataFrame, taken: pd.DataFrame | None = None, title: str | None = None) -> Table:
    """For the console: each cell's traces and tokens, below them what was taken where anything was."""
    table = Table("", "problems", *COLUMNS, title=title or "correct traces · tokens, by pass rate and length")
    for column in table.columns[1:]:
        column.justify = "right"
    for name in held.index:
        if name == "never solved" and not held.loc[name, "problems"]:
            continue
        cells = [("problems",), *((f"{length}_traces", f"{length}_tokens") for length in COLUMNS)]
        table.add_row(name, *(_cell(held, taken, name, columns) for columns in cells))
    return table


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
