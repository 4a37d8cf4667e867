"""Every architecture that can be pruned: what changes, what does not, and that a checkpoint of it is the same model.

tests/models/test_blocks.py holds their blocks to the models' own forward, tests/engines/test_hf.py their generation.
"""

import pytest
import tiny_models
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from ssgr.models.blocks import model_linears
from ssgr.models.save import save_checkpoint
from ssgr.pruning.loop import prune_model
from ssgr.pruning.sparsity import Sparsity

SEQUENCES = tiny_models.sequences(18)
LINEARS = {  # of a block, where it is not q, k, v, o, gate, up and down
    "phi3": {"self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj"},
    "opt": {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj", "fc1", "fc2"},
}
ATTENTION = {f"self_attn.{name}_proj" for name in "qkvo"}
MLP = {f"{name}_proj" for name in ("gate", "up", "down")}


def expected_linears(architecture: str, block: int) -> set[str]:
    if architecture not in ("qwen2_moe", "qwen3_moe"):
        return LINEARS.get(architecture, ATTENTION | {f"mlp.{name}" for name in MLP})
    if (architecture, block) == ("qwen3_moe", 1):
        return ATTENTION | {f"mlp.{name}" for name in MLP}  # mlp_only_layers
    shared = {f"mlp.shared_expert.{name}" for name in MLP if architecture == "qwen2_moe"}
    return ATTENTION | shared | {f"mlp.experts.{expert}.{name}" for expert in range(4) for name in MLP}


def outside(model) -> dict[str, torch.Tensor]:
    """Copies of every parameter of which nothing is a linear's weight."""
    memory = {linear.weight.untyped_storage().data_ptr() for linear in model_linears(model).values()}
    rest = {name: tensor for name, tensor in model.state_dict().items()}
    return {name: each.clone() for name, each in rest.items() if each.untyped_storage().data_ptr() not in memory}


@pytest.mark.parametrize("architecture", tiny_models.ARCHITECTURES)
def test_the_linears_are_all_matrices_of_the_blocks_but_gates(architecture):
    model = tiny_models.build(architecture)
    linears = model_linears(model)
    for block in range(model.config.num_hidden_layers):
        inside = {name.partition(f"layers.{block}.")[2] for name in linears if f"layers.{block}." in name}
        assert inside == expected_linears(architecture, block)
    inside = {name for name in outside(model) if ".layers." in name}
    assert all(model.get_parameter(name).dim() == 1 or name.endswith("gate.weight") for name in inside)


@pytest.mark.parametrize("sparsity", [Sparsity(0.5), Sparsity(0.5, 2, 4)], ids=lambda sparsity: sparsity.pattern)
@pytest.mark.parametrize("architecture", tiny_models.ARCHITECTURES)
def test_every_matrix_loses_its_share_and_the_checkpoint_is_the_model(
    architecture, sparsity, pruner_config, uniform, tmp_path
):
    model = tiny_models.build(architecture, dtype=torch.bfloat16)
    loaded, untouched = tiny_models.loaded(model), outside(model)
    report = prune_model(loaded, SEQUENCES, None, pruner_config("sparsegpt"), uniform, sparsity)
    linears = model_linears(model)
    assert [row["name"] for row in report.rows] == list(linears) and report.achieved == 0.5
    for row in report.rows:
        zeros = linears[row["name"]].weight == 0
        assert row["achieved"] == row["target"] == 0.5 and zeros.sum() == zeros.numel() // 2
        assert sparsity.n is None or zeros.view(len(zeros), -1, 4).sum(2).eq(2).all()
    assert untouched.keys() == outside(model).keys()
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in untouched.items())

    save_checkpoint(loaded, tmp_path / "checkpoint")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint", dtype=torch.bfloat16)
    ids = torch.arange(4, 28)[None]
    assert torch.equal(again(ids).logits, model(ids).logits)
    stored = load_file(tmp_path / "checkpoint" / "model.safetensors")
    for name, linear in linears.items():  # by the names that a running engine is given new weights under
        assert torch.equal(stored[f"{name}.weight"], linear.weight)
        assert not torch.signbit(stored[f"{name}.weight"][linear.weight == 0]).any()
