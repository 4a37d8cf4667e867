"""The budget of a calibration set: exactly so many tokens or sequences; and one weight per token."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ssgr.calibration import CalibrationSet
from ssgr.config import CalibrationConfig, TokenWeights
from ssgr.errors import CellError, UserError
from ssgr.progress import track

Piece = tuple[Sequence[int] | np.ndarray, int]  # token ids of one sequence, and how many of them are its prompt


@dataclass(frozen=True)
class Budget:
    """`tokens` tokens or `sequences` sequences, whichever is not None; no sequence is longer than `max_seq_len`."""

    tokens: int | None
    sequences: int | None
    max_seq_len: int

    @classmethod
    def of(cls, config: CalibrationConfig) -> "Budget":
        return cls(config.tokens, config.sequences, config.max_seq_len)

    @property
    def window_tokens(self) -> int:
        """Tokens of a text that is cut into windows: those of so many whole ones where sequences are asked for."""
        return self.sequences * self.max_seq_len if self.tokens is None else self.tokens

    @property
    def wanted(self) -> int:
        return self.sequences if self.tokens is None else self.tokens

    @property
    def option(self) -> str:
        return "sequences" if self.tokens is None else "tokens"

    def in_windows(self) -> "Budget":
        """The same for a text: so many windows of max_seq_len are so many tokens."""
        return Budget(self.window_tokens, None, self.max_seq_len)

    def fill(self, pieces: Iterable[Piece]) -> tuple[list[np.ndarray], list[int]]:
        """The first sequences (int32), each cut at max_seq_len and the last where the tokens end; and their prompts.

        Takes no more of `pieces` than it needs. The budget is met, or there was no more: see `held`.
        """
        packed: list[np.ndarray] = []
        prompts: list[int] = []
        held = 0
        pieces = iter(pieces)
        with track(f"calibration {self.option}", self.wanted) as bar:
            while held < self.wanted and (piece := next(pieces, None)) is not None:
                room = self.max_seq_len if self.tokens is None else min(self.max_seq_len, self.tokens - held)
                cut = np.asarray(piece[0][:room], dtype=np.int32)
                if len(cut):
                    packed.append(cut)
                    prompts.append(min(piece[1], len(cut)))
                    new = 1 if self.tokens is None else len(cut)
                    held += new
                    bar.advance(new)
        return packed, prompts

    def held(self, packed: list[np.ndarray]) -> int:
        """How much of the budget these sequences are."""
        return len(packed) if self.tokens is None else sum(map(len, packed))


def packed_set(
    config: CalibrationConfig, pieces: Iterable[Piece], what: str, more: str, budget: Budget | None = None
) -> CalibrationSet:
    """The calibration set of these sequences, exactly the budget of them.

    UserError where they are too few: `what` says what they are, as in `the 12 problems hold`, `more` what would help
    beside a smaller budget.
    """
    budget = budget or Budget.of(config)
    packed, prompts = budget.fill(pieces)
    held = budget.held(packed)
    if held < budget.wanted:
        raise UserError(too_little(config, budget, what, held, more))
    weights = token_weights(config.token_weights, [len(sequence) for sequence in packed], prompts)
    return CalibrationSet(config.name, packed, weights, [None] * len(packed))


def too_little(config: CalibrationConfig, budget: Budget, what: str, held: int, more: str) -> str:
    """One line: how much there is, how much is needed, what would help."""
    asked = Budget.of(config)
    need = f"calibration.{asked.option} needs {budget.wanted:,}"
    if asked != budget:
        need = f"calibration.sequences={asked.sequences:,} of {asked.max_seq_len:,} tokens need {budget.wanted:,}"
    helps = f"{more} or a smaller calibration.{asked.option} would help"
    return f"calibration={config.name}: {what} {held:,} {budget.option} and {need}; {helps}"


def check_met(config: CalibrationConfig, chosen: CalibrationSet) -> None:
    """CellError where a source has made another number of tokens or sequences than it was asked for."""
    budget = Budget.of(config)
    held = budget.held(chosen.sequences)
    if held != budget.wanted:
        asked = f"calibration.{budget.option}={budget.wanted:,} was asked for"
        raise CellError(f"calibration={config.name} made {held:,} {budget.option} where {asked}: a bug of that source")


def token_weights(kind: TokenWeights, lengths: list[int], prompt_lengths: list[int]) -> list[np.ndarray]:
    """float32 weights, one per token of sequences of these lengths.

    all: 1. decode: 0 for the prompt, 1 for the completion. per_trace: every sequence weighs the same, and all
    weights together are the number of tokens.
    """
    weights = [np.ones(length, np.float32) for length in lengths]
    if kind == TokenWeights.decode:
        for weight, prompt in zip(weights, prompt_lengths, strict=True):
            weight[:prompt] = 0
    if kind == TokenWeights.per_trace:
        mean = sum(lengths) / len(lengths) if lengths else 0.0
        weights = [np.full(length, mean / length, np.float32) for length in lengths]
    return weights
