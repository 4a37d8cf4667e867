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
from ssgr.models.blocks import BlockCall, Linear, capture, module_of, replay
from ssgr.models.experts import ExpertLinear, routed_inputs
from ssgr.models.offload import free_on_card
from ssgr.pruning.statistics import InputStatistics, sink_threshold, token_norms

REFERENCE_SEQUENCES = 16  # of the dense model: they decide what a sink is
BATCH_TOKENS = {"cpu": 8_192, "cuda": 16_384}  # also the longest sum that one fp32 product makes

TOKENS_PER_INPUT = 1  # of an expert, at least: with fewer its Gram matrix is singular, and chance fills what is missing

Collected = dict[str, InputStatistics]  # of one input, by what a pruner needs: diagonal, gram
# gets a linear's name and input, and which tokens of the batch these are (int64 [tokens]; None: all of them, in order)
See = Callable[[str, torch.Tensor, torch.Tensor | None], None]


@dataclass
class Batch:
    """Some sequences at the input of a block: hidden [rows, positions, hidden], right-padded.

    `hidden` waits on the model's device or, where it does not fit there, in host memory; the rest is on the device.
    `weights` fp32 and `real` bool [rows, positions] are the tokens' weights and which of them are no padding; `uneven`
    says whether a weight is other than 0 and 1; `calls` are the blocks' other arguments.
    """

    hidden: torch.Tensor
    weights: torch.Tensor
    real: torch.Tensor
    uneven: bool
    calls: list[BlockCall]

    def run(self, index: int, block: nn.Module) -> torch.Tensor:
        """What comes out of the block, the model's number `index`, on the device."""
        return replay(block, self.hidden.to(self.real.device), self.calls[index])

    def after(self, output: torch.Tensor) -> "Batch":
        """The same sequences at the input of the next block, which waits where this one's did."""
        return replace(self, hidden=output.to(self.hidden.device))


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
    waiting = waiting_place(model, sum(len(group) * len(sequences[group[-1]]) for group in groups))
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
        batches.append(Batch(hidden.to(waiting), *on_device, uneven, calls))
    return batches


def waiting_place(model: PreTrainedModel, tokens: int) -> torch.device:
    """Where the hidden states of so many tokens, padding included, wait for the next block: on the model's device if
    half of what is free there now holds them, since blocks and statistics want the rest, else in host memory."""
    needed = tokens * model.config.get_text_config().hidden_size * model.dtype.itemsize
    fits = model.device.type != "cuda" or needed <= free_on_card(model.device) // 2
    return model.device if fits else torch.device("cpu")


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

    def collect(self, index: int, block: nn.Module, linears: dict[str, Linear], last: bool) -> dict[str, Collected]:
        """The statistics of every linear's input, by linear; linears with the same input share one object.

        `linears` are the block's, by their full name. Raises CellError for a linear that was never called.
        """
        shared, thresholds = self._measure_reference(index, block, linears, last)
        for name in linears:
            if name not in shared:
                raise CellError(f"{name}: the model's forward never calls it")
        leaders = {name: linears[name] for name in thresholds}
        statistics = {
            name: {need: self._statistics(name, linear, need) for need in self.needs}
            for name, linear in leaders.items()
        }
        carry_on = self.propagation == Propagation.dense and not last
        for position, batch in enumerate(self.batches):
            add = adding(batch, statistics, thresholds)
            output = run(block, batch, index, leaders, add, to_the_end=carry_on)
            if carry_on:
                self.batches[position] = batch.after(output)
        for collected in statistics.values():
            for entry in collected.values():
                entry.check()
        return {name: statistics[leader] for name, leader in shared.items()}

    def _statistics(self, name: str, linear: Linear, need: str) -> InputStatistics:
        floor = TOKENS_PER_INPUT * linear.in_features if isinstance(linear, ExpertLinear) else 0
        return InputStatistics(name, linear.in_features, need == "gram", self.sinks, linear.weight.device, floor)

    def _measure_reference(
        self, index: int, block: nn.Module, linears: dict[str, Linear], last: bool
    ) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
        """For each linear the first one with the same input, and for each of those its sink threshold, as they run."""
        shared: dict[str, str] = {}
        norms: dict[str, list[torch.Tensor]] = {}
        for position, batch in enumerate(self.reference):
            seen: dict[int, tuple[str, torch.Tensor]] = {}  # holds the inputs, so that no id is used twice

            def measure(
                name: str, inputs: torch.Tensor, tokens: torch.Tensor | None, batch: Batch = batch, seen: dict = seen
            ) -> None:
                leader, _ = seen.setdefault(id(inputs), (name, inputs))
                shared[name] = leader
                if leader == name:
                    (real,) = of_tokens(tokens, batch.real)
                    norms.setdefault(name, []).append(token_norms(flat(inputs))[real])

            output = run(block, batch, index, linears, measure, to_the_end=not last)
            if not last:
                self.reference[position] = batch.after(output)
        return shared, {name: sink_threshold(torch.cat(parts)) for name, parts in norms.items()}

    def advance(self, index: int, block: nn.Module) -> None:
        """Runs the pruned block, unless the next one is to see the dense block's outputs."""
        if self.propagation == Propagation.pruned:
            for position, batch in enumerate(self.batches):
                self.batches[position] = batch.after(batch.run(index, block))


def flat(inputs: torch.Tensor) -> torch.Tensor:
    """The tokens [rows x positions, in] of a linear's input; some models flatten rows and positions themselves."""
    return inputs.reshape(-1, inputs.shape[-1])


def of_tokens(tokens: torch.Tensor | None, *facts: torch.Tensor) -> list[torch.Tensor]:
    """Facts [rows, positions] of a batch, for these of its tokens: each [tokens]."""
    return [fact.flatten() if tokens is None else fact.flatten()[tokens] for fact in facts]


def adding(batch: Batch, statistics: dict[str, Collected], thresholds: dict[str, torch.Tensor]) -> See:
    """What adds a linear's input, seen with this batch, to the linear's statistics; padding has weight 0."""
    starts = torch.zeros_like(batch.real)
    starts[:, 0] = True

    def add(name: str, inputs: torch.Tensor, tokens: torch.Tensor | None) -> None:
        if not inputs.numel():
            return
        inputs = flat(inputs)
        first, weights = of_tokens(tokens, starts, batch.weights)
        sink = first | (token_norms(inputs) > thresholds[name])
        for entry in statistics[name].values():
            entry.add(inputs, weights, sink, batch.uneven)

    return add


class AllSeen(Exception):
    """Ends a block's forward once every observed linear has its input."""


def run(
    block: nn.Module,
    batch: Batch,
    index: int,
    linears: dict[str, Linear],
    see: See,
    to_the_end: bool,
) -> torch.Tensor | None:
    """The block's output, after `see` got each linear's input; None where the forward could end earlier."""
    with observed(linears, see, to_the_end):
        try:
            return batch.run(index, block)
        except AllSeen:
            return None


@contextmanager
def observed(linears: dict[str, Linear], see: See, to_the_end: bool) -> Iterator[None]:
    """Shows `see` every linear's input as it comes, those of experts all at once."""
    left = set(linears)
    parts: dict[nn.Module, dict[str, Linear]] = {}
    for name, linear in linears.items():
        parts.setdefault(module_of(linear), {})[name] = linear

    def hook(module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        for seen in inputs_of(parts[module], args):
            see(*seen)
        left.difference_update(parts[module])
        if not left and not to_the_end:
            raise AllSeen

    handles = [module.register_forward_pre_hook(hook) for module in parts]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def inputs_of(
    linears: dict[str, Linear], args: tuple[torch.Tensor, ...]
) -> Iterator[tuple[str, torch.Tensor, torch.Tensor | None]]:
    """What `See` gets of the linears of one module (one, or those of its experts), from its forward's arguments."""
    names = {(one.expert, one.projection): name for name, one in linears.items() if isinstance(one, ExpertLinear)}
    if not names:
        yield next(iter(linears)), args[0], None
        return
    hidden, chosen, *_ = args
    module = module_of(next(iter(linears.values())))
    for expert, tokens, inputs in routed_inputs(module, hidden, chosen):
        for projection, own in inputs.items():
            if (expert, projection) in names:
                yield names[expert, projection], own, tokens
