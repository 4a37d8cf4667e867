"""Sparsity over blocks: scores and mappings against numpy, exact totals, bounds, options that make no sense."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import tiny_models
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_loop import SEQUENCES, inputs_of, token_weights

from ssgr.config import (
    AllocationConfig,
    AlphaPruningConfig,
    OwlConfig,
    Propagation,
    Tail,
)
from ssgr.errors import CellError, UserError
from ssgr.models.blocks import model_linears
from ssgr.pruning.allocation import ALLOCATIONS
from ssgr.pruning.allocation.alphapruning import spectrum, tail_exponent
from ssgr.pruning.loop import prune_model
from ssgr.pruning.sparsity import Sparsity, matrix_quotas

# the weights of tiny models are normal: entries beyond 2.5 means are as frequent there as beyond 5 in a trained model
OWL = OwlConfig("owl", outlier_multiple=2.5, spread=0.08)
ALPHA = AlphaPruningConfig("alphapruning", relative_spread=0.3, tail=Tail.median)
CONFIGS = {"uniform": AllocationConfig("uniform"), "owl": OWL, "alphapruning": ALPHA}
SCORED = [OWL, ALPHA]


def by_name(config):
    return config.name


def unequal_model(dtype=torch.float32):
    """Three blocks, the second one with a smaller MLP; a few strong columns and a strong low rank tell them apart."""
    model = tiny_models.build("qwen2", dtype=dtype)
    model.model.layers[1].mlp = tiny_models.build("qwen2", dtype=dtype, intermediate_size=40).model.layers[1].mlp
    model.model.layers[0].mlp.up_proj.weight.data[:, :2] *= 9
    model.model.layers[2].self_attn.q_proj.weight.data[:, :5] *= 4
    return model


def block_of(name: str) -> int:
    return int(name.split(".")[2])


def blocks_of(model) -> list[list[str]]:
    names = list(model_linears(model))
    return [[name for name in names if block_of(name) == block] for block in range(3)]


def pruned(config, pruner, value=0.5, model=None, sequences=SEQUENCES, weights=None, **options):
    model = model or unequal_model()
    report = prune_model(tiny_models.loaded(model), sequences, weights, pruner, config, Sparsity(value), **options)
    return model, report


def targets(report) -> list[float]:
    return [row["target"] for row in report.rows]


def outlier_shares(model, token_weights, multiple):
    inputs = inputs_of(model, list(model_linears(model)))
    weights, shares = np.concatenate(token_weights).astype(np.float64), []
    for block in blocks_of(model):
        norms = {name: np.sqrt(weights @ np.concatenate(inputs[name]).astype(np.float64) ** 2) for name in block}
        entries = np.concatenate(
            [(np.abs(model_linears(model)[name].weight.double().numpy()) * norms[name]).ravel() for name in block]
        )
        shares.append((entries > multiple * entries.mean()).mean())
    return shares


def hill(matrix, tail):
    eigenvalues = np.sort(np.linalg.svd(matrix.astype(np.float64), compute_uv=False) ** 2)
    n = len(eigenvalues)
    k = n // 2 if tail == Tail.median else n - 1 - start_of_fullest_bin(eigenvalues)
    return 1 + k / sum(np.log(eigenvalues[n - i] / eigenvalues[n - k - 1]) for i in range(1, k + 1))


def start_of_fullest_bin(eigenvalues):
    counts, edges = np.histogram(np.log(eigenvalues), 100)
    return int(np.sum(np.log(eigenvalues) < edges[counts.argmax()] - 1e-12))


def owl_by_the_book(shares, sizes, value, spread):
    shares = np.array(shares)
    density = (shares - shares.min()) * (1 / (shares.max() - shares.min()) * spread * 2)
    return 1 - (density - np.average(density, weights=sizes) + (1 - value))


def alphapruning_by_the_book(alphas, sizes, value, spread):
    alphas, sizes = np.array(alphas), np.array(sizes)
    ratios = (alphas - alphas.min()) / (alphas.max() - alphas.min()) * 2 * spread + 1 - spread
    return ratios * value * sizes.sum() / (sizes * ratios).sum()


@pytest.mark.parametrize("weighted", [False, True])
def test_owl_scores_are_the_shares_of_outliers_in_the_dense_model(weighted, pruner_config):
    weights = token_weights() if weighted else [np.ones(len(sequence), np.float32) for sequence in SEQUENCES]
    expected = outlier_shares(unequal_model(), weights, 2.5)
    assert len({round(share, 4) for share in expected}) == 3
    for propagation in Propagation:
        config = pruner_config("wanda", propagation=propagation)
        _, report = pruned(OWL, config, weights=weights)
        for row in report.rows:
            assert row["block_outlier_share"] == pytest.approx(expected[block_of(row["name"])], rel=1e-9)


@pytest.mark.parametrize("tail", Tail)
def test_alphapruning_scores_are_hills_exponents(tail, pruner_config):
    dense = unequal_model()
    _, report = pruned(replace(ALPHA, tail=tail), pruner_config("magnitude"), sequences=None)
    for row in report.rows:
        block = blocks_of(dense)[block_of(row["name"])]
        alphas = [hill(model_linears(dense)[name].weight.numpy(), tail) for name in block]
        assert row["block_alpha"] == pytest.approx(np.mean(alphas), rel=1e-9)
    assert len({row["block_alpha"] for row in report.rows}) == 3


@pytest.mark.parametrize("value", [0.3, 0.5, 0.6])
@pytest.mark.parametrize(
    ("config", "score", "book"),
    [
        (OWL, "block_outlier_share", lambda *given: owl_by_the_book(*given, 0.08)),
        (ALPHA, "block_alpha", lambda *given: alphapruning_by_the_book(*given, 0.3)),
    ],
    ids=["owl", "alphapruning"],
)
def test_sparsities_are_the_papers_mapping_of_the_scores(config, score, book, value, pruner_config):
    _, report = pruned(config, pruner_config("magnitude"), value)
    sizes, scores = np.zeros(3), np.zeros(3)
    for row in report.rows:
        sizes[block_of(row["name"])] += np.prod(row["shape"])
        scores[block_of(row["name"])] = row[score]
    assert sizes[1] < sizes[0]
    expected = book(scores, sizes, value)
    for row in report.rows:
        size = np.prod(row["shape"])
        assert abs(row["target"] * size - expected[block_of(row["name"])] * size) < 1 + 1e-6
    order = np.argsort(expected)
    assert list(order) == list(np.argsort(scores if config is ALPHA else -scores)), "more outliers, lighter tails"
    assert report.achieved == pytest.approx(value, abs=1e-4) and np.ptp(expected) > 0.1


@pytest.mark.parametrize("value", [0.05, 0.3, 0.5, 0.77, 0.95, 0.99])
@pytest.mark.parametrize("config", SCORED, ids=by_name)
def test_totals_are_exact_and_no_linear_is_emptied(config, value, pruner_config):
    model, report = pruned(config, pruner_config("magnitude"), value)
    sizes = {name: linear.weight.numel() for name, linear in model_linears(model).items()}
    masked = {name: int((linear.weight == 0).sum()) for name, linear in model_linears(model).items()}
    assert sum(masked.values()) == round(value * sum(sizes.values()))
    assert all(0 <= masked[name] < sizes[name] for name in sizes)
    assert {row["name"]: row["target"] for row in report.rows} == {name: masked[name] / sizes[name] for name in sizes}


@given(
    st.lists(
        st.tuples(
            st.floats(0, 10), st.lists(st.tuples(st.integers(2, 30), st.integers(2, 30)), min_size=1, max_size=3)
        ),
        min_size=1,
        max_size=6,
    ),
    st.floats(0.01, 0.99),
    st.sampled_from([OWL, replace(OWL, spread=0.5), ALPHA, replace(ALPHA, relative_spread=0.9)]),
)
@settings(max_examples=150, deadline=None)
def test_what_a_bound_cuts_off_goes_to_the_others(blocks, value, config):
    scores, shapes = [score for score, _ in blocks], [inside for _, inside in blocks]
    sizes = [[out * columns for out, columns in inside] for inside in shapes]
    caps = [max(1 - 1 / min(inside), value) for inside in sizes]
    allocation = ALLOCATIONS.get(config.name)(config)
    found = allocation.sparsities(scores, [sum(inside) for inside in sizes], caps, value)
    assert np.average(found, weights=[sum(inside) for inside in sizes]) == pytest.approx(value, rel=1e-12)
    assert all(0 <= share <= cap for share, cap in zip(found, caps, strict=True))
    rank = [share if config.name == "owl" else -share for share in found]
    ordered = [cut for _, cut in sorted(zip(scores, zip(rank, caps, strict=True), strict=True))]
    free = [r for r, cap in ordered if 0 < abs(r) < cap]
    assert all(one >= other - 1e-12 for one, other in pairwise(free)), "the scores' order stays"
    named = {f"{block}.{number}": shape for block, inside in enumerate(shapes) for number, shape in enumerate(inside)}
    quotas = matrix_quotas({name: found[int(name[0])] for name in named}, named, Sparsity(value))
    weights = sum(sum(inside) for inside in sizes)
    assert abs(sum(quota.count for quota in quotas.values()) - value * weights) <= 0.5 + 1e-6
    feasible = value <= min(1 - 1 / min(inside) for inside in sizes)
    for name, (out, columns) in named.items():
        assert 0 <= quotas[name].count < out * columns + (not feasible)


def test_blocks_that_score_the_same_are_pruned_the_same(pruner_config, uniform):
    def twins():
        model = tiny_models.build("qwen2")
        for layer in model.model.layers[1:]:
            layer.load_state_dict(model.model.layers[0].state_dict())
        return model

    for config, model in ((ALPHA, twins), (OWL, lambda: tiny_models.build("qwen2", num_hidden_layers=1))):
        reports = [pruned(one, pruner_config("magnitude"), model=model())[1] for one in (config, uniform)]
        assert targets(reports[0]) == targets(reports[1])


@pytest.mark.parametrize(
    ("config", "option", "value"),
    [
        (OWL, "outlier_multiple", 0.0),
        (OWL, "outlier_multiple", float("nan")),
        (OWL, "outlier_multiple", float("inf")),
        (OWL, "spread", -0.1),
        (OWL, "spread", 0.6),
        (ALPHA, "relative_spread", 1.0),
        (ALPHA, "relative_spread", -0.1),
    ],
)
def test_options_that_make_no_sense_are_refused(config, option, value):
    config.check()
    with pytest.raises(UserError, match=f"^allocation.{option}=".replace(".", r"\.")):
        replace(config, **{option: value}).check()


@pytest.mark.parametrize("shape", [(12, 30), (30, 12)])
def test_a_spectrum_is_that_of_the_smaller_product(shape):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0)).bfloat16()
    values = np.linalg.svd(weight.double().numpy(), compute_uv=False)[::-1] ** 2
    np.testing.assert_allclose(spectrum(weight).numpy(), values, rtol=1e-10)


@pytest.mark.parametrize("tail", Tail)
def test_a_spectrum_without_a_tail(tail):
    assert tail_exponent(torch.zeros(8, dtype=torch.float64), tail) is None
    assert tail_exponent(torch.tensor([0.0, 0.0, 3.0], dtype=torch.float64), tail) is None
    assert tail_exponent(torch.ones(8, dtype=torch.float64), tail) is None


def test_what_rounding_leaves_is_no_part_of_a_spectrum():
    low_rank = torch.tensor([0.0, 1e-17, 1.0, 1.0, np.e, np.e**2], dtype=torch.float64)
    assert tail_exponent(low_rank, Tail.median) == pytest.approx(1 + 2 / 3)
    assert tail_exponent(low_rank, Tail.peak) == pytest.approx(1 + 3 / 3)  # the bin of the two ones is the fullest


def test_a_block_of_zeros_is_named(pruner_config):
    model = unequal_model()
    for linear in [linear for name, linear in model_linears(model).items() if block_of(name) == 1]:
        linear.weight.data.zero_()
    with pytest.raises(CellError, match=r"model\.layers\.1\..*allocation=alphapruning"):
        pruned(ALPHA, pruner_config("magnitude"), model=model)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_alphapruning_runs_on_a_gpu():
    weight = torch.randn(64, 96, generator=torch.Generator().manual_seed(0)).bfloat16()
    for tail in Tail:
        on_cpu, on_gpu = (tail_exponent(spectrum(weight.to(device)), tail) for device in ("cpu", "cuda"))
        assert on_gpu == pytest.approx(on_cpu, rel=1e-9)
