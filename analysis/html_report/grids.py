"""What each calibration arm took of each bin of difficulty x length, beside what its store held."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from analysis.table import source

SHADES = 5  # of a bin's share in what was taken


class Bin(NamedTuple):
    """Means over the calibration seeds; `shade` 0..SHADES is the bin's share of all tokens taken."""

    taken: str
    held: str
    tokens: str
    shade: int


@dataclass(frozen=True)
class Grid:
    """One arm: a row of bins for each pass rate, a column for each length."""

    model: str
    arm: str
    seeds: int
    lengths: list[str]
    rows: list[tuple[str, list[Bin]]]


def grids(runs: pd.DataFrame, results: Iterable[dict[str, Any]]) -> list[Grid]:
    """The grids of all arms that chose among traces; cells of one arm and seed, whatever was pruned, count once."""
    calibrated = runs[runs["calibration"].notna()].drop_duplicates(["study", "cell"])
    about = {(run["study"], run["cell"]): run for _, run in calibrated.iterrows()}
    found: dict[tuple, dict[Any, dict]] = {}
    for result in results:
        run, grid = about.get((result["study"], result["cell"])), (result["calibration"] or {}).get("grid")
        if run is None or not is_grid(grid):
            continue
        budget = f"{run['tokens']:,.0f} tokens" if pd.notna(run["budget"]) else f"{run['sequences']:,.0f} sequences"
        arm = run["model"], f"{source(run)}: {budget}", json.dumps(grid["held"])
        found.setdefault(arm, {}).setdefault(run["seed"], grid)
    return [grid_of(model, arm, list(found[model, arm, held].values())) for model, arm, held in sorted(found)]


def is_grid(grid: Any) -> bool:
    """Whether both tables are there, of numbers, with the same rows and columns, traces and tokens for each length."""
    if not isinstance(grid, dict) or not all(isinstance(grid.get(part), dict) for part in ("held", "taken")):
        return False
    rows = [columns for part in ("held", "taken") for columns in grid[part].values()]
    if not rows or grid["held"].keys() != grid["taken"].keys() or not all(isinstance(row, dict) for row in rows):
        return False
    lengths = {name.removesuffix("_traces") for name in rows[0] if name.endswith("_traces")}
    columns = {f"{length}_{what}" for length in lengths for what in ("traces", "tokens")}
    return all(columns <= row.keys() and all(isinstance(row[name], int | float) for name in columns) for row in rows)


def grid_of(model: str, arm: str, seeds: list[dict]) -> Grid:
    held = seeds[0]["held"]
    columns = next(iter(held.values()))
    lengths = [name.removesuffix("_traces") for name in columns if name.endswith("_traces")]

    def taken(row: str, column: str) -> float:
        return float(np.mean([grid["taken"][row][column] for grid in seeds]))

    total = sum(taken(row, f"{length}_tokens") for row in held for length in lengths)
    rows = []
    for row in held:
        bins = []
        for length in lengths:
            traces, tokens = taken(row, f"{length}_traces"), taken(row, f"{length}_tokens")
            shade = int(np.ceil(SHADES * tokens / total)) if total else 0
            bins.append(Bin(count(traces), count(held[row][f"{length}_traces"]), f"{tokens:,.0f}", shade))
        rows.append((row, bins))
    return Grid(model, arm, len(seeds), lengths, rows)


def count(value: float) -> str:
    """12, 1,234; a mean that is no whole number with one decimal."""
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.1f}"
