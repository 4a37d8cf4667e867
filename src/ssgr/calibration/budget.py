"""Packing to an exact token budget, and one weight per token; shared by the sources."""

from collections.abc import Iterable

import numpy as np

from ssgr.config import TokenWeights


def fill(sequences: Iterable[np.ndarray], tokens: int, max_seq_len: int) -> tuple[list[np.ndarray], int]:
    """The first sequences, each cut at max_seq_len and the last where the budget ends, and the tokens they hold.

    Takes no more of `sequences` than it needs. Fewer than `tokens` tokens come back only where there are no more.
    """
    packed: list[np.ndarray] = []
    held = 0
    for sequence in sequences:
        if held >= tokens:
            break
        cut = np.asarray(sequence[: min(max_seq_len, tokens - held)], dtype=np.int32)
        if len(cut):
            packed.append(cut)
            held += len(cut)
    return packed, held


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
