"""The block loop on tiny models, against activations taken from the model's own forward, one sequence at a time."""

import copy

import numpy as np
import pruning_oracles
import pytest
import tiny_models
import torch

from ssgr.config import Propagation, Sinks
from ssgr.errors import CellError, UserError
from ssgr.models.blocks import model_linears
from ssgr.pruning import activations
from ssgr.pruning.base import PRUNERS, Pruned
from ssgr.pruning.loop import prune_model
from ssgr.pruning.sparsity import Sparsity

SEQUENCES = tiny_models.sequences(18)
PATTERNS = [Sparsity(0.3), Sparsity(0.5), Sparsity(0.7), Sparsity(0.5, 2, 4), Sparsity(0.5, 4, 8)]


def token_weights(seed=1):
    generator = np.random.default_rng(seed)
    return [generator.choice([0.0, 0.5, 1.0], len(sequence)).astype(np.float32) for sequence in SEQUENCES]


def inputs_of(model, names, sequences=SEQUENCES) -> dict[str, list[np.ndarray]]:
    """What reaches each linear in the model's own forward: per sequence an array [tokens, in]."""
    seen = {name: [] for name in names}
    modules = model_linears(model)
    handles = [
        modules[name].register_forward_pre_hook(
            lambda module, args, name=name: seen[name].append(args[0][0].float().numpy())
        )
        for name in names
    ]
    for sequence in sequences:
        model(input_ids=torch.from_numpy(sequence)[None].long(), use_cache=False)
    for handle in handles:
        handle.remove()
    return seen


def prune_by_the_book(model, name, weights, propagation, count_of):
    """The oracle's weights for every linear, block after block, with activations from the model's own forward."""
    dense, pruned = copy.deepcopy(model), copy.deepcopy(model)
    answers = {}
    for block in range(model.config.num_hidden_layers):
        names = [linear for linear in model_linears(model) if f".layers.{block}." in linear]
        inputs = inputs_of(dense if propagation == Propagation.dense else pruned, names)
        for linear in names:
            moments = pruning_oracles.gram(np.concatenate(inputs[linear]), np.concatenate(weights))
            weight = model_linears(model)[linear].weight.numpy()
            answers[linear], _ = pruning_oracles.ORACLES[name](weight, moments, count_of[linear])
        for linear in names:
            model_linears(pruned)[linear].weight.data.copy_(torch.from_numpy(answers[linear]))
    return answers


def counts(report) -> dict[str, int]:
    return {row["name"]: round(row["target"] * row["shape"][0] * row["shape"][1]) for row in report.rows}


@pytest.mark.parametrize("propagation", Propagation)
@pytest.mark.parametrize("name", ["wanda", "sparsegpt"])
@pytest.mark.parametrize("architecture", ["qwen2", "llama"])
def test_the_loop_is_the_oracle_fed_by_the_models_own_forward(architecture, name, propagation, pruner_config, uniform):
    # fp64 forwards, so that only the pruners' own rounding is between the two
    model = tiny_models.build(architecture, dtype=torch.float64)
    original, weights = copy.deepcopy(model), token_weights()
    config = pruner_config(name, propagation=propagation)
    report = prune_model(tiny_models.loaded(model), SEQUENCES, weights, config, uniform, Sparsity(0.5))
    expected = prune_by_the_book(original, name, weights, propagation, counts(report))
    for linear, module in model_linears(model).items():
        assert np.array_equal(module.weight.numpy() == 0, expected[linear] == 0), linear
        np.testing.assert_allclose(module.weight.numpy(), expected[linear], rtol=1e-3, atol=1e-3, err_msg=linear)


@pytest.mark.parametrize("sparsity", PATTERNS, ids=lambda sparsity: f"{sparsity.value}-{sparsity.pattern}")
@pytest.mark.parametrize("name", [name for name in PRUNERS.names() if name != "none"])
def test_sparsity_is_exact_and_nothing_else_changes(name, sparsity, pruner_config, uniform):
    model = tiny_models.build("qwen2", dtype=torch.bfloat16, tie_word_embeddings=True)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    sequences = None if name == "magnitude" else SEQUENCES
    report = prune_model(tiny_models.loaded(model), sequences, None, pruner_config(name), uniform, sparsity)
    assert abs(report.achieved - sparsity.value) < 1e-4
    assert (report.target, report.pattern) == (sparsity.value, sparsity.pattern)
    linears = model_linears(model)
    assert [row["name"] for row in report.rows] == list(linears)
    for row in report.rows:
        weight = linears[row["name"]].weight
        zeros = weight == 0
        assert row["achieved"] == row["target"]
        assert zeros.sum() == round(row["achieved"] * weight.numel())
        assert not torch.signbit(weight[zeros]).any()
        if sparsity.n:
            assert zeros.view(len(weight), -1, sparsity.m).sum(2).eq(sparsity.m - sparsity.n).all()
    changed = {key for key, tensor in model.state_dict().items() if not torch.equal(tensor, before[key])}
    assert changed == {f"{linear}.weight" for linear in linears}
    assert model.lm_head.weight is model.model.embed_tokens.weight


@pytest.mark.parametrize("architecture", tiny_models.ARCHITECTURES)
@pytest.mark.parametrize("name", ["wanda", "sparsegpt"])
def test_masks_do_not_depend_on_the_batches(name, architecture, pruner_config, uniform):
    masks = []
    for batch_tokens in (1, 8 * 24, 10_000):
        model = tiny_models.build(architecture)
        loaded = tiny_models.loaded(model)
        prune_model(
            loaded, SEQUENCES, token_weights(), pruner_config(name), uniform, Sparsity(0.5), batch_tokens=batch_tokens
        )
        masks.append({linear: module.weight == 0 for linear, module in model_linears(model).items()})
    for other in masks[1:]:
        assert all(torch.equal(mask, masks[0][linear]) for linear, mask in other.items())


@pytest.mark.parametrize("sparsity", [Sparsity(0.5), Sparsity(0.5, 2, 4)], ids=lambda of: of.pattern)
@pytest.mark.parametrize("name", ["wanda", "ria", "sparsegpt", "alps"])
def test_in_fp64_no_pruners_masks_depend_on_the_batches(name, sparsity, pruner_config, uniform):
    """In fp32 ALPS makes of sums in another order another support: its iterations choose again and again."""
    masks = []
    for batch_tokens in (1, 8 * 24):
        model = tiny_models.build(dtype=torch.float64)
        config = pruner_config(name)
        prune_model(
            tiny_models.loaded(model), SEQUENCES, token_weights(), config, uniform, sparsity, batch_tokens=batch_tokens
        )
        masks.append({linear: module.weight == 0 for linear, module in model_linears(model).items()})
    assert all(torch.equal(mask, masks[0][linear]) for linear, mask in masks[1].items())


def test_batches_of_one_and_of_eight():
    model = tiny_models.build()
    ones = [np.ones(len(sequence), dtype=np.float32) for sequence in SEQUENCES]
    assert {len(batch.hidden) for batch in activations.make_batches(model, SEQUENCES, ones, 1)} == {1}
    assert max(len(batch.hidden) for batch in activations.make_batches(model, SEQUENCES, ones, 8 * 24)) >= 8


def test_token_weights_are_honoured(pruner_config, uniform):
    """Weight 0 is as if the token's input had not been seen, twice the weight as if seen twice."""
    doubled = [*SEQUENCES, *SEQUENCES[:5]]
    weights = [np.full(len(sequence), 1.0 + (index < 5), np.float32) for index, sequence in enumerate(SEQUENCES)]
    masks = []
    for sequences, weight in ((doubled, None), (SEQUENCES, weights), (SEQUENCES, None)):
        model = tiny_models.build()
        prune_model(tiny_models.loaded(model), sequences, weight, pruner_config("wanda"), uniform, Sparsity(0.5))
        masks.append(torch.cat([(module.weight == 0).flatten() for module in model_linears(model).values()]))
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[1], masks[2])


def test_propagation_matters_after_the_first_block(pruner_config, uniform):
    weights = {}
    for propagation in Propagation:
        model = tiny_models.build()
        config = pruner_config("sparsegpt", propagation=propagation)
        prune_model(tiny_models.loaded(model), SEQUENCES, None, config, uniform, Sparsity(0.5))
        weights[propagation] = model_linears(model)
    for linear in weights[Propagation.dense]:
        same = torch.equal(*(weights[propagation][linear].weight for propagation in Propagation))
        assert same == (".layers.0." in linear)


@pytest.mark.parametrize("propagation", Propagation)
def test_sinks_are_decided_by_the_dense_model_on_the_first_sequences(propagation, pruner_config, uniform):
    model = tiny_models.build()
    for layer in model.model.layers:  # a few neurons of the MLP fire 100 times as strongly for some tokens
        layer.mlp.up_proj.weight.data[:3] *= 100
    dense = copy.deepcopy(model)
    for name in ("wanda", "sparsegpt"):
        working = copy.deepcopy(model)
        config = pruner_config(name, propagation=propagation)
        report = prune_model(tiny_models.loaded(working), SEQUENCES, None, config, uniform, Sparsity(0.5))
        rows = {row["name"]: row for row in report.rows}
        # the first block's inputs are the dense model's under either propagation
        names = [n for n in rows if ".layers.0." in n or propagation == Propagation.dense]
        for linear, inputs in inputs_of(dense, names).items():
            norms = [np.linalg.norm(sequence, axis=1) for sequence in inputs]
            reference = np.sort(np.concatenate(norms[:16]))
            threshold = 10 * reference[(len(reference) - 1) // 2]
            sinks = [np.concatenate([[True], norm[1:] > threshold]) for norm in norms]
            energy = [np.square(norm.astype(np.float64)) for norm in norms]
            share = sum(e[s].sum() for e, s in zip(energy, sinks, strict=True)) / sum(e.sum() for e in energy)
            assert rows[linear]["sinks"] == sum(sink.sum() for sink in sinks)
            assert rows[linear]["sink_energy_share"] == pytest.approx(share, rel=1e-3)


@pytest.mark.parametrize("propagation", Propagation)
def test_thresholds_of_every_block_are_the_dense_models(propagation, pruner_config, uniform, monkeypatch):
    thresholds = []

    def record(norms, real=activations.sink_threshold):
        thresholds.append(float(real(norms)))
        return real(norms)

    monkeypatch.setattr(activations, "sink_threshold", record)
    model = tiny_models.build()
    dense = copy.deepcopy(model)
    config = pruner_config("wanda", propagation=propagation)
    prune_model(tiny_models.loaded(model), SEQUENCES, None, config, uniform, Sparsity(0.7))
    # q/k/v share theirs, and so do gate and up
    names = [name for name in model_linears(dense) if name.endswith(("q_proj", "o_proj", "gate_proj", "down_proj"))]
    expected = []
    for inputs in inputs_of(dense, names, SEQUENCES[:16]).values():
        norms = np.sort(np.linalg.norm(np.concatenate(inputs), axis=1))
        expected.append(10 * norms[(len(norms) - 1) // 2])
    assert thresholds == pytest.approx(expected, rel=1e-4)


def test_sink_options_differ(pruner_config, uniform):
    reports = {}
    for sinks in Sinks:
        model = tiny_models.build()
        model.model.embed_tokens.weight.data[SEQUENCES[0][0]] *= 50
        config = pruner_config("sparsegpt", sinks=sinks)
        reports[sinks] = prune_model(tiny_models.loaded(model), SEQUENCES, None, config, uniform, Sparsity(0.5)).rows
    for keep, undamped, exclude in zip(*(reports[sinks] for sinks in Sinks), strict=True):
        if ".layers.0." in keep["name"]:  # later blocks see different weights before them
            assert keep["sinks"] == undamped["sinks"] == exclude["sinks"] >= len(SEQUENCES)
            assert undamped["damping"] < keep["damping"]
            assert undamped["damping"] < exclude["damping"]  # divided by fewer tokens


@pytest.mark.parametrize("name", ["magnitude", "wanda", "sparsegpt"])
def test_measured_errors_are_those_of_the_outputs(name, pruner_config, uniform):
    model = tiny_models.build()
    dense = copy.deepcopy(model)
    config = pruner_config(name, propagation=Propagation.dense, measure_error=True)
    report = prune_model(tiny_models.loaded(model), SEQUENCES, None, config, uniform, Sparsity(0.5))
    inputs = inputs_of(dense, list(model_linears(dense)))
    for row in report.rows:
        x = np.concatenate(inputs[row["name"]]).astype(np.float64)
        before, after = (model_linears(which)[row["name"]].weight.numpy() for which in (dense, model))
        expected = np.square(x @ (before - after).T).sum() / np.square(x @ before.T).sum()
        assert row["relative_error"] == pytest.approx(expected, rel=1e-3)
        assert row["relative_error_without_sinks"] > 0
    of_first = [row["relative_error"] for row in report.rows if ".layers.0." in row["name"]]
    assert report.blocks[0]["relative_error"] == pytest.approx(np.mean(of_first))


def test_reports_have_their_columns(pruner_config, uniform):
    seen = []
    model = tiny_models.build()
    report = prune_model(
        tiny_models.loaded(model), SEQUENCES, None, pruner_config("sparsegpt"), uniform, Sparsity(0.5), seen.append
    )
    assert [entry["block"] for entry in seen] == [0, 1, 2] and seen == report.blocks
    assert all(entry["seconds"] > 0 and entry["relative_error"] is None for entry in seen)
    columns = {"name", "shape", "target", "achieved", "damping", "damping_over_median_diagonal", "sinks"}
    columns |= {"sink_energy_share", "seconds"}
    assert set(report.to_json()) == {"target", "achieved", "pattern", "seconds", "rows", "blocks"}
    assert all(set(row) == columns for row in report.rows)


@pytest.mark.parametrize(("name", "value"), [("none", 0.5), ("sparsegpt", 0.0), ("magnitude", 0.0)])
def test_nothing_to_prune_leaves_the_model_alone(name, value, pruner_config, uniform):
    model = tiny_models.build()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    report = prune_model(tiny_models.loaded(model), None, None, pruner_config(name), uniform, Sparsity(value))
    assert report.achieved == report.target == 0
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


@pytest.mark.parametrize("name", ["magnitude", "wanda", "sparsegpt"])
def test_broken_weights_name_the_linear(name, pruner_config, uniform):
    model = tiny_models.build()
    model.model.layers[0].self_attn.q_proj.weight.data[1, 2] = torch.nan
    with pytest.raises(CellError, match=r"model\.layers\.0\.self_attn\.\w_proj: "):
        prune_model(tiny_models.loaded(model), SEQUENCES, None, pruner_config(name), uniform, Sparsity(0.5))


def test_broken_activations_name_the_linear(pruner_config, uniform):
    model = tiny_models.build()
    model.model.layers[1].input_layernorm.weight.data[3] = torch.inf
    with pytest.raises(CellError, match=r"model\.layers\.1\.self_attn\.q_proj: its calibration inputs are NaN"):
        prune_model(tiny_models.loaded(model), SEQUENCES, None, pruner_config("wanda"), uniform, Sparsity(0.5))


def test_a_pattern_that_does_not_fit_changes_nothing(pruner_config, uniform):
    model = tiny_models.build(intermediate_size=70)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    with pytest.raises(UserError, match=r"2:4: model\.layers\.0\.mlp\.down_proj has 70 inputs"):
        prune_model(tiny_models.loaded(model), None, None, pruner_config("magnitude"), uniform, Sparsity(0.5, 2, 4))
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


def test_no_tokens_is_one_line(pruner_config, uniform):
    for sequences in ([], None, [np.zeros(0, np.int32)]):
        with pytest.raises(CellError, match="no tokens"):
            prune_model(
                tiny_models.loaded(tiny_models.build()), sequences, None, pruner_config("wanda"), uniform, Sparsity(0.5)
            )


@pytest.mark.parametrize(
    ("sparsity", "line"),
    [(Sparsity(0.3), "masked 512 weights and was asked for"), (Sparsity(0.5, 2, 4), "keep 2 of every 4 inputs")],
)
def test_a_pruner_that_masks_something_else_is_refused(sparsity, line, pruner_config, uniform, monkeypatch):
    def left_half(self, weight, statistics, quota):
        mask = torch.zeros_like(weight, dtype=torch.bool)
        mask[:, : weight.shape[1] // 2] = True
        return Pruned(weight.masked_fill(mask, 0.0), mask, {})

    monkeypatch.setattr(PRUNERS.get("magnitude"), "prune", left_half)
    with pytest.raises(CellError, match=line):
        prune_model(tiny_models.loaded(tiny_models.build()), None, None, pruner_config("magnitude"), uniform, sparsity)
