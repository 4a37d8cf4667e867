"""Calibration tokens on their way through the blocks: what reaches each linear, one block at a time."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from ssgr.config import Propagation, Sinks
from ssgr.errors import CellError
from ssgr.models.blocks import BlockCall, capture, replay
from ssgr.pruning.statistics import InputStatistics, sink_threshold, token_norms

REFERENCE_SEQUENCES = 16  # of the dense model: they decide what a sink is
BATCH_TOKENS = {"cpu": 8_192, "cuda": 16_384}  # also the longest sum that one fp32 product makes

Collected = dict[str, InputStatistics]  # of one input, by what a pruner needs: diagonal, gram


@dataclass
class Batch:
    """Some sequences at the input of a block: hidden [rows, positions, hidden], right-padded.

    `weights` fp32 and `real` bool [rows, positions] are the tokens' weights and which of them are no padding; `uneven`
    says whether a weight is other than 0 and 1; `calls` are the blocks' other arguments.
    """

    hidden: torch.Tensor
    weights: torch.Tensor
    real: torch.Tensor
    uneven: bool
    calls: list[BlockCall]


def make_batches(
    model: PreTrainedModel, sequences: list[np.ndarray], weights: list[np.ndarray], batch_tokens: int
) -> list[Batch]:
    """The sequences at the first block's input, sorted by length so that padding is short."""
    device = model.get_input_embeddings().weight.device
    order = sorted((index for index in range(len(sequences)) if len(sequences[index])), key=lambda i: len(sequences[i]))
    groups: list[list[int]] = []
    for index in order:
        if groups and len(sequences[index]) * (len(groups[-1]) + 1) <= batch_tokens:
            groups[-1].append(index)
        else:
            groups.append([index])
    batches = []
    for group in groups:
        shape = (len(group), max(len(sequences[index]) for index in group))
        ids, weight = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.float32)
        real = np.zeros(shape, dtype=bool)
        for row, index in enumerate(group):
            length = len(sequences[index])
            ids[row, :length], weight[row, :length], real[row, :length] = sequences[index], weights[index], True
        hidden, calls = capture(model, torch.from_numpy(ids).to(device))
        uneven = bool(((weight != 0) & (weight != 1)).any())
        on_device = (torch.from_numpy(array).to(device) for array in (weight, real))
        batches.append(Batch(hidden, *on_device, uneven, calls))
    return batches


class Calibration:
    """Carries the calibration sequences from block to block.

    For each block in turn: `collect` runs it dense and returns the statistics of its linears' inputs, of each kind that
    `needs` names (diagonal, gram); then, once its weights are pruned, `advance` runs it again so that the next block is
    calibrated on what the pruned one gives (propagation `pruned`), or hands on what `collect` saw come out (`dense`).
    """

    def __init__(
        self,
        model: PreTrainedModel,
        sequences: list[np.ndarray],
        weights: list[np.ndarray],
        *,
        needs: Iterable[str],
        sinks: Sinks,
        propagation: Propagation,
        batch_tokens: int | None = None,
    ):
        self.needs, self.sinks, self.propagation = list(needs), sinks, propagation
        batch_tokens = batch_tokens or BATCH_TOKENS.get(model.device.type, BATCH_TOKENS["cpu"])
        self.batches = make_batches(model, sequences, weights, batch_tokens)
        if not self.batches:
            raise CellError("the calibration set holds no tokens")
        # always the dense model's, so it walks beside the batches even where these follow the pruned one
        self.reference = make_batches(
            model, sequences[:REFERENCE_SEQUENCES], weights[:REFERENCE_SEQUENCES], batch_tokens
        )

    def collect(self, index: int, block: nn.Module, linears: dict[str, nn.Linear], last: bool) -> dict[str, Collected]:
        """The statistics of every linear's input, by linear; linears with the same input share one object.

        `linears` are the block's, by their full name. Raises CellError for a linear that was never called.
        """
        shared, thresholds = self._measure_reference(index, block, linears, last)
        for name in linears:
            if name not in shared:
                raise CellError(f"{name}: the model's forward never calls it")
        leaders = {name: linears[name] for name in thresholds}
        statistics = {
            name: {
                need: InputStatistics(name, linear.in_features, need == "gram", self.sinks, linear.weight.device)
                for need in self.needs
            }
            for name, linear in leaders.items()
        }
        carry_on = self.propagation == Propagation.dense and not last
        for position, batch in enumerate(self.batches):
            add = adding(batch, statistics, thresholds)
            output = run(block, batch, index, leaders, add, to_the_end=carry_on)
            if carry_on:
                self.batches[position] = replace(batch, hidden=output)
        for collected in statistics.values():
            for entry in collected.values():
                entry.check()
        return {name: statistics[leader] for name, leader in shared.items()}

    def _measure_reference(
        self, index: int, block: nn.Module, linears: dict[str, nn.Linear], last: bool
    ) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
        """For each linear the first one with the same input, and for each of those its sink threshold, as they run."""
        shared: dict[str, str] = {}
        norms: dict[str, list[torch.Tensor]] = {}
        for position, batch in enumerate(self.reference):
            seen: dict[int, tuple[str, torch.Tensor]] = {}  # holds the inputs, so that no id is used twice

            def measure(name: str, inputs: torch.Tensor, batch: Batch = batch, seen: dict = seen) -> None:
                leader, _ = seen.setdefault(id(inputs), (name, inputs))
                shared[name] = leader
                if leader == name:
                    norms.setdefault(name, []).append(token_norms(flat(inputs))[batch.real.flatten()])

            output = run(block, batch, index, linears, measure, to_the_end=not last)
            if not last:
                self.reference[position] = replace(batch, hidden=output)
        return shared, {name: sink_threshold(torch.cat(parts)) for name, parts in norms.items()}

    def advance(self, index: int, block: nn.Module) -> None:
        """Runs the pruned block, unless the next one is to see the dense block's outputs."""
        if self.propagation == Propagation.pruned:
            for position, batch in enumerate(self.batches):
                self.batches[position] = replace(batch, hidden=replay(block, batch.hidden, batch.calls[index]))


def flat(inputs: torch.Tensor) -> torch.Tensor:
    """The tokens [rows x positions, in] of a linear's input; some models flatten rows and positions themselves."""
    return inputs.reshape(-1, inputs.shape[-1])


def adding(
    batch: Batch, statistics: dict[str, Collected], thresholds: dict[str, torch.Tensor]
) -> Callable[[str, torch.Tensor], None]:
    """What adds a linear's input, seen with this batch, to the linear's statistics; padding has weight 0."""
    first = torch.zeros_like(batch.real)
    first[:, 0] = True
    first, weights = first.flatten(), batch.weights.flatten()

    def add(name: str, inputs: torch.Tensor) -> None:
        tokens = flat(inputs)
        sink = first | (token_norms(tokens) > thresholds[name])
        for entry in statistics[name].values():
            entry.add(tokens, weights, sink, batch.uneven)

    return add


class AllSeen(Exception):
    """Ends a block's forward once every observed linear has its input."""


def run(
    block: nn.Module,
    batch: Batch,
    index: int,
    linears: dict[str, nn.Linear],
    see: Callable[[str, torch.Tensor], None],
    to_the_end: bool,
) -> torch.Tensor | None:
    """The block's output, after `see(name, input)` for each linear; None where the forward could end earlier."""
    with observed(linears, see, to_the_end):
        try:
            return replay(block, batch.hidden, batch.calls[index])
        except AllSeen:
            return None


@contextmanager
def observed(
    linears: dict[str, nn.Linear], see: Callable[[str, torch.Tensor], None], to_the_end: bool
) -> Iterator[None]:
    left = set(linears)

    def watch(name: str) -> Callable:
        def hook(module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
            see(name, args[0])
            left.discard(name)
            if not left and not to_the_end:
                raise AllSeen

        return hook

    handles = [linear.register_forward_pre_hook(watch(name)) for name, linear in linears.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
