import numpy as np
import pruning_oracles
import pytest
import torch

from ssgr.config import Sinks
from ssgr.errors import CellError
from ssgr.pruning import statistics

FEATURES = 300  # more than one panel of the symmetric product


def tokens(count=90, seed=0):
    generator = np.random.default_rng(seed)
    inputs = generator.normal(size=(count, FEATURES)).astype(np.float32)
    weights = generator.choice([0.0, 0.5, 1.0, 2.0], size=count).astype(np.float32)
    sink = np.zeros(count, dtype=bool)
    sink[[0, 7]] = True
    weights[[0, 7]] = 1.0
    inputs[sink] *= 50
    return inputs, weights, sink


def collect(inputs, weights, sink, full=True, sinks=Sinks.keep, parts=3):
    made = statistics.InputStatistics("linear", FEATURES, full, sinks, torch.device("cpu"))
    for chunk in np.array_split(np.arange(len(inputs)), parts):
        made.add(*(torch.from_numpy(array[chunk]) for array in (inputs, weights, sink)))
    made.check()
    return made


@pytest.mark.parametrize("sinks", Sinks)
def test_gram_and_diagonal_are_the_weighted_second_moments(sinks):
    inputs, weights, sink = tokens()
    kept = ~sink if sinks == Sinks.exclude else np.ones(len(sink), dtype=bool)
    expected = pruning_oracles.gram(inputs[kept], weights[kept])
    full = collect(inputs, weights, sink, sinks=sinks)
    np.testing.assert_allclose(full.gram().numpy(), expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(full.gram(), full.gram().T)
    for made in (full, collect(inputs, weights, sink, full=False, sinks=sinks)):
        np.testing.assert_allclose(made.diagonal().numpy(), np.diag(expected), rtol=1e-5)


def test_what_the_damping_is_a_share_of():
    inputs, weights, sink = tokens()
    everything = pruning_oracles.gram(inputs, weights)
    without = pruning_oracles.gram(inputs[~sink], weights[~sink])
    share = weights[~sink].sum() / weights.sum()  # undamped divides by all tokens, as the Gram matrix does
    basis = {sinks: collect(inputs, weights, sink, sinks=sinks).damping_basis() for sinks in Sinks}
    assert basis[Sinks.keep] == pytest.approx(np.diag(everything).mean(), rel=1e-5)
    assert basis[Sinks.exclude] == pytest.approx(np.diag(without).mean(), rel=1e-5)
    assert basis[Sinks.undamped] == pytest.approx(np.diag(without).mean() * share, rel=1e-5)


def test_a_sink_costs_the_others_no_digits():
    generator = np.random.default_rng(1)
    inputs = generator.normal(size=(4_000, FEATURES)).astype(np.float32)
    sink = np.zeros(len(inputs), dtype=bool)
    sink[::100] = True
    inputs[sink] = inputs[0] * 3_000  # one vector again and again, as at position 0
    weights = np.ones(len(inputs), dtype=np.float32)
    gram = collect(inputs, weights, sink, parts=20).gram().numpy()
    vector = inputs[0].astype(np.float64)
    beside = gram - sink.sum() * np.outer(vector, vector) / len(inputs)
    rest = inputs[~sink].astype(np.float64)
    np.testing.assert_allclose(beside, rest.T @ rest / len(inputs), atol=1e-5)


def test_sinks_are_reported():
    inputs, weights, sink = tokens()
    report = collect(inputs, weights, sink).sink_report()
    energy = weights * np.square(inputs.astype(np.float64)).sum(1)
    assert report["sinks"] == 2
    assert report["sink_energy_share"] == pytest.approx(energy[sink].sum() / energy.sum(), rel=1e-5)


def test_threshold_is_ten_medians():
    assert statistics.sink_threshold(torch.tensor([1.0, 2.0, 3.0, 4.0, 500.0])) == 30


def test_relative_errors_are_those_of_the_outputs():
    inputs, weights, sink = tokens()
    generator = np.random.default_rng(2)
    weight, pruned = (generator.normal(size=(11, FEATURES)).astype(np.float32) for _ in range(2))
    errors = collect(inputs, weights, sink, sinks=Sinks.exclude).relative_errors(
        *map(torch.from_numpy, (weight, pruned))
    )
    for key, kept in (("relative_error", sink | True), ("relative_error_without_sinks", ~sink)):
        scaled = (inputs * np.sqrt(weights)[:, None])[kept].astype(np.float64)
        expected = np.square(scaled @ (weight - pruned).T).sum() / np.square(scaled @ weight.T).sum()
        assert errors[key] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("row", [0, 1])  # a sink and another token
def test_broken_inputs_name_the_linear(row):
    inputs, weights, sink = tokens()
    weights[1] = 1.0
    inputs[row, 3] = np.nan
    with pytest.raises(CellError, match="linear: its calibration inputs are NaN"):
        collect(inputs, weights, sink)


def test_no_weight_at_all_names_the_linear():
    inputs, weights, sink = tokens()
    with pytest.raises(CellError, match="linear: no calibration token"):
        collect(inputs, weights * 0, sink)
    with pytest.raises(CellError, match="linear: no calibration token but attention sinks"):
        collect(inputs[:1], weights[:1], sink[:1], sinks=Sinks.exclude, parts=1)


@pytest.mark.parametrize("sinks", Sinks)
def test_the_sum_of_few_sinks_is_made_anew_by_the_same_numbers(sinks, monkeypatch):
    weight, pruned = torch.randn(2, 11, FEATURES, generator=torch.Generator().manual_seed(2))
    seen = []
    for few in (statistics.FEW, FEATURES):
        monkeypatch.setattr(statistics, "FEW", few)
        made = collect(*tokens(), sinks=sinks)
        tensors = [torch.stack([made.gram(), made.gram()]), made.diagonal(), made.damping_diagonal()]
        seen.append((tensors, made.sink_report(), made.relative_errors(weight, pruned)))
        assert (made._sink_sum is None) == (few < FEATURES)
    (anew, *reports), (kept, *same) = seen
    assert all(map(torch.equal, anew, kept)) and reports == same
