"""Decoder blocks: which linears of a model are pruned, and running one block by itself.

Replaying a block means calling it with exactly the arguments that the model's own forward gave it, and only the
hidden states replaced: rotary embeddings, masks and whatever else an architecture passes are captured, never rebuilt.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ssgr.errors import UserError


@dataclass
class BlockCall:
    """The arguments of one call of one decoder block besides the hidden states."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


def decoder_blocks(model: nn.Module) -> nn.ModuleList:
    """The model's decoder blocks in order; raises UserError naming the module that has none."""
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else model
    blocks = getattr(decoder, "layers", None)
    if not isinstance(blocks, nn.ModuleList) or len(blocks) == 0:
        raise UserError(f"unsupported architecture: {type(decoder).__name__} holds no list of decoder blocks (.layers)")
    return blocks


def prunable_linears(block: nn.Module) -> dict[str, nn.Linear]:
    """The linears of one decoder block by their name inside it, in definition order.

    Raises UserError for blocks that hold weights which a search for nn.Linear does not see (fused experts) or none.
    """
    for name, parameter in block.named_parameters():
        if parameter.dim() == 3 and "conv" not in name:
            raise UserError(
                f"unsupported architecture: {name} of {type(block).__name__} is a fused 3-D parameter "
                f"{tuple(parameter.shape)}; mixture-of-experts models cannot be pruned yet"
            )
    linears = {name: module for name, module in block.named_modules() if isinstance(module, nn.Linear)}
    if not linears:
        raise UserError(f"unsupported architecture: {type(block).__name__} holds no nn.Linear")
    return linears


def model_linears(model: nn.Module) -> dict[str, nn.Linear]:
    """All prunable linears by their full name in the model, block after block.

    lm_head and embeddings are excluded by identity: a weight that is shared with them is never pruned.
    """
    kept = {id(module.weight) for module in (model.get_input_embeddings(), model.get_output_embeddings()) if module}
    names = {id(module): name for name, module in model.named_modules()}
    found = [linear for block in decoder_blocks(model) for linear in prunable_linears(block).values()]
    return {names[id(linear)]: linear for linear in found if id(linear.weight) not in kept}


def prunable_parameters(model: nn.Module) -> int:
    """The number of weights that a sparsity refers to."""
    return sum(linear.weight.numel() for linear in model_linears(model).values())


@torch.no_grad()
def capture(model: nn.Module, input_ids: torch.Tensor) -> tuple[torch.Tensor, list[BlockCall]]:
    """The first block's input [rows, positions, hidden] and each block's other arguments, for one batch of token ids.

    `input_ids` [rows, positions] is right-padded. No attention mask is given: under causal attention padding behind
    the real tokens cannot reach them, so that the model builds the same mask (or none) as for whole sequences. The
    blocks themselves do not run.
    """
    calls: list[BlockCall] = []
    first: list[torch.Tensor] = []

    def record(hidden: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if not first:
            first.append(hidden)
        calls.append(BlockCall(args, kwargs))
        return hidden

    blocks = decoder_blocks(model)
    with replaced_forward(blocks, record):
        model.get_decoder()(input_ids=input_ids, use_cache=False)
    if len(calls) != len(blocks):
        raise UserError(f"unsupported architecture: {type(model).__name__} does not call its decoder blocks in turn")
    return first[0], calls


@contextmanager
def replaced_forward(blocks: nn.ModuleList, forward: Any) -> Iterator[None]:
    for block in blocks:
        block.forward = forward
    try:
        yield
    finally:
        for block in blocks:
            del block.forward  # the class's own forward shows again


@torch.no_grad()
def replay(block: nn.Module, hidden: torch.Tensor, call: BlockCall) -> torch.Tensor:
    """The block's output [rows, positions, hidden] for these hidden states and the captured arguments."""
    output = block(hidden, *call.args, **call.kwargs)
    return output if isinstance(output, torch.Tensor) else output[0]
