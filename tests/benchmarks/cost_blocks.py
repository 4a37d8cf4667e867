"""What cost.py measures on a few decoder blocks of random weights: pruning them, and the divergence's passes."""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from engines import composed

from ssgr.evaluation.divergence import dense_states, divergence
from ssgr.evaluation.held_out import HeldOut
from ssgr.evaluation.teacher_forcing import final_states, length_sorted_batches
from ssgr.models.load import LoadedModel
from ssgr.progress import say, track
from ssgr.pruning.loop import prune_model
from ssgr.pruning.sparsity import Sparsity

PROMPT = 120  # tokens
PRUNED = ("wanda", "sparsegpt")


def pruning(loaded: LoadedModel, given: argparse.Namespace) -> list[dict[str, Any]]:
    """Seconds of a block that is not the last: its statistics, its linears, and running it once more."""
    found = []
    for name in PRUNED:
        config = composed([f"pruner={name}"])
        for tokens, length in given.calibration:
            say(f"{name}: {given.blocks} blocks, {tokens} tokens in sequences of {length}")
            sequences = [ids for ids, _ in random_sequences(loaded, tokens, length, length)]
            asked = (None, config.pruner, config.allocation, Sparsity(0.5))
            prune_model(loaded, sequences[:1], *asked)  # the first call compiles
            before = memory(loaded.device)
            report = prune_model(loaded, sequences, *asked)
            seconds = [row["seconds"] for row in report.blocks]
            row = {"pruner": name, "tokens": sum(map(len, sequences)), "length": length}
            row |= {"seconds_per_block": float(np.mean(seconds[:-1])), "other_seconds": report.seconds - sum(seconds)}
            found.append(row | {"memory_bytes": memory(loaded.device, peak=True) - before})
    return found


def comparing(loaded: LoadedModel, given: argparse.Namespace) -> list[dict[str, Any]]:
    """Seconds of each generated token: of one block's forward pass, and of what comes to it once, dense and pruned."""
    found = []
    for _, length in given.calibration:
        sequences = random_sequences(loaded, given.compared, length, min(PROMPT, length // 2))
        tokens = np.array([len(output) for _, output in sequences])
        same = {"task": "random", "correct": True, "finish_reason": "stop", "pass_rate": 1.0}
        columns = {"problem_id": [str(row) for row in range(len(tokens))], "tokens": tokens}
        samples = HeldOut(pd.DataFrame(columns | same | {"difficulty": "easy", "length": "short"}), sequences)
        final_states(loaded.model, sequences[:1])  # the first call chooses kernels
        passes, _ = timed(forward_passes, loaded, sequences)
        with tempfile.TemporaryDirectory() as folder:
            dense, states = timed(dense_states, loaded, samples, Path(folder))
            pruned, _ = timed(divergence, loaded, samples, states)
        total = int(tokens.sum())
        row = {"length": length, "tokens": total, "block": passes / given.blocks / total}
        found.append(row | {"dense": (dense - passes) / total, "pruned": (pruned - passes) / total})
    return found


def forward_passes(loaded: LoadedModel, sequences: list[tuple[np.ndarray, np.ndarray]]) -> None:
    batches = length_sorted_batches(sequences)
    with track("forward passes", len(batches)) as bar:
        for batch in batches:
            final_states(loaded.model, [sequences[row] for row in batch])
            bar.advance()


def random_sequences(loaded: LoadedModel, tokens: int, length: int, prompt: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """(the first `prompt` ids, the others), of `length` together; as many as come to `tokens`."""
    count = max(1, round(tokens / length))
    ids = np.random.default_rng(0).integers(0, loaded.model.config.vocab_size, (count, length), dtype=np.int32)
    return [(row[:prompt], row[prompt:]) for row in ids]


def memory(device: torch.device, peak: bool = False) -> int:
    """Bytes on the card now, from which a new peak is measured; or the peak since."""
    if device.type != "cuda":
        return 0
    if peak:
        return torch.cuda.max_memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device)


def timed(work: Callable[..., Any], *arguments: Any) -> tuple[float, Any]:
    """Seconds and the result."""
    wait = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    wait()
    started = time.perf_counter()
    result = work(*arguments)
    wait()
    return time.perf_counter() - started, result
