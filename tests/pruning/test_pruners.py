"""Every pruner against its oracle, one matrix at a time."""

import weakref
from dataclasses import fields

import numpy as np
import pruning_oracles
import pytest
import torch

from ssgr.composition import option_file
from ssgr.config import DampingBasis, Sinks
from ssgr.errors import UserError
from ssgr.pruning import sparsegpt
from ssgr.pruning.base import PRUNERS
from ssgr.pruning.sparsity import Quota
from ssgr.pruning.statistics import InputStatistics

NAMES = [name for name in PRUNERS.names() if name != "none"]
GRAM = [name for name in NAMES if PRUNERS.get(name).needs == "gram"]
PER_CHANNEL = {"damping_basis": DampingBasis.per_channel}
CHANGES = {  # of every option that only some pruners have, another value than the usual one
    "sinks": Sinks.exclude,
    "activation_power": 1.0,
    "damping": 0.1,
    "damping_basis": DampingBasis.per_channel,
    "block_size": 16,
    "ridge": 0.1,
    "rho": 1.0,
    "iterations": 3,
    "cg_steps": 1,
}
OPTIONS = [
    (name, field.name)
    for name in NAMES
    for field in fields(option_file("pruner", name, {}))
    if field.name not in {"name", "propagation", "one_pass", "measure_error"}  # of the loop: its own tests
]
SHAPES = [(24, 64), (17, 200), (40, 304)]
PATTERNS = [(0.5, None, None), (0.33, None, None), (None, 2, 4), (None, 4, 8)]


def data(shape, kind, seed=0):
    """Correlated inputs [tokens, in], token weights, sinks and a weight matrix."""
    generator = np.random.default_rng(seed)
    columns = shape[1]
    count = 2 * columns
    mixing = generator.normal(size=(columns, columns)) / np.sqrt(columns) + np.eye(columns)
    inputs = (generator.normal(size=(count, columns)) @ mixing * generator.uniform(0.3, 2, columns)).astype(np.float32)
    sink = np.zeros(count, dtype=bool)
    if kind == "dead columns":
        inputs[:, [1, 2, 3, columns // 2, columns - 1]] = 0
    if kind == "sink":
        inputs[0] *= 50 * np.median(np.linalg.norm(inputs, axis=1)) / np.linalg.norm(inputs[0])
        sink[0] = True
    weights = generator.choice([0.0, 0.5, 1.0], size=count).astype(np.float32)
    weights[0] = 1
    return inputs, weights, sink, generator.normal(size=shape).astype(np.float32)


def statistics_of(inputs, weights, sink, sinks=Sinks.keep):
    made = InputStatistics("linear", inputs.shape[1], True, sinks, torch.device("cpu"))
    made.add(*map(torch.from_numpy, (inputs, weights, sink)))
    return made


def quota_of(pattern, shape):
    value, n, m = pattern
    share = value if n is None else (m - n) / m
    return Quota(round(share * shape[0] * shape[1]), n, m)


@pytest.mark.parametrize("kind", ["plain", "dead columns", "sink"])
@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", pruning_oracles.ORACLES)
def test_weights_and_mask_are_the_oracles(name, shape, pattern, kind, pruner_config):
    inputs, weights, sink, weight = data(shape, kind)
    quota = quota_of(pattern, shape)
    expected, expected_mask = pruning_oracles.ORACLES[name](
        weight, pruning_oracles.gram(inputs, weights), quota.count, quota.n, quota.m
    )
    pruner = PRUNERS.get(name)(pruner_config(name))
    original = torch.from_numpy(weight)
    pruned, mask, _ = pruner.prune(original.clone(), statistics_of(inputs, weights, sink), quota)

    assert mask.sum() == quota.count
    assert not pruned[mask].any() and not torch.signbit(pruned[mask]).any()
    if quota.n:
        assert (~mask).view(shape[0], -1, quota.m).sum(2).eq(quota.n).all()
    assert np.array_equal(mask.numpy(), expected_mask)
    np.testing.assert_allclose(pruned.numpy(), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("block_size", [32, 48, 100, 1_000])
@pytest.mark.parametrize("pattern", [(0.5, None, None), (None, 2, 4)], ids=str)
def test_any_block_size(block_size, pattern, pruner_config):
    inputs, weights, sink, weight = data((9, 120), "dead columns")
    quota = quota_of(pattern, weight.shape)
    moments = pruning_oracles.gram(inputs, weights)
    expected, _ = pruning_oracles.sparsegpt(weight, moments, quota.count, quota.n, quota.m, block_size=block_size)
    pruner = PRUNERS.get("sparsegpt")(pruner_config("sparsegpt", block_size=block_size))
    pruned, _, _ = pruner.prune(torch.from_numpy(weight), statistics_of(inputs, weights, sink), quota)
    np.testing.assert_allclose(pruned.numpy(), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", GRAM)
def test_columns_that_no_token_reached_keep_their_largest_weights(name, pruner_config):
    inputs, weights, sink, weight = data((16, 64), "dead columns")
    pruner = PRUNERS.get(name)(pruner_config(name))
    pruned, mask, _ = pruner.prune(torch.from_numpy(weight), statistics_of(inputs, weights, sink), Quota(512))
    dead = torch.from_numpy((inputs == 0).all(0))
    assert dead.sum() == 5
    assert mask[:, dead].sum() == 40  # half of 5 x 16
    kept = ~mask[:, dead]
    assert torch.equal(pruned[:, dead][kept], torch.from_numpy(weight)[:, dead][kept])
    assert pruned[:, dead].abs()[kept].min() >= torch.from_numpy(weight)[:, dead].abs()[~kept].max()


@pytest.mark.parametrize("options", [("sparsegpt", {}), ("sparsegpt", PER_CHANNEL), ("alps", {})], ids=str)
def test_no_input_at_all_is_magnitude_pruning(options, pruner_config):
    inputs, weights, sink, weight = data((16, 64), "plain")
    name, changes = options
    pruner = PRUNERS.get(name)(pruner_config(name, **changes))
    for quota in (Quota(512), Quota(512, 2, 4)):
        pruned, _, _ = pruner.prune(torch.from_numpy(weight), statistics_of(inputs * 0, weights, sink), quota)
        expected, _ = pruning_oracles.magnitude(weight, None, 512, quota.n, quota.m)
        np.testing.assert_array_equal(pruned.numpy(), expected)


@pytest.mark.parametrize("sinks", Sinks)
def test_sinks_change_what_they_should(sinks, pruner_config):
    inputs, weights, sink, weight = data((17, 64), "sink")
    everything = pruning_oracles.gram(inputs, weights)
    without = pruning_oracles.gram(inputs[~sink], weights[~sink])
    share = weights[~sink].sum() / weights.sum()
    moments = without if sinks == Sinks.exclude else everything
    damping = {
        Sinks.keep: np.diag(everything).mean(),
        Sinks.undamped: np.diag(without).mean() * share,
        Sinks.exclude: np.diag(without).mean(),
    }[sinks] * 0.01
    count = weight.size // 2
    for name, options in (("sparsegpt", {"damping": damping}), ("wanda", {}), ("ria", {})):
        if sinks == Sinks.undamped and name != "sparsegpt":
            with pytest.raises(UserError, match=f"pruner.sinks=undamped with pruner={name}"):
                pruner_config(name, sinks=sinks).check()
            continue
        expected, _ = pruning_oracles.ORACLES[name](weight, moments, count, **options)
        pruner = PRUNERS.get(name)(pruner_config(name, sinks=sinks))
        statistics = statistics_of(inputs, weights, sink, sinks)
        pruned, _, info = pruner.prune(torch.from_numpy(weight), statistics, Quota(count))
        np.testing.assert_allclose(pruned.numpy(), expected, rtol=1e-3, atol=1e-3)
        if name == "sparsegpt":
            assert info["damping"] == pytest.approx(damping, rel=1e-4)
            assert info["damping_over_median_diagonal"] == pytest.approx(
                damping / np.sort(np.diag(moments))[31], rel=1e-4
            )


@pytest.mark.parametrize(("name", "option"), OPTIONS)
def test_every_option_changes_something(name, option, pruner_config):
    inputs, weights, sink, weight = data((17, 64), "sink")
    answers = []
    for changes in ({}, {option: CHANGES[option]}):
        config = pruner_config(name, **changes)
        statistics = statistics_of(inputs, weights, sink, config.sinks)
        answers.append(PRUNERS.get(name)(config).prune(torch.from_numpy(weight), statistics, Quota(500)).weight)
    assert not torch.equal(*answers)


def per_channel(own):
    """Each column's damping: 1 % of its own diagonal, or of the mean where it has none."""
    return 0.01 * np.where(own > 0, own, own.mean())


@pytest.mark.parametrize("kind", ["plain", "dead columns", "sink"])
@pytest.mark.parametrize("pattern", [(0.5, None, None), (None, 2, 4)], ids=str)
@pytest.mark.parametrize("shape", SHAPES[:2], ids=str)
def test_damping_per_channel_is_the_oracles(shape, pattern, kind, pruner_config):
    inputs, weights, sink, weight = data(shape, kind)
    moments, quota = pruning_oracles.gram(inputs, weights), quota_of(pattern, shape)
    damping = per_channel(np.diag(moments))
    expected, _ = pruning_oracles.sparsegpt(weight, moments, quota.count, quota.n, quota.m, damping=damping)
    pruner = PRUNERS.get("sparsegpt")(pruner_config("sparsegpt", **PER_CHANNEL))
    pruned, _, info = pruner.prune(torch.from_numpy(weight), statistics_of(inputs, weights, sink), quota)
    np.testing.assert_allclose(pruned.numpy(), expected, rtol=1e-3, atol=1e-3)
    assert info == pytest.approx({"damping": damping.mean(), "damping_over_median_diagonal": 0.01}, rel=1e-4)


def test_damping_per_channel_leaves_the_sinks_out_where_asked(pruner_config):
    inputs, weights, sink, weight = data((17, 64), "sink")
    inputs[~sink, 5] = 0  # reached by a sink alone: it takes the mean
    own = np.diag(pruning_oracles.gram(inputs[~sink], weights[~sink])) * weights[~sink].sum() / weights.sum()
    moments = pruning_oracles.gram(inputs, weights)
    damping = per_channel(own)
    expected, _ = pruning_oracles.sparsegpt(weight, moments, 544, damping=damping)
    statistics = statistics_of(inputs, weights, sink, Sinks.undamped)
    config = pruner_config("sparsegpt", sinks=Sinks.undamped, **PER_CHANNEL)
    pruned, _, info = PRUNERS.get("sparsegpt")(config).prune(torch.from_numpy(weight), statistics, Quota(544))
    np.testing.assert_allclose(pruned.numpy(), expected, rtol=1e-3, atol=1e-3)
    ratio = np.sort(damping / np.diag(moments))[31]
    assert info == pytest.approx({"damping": damping.mean(), "damping_over_median_diagonal": ratio}, rel=1e-4)


def test_updating_beats_not_updating(pruner_config):
    inputs, weights, sink, weight = data((24, 64), "plain")
    statistics = statistics_of(inputs, weights, sink)
    error = {}
    for name in NAMES:
        pruned, _, _ = PRUNERS.get(name)(pruner_config(name)).prune(torch.from_numpy(weight), statistics, Quota(768))
        error[name] = statistics.relative_errors(torch.from_numpy(weight), pruned)["relative_error"]
    assert error["alps"] < error["sparsegpt"] < min(error["wanda"], error["ria"])
    assert max(error["wanda"], error["ria"]) < error["magnitude"]


def test_a_factor_is_shared_and_keeps_no_statistics_alive(pruner_config, monkeypatch):
    inputs, weights, sink, weight = data((24, 64), "plain")
    statistics, calls, inverse_factor = statistics_of(inputs, weights, sink), [], sparsegpt.inverse_factor
    monkeypatch.setattr(sparsegpt, "inverse_factor", lambda *each: calls.append(1) or inverse_factor(*each))
    pruner = PRUNERS.get("sparsegpt")(pruner_config("sparsegpt"))
    for quota in (Quota(768), Quota(500), Quota(768, 2, 4)):
        pruner.prune(torch.from_numpy(weight), statistics, quota)
    assert len(calls) == 1
    gone = weakref.ref(statistics)
    del statistics
    assert gone() is None
    pruner.prune(torch.from_numpy(weight), statistics_of(inputs, weights, sink), Quota(768))
    assert len(calls) == 2


def test_options_that_make_no_sense_are_refused(pruner_config):
    for options in ({"damping": 0.0}, {"block_size": 0}):
        with pytest.raises(UserError, match=f"pruner.{next(iter(options))}"):
            PRUNERS.get("sparsegpt")(pruner_config("sparsegpt", **options))
