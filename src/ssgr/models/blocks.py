"""Decoder blocks: which linears of a model are pruned, and running one block by itself.

Replaying a block means calling it with exactly the arguments that the model's own forward gave it, and only the
hidden states replaced: rotary embeddings, masks and whatever else an architecture passes are captured, never rebuilt.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ssgr.errors import UserError
from ssgr.models.experts import ExpertLinear, expert_linears, is_experts
from ssgr.models.files import EXPERT_MODELS

Linear = nn.Linear | ExpertLinear  # what is pruned: its `weight` [out, in] is the model's own memory


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


def prunable_linears(block: nn.Module) -> dict[str, Linear]:
    """The linears of one decoder block by their name inside it, in definition order, and all matrices of its experts.

    What stands beside experts chooses or weighs them (the router, the gate of a shared expert) and stays dense. Raises
    UserError naming the module for a block without linears, for weights of two dimensions and more that are none, and
    for a router of something else than experts.
    """
    gates = {
        gate for module in block.modules() if any(map(is_experts, module.children())) for gate in module.children()
    }
    found: dict[str, Linear] = {}
    for name, module in block.named_modules():
        if is_experts(module):
            found |= {f"{name}.{inner}": linear for inner, linear in expert_linears(module).items()}
        elif isinstance(module, nn.Linear) and module not in gates:
            if "router" in name:
                raise UserError(f"unsupported architecture: {name} of {type(block).__name__} routes what is no expert")
            found[name] = module
    refuse_matrices(block, gates | set(map(module_of, found.values())))
    if not found:
        raise UserError(f"unsupported architecture: {type(block).__name__} holds no nn.Linear")
    return found


def refuse_matrices(block: nn.Module, known: set[nn.Module]) -> None:
    """UserError naming the largest weight that would stay dense in silence, because no linear holds it."""
    lost = {
        f"{f'{name}.' if name else ''}{own} ({type(module).__name__})": parameter
        for name, module in block.named_modules()
        if module not in known and not isinstance(module, nn.Embedding)
        for own, parameter in module.named_parameters(recurse=False)
        if parameter.dim() > 1
    }
    if lost:
        name, weight = max(lost.items(), key=lambda item: item[1].numel())
        hint = f"; mixture-of-experts models that can be pruned: {', '.join(EXPERT_MODELS)}"
        raise UserError(
            f"unsupported architecture: {name} of {type(block).__name__} is a weight {tuple(weight.shape)} outside of "
            f"an nn.Linear{hint if 'expert' in name.lower() else ''}"
        )


def module_of(linear: Linear) -> nn.Module:
    """The module whose forward uses the linear."""
    return linear.experts if isinstance(linear, ExpertLinear) else linear


def model_linears(model: nn.Module) -> dict[str, Linear]:
    """All prunable linears by their full name in a checkpoint of the model, block after block.

    lm_head and embeddings are excluded by identity: a weight that is shared with them is never pruned.
    """
    kept = {id(module.weight) for module in (model.get_input_embeddings(), model.get_output_embeddings()) if module}
    names = {id(module): name for name, module in model.named_modules()}
    return {
        f"{names[id(block)]}.{name}": linear
        for block in decoder_blocks(model)
        for name, linear in prunable_linears(block).items()
        if id(linear.weight) not in kept
    }


def prunable_parameters(model: nn.Module) -> int:
    """The number of weights that a sparsity refers to."""
    return sum(linear.weight.numel() for linear in model_linears(model).values())


@torch.no_grad()
def capture(model: nn.Module, input_ids: torch.Tensor) -> tuple[torch.Tensor, list[BlockCall]]:
    """The first block's input [rows, positions, hidden] and each block's other arguments, for one batch of token ids.

    `input_ids` [rows, positions] is right-padded. No attention mask is given: under causal attention padding behind
    the real tokens cannot reach them, so that the model builds the same mask (or none) as for whole sequences. The
    blocks themselves do not run. Raises UserError for a model that does not run them in turn.
    """
    with suppress(NotHandedOn):
        return recorded(model, input_ids, as_tuple=False)
    # Models written for older versions take the first of what a block returns; others can make nothing of a tuple.
    with suppress(NotHandedOn, TypeError, AttributeError, IndexError):
        return recorded(model, input_ids, as_tuple=True)
    line = "does not run its decoder blocks in turn, each on what the one before returned"
    raise UserError(f"unsupported architecture: {type(model).__name__} {line}")


class NotHandedOn(Exception):
    """A block is left out, or what reaches it is not what the one before it returned."""


def recorded(model: nn.Module, input_ids: torch.Tensor, as_tuple: bool) -> tuple[torch.Tensor, list[BlockCall]]:
    """`capture`, with blocks that return what they are given, alone or in a tuple."""
    calls: list[BlockCall] = []
    first: list[torch.Tensor] = []

    def record(hidden: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor | tuple[torch.Tensor]:
        if not first:
            first.append(hidden)
        if hidden is not first[0]:
            raise NotHandedOn
        calls.append(BlockCall(args, kwargs))
        return (hidden,) if as_tuple else hidden

    blocks = decoder_blocks(model)
    with replaced_forward(blocks, record):
        model.get_decoder()(input_ids=input_ids, use_cache=False)
    if len(calls) != len(blocks):
        raise NotHandedOn
    return first[0], calls


@contextmanager
def replaced_forward(blocks: nn.ModuleList, forward: Any) -> Iterator[None]:
    own = [vars(block).get("forward") for block in blocks]  # of an offloaded block; else its class has it
    for block in blocks:
        block.forward = forward
    try:
        yield
    finally:
        for block, before in zip(blocks, own, strict=True):
            del block.forward  # the class's own forward shows again
            if before is not None:
                block.forward = before


@torch.no_grad()
def replay(block: nn.Module, hidden: torch.Tensor, call: BlockCall) -> torch.Tensor:
    """The block's output [rows, positions, hidden] for these hidden states and the captured arguments."""
    output = block(hidden, *call.args, **call.kwargs)
    return output if isinstance(output, torch.Tensor) else output[0]
