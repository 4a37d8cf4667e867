"""Experts as linears: views into the parameters that the model runs with."""

import pytest
import tiny_models
import torch

from ssgr.models import blocks
from ssgr.models.experts import ExpertLinear, has_experts, routed_inputs

EXPERTS = "model.layers.0.mlp.experts"


@pytest.mark.parametrize("architecture", ["qwen3_moe", "qwen2_moe"])
def test_what_is_written_into_an_experts_matrix_is_in_the_model(architecture):
    model = tiny_models.build(architecture)
    linears = {name: each for name, each in blocks.model_linears(model).items() if isinstance(each, ExpertLinear)}
    for number, linear in enumerate(linears.values()):
        linear.weight.data.fill_(number)
    experts = model.get_submodule(EXPERTS)
    for expert in range(4):
        gate, up, down = (
            linears[f"model.layers.0.mlp.experts.{expert}.{name}_proj"] for name in ("gate", "up", "down")
        )
        assert torch.equal(experts.gate_up_proj[expert], torch.cat([gate.weight, up.weight]))
        assert torch.equal(experts.down_proj[expert], down.weight)
        assert (gate.in_features, up.in_features, down.in_features) == (32, 32, 24)
        assert {blocks.module_of(each) for each in (gate, up, down)} == {experts}
    assert sum(linear.weight.numel() for linear in linears.values()) == sum(
        parameter.numel() for name, parameter in model.named_parameters() if ".experts." in name
    )


def test_only_mixtures_have_experts():
    having = {name for name in tiny_models.ARCHITECTURES if has_experts(tiny_models.build(name))}
    assert having == {"qwen3_moe", "qwen2_moe"}


def test_every_expert_gets_its_tokens_in_their_order_and_computes_what_the_module_does():
    experts = tiny_models.build("qwen3_moe").model.layers[0].mlp.experts
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(50, 32, generator=generator)
    chosen = torch.stack([torch.randperm(3, generator=generator)[:2] for _ in range(50)])  # never the last expert
    shares = torch.rand(50, 2, generator=generator)
    output = torch.zeros_like(hidden)
    for expert, tokens, inputs in routed_inputs(experts, hidden, chosen):
        assert tokens.tolist() == [token for token in range(50) if expert in chosen[token]]
        assert torch.equal(inputs["gate_proj"], hidden[tokens]) and inputs["up_proj"] is inputs["gate_proj"]
        share = shares[tokens][chosen[tokens] == expert]
        output[tokens] += (inputs["down_proj"] @ experts.down_proj[expert].T) * share[:, None]
    assert expert == 3 and not len(tokens)
    torch.testing.assert_close(output, experts(hidden, chosen, shares))
