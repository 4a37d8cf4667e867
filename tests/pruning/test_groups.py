"""Linears that share an input go to the pruner together, and nothing is written before it was checked."""

import numpy as np
import pytest
import tiny_models
import torch

from ssgr.errors import CellError
from ssgr.models.blocks import model_linears
from ssgr.pruning.base import PRUNERS, Pruned, Pruner
from ssgr.pruning.loop import prune_model
from ssgr.pruning.sparsity import Quota, Sparsity, lowest

SEQUENCES = tiny_models.sequences(6)


def prune(model, config, uniform):
    return prune_model(tiny_models.loaded(model), SEQUENCES, None, config, uniform, Sparsity(0.5))


@pytest.mark.parametrize("name", ["magnitude", "wanda", "sparsegpt"])
def test_linears_of_one_input_are_one_group(name, pruner_config, uniform, monkeypatch):
    groups = []

    def record(self, weights, statistics, quotas):
        groups.append([tuple(weight.shape) for weight in weights])
        return Pruner.prune_together(self, weights, statistics, quotas)

    monkeypatch.setattr(PRUNERS.get(name), "prune_together", record)
    model = tiny_models.build()
    report = prune(model, pruner_config(name), uniform)
    query, key, value, output, gate, up, down = [tuple(row["shape"]) for row in report.rows[:7]]
    one_block = [[query, key, value], [output], [gate, up], [down]]
    if name == "magnitude":  # no statistics, so nothing to share
        one_block = [[shape] for group in one_block for shape in group]
    assert groups == one_block * 3
    assert [row["name"] for row in report.rows] == list(model_linears(model))
    assert all(row["seconds"] > 0 for row in report.rows)


@pytest.mark.parametrize("name", ["wanda", "sparsegpt"])
def test_together_is_what_each_gets_alone(name, pruner_config, uniform, monkeypatch):
    weights = []
    for alone in (False, True):
        if alone:
            monkeypatch.setattr(PRUNERS.get(name), "prune_together", Pruner.prune_together)
        model = tiny_models.build()
        prune(model, pruner_config(name), uniform)
        weights.append(torch.cat([linear.weight.flatten() for linear in model_linears(model).values()]))
    assert torch.equal(weights[0] == 0, weights[1] == 0)
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-4, atol=1e-5)


def test_linears_that_lose_nothing_are_not_asked_for(pruner_config, uniform, monkeypatch):
    monkeypatch.setattr(
        "ssgr.pruning.orders.matrix_quotas",
        lambda targets, shapes, sparsity: {
            name: Quota(0 if name.endswith(("k_proj", "down_proj")) else 100) for name in shapes
        },
    )
    model = tiny_models.build()
    before = {name: linear.weight.clone() for name, linear in model_linears(model).items()}
    report = prune(model, pruner_config("wanda"), uniform)
    for row in report.rows:
        weight, untouched = model_linears(model)[row["name"]].weight, row["name"].endswith(("k_proj", "down_proj"))
        assert torch.equal(weight, before[row["name"]]) == untouched
        assert round(row["achieved"] * weight.numel()) == (0 if untouched else 100)


def test_a_broken_weight_is_named_before_anything_is_written(pruner_config, uniform):
    model = tiny_models.build()
    model.model.layers[2].mlp.up_proj.weight.data[1, 2] = torch.inf
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    with pytest.raises(CellError, match=r"^model\.layers\.2\.mlp\.up_proj: its weights are NaN or infinite"):
        prune(model, pruner_config("wanda"), uniform)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


def test_a_broken_answer_is_named_and_its_group_stays_as_it_was(pruner_config, uniform, monkeypatch):
    def overflow(self, weight, statistics, quota):
        mask = lowest(weight.abs(), quota.count)
        broken = weight.masked_fill(mask, 0.0)
        if statistics.name.endswith("gate_proj") and weight.sum() == total:
            broken[~mask] = np.inf
        return Pruned(broken, mask, {})

    monkeypatch.setattr(PRUNERS.get("wanda"), "prune", overflow)
    model = tiny_models.build()
    mlp = model.model.layers[0].mlp
    total = mlp.up_proj.weight.sum()  # the second of the two that share the input
    before = [linear.weight.clone() for linear in (mlp.gate_proj, mlp.up_proj)]
    with pytest.raises(CellError, match=r"^model\.layers\.0\.mlp\.up_proj: its pruned weights are NaN or infinite"):
        prune(model, pruner_config("wanda"), uniform)
    assert all(torch.equal(linear.weight, b) for linear, b in zip((mlp.gate_proj, mlp.up_proj), before, strict=True))
