"""Which traces a cell calibrates on: correctness, difficulty and length, then a seeded draw to an exact budget.

Everything here is a function of the view alone (numpy and pandas, no torch), so a cell's traces never depend on what
else the cache holds.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ssgr.config import Correctness, DifficultyConfig, LengthConfig, SelectionConfig, Within
from ssgr.errors import CellError, UserError
from ssgr.traces.bins import in_pass_rate_bin, length_mask
from ssgr.traces.store import StoreView
from ssgr.traces.tables import selection_table


@dataclass(frozen=True)
class Selection:
    """The chosen traces in drawn order: rows of the view's `traces` with `kept`, the tokens kept of each.

    `table` counts them by pass rate and length (tables.selection_table).
    """

    rows: pd.DataFrame
    table: pd.DataFrame

    @property
    def tokens(self) -> int:
        return int(self.rows["kept"].sum())


def select(
    view: StoreView,
    selection: SelectionConfig,
    difficulty: DifficultyConfig,
    length: LengthConfig,
    seed: int,
    tokens: int,
    max_seq_len: int,
) -> Selection:
    """Exactly `tokens` tokens of traces of the view, prompts included.

    Each trace is cut at max_seq_len and the last one where the budget ends; none is drawn twice, and at most
    selection.max_traces_per_problem of one problem. Which of a problem's traces may be drawn, and the order, follow
    from the seed and each trace's own name, so arms of one study that share traces draw them in the same order.
    Raises CellError where the bin holds too little, UserError where a level is asked of problems without levels.
    """
    chosen = eligible(view, selection.correctness, difficulty, length)
    pool = _pool(view.traces[chosen], selection.max_traces_per_problem, seed)
    sizes = np.minimum(pool["prompt_tokens"] + pool["tokens"], max_seq_len).to_numpy(np.int64)
    ends = np.cumsum(sizes)
    held = int(ends[-1]) if len(ends) else 0
    if held < tokens:
        raise CellError(_too_few(pool, held, tokens, selection, difficulty, length))
    count = int(np.searchsorted(ends, tokens)) + 1 if tokens > 0 else 0
    kept = sizes[:count].copy()
    if count:
        kept[-1] -= ends[count - 1] - tokens
    rows = pool.iloc[:count].assign(kept=kept).reset_index(drop=True)
    return Selection(rows, selection_table(view, rows))


def eligible(
    view: StoreView, correctness: Correctness, difficulty: DifficultyConfig, length: LengthConfig
) -> np.ndarray:
    """Boolean mask over view.traces: the traces of this bin, before the draw."""
    traces = view.traces
    correct = traces["correct"].to_numpy(bool)
    in_difficulty = _in_difficulty(view, difficulty)
    population = correct & in_difficulty if length.within == Within.difficulty else correct
    in_length = length_mask(traces["tokens"].to_numpy(), population, length.percentile)
    if length.tokens is not None:
        low, high = length.tokens
        in_length &= ((traces["tokens"] >= low) & (traces["tokens"] <= high)).to_numpy(bool)
    right = {Correctness.correct: correct, Correctness.incorrect: ~correct}.get(correctness, np.ones_like(correct))
    return right & in_difficulty & in_length


def draw_order(seed: int, purpose: str, names: list[str]) -> np.ndarray:
    """A random order of these names that depends on the seed and each name alone, not on the other names."""
    keys = [hashlib.blake2b(f"{seed}/{purpose}/{name}".encode(), digest_size=16).digest() for name in names]
    return np.array(sorted(range(len(names)), key=keys.__getitem__), dtype=np.int64)


def trace_names(rows: pd.DataFrame) -> list[str]:
    """problem_id/rollout of each row."""
    return [f"{problem}/{rollout}" for problem, rollout in zip(rows["problem_id"], rows["rollout"], strict=True)]


def _pool(traces: pd.DataFrame, max_per_problem: int, seed: int) -> pd.DataFrame:
    """At most max_per_problem random traces of each problem, all in random order.

    Two independent orders: with one, problems with many traces would come first.
    """
    shuffled = traces.iloc[draw_order(seed, "within problems", trace_names(traces))]
    capped = shuffled[shuffled.groupby("problem_id").cumcount() < max_per_problem]
    return capped.iloc[draw_order(seed, "order", trace_names(capped))]


def _in_difficulty(view: StoreView, difficulty: DifficultyConfig) -> np.ndarray:
    problems = {problem.problem_id for problem in view.problems}
    if difficulty.pass_rate is not None:
        solved = view.solved
        problems &= {i for i, c in solved.items() if in_pass_rate_bin(int(c), view.k, difficulty.pass_rate)}
    if difficulty.level is not None:
        low, high = difficulty.level
        levels = {problem.problem_id: problem.level for problem in view.problems if problem.level is not None}
        if not levels:
            raise UserError(
                f"difficulty={difficulty.name} asks for levels: set problems.level_field, or use pass rates"
            )
        problems &= {i for i, level in levels.items() if low <= level <= high}
    return view.traces["problem_id"].isin(problems).to_numpy(bool)


def _too_few(
    pool: pd.DataFrame,
    held: int,
    tokens: int,
    selection: SelectionConfig,
    difficulty: DifficultyConfig,
    length: LengthConfig,
) -> str:
    return (
        f"the bin difficulty={difficulty.name} length={length.name} correctness={Correctness(selection.correctness)} "
        f"holds {held:,} tokens in {len(pool):,} traces of {pool['problem_id'].nunique():,} problems and needs "
        f"{tokens:,}; more rollouts.problems, a larger rollouts.k, "
        f"selection.max_traces_per_problem (now {selection.max_traces_per_problem}), "
        f"or a smaller calibration.tokens would help"
    )
