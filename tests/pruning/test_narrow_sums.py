"""Sums of bf16 inputs on tensor cores: on a CPU the same pieces with plain products, on a card the real ones."""

import numpy as np
import pruning_oracles
import pytest
import tiny_models
import torch

from ssgr.config import Sinks
from ssgr.models.blocks import model_linears
from ssgr.pruning import activations, statistics
from ssgr.pruning.loop import prune_model
from ssgr.pruning.sparsity import Sparsity

FEATURES = 200
WEIGHTS = {"even": [0.0, 1.0], "uneven": [0.0, 0.3, 1.7]}
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]


@pytest.fixture
def narrow(monkeypatch):
    """bf16 inputs take the tensor cores' path on every device, in panels and sums that a small test fills."""
    monkeypatch.setattr(statistics, "on_tensor_cores", lambda inputs: inputs.dtype == torch.bfloat16)
    monkeypatch.setattr(statistics, "TENSOR_PANEL", 64)
    monkeypatch.setattr(statistics, "LONGEST_SUM", 50)


def tokens(kind, seed=0):
    """bf16 inputs [tokens, in] with two sinks, weights of the kind, and where the sinks are."""
    generator = np.random.default_rng(seed)
    inputs = generator.normal(size=(300, FEATURES)).astype(np.float32)
    inputs[[0, 7]] *= 50
    weights = generator.choice(WEIGHTS[kind], size=len(inputs)).astype(np.float32)
    sink = np.zeros(len(inputs), dtype=bool)
    sink[[0, 7]], weights[[0, 7]] = True, 1.0
    return torch.from_numpy(inputs).bfloat16(), torch.from_numpy(weights), torch.from_numpy(sink)


def collect(inputs, weights, sink, kind, full=True, sinks=Sinks.keep, device="cpu", parts=2):
    made = statistics.InputStatistics("linear", FEATURES, full, sinks, torch.device(device))
    for chunk in zip(*(array.to(device).chunk(parts) for array in (inputs, weights, sink)), strict=True):
        made.add(*chunk, uneven=kind == "uneven")
    made.check()
    return made


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("sinks", Sinks)
@pytest.mark.parametrize("kind", WEIGHTS)
def test_sums_of_bf16_inputs_are_those_in_fp64(kind, sinks, device, narrow):
    inputs, weights, sink = tokens(kind)
    kept = ~sink if sinks == Sinks.exclude else sink | True
    expected = pruning_oracles.gram(inputs[kept].float().numpy(), weights[kept].numpy())
    full = collect(inputs, weights, sink, kind, sinks=sinks, device=device)
    # bf16 itself rounds to 4e-3: weights must not pass through it
    scale = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
    assert np.max(np.abs(full.gram().cpu().numpy() - expected) / scale) < 1e-5
    assert torch.equal(full.gram(), full.gram().T)
    diagonal = collect(inputs, weights, sink, kind, full=False, sinks=sinks, device=device)
    np.testing.assert_allclose(diagonal.diagonal().cpu().numpy(), np.diag(expected), rtol=1e-5)


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("kind", WEIGHTS)
def test_padding_has_no_effect_whatever_it_holds(kind, full, narrow):
    inputs, weights, sink = tokens(kind)
    padded = torch.where(weights[:, None] == 0, torch.nan, inputs)
    for made in (padded, padded.float()):  # neither in wide sums
        ours, theirs = (collect(x, weights, sink, kind, full=full) for x in (made, inputs.to(made.dtype)))
        assert torch.equal(ours.diagonal(), theirs.diagonal())
        assert ours.sink_report() == theirs.sink_report()


@pytest.mark.parametrize("full", [True, False])
def test_many_sinks_do_not_wait_for_ever(full, narrow, monkeypatch):
    inputs, weights, sink = tokens("uneven")
    sink[:] = True
    expected = collect(inputs, weights, sink, "uneven", full=full)
    assert sum(map(len, expected._held)) == 0  # reading them summed them up
    monkeypatch.setattr(statistics, "HELD", 40)
    made = statistics.InputStatistics("linear", FEATURES, full, Sinks.keep, torch.device("cpu"))
    for chunk in zip(*(array.chunk(10) for array in (inputs, weights, sink)), strict=True):
        made.add(*chunk)
        assert sum(map(len, made._held)) <= 40
    torch.testing.assert_close(made.diagonal(), expected.diagonal(), rtol=1e-12, atol=0)
    assert made.sink_report()["sinks"] == int((weights > 0).sum())


def test_batches_say_whether_weights_are_uneven():
    model, sequences = tiny_models.build(), tiny_models.sequences(6)
    for values, uneven in (([1.0], False), ([0.0, 1.0], False), ([0.0, 0.5], True)):
        weights = [np.resize(np.float32(values), len(sequence)) for sequence in sequences]
        assert {batch.uneven for batch in activations.make_batches(model, sequences, weights, 60)} == {uneven}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", WEIGHTS)
@pytest.mark.parametrize("name", ["wanda", "sparsegpt"])
def test_a_model_is_pruned_alike(name, kind, device, pruner_config, uniform, request, monkeypatch):
    sequences = tiny_models.sequences(18)
    generator = np.random.default_rng(1)
    weights = [generator.choice(WEIGHTS[kind], len(sequence)).astype(np.float32) for sequence in sequences]
    monkeypatch.setattr(statistics, "on_tensor_cores", lambda inputs: False)
    seen = []
    for path in ("wide", "narrow"):
        if path == "narrow":
            request.getfixturevalue("narrow")
        model = tiny_models.build(dtype=torch.bfloat16).to(device)
        config = pruner_config(name, propagation="dense", measure_error=True)
        report = prune_model(tiny_models.loaded(model), sequences, weights, config, uniform, Sparsity(0.5))
        seen.append((report.rows, [(linear.weight == 0).flatten() for linear in model_linears(model).values()]))
    (wide, wide_zeros), (narrowly, narrow_zeros) = seen
    same = [torch.equal(*pair) for pair in zip(wide_zeros, narrow_zeros, strict=True)]
    assert (torch.cat(wide_zeros) == torch.cat(narrow_zeros)).float().mean() > 0.999
    assert sum(same) > len(same) / 2
    for one, other, alike in zip(wide, narrowly, same, strict=True):
        assert one["sinks"] == other["sinks"]
        assert one["sink_energy_share"] == pytest.approx(other["sink_energy_share"], rel=1e-3)
        for key in ("relative_error", "relative_error_without_sinks"):
            # of the few hundred weights of a linear one that is nearly tied, and falls elsewhere, is 0.2 % of the error
            assert one[key] == pytest.approx(other[key], rel=1e-3 if alike else 1e-2)
