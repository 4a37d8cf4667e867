"""A processor that is slow in bf16 computes in float32 on the same weights, and what is kept stays in bf16."""

import pytest
import tiny_models
import torch
from command_line import config_of
from safetensors.torch import load_file

from ssgr.models.blocks import model_linears
from ssgr.models.load import load_model
from ssgr.models.precision import weights_in
from ssgr.models.save import save_checkpoint
from ssgr.pruning.loop import prune_model
from ssgr.pruning.sparsity import Sparsity

SLOW, FAST = "AVX2", "AVX512"


@pytest.fixture
def load_on(model_folder, config_for, tmp_path, monkeypatch):
    def load(capability, dtype="bfloat16"):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
        return load_model(config_for(model_folder, dtype=dtype), torch.device("cpu"), tmp_path / "cache")

    return load


@pytest.mark.parametrize(
    ("capability", "dtype", "computes_in"),
    [
        (SLOW, "bfloat16", torch.float32),
        (SLOW, "float16", torch.float32),
        (SLOW, "float32", torch.float32),
        ("DEFAULT", "bfloat16", torch.float32),
        (FAST, "bfloat16", torch.bfloat16),
        ("SVE256", "bfloat16", torch.bfloat16),
    ],
)
def test_a_slow_processor_computes_in_float32(load_on, capability, dtype, computes_in):
    loaded = load_on(capability, dtype)
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {computes_in}
    assert (
        loaded.dtype == getattr(torch, dtype) and loaded.model.lm_head.weight is loaded.model.model.embed_tokens.weight
    )


def test_both_have_the_same_weights_and_buffers(load_on):
    slow, fast = load_on(SLOW).model, load_on(FAST).model
    for name, parameter in fast.named_parameters():
        assert torch.equal(slow.get_parameter(name), parameter.float())
    buffers = dict(slow.named_buffers())
    assert buffers and all(torch.equal(buffers[name], buffer) for name, buffer in fast.named_buffers())


@pytest.mark.parametrize("name", ["sparsegpt", "wanda", "alps"])
def test_pruned_weights_are_numbers_of_the_models_dtype(load_on, name):
    loaded, config = load_on(SLOW), config_of(f"pruner={name}")
    report = prune_model(loaded, tiny_models.sequences(16), None, config.pruner, config.allocation, Sparsity(0.5))
    linears = model_linears(loaded.model)
    assert all(torch.equal(linear.weight, linear.weight.bfloat16().float()) for linear in linears.values())
    masked = sum(int((linear.weight == 0).sum()) for linear in linears.values())
    assert masked == round(report.achieved * sum(linear.weight.numel() for linear in linears.values()))


def test_a_checkpoint_is_saved_in_the_models_dtype_and_the_model_goes_on_in_its_own(load_on, tmp_path):
    loaded = load_on(SLOW)
    before = {name: parameter.clone() for name, parameter in loaded.model.named_parameters()}
    save_checkpoint(loaded, tmp_path / "checkpoint")
    stored = load_file(tmp_path / "checkpoint" / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}
    assert '"bfloat16"' in (tmp_path / "checkpoint" / "config.json").read_text()
    assert all(torch.equal(parameter, before[name]) for name, parameter in loaded.model.named_parameters())


def test_the_models_own_dtype_comes_back_after_a_failure(load_on):
    loaded = load_on(SLOW)
    with pytest.raises(OSError, match="full"), weights_in(loaded.model, loaded.dtype):
        assert loaded.model.dtype == torch.bfloat16
        raise OSError("full")
    assert loaded.model.dtype == torch.float32
