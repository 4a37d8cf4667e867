"""How much worse do a linear's outputs get? Pruned weights of several paths against one fp64 Gram matrix per linear.

All paths were calibrated on the dense model's outputs (pruner.propagation=dense), so that each linear had the same
inputs, and rows can be compared one by one.
"""

from collections import defaultdict
from collections.abc import Callable
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import nn

from ssgr.models.blocks import BlockCall, capture, decoder_blocks, model_linears, prunable_linears, replay
from ssgr.progress import track

REFERENCE, SINK_RATIO = 16, 10.0  # sequences whose median norm says what a sink is, and how many times it
KEYS = ("relative_error", "relative_error_without_sinks")
Answers = dict[str, dict[str, torch.Tensor]]  # by path: the pruned weights on the host, by the linear's full name


class ExactGram:
    """Σ x xᵀ of one input in fp64, sinks apart: position 0, and tokens of over ten times the median norm."""

    def __init__(self, features: int, norms: torch.Tensor):
        self.rest = torch.zeros(features, features, dtype=torch.float64, device=norms.device)
        self.median = float(norms.median())
        self.sinks: list[torch.Tensor] = []

    def add(self, inputs: torch.Tensor) -> None:
        """One sequence [tokens, features]."""
        tokens = inputs.double()
        sink = tokens.norm(dim=1) > SINK_RATIO * self.median
        sink[0] = True
        self.sinks.append(tokens[sink])
        rest = tokens[~sink]
        self.rest.addmm_(rest.T, rest)

    def norms(self) -> dict[str, float]:
        return {"median_norm": self.median, "largest_norm": float(torch.cat(self.sinks).norm(dim=1).max())}

    def errors(self, weight: torch.Tensor, pruned: torch.Tensor) -> dict[str, float]:
        """‖WX − ŴX‖² / ‖WX‖² over all tokens and over those that are no sinks; both weights fp64 [out, in]."""
        sinks = torch.cat(self.sinks)
        found = []
        for gram in (self.rest + sinks.T @ sinks, self.rest):
            change, energy = (((matrix @ gram) * matrix).sum() for matrix in (weight - pruned, weight))
            found.append(float(change / energy))
        return dict(zip(KEYS, found, strict=True))


@torch.no_grad()
def measured(model: nn.Module, sequences: list[np.ndarray], answers: Answers) -> list[dict[str, Any]]:
    """One row for each linear of the dense model and each path."""
    device = model.get_input_embeddings().weight.device
    names = {id(linear): name for name, linear in model_linears(model).items()}
    samples = [capture(model, torch.from_numpy(ids).long()[None].to(device)) for ids in sequences]
    hidden, rows, blocks = [first for first, _ in samples], [], decoder_blocks(model)
    with track("relative errors in fp64", len(blocks)) as bar:
        for index, block in enumerate(blocks):
            linears = {names[id(linear)]: linear for linear in prunable_linears(block).values()}
            grams, hidden = block_grams(block, linears, hidden, [calls[index] for _, calls in samples])
            for name, linear in linears.items():
                rows += compared(name, linear.weight, grams[name], answers)
            bar.advance()
    return rows


def block_grams(
    block: nn.Module, linears: dict[str, nn.Linear], hidden: list[torch.Tensor], calls: list[BlockCall]
) -> tuple[dict[str, ExactGram], list[torch.Tensor]]:
    """Each linear's Gram matrix, one object for linears with the same input, and what the block makes of `hidden`."""
    norms: dict[str, list[torch.Tensor]] = defaultdict(list)
    leaders: dict[str, str] = {}
    for states, call in zip(hidden[:REFERENCE], calls[:REFERENCE], strict=True):
        run(block, linears, states, call, leaders, lambda name, inputs: norms[name].append(inputs.double().norm(dim=1)))
    grams = {name: ExactGram(linears[name].in_features, torch.cat(parts)) for name, parts in norms.items()}
    outputs = [
        run(block, linears, states, call, leaders, lambda name, inputs: grams[name].add(inputs))
        for states, call in zip(hidden, calls, strict=True)
    ]
    return {name: grams[leader] for name, leader in leaders.items()}, outputs


def run(
    block: nn.Module,
    linears: dict[str, nn.Linear],
    states: torch.Tensor,
    call: BlockCall,
    leaders: dict[str, str],
    see: Callable[[str, torch.Tensor], None],
) -> torch.Tensor:
    """The block's output for one sequence, after see(name, input [tokens, in]) for the first linear of each input."""
    seen: dict[int, tuple[str, torch.Tensor]] = {}  # holds the inputs, so that no id is used twice

    def watch(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
            leaders[name], _ = seen.setdefault(id(arguments[0]), (name, arguments[0]))
            if leaders[name] == name:
                see(name, arguments[0].flatten(0, -2))

        return hook

    hooks = [linear.register_forward_pre_hook(watch(name)) for name, linear in linears.items()]
    output = replay(block, states, call)
    for hook in hooks:
        hook.remove()
    return output


def compared(name: str, weight: torch.Tensor, gram: ExactGram, answers: Answers) -> list[dict[str, Any]]:
    """Each path's errors of one linear, and the share of its weights that it kept or pruned as the first path did."""
    dense, rows, first = weight.double(), [], None
    for path, weights in answers.items():
        pruned = weights[name].to(weight.device).double()
        mask = pruned == 0
        first = mask if first is None else first
        row = {"name": name, "path": path, "mask_agreement": float((mask == first).double().mean())}
        row |= {"sparsity": float(mask.double().mean())} | gram.norms() | gram.errors(dense, pruned)
        rows.append(row)
    return rows


def summary(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """By path: the mean of its errors, and over the linears mean and largest ratio to the first path's."""
    paths = list(dict.fromkeys(row["path"] for row in rows))
    found = {}
    for path in paths:
        own, base = ([row for row in rows if row["path"] == each] for each in (path, paths[0]))
        found[path] = {key: fmean(row[key] for row in own) for key in ("mask_agreement", "sparsity", *KEYS)}
        for key in KEYS:
            ratios = [mine[key] / other[key] for mine, other in zip(own, base, strict=True)]
            found[path] |= {f"mean_ratio_{key}": fmean(ratios), f"largest_ratio_{key}": max(ratios)}
    return found
