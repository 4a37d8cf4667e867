"""Experts on their own tokens, against plain loops over the tokens of each sequence and the model's own router."""

import copy

import numpy as np
import pruning_oracles
import pytest
import tiny_models
import torch
from torch import nn

from ssgr.config import OwlConfig, Propagation, Sinks
from ssgr.models.blocks import decoder_blocks, model_linears
from ssgr.pruning import activations, one_pass
from ssgr.pruning.activations import Calibration
from ssgr.pruning.loop import prune_model
from ssgr.pruning.orders import Request
from ssgr.pruning.sparsity import Sparsity

SEQUENCES = tiny_models.sequences(24)
HALF = Sparsity(0.5)
BLOCK = 2  # of the tiny model, whose middle block is dense
EXPERT = f"model.layers.{BLOCK}.mlp.experts"


def token_weights(seed=1):
    generator = np.random.default_rng(seed)
    return [generator.choice([0.0, 0.5, 1.0], len(sequence)).astype(np.float32) for sequence in SEQUENCES]


def routed(model, block, sequences=SEQUENCES):
    """By expert, each token's (sequence, position), input and gated input: one token of one sequence after another."""
    layer, seen = model.model.layers[block].mlp, []
    handle = layer.register_forward_pre_hook(lambda module, args: seen.append(args[0][0]))
    for sequence in sequences:
        model(input_ids=torch.from_numpy(sequence)[None].long(), use_cache=False)
    handle.remove()
    found = {expert: [] for expert in range(layer.experts.num_experts)}
    for index, hidden in enumerate(seen):
        for position, x in enumerate(hidden):
            probabilities = (layer.gate.weight @ x).softmax(0)
            for expert in probabilities.argsort(descending=True)[: layer.gate.top_k].tolist():
                gate, up = (layer.experts.gate_up_proj[expert] @ x).chunk(2)
                found[expert].append(((index, position), x.numpy(), (nn.functional.silu(gate) * up).numpy()))
    return found


def collected(model, block, needs="gram", weights=None, sinks=Sinks.keep, propagation=Propagation.dense, tokens=None):
    """The statistics of one block's experts, by linear."""
    weights = weights or [np.ones(len(sequence), np.float32) for sequence in SEQUENCES]
    options = {"needs": [needs], "sinks": sinks, "propagation": propagation, "batch_tokens": tokens}
    calibration = Calibration(model, SEQUENCES, weights, **options)
    linears = model_linears(model)
    for index, layer in enumerate(decoder_blocks(model)[: block + 1]):
        own = {name: linear for name, linear in linears.items() if f".layers.{index}." in name}
        found = calibration.collect(index, layer, own, last=index == block)
    return {name: entry[needs] for name, entry in found.items()}


@pytest.mark.parametrize("architecture", ["qwen3_moe", "qwen2_moe"])
@pytest.mark.parametrize("sinks", [Sinks.keep, Sinks.exclude])
@pytest.mark.parametrize("tokens", [1, 8 * 24])
def test_statistics_are_those_of_the_tokens_that_the_router_sends(architecture, sinks, tokens):
    model, weights = tiny_models.build(architecture, dtype=torch.float64), token_weights()
    found = collected(model, BLOCK, weights=weights, sinks=sinks, tokens=tokens)
    diagonals = collected(model, BLOCK, "diagonal", weights, sinks, tokens=tokens)
    for expert, rows in routed(model, BLOCK).items():
        reference = [row for row in rows if row[0][0] < 16]
        for projection, part in (("gate_proj", 1), ("up_proj", 1), ("down_proj", 2)):
            norms = np.sort([np.linalg.norm(row[part]) for row in reference])
            threshold = 10 * norms[(len(norms) - 1) // 2]
            sink = np.array([row[0][1] == 0 or np.linalg.norm(row[part]) > threshold for row in rows])
            weight = np.array([weights[index][position] for (index, position), *_ in rows])
            inputs = np.stack([row[part] for row in rows])
            statistics = found[f"{EXPERT}.{expert}.{projection}"]
            counted = ~sink if sinks == Sinks.exclude else sink | ~sink
            expected = pruning_oracles.gram(inputs[counted], weight[counted])
            np.testing.assert_allclose(statistics.gram().numpy(), expected, rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(
                diagonals[f"{EXPERT}.{expert}.{projection}"].diagonal(), np.diag(expected), rtol=1e-5
            )
            assert statistics.tokens == (~sink & (weight > 0)).sum()
            assert statistics.sink_report()["sinks"] == (sink & (weight > 0)).sum()
    assert found[f"{EXPERT}.0.gate_proj"] is found[f"{EXPERT}.0.up_proj"]


@pytest.mark.parametrize("propagation", Propagation)
def test_the_loop_prunes_each_expert_by_its_own_tokens(propagation, pruner_config, uniform):
    model, weights = tiny_models.build("qwen3_moe", dtype=torch.float64), token_weights()
    dense = copy.deepcopy(model)
    config = pruner_config("sparsegpt", propagation=propagation)
    report = prune_model(tiny_models.loaded(model), SEQUENCES, weights, config, uniform, HALF)
    before = dense
    if propagation == Propagation.pruned:  # what reaches the last block's experts: all blocks before it are pruned
        before = copy.deepcopy(model)
        before.model.layers[BLOCK] = copy.deepcopy(dense.model.layers[BLOCK])
    counts = {row["name"]: round(row["target"] * np.prod(row["shape"])) for row in report.rows}
    for expert, rows in routed(before, BLOCK).items():
        weight = np.array([weights[index][position] for (index, position), *_ in rows])
        for projection, part in (("gate_proj", 1), ("up_proj", 1), ("down_proj", 2)):
            name = f"{EXPERT}.{expert}.{projection}"
            moments = pruning_oracles.gram(np.stack([row[part] for row in rows]), weight)
            original = model_linears(dense)[name].weight.numpy()
            expected, _ = pruning_oracles.sparsegpt(original, moments, counts[name])
            np.testing.assert_allclose(model_linears(model)[name].weight.numpy(), expected, rtol=2e-3, atol=2e-3)


def with_a_lonely_expert(**options):
    """A model whose first router never takes the last expert."""
    model = tiny_models.build("qwen3_moe", **options)
    model.model.embed_tokens.weight.data[:, 0] = 1
    model.model.layers[0].self_attn.o_proj.weight.data *= 0.1  # so that the router too finds it above 0
    model.model.layers[0].mlp.gate.weight.data[:, 0] = torch.tensor([0.0, 0.0, 0.0, -100.0])
    return model


@pytest.mark.parametrize("sparsity", [HALF, Sparsity(0.5, 2, 4)], ids=lambda sparsity: sparsity.pattern)
@pytest.mark.parametrize("name", ["wanda", "ria", "sparsegpt", "alps"])
def test_an_expert_that_no_token_reaches_goes_by_magnitude_and_is_reported(name, sparsity, pruner_config, uniform):
    model = with_a_lonely_expert(num_hidden_layers=1)
    dense = copy.deepcopy(model)
    config = pruner_config(name, measure_error=True)
    report = prune_model(tiny_models.loaded(model), SEQUENCES, None, config, uniform, sparsity)
    assert report.experts() == {"experts": 4, "experts_by_magnitude": 1}
    for row in report.rows:
        lonely = row["name"].startswith("model.layers.0.mlp.experts.3.")
        assert ("fallback" in row) == (".experts." in row["name"]) == ("tokens" in row)
        assert row.get("fallback") == ("magnitude" if lonely else None)
        assert row["achieved"] == row["target"] == 0.5
        if lonely:
            before, after = (model_linears(which)[row["name"]].weight.numpy() for which in (dense, model))
            expected, _ = pruning_oracles.magnitude(before, None, before.size // 2, sparsity.n, sparsity.m)
            assert np.array_equal(after, expected)
            assert (row["tokens"], row["sinks"], row["damping"], row["relative_error"]) == (0, 0, None, None)
    assert torch.equal(model.model.layers[0].mlp.gate.weight, dense.model.layers[0].mlp.gate.weight)


def test_the_floor_is_so_many_tokens_for_each_input_of_a_matrix(pruner_config, uniform, monkeypatch):
    model = tiny_models.build("qwen3_moe")
    tokens = {expert: sum(row[0][1] > 0 for row in rows) for expert, rows in routed(model, 0).items()}
    monkeypatch.setattr(activations, "TOKENS_PER_INPUT", sorted(tokens.values())[2] / 32)
    report = prune_model(tiny_models.loaded(model), SEQUENCES, None, pruner_config("wanda"), uniform, HALF)
    for row in report.rows:
        if ".layers.0.mlp.experts." in row["name"]:
            count, (_, inputs) = tokens[int(row["name"].split(".")[-2])], row["shape"]
            assert row["tokens"] == count
            assert (row["fallback"] is not None) == (count < sorted(tokens.values())[2] / 32 * inputs)
    assert {row["fallback"] for row in report.rows if "fallback" in row} == {None, "magnitude"}


@pytest.mark.parametrize("measure_error", [True, False])
def test_a_pruner_that_needs_no_tokens_misses_none(measure_error, pruner_config, uniform):
    config = pruner_config("magnitude", measure_error=measure_error)
    report = prune_model(tiny_models.loaded(with_a_lonely_expert()), SEQUENCES, None, config, uniform, HALF)
    assert report.experts() == {} and not any("fallback" in row for row in report.rows)


def test_owl_scores_a_block_by_the_experts_that_tokens_reach(pruner_config):
    achieved = []
    for scale in (1, 100):  # of weights that nothing is known of
        model = with_a_lonely_expert()
        model.model.layers[0].mlp.experts.down_proj.data[3] *= scale
        owl = OwlConfig("owl", outlier_multiple=5, spread=0.08)
        report = prune_model(tiny_models.loaded(model), SEQUENCES, None, pruner_config("wanda"), owl, HALF)
        assert report.achieved == pytest.approx(0.5, abs=1e-4)
        achieved.append([row["achieved"] for row in report.rows])
        assert all(np.isfinite(row["block_outlier_share"]) for row in report.rows)
    assert achieved[0] == achieved[1] and len(set(achieved[0])) > 1


def test_answers_of_one_pass_are_those_of_each_alone(pruner_config, uniform):
    requests = [
        Request(pruner_config(name, propagation=Propagation.dense), uniform, HALF) for name in ("wanda", "sparsegpt")
    ]
    together = tiny_models.build("qwen3_moe")
    answers = one_pass.answers(tiny_models.loaded(together), SEQUENCES, token_weights(), requests)
    for request, answer in zip(requests, answers, strict=True):
        alone, answered = (copy.deepcopy(together) for _ in range(2))
        prune_model(tiny_models.loaded(alone), SEQUENCES, token_weights(), request.pruner, uniform, HALF)
        answer.put_into(answered)
        for name, tensor in alone.state_dict().items():
            assert torch.equal(answered.state_dict()[name], tensor), name
