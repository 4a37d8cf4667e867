"""RIA: its sums, its power, and that scale does not matter; `test_pruners.py` holds it to the oracle."""

import pruning_oracles
import pytest
import torch
from test_pruners import data, statistics_of

from ssgr.config import Sinks
from ssgr.errors import UserError
from ssgr.pruning.base import PRUNERS
from ssgr.pruning.ria import relative_importance
from ssgr.pruning.sparsity import Quota
from ssgr.pruning.statistics import InputStatistics

HALF = Quota(24 * 64 // 2)


def masked(pruner_config, weight, statistics, quota=HALF, **options):
    return PRUNERS.get("ria")(pruner_config("ria", **options)).prune(weight, statistics, quota).mask


def test_shares_are_of_columns_and_of_rows():
    weight = torch.tensor([[1.0, -3.0], [0.0, 1.0]])
    expected = torch.tensor([[1 / 1 + 1 / 4, 3 / 4 + 3 / 4], [0.0, 1 / 4 + 1 / 1]])
    torch.testing.assert_close(relative_importance(weight), expected)


def test_rows_and_columns_of_zeros_are_pruned_first(pruner_config):
    inputs, weights, sink, weight = data((24, 64), "plain")
    weight[:, 3], weight[5] = 0, 0
    assert relative_importance(torch.from_numpy(weight)).isfinite().all()
    mask = masked(pruner_config, torch.from_numpy(weight), statistics_of(inputs, weights, sink))
    assert mask[:, 3].all() and mask.sum(1).eq(32).all()


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_the_power_is_the_activations(power, pruner_config):
    inputs, weights, sink, weight = data((24, 64), "plain")
    moments = pruning_oracles.gram(inputs, weights)
    _, expected = pruning_oracles.ria(weight, moments, HALF.count, power=power)
    statistics = statistics_of(inputs, weights, sink)
    mask = masked(pruner_config, torch.from_numpy(weight), statistics, activation_power=power)
    assert (mask.numpy() == expected).all()
    if power != 0.5:
        assert not torch.equal(mask, masked(pruner_config, torch.from_numpy(weight), statistics))


@pytest.mark.parametrize("quota", [HALF, Quota(HALF.count, 2, 4)], ids=str)
def test_neither_the_scale_of_inputs_nor_of_token_weights_matters(quota, pruner_config):
    inputs, weights, sink, weight = data((24, 64), "plain")
    weight = torch.from_numpy(weight)
    mask = masked(pruner_config, weight, statistics_of(inputs, weights, sink), quota)
    for scaled in (statistics_of(inputs * 4, weights, sink), statistics_of(inputs, weights * 0.25, sink)):
        assert torch.equal(mask, masked(pruner_config, weight, scaled, quota))


def test_a_diagonal_is_enough_and_sinks_are_left_out_where_asked(pruner_config):
    inputs, weights, sink, weight = data((24, 64), "sink")
    masks = {}
    for sinks in (Sinks.keep, Sinks.exclude):
        statistics = InputStatistics("linear", 64, False, sinks, torch.device("cpu"))
        statistics.add(*map(torch.from_numpy, (inputs, weights, sink)))
        masks[sinks] = masked(pruner_config, torch.from_numpy(weight), statistics, sinks=sinks)
        seen = ~sink if sinks == Sinks.exclude else sink | ~sink
        moments = pruning_oracles.gram(inputs[seen], weights[seen])
        assert (masks[sinks].numpy() == pruning_oracles.ria(weight, moments, HALF.count)[1]).all()
    assert not torch.equal(masks[Sinks.keep], masks[Sinks.exclude])


@pytest.mark.parametrize("power", [-1.0, 4.5, float("nan"), float("inf")])
def test_a_power_that_makes_no_sense_is_refused(power, pruner_config):
    with pytest.raises(UserError, match=r"pruner\.activation_power"):
        pruner_config("ria", activation_power=power).check()
