"""Which traces a cell calibrates on: correctness, difficulty and length, then a seeded draw to an exact budget.

Everything here is a function of the view alone (numpy and pandas, no torch), so a cell's traces never depend on what
else the cache holds.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from ssgr.config import Correctness, DifficultyConfig, LengthConfig, Pick, SelectionConfig
from ssgr.errors import CellError
from ssgr.labels import difficulty_labels, length_labels
from ssgr.traces.balance import BalancedDraw, BalanceTarget, balance_target
from ssgr.traces.bins import check_selection
from ssgr.traces.eligible import eligible, problem_places, shared_quota, sides
from ssgr.traces.store import StoreView
from ssgr.traces.tables import selection_table

__all__ = ["Draw", "Selection", "draw_order", "eligible", "select", "trace_names"]
NEXT_SEEDS = 3  # that a selection is compared with


@dataclass(frozen=True)
class Selection:
    """The chosen traces in drawn order: rows of the view's `traces` with `kept`, the tokens kept of each.

    `table` counts them by pass rate and length (tables.selection_table). `balance` says how near a balanced draw came
    to its target (balance.BalanceTarget.report); None where nothing is balanced.
    """

    rows: pd.DataFrame
    table: pd.DataFrame
    balance: dict[str, Any] | None = None

    @property
    def tokens(self) -> int:
        return int(self.rows["kept"].sum())


def select(
    view: StoreView,
    selection: SelectionConfig,
    difficulty: DifficultyConfig,
    length: LengthConfig,
    seed: int,
    tokens: int | None,
    max_seq_len: int,
    sequences: int | None = None,
) -> Selection:
    """Exactly `tokens` tokens of traces of the view, prompts included, or `sequences` traces where that is given.

    Each trace is cut at max_seq_len and the last one where a budget of tokens ends; none is drawn twice, and at most
    selection.max_traces_per_problem of one problem. Which of a problem's traces may be drawn, and the order, follow
    from the seed and each trace's own name, so arms of one study that share traces draw them in the same order.

    With length.pick, and with selection.matched, arms share problems instead: the same number of traces of each, in
    an order that follows from the problem's name. With selection.balance which traces are taken is decided by
    balance.BalancedDraw; they come in the usual order, but for one that the budget cuts, which comes last.

    Raises CellError where the bin holds too little or where nothing can be balanced, UserError for options that
    contradict each other, or that ask for levels, subjects or families of problems without.
    """
    return Draw(view, selection, difficulty, length, tokens, max_seq_len, sequences).select(seed)


@dataclass(frozen=True)
class Draw:
    """A selection before its seed is known: what may be drawn, and how much. Options as those of `select`."""

    view: StoreView
    selection: SelectionConfig
    difficulty: DifficultyConfig
    length: LengthConfig
    tokens: int | None
    max_seq_len: int
    sequences: int | None = None

    def __post_init__(self):
        check_selection(self.selection, self.difficulty, self.length)

    def select(self, seed: int) -> Selection:
        """The selection of this seed; errors as those of `select`."""
        drawn, kept, dry = self._drawn(seed)
        if len(kept) < self.sequences if self.sequences is not None else kept.sum() < self.tokens:
            raise CellError(self._too_few(drawn, kept))
        rows = self._pool.iloc[drawn].assign(kept=kept).reset_index(drop=True)
        report = self._target.report(self._places[drawn], dry) if self._target else None
        return Selection(rows, selection_table(self.view, rows), report)

    def seed_overlap(self, seed: int) -> float | None:
        """The share of this seed's traces that the next three seeds take too, on average; None where it takes none."""
        own, *others = (set(self._drawn(seed + later)[0].tolist()) for later in range(NEXT_SEEDS + 1))
        return float(np.mean([len(own & other) / len(own) for other in others])) if own else None

    @cached_property
    def _places(self) -> np.ndarray:
        """Which rows of view.traces may be drawn; places in this pool are what the methods below pass around."""
        return np.flatnonzero(self._sides[0])

    @cached_property
    def _sides(self) -> list[np.ndarray]:
        return sides(self.view, self.selection, self.difficulty, self.length)

    @cached_property
    def _quota(self) -> np.ndarray | None:
        """How many traces of each problem every arm takes, where arms share their problems."""
        if not self.selection.matched and self.length.pick is None:
            return None
        picks = self.length.pick is not None
        return shared_quota(self.view, self._sides, self.selection.max_traces_per_problem, different_lengths=picks)

    @cached_property
    def _target(self) -> BalanceTarget | None:
        return balance_target(self.view, self.selection) if self.selection.balance else None

    @cached_property
    def _pool(self) -> pd.DataFrame:
        return self.view.traces.iloc[self._places]

    @cached_property
    def _names(self) -> np.ndarray:
        return np.array(trace_names(self._pool), dtype=object)

    @cached_property
    def _problems(self) -> np.ndarray:
        return problem_places(self.view)[self._places]

    @cached_property
    def _sizes(self) -> np.ndarray:
        return np.minimum(self._pool["prompt_tokens"] + self._pool["tokens"], self.max_seq_len).to_numpy(np.int64)

    def _drawn(self, seed: int) -> tuple[np.ndarray, np.ndarray, int]:
        """Which traces, the tokens kept of each, and how many strata of a balanced draw ran dry."""
        if self._target is not None:
            return self._balanced(seed, self._target)
        order = self._order(seed)
        kept = self._cut(self._sizes[order])
        return order[: len(kept)], kept, 0

    def _cut(self, sizes: np.ndarray) -> np.ndarray:
        """What the budget keeps of traces of these sizes: as many as it takes, fewer where there are no more."""
        if self.sequences is not None:
            return sizes[: self.sequences]
        ends = np.cumsum(sizes)
        count = int(np.searchsorted(ends, self.tokens)) + 1 if self.tokens > 0 else 0
        kept = sizes[:count].copy()
        if len(kept):
            kept[-1] -= max(ends[len(kept) - 1] - self.tokens, 0)
        return kept

    def _order(self, seed: int) -> np.ndarray:
        """All traces that one draw can reach, at most so many of each problem, in random order.

        Two independent orders: with one, problems with many traces would come first.
        """
        if self.length.pick is None:
            shuffled = draw_order(seed, "within problems", self._names)
        else:
            sign = 1 if self.length.pick == Pick.shortest else -1
            shuffled = np.lexsort((self._pool["rollout"].to_numpy(), sign * self._pool["tokens"].to_numpy(np.int64)))
        if self._quota is None:
            capped = shuffled[_nth(self._problems[shuffled]) < self.selection.max_traces_per_problem]
            return capped[draw_order(seed, "order", self._names[capped])]
        nth = _nth(self._problems[shuffled])
        wanted = nth < self._quota[self._problems[shuffled]]
        capped, nth = shuffled[wanted], nth[wanted]
        # A problem's n-th trace goes by one name in every arm, whichever trace it is there.
        names = zip(self._pool["problem_id"].to_numpy()[capped], nth, strict=True)
        return capped[draw_order(seed, "problems", [f"{problem}/{n}" for problem, n in names])]

    def _balanced(self, seed: int, target: BalanceTarget) -> tuple[np.ndarray, np.ndarray, int]:
        candidates = self._order(seed) if self._quota is not None else self._by_problem(seed, target)
        draw = BalancedDraw(target, self._places[candidates], self.selection.max_traces_per_problem)
        taken, held = [], 0
        for place in draw:
            taken.append(place)
            held += self._sizes[candidates[place]]
            if held >= self.tokens if self.sequences is None else len(taken) == self.sequences:
                break
        drawn = candidates[np.array(taken, dtype=np.int64)]
        kept = self._cut(self._sizes[drawn])
        usual = np.argsort(taken) if self._quota is not None else draw_order(seed, "order", self._names[drawn])
        whole = kept[usual] == self._sizes[drawn][usual]
        usual = np.concatenate([usual[whole], usual[~whole]])
        return drawn[usual], kept[usual], draw.dry

    def _by_problem(self, seed: int, target: BalanceTarget) -> np.ndarray:
        """All that may be drawn: in each stratum every problem's first trace before any problem's second."""
        shuffled = draw_order(seed, "within problems", self._names)
        strata = target.strata[self._places[shuffled]]
        nth = _nth(self._problems[shuffled] * (len(target.shares) + 1) + strata + 1)
        rank = np.argsort(draw_order(seed, "problems", self.view.solved.index))
        return shuffled[np.lexsort((rank[self._problems[shuffled]], nth))]

    def _too_few(self, drawn: np.ndarray, kept: np.ndarray) -> str:
        difficulty, length = difficulty_labels(asdict(self.difficulty)), length_labels(asdict(self.length))
        traces, problems = f"{len(drawn):,} traces", f"{len(np.unique(self._problems[drawn])):,} problems"
        if self.sequences is None:
            holds, needs, budget = f"{kept.sum():,} tokens in {traces} of {problems}", self.tokens, "tokens"
        else:
            holds, needs, budget = f"{traces} of {problems}", self.sequences, "sequences"
        *others, last = self._remedies(drawn, budget)
        remedies = f"{', '.join(others)} or {last}" if others else last
        return (
            f"the bin difficulty={'-'.join(difficulty) or 'all'} length={'-'.join(length) or 'all'} "
            f"correctness={Correctness(self.selection.correctness)}{self._narrowed()} holds {holds} and needs "
            f"{needs:,}; {remedies} would help"
        )

    def _remedies(self, drawn: np.ndarray, budget: str) -> Iterator[str]:
        """What would fill the bin: of the options that keep something out of it, and less of what it is to hold."""
        yield self.view.more
        if len(drawn) < len(self._pool):
            yield f"a larger selection.max_traces_per_problem (now {self.selection.max_traces_per_problem})"
        if self.length.tokens is not None:
            yield f"a wider length.tokens (now {list(self.length.tokens)})"
        cut = self._pool["prompt_tokens"] + self._pool["tokens"] > self.max_seq_len
        if self.sequences is None and cut.any():
            yield f"a larger calibration.max_seq_len (now {self.max_seq_len:,})"
        if len(drawn):
            yield f"a smaller calibration.{budget}"

    def _narrowed(self) -> str:
        """What else keeps traces out, for the message."""
        matched = " matched" if self.selection.matched else ""
        return matched + (f" balance=[{', '.join(self._target.variables)}]" if self._target else "")


def draw_order(seed: int, purpose: str, names: Sequence[str]) -> np.ndarray:
    """A random order of these names that depends on the seed and each name alone, not on the other names."""
    digests = (hashlib.blake2b(f"{seed}/{purpose}/{name}".encode(), digest_size=16).digest() for name in names)
    first, second = np.frombuffer(b"".join(digests), dtype=">u8").reshape(len(names), 2).T
    return np.lexsort((second, first))


def trace_names(rows: pd.DataFrame) -> list[str]:
    """problem_id/rollout of each row."""
    return [f"{problem}/{rollout}" for problem, rollout in zip(rows["problem_id"], rows["rollout"], strict=True)]


def _nth(groups: np.ndarray) -> np.ndarray:
    """For each element how many of its group stand before it."""
    return pd.Series(groups).groupby(groups).cumcount().to_numpy()
