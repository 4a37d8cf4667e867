"""Which traces of a view lie in a bin, and how many of each problem where arms share their problems."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ssgr.config import Correctness, DifficultyConfig, LengthConfig, SelectionConfig, Within
from ssgr.errors import UserError
from ssgr.traces.bins import counts_in_bin, length_mask
from ssgr.traces.store import StoreView


def eligible(
    view: StoreView, correctness: Correctness, difficulty: DifficultyConfig, length: LengthConfig
) -> np.ndarray:
    """Boolean mask over view.traces: the traces of this bin, before the draw."""
    correct = view.traces["correct"].to_numpy(bool)
    tokens = view.traces["tokens"].to_numpy()
    in_difficulty = _in_difficulty(view, difficulty)[problem_places(view)]
    population = correct & in_difficulty if length.within == Within.difficulty else correct
    in_length = length_mask(tokens, population, length.percentile)
    if length.tokens is not None:
        low, high = length.tokens
        in_length &= (tokens >= low) & (tokens <= high)
    return right(view, correctness) & in_difficulty & in_length


def right(view: StoreView, correctness: Correctness) -> np.ndarray:
    """Boolean mask over view.traces: those of this correctness."""
    correct = view.traces["correct"].to_numpy(bool)
    return {Correctness.correct: correct, Correctness.incorrect: ~correct}.get(correctness, np.ones_like(correct))


def sides(
    view: StoreView, selection: SelectionConfig, difficulty: DifficultyConfig, length: LengthConfig
) -> list[np.ndarray]:
    """Masks over view.traces: what is drawn from, and with selection.matched the other correctness beside it.

    Of matched traces only finished ones count: one cut at the cap would bring in length, not correctness.
    """
    own = Correctness(selection.correctness)
    if not selection.matched:
        return [eligible(view, own, difficulty, length)]
    other = Correctness.incorrect if own == Correctness.correct else Correctness.correct
    finished = (view.traces["finish_reason"] == "stop").to_numpy(bool)
    return [eligible(view, side, difficulty, length) & finished for side in (own, other)]


def shared_quota(view: StoreView, masks: Sequence[np.ndarray], cap: int, different_lengths: bool) -> np.ndarray:
    """For each problem of the view how many traces every arm takes of it: int, shape (problems,).

    As many as each of these masks has, at most `cap`. With different_lengths none of a problem whose traces are all
    of one length in any of the masks.
    """
    problems, tokens = problem_places(view), view.traces["tokens"].to_numpy()
    quota = np.full(len(view.problems), cap)
    for mask in masks:
        quota = np.minimum(quota, np.bincount(problems[mask], minlength=len(quota)))
        if different_lengths:
            lengths = pd.Series(tokens[mask]).groupby(problems[mask])
            spread = (lengths.max() - lengths.min()).reindex(range(len(quota)), fill_value=0)
            quota = np.where(spread > 0, quota, 0)
    return quota


def problem_places(view: StoreView) -> np.ndarray:
    """For each trace of the view the place of its problem in view.problems: int, shape (traces,)."""
    return view.solved.index.get_indexer(view.traces["problem_id"])


def _in_difficulty(view: StoreView, difficulty: DifficultyConfig) -> np.ndarray:
    """Boolean mask over view.problems. Levels are of those problems that have one."""
    inside = np.ones(len(view.problems), bool)
    if difficulty.pass_rate is not None:
        inside &= counts_in_bin(view.graded, difficulty.pass_rate, closed=view.split)[view.solved.to_numpy()]
    if difficulty.level is not None:
        low, high = difficulty.level
        levels = [problem.level for problem in view.problems]
        if all(level is None for level in levels):
            raise UserError(
                f"difficulty={difficulty.name} asks for levels: set problems.level_field, or use pass rates"
            )
        inside &= np.array([level is not None and low <= level <= high for level in levels])
    return inside
