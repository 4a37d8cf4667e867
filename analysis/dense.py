"""The dense model beside the arms: evaluated once, or anew for some of the calibration seeds (on another machine)."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from ssgr.errors import UserError

SAME_RATE = 6  # decimals of a pass rate


@dataclass(frozen=True)
class Dense:
    """The dense model: its accuracy with the standard error over problems, from `repeats` samples of each, and,
    where a divergence table tells it, the accuracy of each problem [problems].

    Of several evaluations it is the mean over all of their samples.
    """

    value: float
    se: float
    repeats: int
    mean_tokens: float
    truncated: float
    accuracy: np.ndarray | None


def dense_model(
    runs: pd.DataFrame, rates: pd.DataFrame | None, numbers: pd.Series, study: str, notes: list[str]
) -> Dense:
    """`rates` [cells, problems] are the dense model's pass rates as each cell's divergence table has them, or None.

    `numbers` says which evaluation each of `runs` was compared with. Raises UserError where no cell knows the dense
    model's accuracy.
    """
    if rates is None:
        notes.append("no divergence table: the dense model is known by its mean alone, so nothing is paired with it")
    each = [evaluation(runs.loc[rows.index], rates, study) for _, rows in numbers.groupby(numbers, sort=True)]
    if len(each) == 1:
        return each[0]
    weights = np.array([max(1, one.repeats) for one in each], float)
    mean = {
        name: float(np.average([getattr(one, name) for one in each], weights=weights))
        for name in ("value", "mean_tokens", "truncated")
    }
    accuracy = np.average([one.accuracy for one in each], axis=0, weights=weights)
    se = float(accuracy.std(ddof=1) / np.sqrt(len(accuracy)))
    return Dense(se=se, repeats=sum(one.repeats for one in each), accuracy=accuracy, **mean)


def evaluation(runs: pd.DataFrame, rates: pd.DataFrame | None, study: str) -> Dense:
    """The one that all of these cells were compared with."""
    row = runs.iloc[0]
    known = {name: row[f"dense_{name}"] for name in ("accuracy", "accuracy_se", "repeats", "mean_tokens", "truncated")}
    if pd.isna(known["accuracy"]):
        raise UserError(f"{study}: {row['cell']} does not say how accurate the dense model is")
    of_problems = None
    if rates is not None:
        cells = pd.MultiIndex.from_frame(runs[["study", "cell"]])
        of_problems = rates.loc[rates.index.isin(cells)].to_numpy(float)[0]
    return Dense(
        float(known["accuracy"]),
        float(known["accuracy_se"]),
        0 if pd.isna(known["repeats"]) else int(known["repeats"]),
        float(known["mean_tokens"]),
        float(known["truncated"]),
        of_problems,
    )


def numbered(runs: pd.DataFrame, rates: pd.DataFrame | None, study: str, notes: list[str]) -> pd.Series:
    """Which dense evaluation each cell was compared with, 0 for the first; by its pass rates, else by its accuracy.

    Several are one where they share the calibration seeds out among themselves, each with all arms: then a difference
    between arms never lies across them, and that is noted. Raises UserError where they do not.
    """
    cells = list(zip(runs["study"], runs["cell"], strict=True))
    known = [] if rates is None else zip(rates.index, rates.to_numpy(float).round(SAME_RATE), strict=True)
    keys = {cell: row.tobytes() for cell, row in known}
    of_accuracy = {runs["dense_accuracy"].iloc[row]: keys[cell] for row, cell in enumerate(cells) if cell in keys}
    found = [
        keys.get(cell, of_accuracy.get(accuracy, accuracy))  # the latter: a cell without a divergence table
        for cell, accuracy in zip(cells, runs["dense_accuracy"], strict=True)
    ]
    numbers = pd.Series(pd.factorize(pd.Series(found, dtype=object))[0], index=runs.index)
    if numbers.max() == 0:
        return numbers
    shared = runs["seed"].notna().all() and (numbers.groupby(runs["seed"]).nunique() == 1).all()
    told = pd.Series([cell in keys for cell in cells], index=runs.index).groupby(numbers).any()
    if not shared or not told.all():  # one that no table tells problem by problem is averaged with no other
        raise UserError(f"{study}: the cells were compared with different dense evaluations")
    seeds = [", ".join(f"{seed:.0f}" for seed in sorted(set(part))) for _, part in runs["seed"].groupby(numbers)]
    notes.append(
        f"the dense model was evaluated {len(seeds)} times (for calibration seeds {'; '.join(seeds)}): its accuracy is "
        f"the mean, KL is that from each seed's own answers, and held-out problems whose bins differ are in none"
    )
    return numbers


def held_out_bins(table: pd.DataFrame, problems: pd.Index) -> pd.DataFrame | None:
    """difficulty and length of each held-out problem, in the order of `problems`; empty where cells disagree on it."""
    if table.empty:
        return None
    bins = table.groupby("problem_id")[["difficulty", "length"]]
    return bins.first().where(bins.nunique() == 1, "").loc[problems]
