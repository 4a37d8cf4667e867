"""Calibration sources: each turns a request into token sequences with one weight per token.

A source is one file with a function that is registered under its option's name. It says what it reads
(`reads`: problems, rollouts) before anything heavy is imported, so that a config can be checked first.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ssgr.cache import write_atomically
from ssgr.config import (
    CalibrationConfig,
    DifficultyConfig,
    LengthConfig,
    SelectionConfig,
    TokenWeights,
    check_at_least_one,
)
from ssgr.errors import UserError
from ssgr.registry import Registry
from ssgr.traces.problems import Problem
from ssgr.traces.prompts import PromptTemplate
from ssgr.traces.store import StoreView

SOURCES: Registry = Registry("calibration source", "ssgr.calibration")

CALIBRATION_SCHEMA = pa.schema(
    {"input_ids": pa.list_(pa.int32()), "weights": pa.list_(pa.float32()), "trace_id": pa.string()}
)


@dataclass
class CalibrationSet:
    """What a pruner's statistics are taken over.

    `sequences` (int32) and `weights` (float32, one per token) run in parallel; `trace_ids` are problem_id/rollout
    where a sequence is a trace of the store. `mean_pass_rate` is the mean over traces of their problems' pass rate.
    `selection` and `held` are the tables of pass rate x length of what was taken and what the store holds, for
    sources that select traces. `details` is what else result.json says of it, `notes` what a person should read.
    """

    source: str
    sequences: list[np.ndarray]
    weights: list[np.ndarray]
    trace_ids: list[str | None]
    problems: int = 0
    mean_pass_rate: float | None = None
    selection: pd.DataFrame | None = field(default=None, repr=False)
    held: pd.DataFrame | None = field(default=None, repr=False)
    details: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        return sum(len(sequence) for sequence in self.sequences)

    @property
    def traces(self) -> int:
        return sum(trace is not None for trace in self.trace_ids)

    @property
    def mean_trace_tokens(self) -> float | None:
        """Mean tokens of a trace as it is used here: prompt included, after cutting. None without traces."""
        pairs = zip(self.sequences, self.trace_ids, strict=True)
        lengths = [len(sequence) for sequence, trace in pairs if trace is not None]
        return sum(lengths) / len(lengths) if lengths else None

    def summary(self) -> dict[str, Any]:
        """The `calibration` entry of result.json."""
        return {
            "source": self.source,
            "tokens": self.tokens,
            "sequences": len(self.sequences),
            "traces": self.traces,
            "problems": self.problems,
            "mean_trace_tokens": self.mean_trace_tokens,
            "mean_pass_rate": self.mean_pass_rate,
            "grid": self.grid(),
            **self.details,
        }

    def grid(self) -> dict[str, Any] | None:
        """The tables of pass rate x length as {held | taken: {row: {column: count}}}; None without a selection."""
        if self.held is None:
            return None
        return {"held": self.held.to_dict("index"), "taken": self.selection.to_dict("index")}

    def to_parquet(self, path: Path) -> None:
        """One row per sequence: input_ids, weights, trace_id."""
        columns = {"input_ids": self.sequences, "weights": self.weights, "trace_id": self.trace_ids}
        table = pa.table(columns, schema=CALIBRATION_SCHEMA)
        write_atomically(Path(path), lambda temporary: pq.write_table(table, temporary, compression="zstd"))


@dataclass
class CalibrationRequest:
    """What a source may use: its options (nulls filled), and how to get problems and rollouts if it reads them.

    `weights_hash` names the model and its tokenizer in the cache.
    """

    config: CalibrationConfig
    selection: SelectionConfig
    difficulty: DifficultyConfig
    length: LengthConfig
    seed: int
    split: bool
    template: PromptTemplate
    weights_hash: str
    cache: Path
    problems: Callable[[], list[Problem]]
    rollouts: Callable[[], StoreView]


@dataclass(frozen=True)
class Source:
    """A calibration source: `build` makes its set, the rest says what can be known of it without torch.

    `reads` names what it asks of its request (problems, rollouts). `completions`: its sequences are prompts followed
    by completions. `selects`: it chooses among traces, by correctness, difficulty and length. `contents` returns what
    names the files that it reads, for the cell's hash, and raises UserError where they are not there.
    """

    build: Callable[[CalibrationRequest], CalibrationSet]
    reads: frozenset[str]
    completions: bool
    selects: bool
    contents: Callable[[CalibrationConfig], Any]

    def __call__(self, request: CalibrationRequest) -> CalibrationSet:
        return self.build(request)


def source(
    name: str,
    *,
    reads: frozenset[str] = frozenset(),
    completions: bool = False,
    selects: bool = False,
    contents: Callable[[CalibrationConfig], Any] = lambda config: None,
) -> Callable[[Callable[[CalibrationRequest], CalibrationSet]], Source]:
    """Registers a function as a source; what the options mean is said at Source."""

    def add(build: Callable[[CalibrationRequest], CalibrationSet]) -> Source:
        return SOURCES.register(name)(Source(build, reads, completions, selects, contents))

    return add


def check_source(calibration: CalibrationConfig, difficulty: DifficultyConfig, length: LengthConfig) -> None:
    """UserError for options that the source cannot follow and for files that it would not find."""
    chosen = SOURCES.get(calibration.name)
    if not chosen.selects:
        binned = {
            "difficulty": (difficulty, ("pass_rate", "level")),
            "length": (length, ("percentile", "tokens", "pick")),
        }
        for group, (options, names) in binned.items():
            for name in names:
                if getattr(options, name) is not None:
                    raise UserError(
                        f"{group}={options.name} (difficulty and length choose among traces) does not go with "
                        f"calibration={calibration.name}, which has none: use {group}=all or calibration=self_generated"
                    )
    if calibration.token_weights == TokenWeights.decode and not chosen.completions:
        raise UserError(
            f"calibration.token_weights=decode needs completions, and calibration={calibration.name} has none; "
            f"choices: all, per_trace"
        )
    if calibration.tokens is not None and calibration.sequences is not None:
        raise UserError(
            f"calibration.tokens={calibration.tokens} and calibration.sequences={calibration.sequences}: the budget is "
            f"one or the other"
        )
    check_at_least_one(calibration, "calibration", "tokens", "sequences", "max_seq_len")
    chosen.contents(calibration)
