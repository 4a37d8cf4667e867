"""From cells to arms: what was measured, as arrays [seeds, problems] that share their problems.

An arm is everything that differs in nothing but the calibration seed. Whatever else differs is either named as what
the arms are told apart `by`, or refused in one line: nothing is averaged away.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from analysis.comparable import SETTINGS, common_seeds, groups, refuse_duplicates, refuse_mixtures
from analysis.dense import Dense, dense_model, held_out_bins, numbered
from ssgr.errors import UserError

NOWHERE = np.array([], int)  # places of a cell that a table does not hold


@dataclass(frozen=True, eq=False)  # what was read once is itself alone, and names what was made of it
class Data:
    """What was loaded: one row per cell and task, per problem and repeat, per held-out dense sample."""

    runs: pd.DataFrame
    samples: pd.DataFrame
    divergence: pd.DataFrame

    def of(self, study: str) -> "Data":
        """The same of one study; samples of cells that `runs` no longer holds are never looked at."""
        return Data(self.runs[self.runs["study"] == study], self.samples, self.divergence)

    def only(self, runs: pd.DataFrame) -> "Data":
        """The same of these cells, found by their places: for many small parts of large tables."""
        keys = list(zip(runs["study"], runs["cell"], strict=True))
        tables = [
            table.iloc[np.concatenate([places.get(key, NOWHERE) for key in keys])] if len(keys) else table.iloc[:0]
            for table, places in zip((self.samples, self.divergence), self._places, strict=True)
        ]
        return Data(runs, *tables)

    @cached_property
    def _places(self) -> list[dict[tuple[str, str], np.ndarray]]:
        return [table.groupby(["study", "cell"]).indices for table in (self.samples, self.divergence)]

    @property
    def studies(self) -> list[str]:
        return sorted(self.runs["study"].unique()) if len(self.runs) else []


@dataclass(frozen=True)
class Arm:
    """`accuracy` and `generated` (tokens) are [seeds, problems], means over repeats, None where only the divergence was
    measured; so is `kl`, None where a cell of the arm has no divergence table. `values` says what the arm is, `cells`
    and `seeds` run along the first axis."""

    values: dict[str, Any]
    accuracy: np.ndarray | None
    generated: np.ndarray | None
    kl: np.ndarray | None
    seeds: tuple[int | None, ...]
    cells: tuple[str, ...]
    runs: pd.DataFrame = field(repr=False, compare=False)

    @property
    def key(self) -> tuple:
        return tuple(self.values.values())

    def measure(self, name: str) -> np.ndarray | None:
        """As stats.py wants it: [seeds, problems], or [problems] where no calibration seed had a say (magnitude)."""
        values = {"accuracy": self.accuracy, "kl": self.kl, "generated": self.generated}[name]
        return values[0] if values is not None and self.seeds == (None,) else values


@dataclass(frozen=True)
class Arms:
    """Arms in the order in which they are drawn, the dense model beside them, and what all of them have in common.

    `held_out` has one row per problem (difficulty, length), aligned with the arrays' second axis; None without
    divergence. `notes` are the lines that a reader must know: what was left out, and why.
    """

    arms: list[Arm]
    dense: Dense
    problems: pd.Index
    common: dict[str, Any]
    held_out: pd.DataFrame | None
    notes: list[str]

    def __iter__(self) -> Iterator[Arm]:
        return iter(self.arms)

    def __len__(self) -> int:
        return len(self.arms)

    def find(self, **values: Any) -> Arm | None:
        """The arm with these values, or None."""
        return next((arm for arm in self.arms if values.items() <= arm.values.items()), None)

    @property
    def has_accuracy(self) -> bool:
        return all(arm.accuracy is not None for arm in self.arms)

    @property
    def has_kl(self) -> bool:
        return all(arm.kl is not None for arm in self.arms)

    @property
    def runs(self) -> pd.DataFrame:
        return pd.concat([arm.runs for arm in self.arms])

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(sorted({seed for arm in self.arms for seed in arm.seeds if seed is not None}))


def gather(data: Data, by: Sequence[str], within: dict[str, Any] | None = None) -> Arms:
    """The arms of these runs, told apart by the columns `by`; `within` keeps rows with these values first.

    Raises UserError, one line, where there is no pruned cell, where cells differ in anything but `by` and the seed,
    where two cells are the same arm and seed, where problems differ, where the arms share no calibration seed, and
    where a seed's arms were compared with different dense evaluations.
    Cells that measured the divergence alone give arms without accuracy.
    """
    runs = data.runs
    for column, value in (within or {}).items():
        runs = runs[runs[column] == value]
    dense_only = runs[runs["pattern"] == "dense"] if len(runs) else runs
    runs = runs.drop(dense_only.index)
    if runs.empty:
        raise UserError("no pruned cell that is finished")
    runs = runs.assign(sparsity=runs["sparsity"].round(3))
    study = ", ".join(sorted(runs["study"].unique()))
    refuse_mixtures(runs, study, by)
    refuse_duplicates(runs, study, by)
    notes: list[str] = []
    runs = common_seeds(runs, study, by, notes)
    alone = bool(runs["accuracy"].isna().all() and runs["kl"].notna().all())  # evaluation=divergence
    outcomes = None if alone else per_problem(data.samples, runs, ("correct", "tokens"), "samples")
    divergence = per_problem(data.divergence, runs, ("kl", "pass_rate"), "divergence table", optional=not alone)
    problems = shared_problems(divergence["kl"] if outcomes is None else outcomes["correct"], study)
    if divergence is not None:
        if lacking := len(runs) - len(divergence["kl"]):
            notes.append(f"{lacking} of {len(runs)} cells have no divergence table")
        if not problems.equals(shared_problems(divergence["kl"], study)):
            raise UserError(f"{study}: accuracy and divergence were not measured on the same problems")
    arms = [build(group, by, outcomes, divergence) for group in groups(runs, by)]
    common = {column: sole(runs[column]) for column in SETTINGS if column not in by}
    common |= {column: sole(runs[column]) for column in ("problems", "repeats", "study")}
    rates = None if divergence is None else divergence["pass_rate"]
    dense = dense_model(runs, rates, numbered(runs, rates, study, notes), study, notes)
    held_out = held_out_bins(rows_of(data.divergence, runs), problems)
    return Arms(arms, dense, problems, common, held_out, notes)


def build(group: pd.DataFrame, by: Sequence[str], outcomes: dict | None, divergence: dict | None) -> Arm:
    rows = list(zip(group["study"], group["cell"], strict=True))

    def array(tables: dict | None, column: str) -> np.ndarray | None:
        complete = tables is not None and all(row in tables[column].index for row in rows)
        return tables[column].loc[rows].to_numpy(float) if complete else None

    return Arm(
        values={column: group[column].iloc[0] for column in by},
        accuracy=array(outcomes, "correct"),
        generated=array(outcomes, "tokens"),
        kl=array(divergence, "kl"),
        seeds=tuple(None if pd.isna(seed) else int(seed) for seed in group["seed"]),
        cells=tuple(group["cell"]),
        runs=group,
    )


def per_problem(
    table: pd.DataFrame, runs: pd.DataFrame, columns: Sequence[str], name: str, optional: bool = False
) -> dict[str, pd.DataFrame] | None:
    """Of each column a frame [cells, problems], means over repeats; None where optional and no cell has any.

    `name` is what the table is called where a cell lacks it, which is a UserError unless `optional`.
    """
    table = rows_of(table, runs)
    if table.empty and optional:
        return None
    if table.empty:
        raise UserError(f"{runs['study'].iloc[0]}: {runs['cell'].iloc[0]} has no {name} that can be read")
    found = table.groupby(["study", "cell", "problem_id"])[list(columns)].mean().unstack("problem_id")
    cells = pd.MultiIndex.from_frame(runs[["study", "cell"]])
    if not optional and len(missing := cells.difference(found.index)):
        raise UserError(f"{missing[0][0]}: {missing[0][1]} has no {name} of {runs['task'].iloc[0]}")
    return {column: found[column] for column in columns}


def rows_of(table: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """The rows of these runs' cells and of their task."""
    if table.empty:
        return table
    table = table[(table["task"] == runs["task"].iloc[0]) & table["cell"].isin(set(runs["cell"]))]
    places = table.groupby(["study", "cell"]).indices
    wanted = [places.get(key, NOWHERE) for key in set(zip(runs["study"], runs["cell"], strict=True))]
    return table.iloc[np.sort(np.concatenate(wanted))]


def shared_problems(frame: pd.DataFrame, study: str) -> pd.Index:
    counts = frame.notna().sum(axis=1)
    if counts.min() < frame.shape[1]:
        least, most = counts.idxmin()[1], counts.idxmax()[1]
        raise UserError(
            f"{study}: the cells were not evaluated on the same problems "
            f"({least} has {counts.min()}, {most} has {counts.max()}, all together {frame.shape[1]})"
        )
    return frame.columns


def sole(values: pd.Series) -> Any:
    """The one value there is, None where there is none; a tuple of several (studies)."""
    found = sorted(values.dropna().unique())
    return found[0] if len(found) == 1 else tuple(found) or None
