"""Experts of a mixture: every matrix of each of them as a linear of its own, and the tokens that reach it.

transformers keeps the experts of a layer in two parameters, gate_up_proj [experts, 2 x inner, hidden] and down_proj
[experts, hidden, inner]. A checkpoint has three matrices for each expert (`experts.3.gate_proj.weight`): those are the
linears here, by those names, and views into the parameters, so that what is written into one is in the model.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from ssgr.models.files import EXPERT_MODELS


@dataclass(frozen=True, eq=False)
class ExpertLinear:
    """One matrix of one expert: `weight` [out, in], in the model's dtype, is a part of what `experts` holds."""

    experts: nn.Module
    expert: int
    projection: str  # gate_proj | up_proj | down_proj

    @property
    def weight(self) -> torch.Tensor:
        """Asked of the module each time: an offloaded model's weights come and go."""
        if self.projection == "down_proj":
            return self.experts.down_proj.data[self.expert]
        gate, up = self.experts.gate_up_proj.data[self.expert].chunk(2)
        return gate if self.projection == "gate_proj" else up

    @property
    def in_features(self) -> int:
        return self.weight.shape[1]


def is_experts(module: nn.Module) -> bool:
    """Whether the module holds all experts of one layer, in the layout above."""
    return type(module).__name__ in EXPERT_MODELS.values()


def has_experts(model: nn.Module) -> bool:
    return any(is_experts(module) for module in model.modules())


def expert_linears(experts: nn.Module) -> dict[str, ExpertLinear]:
    """The matrices of all experts that the module holds, by their name inside it: 3.gate_proj."""
    return {
        f"{expert}.{projection}": ExpertLinear(experts, expert, projection)
        for expert in range(len(experts.down_proj))
        for projection in ("gate_proj", "up_proj", "down_proj")
    }


def routed_inputs(
    experts: nn.Module, hidden: torch.Tensor, chosen: torch.Tensor
) -> Iterator[tuple[int, torch.Tensor, dict[str, torch.Tensor]]]:
    """For each expert in turn its number, its tokens and their inputs to each of its matrices, by projection.

    `hidden` [tokens, hidden] and `chosen` int64 [tokens, k], the router's choice, are what the module's forward gets.
    An expert's tokens are rows of `hidden`, int64 [routed], ascending and perhaps none; inputs are [routed, in].
    """
    choices = chosen.flatten()
    counts = torch.bincount(choices, minlength=experts.num_experts).tolist()  # the device is waited for once
    for expert, places in enumerate(choices.argsort(stable=True).split(counts)):
        tokens = places // chosen.shape[1]
        inputs = hidden[tokens]
        gate, up = nn.functional.linear(inputs, experts.gate_up_proj[expert]).chunk(2, dim=-1)
        yield expert, tokens, {"gate_proj": inputs, "up_proj": inputs, "down_proj": experts.act_fn(gate) * up}
