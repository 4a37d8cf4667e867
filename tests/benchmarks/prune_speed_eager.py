"""SparseGPT as its paper describes it, plainly: what prune_speed.py measures the program against.

Frantar and Alistarh 2023, algorithm 1, in fp32 throughout: one sequence at a time, a Hessian for every linear, two
Cholesky factorisations around an inverse, blocks of 128 columns walked one by one, a block's mask by a threshold. Only
the way a block is replayed is the program's.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from divergence import Clock
from torch import nn

from ssgr.models.blocks import BlockCall, capture, decoder_blocks, prunable_linears, replay
from ssgr.progress import track
from ssgr.pruning.sparsity import Sparsity

BLOCK, DAMPING = 128, 0.01


@dataclass
class EagerRun:
    """Seconds of each stage over all blocks, and the linears whose damping had to be raised above 1 %."""

    stages: dict[str, float]
    raised: list[str]


class Hessian:
    """H = 2 / n Σ X Xᵀ in fp32 over n sequences, rescaled whenever one comes in."""

    def __init__(self, linear: nn.Linear):
        self.matrix = torch.zeros(linear.in_features, linear.in_features, device=linear.weight.device)
        self.sequences = 0

    def add(self, _module: nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
        inputs = arguments[0].flatten(0, -2).float()
        self.matrix *= self.sequences / (self.sequences + 1)
        self.sequences += 1
        inputs = math.sqrt(2 / self.sequences) * inputs
        self.matrix += inputs.T @ inputs


@torch.no_grad()
def prune_eagerly(model: nn.Module, sequences: list[np.ndarray], sparsity: Sparsity, dense: bool = False) -> EagerRun:
    """Prunes the model in place; `dense`: every block is calibrated on what the dense blocks before it give."""
    device = model.get_input_embeddings().weight.device
    precision, clock, raised = torch.get_float32_matmul_precision(), Clock(device), []
    torch.set_float32_matmul_precision("highest")
    samples = [capture(model, torch.from_numpy(ids).long()[None].to(device)) for ids in sequences]
    hidden, calls = [first for first, _ in samples], [call for _, call in samples]
    blocks = decoder_blocks(model)
    with track("eager SparseGPT", len(blocks)) as bar:
        for index, block in enumerate(blocks):
            linears = prunable_linears(block)
            hessians = {name: Hessian(linear) for name, linear in linears.items()}
            hooks = [linear.register_forward_pre_hook(hessians[name].add) for name, linear in linears.items()]
            with clock("forward and Gram"):
                outputs = forward(block, hidden, calls, index)
            for hook in hooks:
                hook.remove()
            with clock("factor and solve"):
                for name, linear in linears.items():
                    if prune_linear(linear, hessians.pop(name).matrix, sparsity) > DAMPING:
                        raised.append(f"{index}.{name}")
            with clock("second forward"):
                hidden = outputs if dense else forward(block, hidden, calls, index)
            bar.advance()
    torch.set_float32_matmul_precision(precision)
    return EagerRun({stage: sum(seconds) for stage, seconds in clock.seconds.items()}, raised)


def forward(
    block: nn.Module, hidden: list[torch.Tensor], calls: list[list[BlockCall]], index: int
) -> list[torch.Tensor]:
    return [replay(block, states, call[index]) for states, call in zip(hidden, calls, strict=True)]


def prune_linear(linear: nn.Linear, hessian: torch.Tensor, sparsity: Sparsity) -> float:
    """Prunes one linear in place; the share of the mean diagonal that damped it."""
    weight = linear.weight.data.float()
    dead = hessian.diagonal() == 0
    hessian[dead, dead] = 1
    weight[:, dead] = 0
    factor, damping = inverse_factor(hessian)
    for start in range(0, weight.shape[1], BLOCK):
        end = min(start + BLOCK, weight.shape[1])
        errors = prune_block(weight[:, start:end], factor[start:end, start:end], sparsity)
        weight[:, end:] -= errors @ factor[start:end, end:]
    linear.weight.data.copy_(weight)
    return damping


def inverse_factor(hessian: torch.Tensor) -> tuple[torch.Tensor, float]:
    """The upper factor of the damped inverse, and the damping: the paper's, or where that fails ten times as much."""
    damping = DAMPING
    while True:
        damped = hessian.clone()
        damped.diagonal().add_(damping * hessian.diagonal().mean())
        try:
            inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
            return torch.linalg.cholesky(inverse, upper=True), damping
        except torch.linalg.LinAlgError:
            damping *= 10


def prune_block(weight: torch.Tensor, factor: torch.Tensor, sparsity: Sparsity) -> torch.Tensor:
    """Prunes columns that stand together, in place; their errors, for the columns behind them."""
    diagonal, errors = factor.diagonal(), torch.zeros_like(weight)
    mask = torch.zeros_like(weight, dtype=torch.bool)
    if sparsity.n is None:
        saliency = weight.square() / diagonal.square()
        mask = saliency <= saliency.flatten().sort().values[int(saliency.numel() * sparsity.value) - 1]
    for column in range(weight.shape[1]):
        if sparsity.n is not None and column % sparsity.m == 0:
            group = slice(column, column + sparsity.m)
            saliency = weight[:, group].square() / diagonal[group].square()
            lost = saliency.topk(sparsity.m - sparsity.n, dim=1, largest=False).indices
            mask[:, group].scatter_(1, lost, True)
        kept = weight[:, column].masked_fill(mask[:, column], 0.0)
        errors[:, column] = (weight[:, column] - kept) / diagonal[column]
        weight[:, column:] -= errors[:, column, None] @ factor[None, column, column:]
    weight.masked_fill_(mask, 0.0)
    return errors
