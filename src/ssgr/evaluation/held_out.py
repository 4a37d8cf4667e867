"""The dense samples that the divergence is measured on, and the cells of difficulty and length they fall into."""

from dataclasses import dataclass
from itertools import product

import numpy as np
import pandas as pd

from ssgr.evaluation.accuracy import Accuracy

DIFFICULTIES = ("easy", "medium", "hard")  # the thirds of the pass rate from above; `never` where it is 0
LENGTHS = ("short", "moderate", "long")  # thirds of the correct samples; `truncated` where none fits
CELLS = frozenset(product(DIFFICULTIES, LENGTHS))


@dataclass
class HeldOut:
    """Repeat 0 of every evaluation problem: `table` says what it is, `sequences` are its (prompt, output) ids."""

    table: pd.DataFrame  # task, problem_id, tokens, correct, finish_reason, pass_rate, difficulty, length
    sequences: list[tuple[np.ndarray, np.ndarray]]


def held_out(dense: Accuracy) -> HeldOut:
    """One dense sample per problem, right, wrong or truncated; pass rates and bounds come from all repeats."""
    samples = dense.samples
    pass_rate = samples.groupby("problem_id")["correct"].mean()
    first = (dense.view.traces["rollout"] == 0).to_numpy()
    table = samples[first].drop(columns=["repeat", "answer", "output_ids"]).reset_index(drop=True)
    table["pass_rate"] = table["problem_id"].map(pass_rate).astype(float)
    table["difficulty"] = [difficulty_bin(rate) for rate in table["pass_rate"]]
    correct = samples["tokens"][samples["correct"]]
    bounds = length_bounds((correct if len(correct) else samples["tokens"]).to_numpy())
    bins = np.searchsorted(bounds, table["tokens"], side="left")
    table["length"] = np.where(dense.truncated[first], "truncated", np.array(LENGTHS)[bins])
    return HeldOut(table, dense.view.sequences(dense.view.traces[first]))


def difficulty_bin(pass_rate: float) -> str:
    """easy (2/3, 1], medium (1/3, 2/3], hard (0, 1/3], never 0."""
    if pass_rate <= 0:
        return "never"
    # a third of 3 repeats must not fall over a bound by rounding
    return DIFFICULTIES[2 - min(2, int(np.ceil(pass_rate * 3 - 1e-9)) - 1)]


def length_bounds(tokens: np.ndarray) -> tuple[float, float]:
    """The largest number of tokens of the first and of the second third; equal lengths fall on one side together."""
    low, high = np.quantile(tokens, [1 / 3, 2 / 3], method="inverted_cdf")
    return float(low), float(high)
