"""What a balanced selection is counted by: strata of the balanced variables, and cells of the axes that are not."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ssgr.config import Balance, Correctness, SelectionConfig
from ssgr.errors import UserError
from ssgr.traces.bins import length_at
from ssgr.traces.eligible import problem_places, right, shared_quota
from ssgr.traces.store import StoreView
from ssgr.traces.tables import ROWS, difficulty_thirds, length_thirds

LENGTH_STRATA = {1: 10, 2: 5}  # by the number of balanced variables
MOST_CROSSED = 3  # where there are more of them


def cells_of(view: StoreView, selection: SelectionConfig) -> np.ndarray:
    """For each trace of the view which cell of the axes that are not balanced it lies in: int, -1 for none.

    The axes are difficulty thirds, length thirds of correct traces and, for matched traces, correctness. In no cell
    are traces of the wrong correctness, of problems without a match and of problems never solved.
    """
    problems, correct = problem_places(view), view.traces["correct"].to_numpy(bool)
    thirds = difficulty_thirds(view)[problems]
    solved = thirds != ROWS.index("never solved")
    codes = [_populations(view, selection), np.where(solved, 0, -1)]
    if Balance.difficulty not in selection.balance:
        codes.append(thirds)
    if Balance.length not in selection.balance:
        tokens = view.traces["tokens"].to_numpy()
        codes.append(length_thirds(tokens[correct], tokens))
    return joint(codes)


def coded(view: StoreView, variable: Balance, counted: np.ndarray, crossed: int) -> np.ndarray:
    """For each trace the stratum of one variable: int, -1 where its problem lacks it.

    Lengths fall into quantiles of the traces `counted` (bool), fewer the more variables are `crossed`. Raises
    UserError where no problem has the variable.
    """
    if variable == Balance.length:
        tokens = view.traces["tokens"].to_numpy()
        count = LENGTH_STRATA.get(crossed, MOST_CROSSED)
        edges = [length_at(tokens[counted], 100 * i / count) for i in range(1, count)] if counted.any() else []
        return np.searchsorted(edges, tokens)
    if variable == Balance.difficulty:
        return view.solved.to_numpy()[problem_places(view)]
    found = pd.Series([getattr(problem, variable) for problem in view.problems], dtype=object)
    if found.isna().all():
        field = "" if variable == Balance.family else f"set problems.{variable}_field, or "
        raise UserError(
            f"selection.balance holds {variable} still, which these problems do not have: {field}leave it out"
        )
    return pd.factorize(found, sort=True)[0][problem_places(view)]


def values_of(view: StoreView, variable: Balance) -> np.ndarray:
    """The numeric variable of each trace, as float: generated tokens, pass rate or level (NaN where there is none)."""
    if variable == Balance.length:
        return view.traces["tokens"].to_numpy(np.float64)
    if variable == Balance.difficulty:
        return view.pass_rate.to_numpy(np.float64)[problem_places(view)]
    return np.array([problem.level for problem in view.problems], dtype=np.float64)[problem_places(view)]


def joint(codes: Sequence[np.ndarray]) -> np.ndarray:
    """One number per combination that occurs, 0, 1, … in the codes' order; -1 where any code is."""
    table = np.stack(codes)
    found = np.full(table.shape[1], -1)
    known = (table >= 0).all(axis=0)
    if known.any():
        key = np.ravel_multi_index(table[:, known], table.max(axis=1) + 1)
        found[known] = np.unique(key, return_inverse=True)[1].reshape(-1)
    return found


def capped_weights(problems: np.ndarray, cells: np.ndarray, cap: int) -> np.ndarray:
    """min(cap, n) / n for each trace, where its problem has n in its cell: what a draw with this cap sees of it."""
    together = joint([problems, cells])
    counts = np.bincount(together)[together]
    return np.minimum(cap, counts) / counts


def _populations(view: StoreView, selection: SelectionConfig) -> np.ndarray:
    if not selection.matched:
        return np.where(right(view, selection.correctness), 0, -1)
    finished = (view.traces["finish_reason"] == "stop").to_numpy(bool)
    masks = [right(view, side) & finished for side in (Correctness.correct, Correctness.incorrect)]
    paired = shared_quota(view, masks, 1, different_lengths=False)[problem_places(view)] > 0
    return np.select([masks[0] & paired, masks[1] & paired], [0, 1], -1)
