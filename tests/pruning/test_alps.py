"""ALPS: the support against the paper's ADMM, the weights against a dense solve per row, both against SparseGPT's."""

import numpy as np
import pruning_oracles
import pytest
import tiny_models
import torch
from test_pruners import SHAPES, data, quota_of, statistics_of

from ssgr.config import Propagation, Sinks
from ssgr.errors import UserError
from ssgr.pruning.alps import admm, projection
from ssgr.pruning.base import PRUNERS
from ssgr.pruning.loop import prune_model
from ssgr.pruning.sparsity import Quota, Sparsity
from ssgr.pruning.statistics import InputStatistics

PATTERNS = [(0.5, None, None), (None, 2, 4), (None, 4, 8)]
KINDS = ["plain", "dead columns", "sink"]


def pruned_by(name, case, quota, pruner_config, sinks=Sinks.keep, **options):
    """What the pruner gives for (inputs, token weights, sinks, weight)."""
    inputs, weights, sink, weight = case
    pruner = PRUNERS.get(name)(pruner_config(name, sinks=sinks, **options))
    return pruner.prune(torch.from_numpy(weight), statistics_of(inputs, weights, sink, sinks), quota)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_objective_is_below_sparsegpts_and_the_counts_are_exact(shape, pattern, kind, pruner_config):
    case, quota = data(shape, kind), quota_of(pattern, shape)
    moments, objective = pruning_oracles.gram(*case[:2]), {}
    for name in ("alps", "sparsegpt"):
        answer, mask, info = pruned_by(name, case, quota, pruner_config)
        assert info["damping"] == pytest.approx(0.01 * np.diag(moments).mean(), rel=1e-4)
        objective[name] = pruning_oracles.ridge_objective(case[3], answer.numpy(), moments, info["damping"])
        assert mask.sum() == quota.count
        assert not answer[mask].any() and not torch.signbit(answer[mask]).any()
        if quota.n:
            assert (~mask).view(shape[0], -1, quota.m).sum(2).eq(quota.n).all()
    assert objective["alps"] < objective["sparsegpt"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_on_its_support_the_answer_is_the_best(shape, pattern, kind, pruner_config):
    case, quota = data(shape, kind), quota_of(pattern, shape)
    weight, moments = case[3], pruning_oracles.gram(*case[:2])
    answer, mask, info = pruned_by("alps", case, quota, pruner_config, cg_steps=400)
    best = pruning_oracles.best_on_support(weight, mask.numpy(), moments, info["damping"])
    np.testing.assert_allclose(answer.numpy(), best, rtol=2e-3, atol=2e-3)
    hessian = moments + info["damping"] * np.eye(len(moments))
    size = np.sqrt(np.diag(hessian))
    gradient = (answer.numpy() - weight) @ hessian / size
    assert abs(gradient[~mask.numpy()]).max() < 1e-3 * abs(weight @ hessian / size).max()


@pytest.mark.parametrize("pattern", [*PATTERNS, (0.8, None, None)], ids=str)
@pytest.mark.parametrize("shape", SHAPES[:2], ids=str)
def test_the_support_is_that_of_the_papers_iteration(shape, pattern, pruner_config):
    case, quota = data(shape, "plain"), quota_of(pattern, shape)
    moments = pruning_oracles.gram(*case[:2])
    ridge = 0.01 * np.diag(moments).mean()
    for options in ({}, {"rho": 5.0}, {"iterations": 7}):
        expected = pruning_oracles.alps_support(case[3], moments, quota.count, ridge, quota.n, quota.m, **options)
        assert np.array_equal(support_in_fp64(case[3], moments, ridge, quota, **options), expected)
        _, mask, _ = pruned_by("alps", case, quota, pruner_config, **options)
        losses = [support_loss(case[3], each, moments, ridge) for each in (mask.numpy(), expected)]
        assert losses[0] == pytest.approx(losses[1], rel=0.01), "rounding in fp32 turns near ties, no more"


def support_in_fp64(weight, moments, ridge, quota, rho=0.1, iterations=300):
    """The program's iteration where rounding decides nothing: the mask, bool [out, in]."""
    hessian = torch.from_numpy(moments + ridge * np.eye(len(moments)))
    scale = hessian.diagonal().sqrt()
    hessian = hessian / scale / scale[:, None]
    dense = torch.from_numpy(weight).double() * scale
    factor_for = lambda rho: torch.linalg.cholesky(hessian + rho * torch.eye(len(hessian)))  # noqa: E731
    _, mask, _ = admm(dense, dense @ hessian, factor_for, projection(quota), rho, iterations)
    return mask.numpy()


def support_loss(weight, mask, moments, ridge):
    best = pruning_oracles.best_on_support(weight, mask, moments, ridge)
    return pruning_oracles.ridge_objective(weight, best, moments, ridge)


def test_more_steps_of_either_kind_give_a_smaller_objective(pruner_config):
    case, quota = data((17, 200), "sink"), Quota(1_700)
    moments = pruning_oracles.gram(*case[:2])

    def objective(**options):
        answer, _, info = pruned_by("alps", case, quota, pruner_config, **options)
        return pruning_oracles.ridge_objective(case[3], answer.numpy(), moments, info["damping"])

    by_cg = [objective(cg_steps=steps) for steps in (1, 10, 100)]
    assert by_cg == sorted(by_cg, reverse=True) and by_cg[0] > by_cg[-1]
    assert objective(iterations=1, cg_steps=100) > objective(iterations=300, cg_steps=100)


def test_iterations_stop_when_the_support_stands_still_and_at_the_limit(pruner_config):
    case = data((24, 64), "plain")
    *_, info = pruned_by("alps", case, Quota(768), pruner_config)
    assert 3 < info["admm_iterations"] < 300
    *_, info = pruned_by("alps", case, Quota(768), pruner_config, iterations=5)
    assert info["admm_iterations"] == 5


def test_a_rho_that_holds_the_support_fast_is_lowered(pruner_config):
    case = data((24, 64), "plain")
    moments, objective = pruning_oracles.gram(*case[:2]), {}
    for iterations in (2, 300):
        answer, _, info = pruned_by("alps", case, Quota(768), pruner_config, rho=1e4, iterations=iterations)
        objective[iterations] = pruning_oracles.ridge_objective(case[3], answer.numpy(), moments, info["damping"])
    assert objective[300] < 0.9 * objective[2]


@pytest.mark.parametrize("sinks", Sinks)
def test_the_ridge_is_a_share_of_what_the_sinks_option_says(sinks, pruner_config):
    inputs, weights, sink, weight = case = data((17, 64), "sink")
    everything = pruning_oracles.gram(inputs, weights)
    without = pruning_oracles.gram(inputs[~sink], weights[~sink])
    basis = {
        Sinks.keep: np.diag(everything).mean(),
        Sinks.undamped: np.diag(without).mean() * weights[~sink].sum() / weights.sum(),
        Sinks.exclude: np.diag(without).mean(),
    }[sinks]
    answer, mask, info = pruned_by("alps", case, Quota(544), pruner_config, sinks, ridge=0.1, cg_steps=400)
    assert info["damping"] == pytest.approx(0.1 * basis, rel=1e-4)
    moments = without if sinks == Sinks.exclude else everything
    best = pruning_oracles.best_on_support(weight, mask.numpy(), moments, 0.1 * basis)
    np.testing.assert_allclose(answer.numpy(), best, rtol=5e-3, atol=5e-3)


def test_ridge_is_raised_where_the_gram_matrix_is_not_positive_definite(pruner_config, monkeypatch):
    case, real = data((17, 64), "plain"), InputStatistics.gram

    def indefinite(self):
        moments = real(self)
        least = torch.linalg.eigvalsh(moments)[0]
        return moments - (least + 0.05 * moments.diagonal().mean()) * torch.eye(len(moments))

    monkeypatch.setattr(InputStatistics, "gram", indefinite)
    basis = np.diag(pruning_oracles.gram(*case[:2])).mean()
    answer, mask, info = pruned_by("alps", case, Quota(544), pruner_config)
    assert info["damping"] == pytest.approx(0.1 * basis, rel=1e-4) and info["damping_steps"]
    assert answer.isfinite().all() and mask.sum() == 544


def test_rows_without_weights_and_an_empty_support_are_no_trouble(pruner_config):
    inputs, weights, sink, weight = data((24, 64), "plain")
    weight[3] = 0
    for count in (64, 768, 24 * 64 - 1, 24 * 64):
        answer, mask, _ = pruned_by("alps", (inputs, weights, sink, weight), Quota(count), pruner_config)
        assert mask.sum() == count and answer.isfinite().all()


def test_equal_weights_go_by_index(pruner_config):
    inputs, weights, sink, weight = data((4, 64), "plain")
    case = np.zeros_like(inputs), weights, sink, np.ones_like(weight)
    mask = pruned_by("alps", case, Quota(100), pruner_config).mask
    assert mask.flatten()[:100].all() and mask.sum() == 100


def test_the_number_of_threads_changes_nothing(pruner_config):
    case, threads, answers = data((40, 304), "plain"), torch.get_num_threads(), []
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            answers.append(pruned_by("alps", case, Quota(6_080), pruner_config).weight)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(answers[0], answers[1]) and torch.equal(answers[0], answers[2])


def test_relative_errors_of_the_pruners_are_in_order(pruner_config, uniform):
    """On a model whose inputs differ in size, as a trained one's do."""
    sequences, error = tiny_models.sequences(24), {}
    for name in ("alps", "sparsegpt", "wanda", "ria", "magnitude"):
        model = tiny_models.build()
        generator = torch.Generator().manual_seed(0)
        for block in model.model.layers:
            for norm in (block.input_layernorm, block.post_attention_layernorm):
                norm.weight.copy_(torch.rand(norm.weight.shape, generator=generator) * 2 + 0.1)
        config = pruner_config(name, propagation=Propagation.dense, measure_error=True)
        report = prune_model(tiny_models.loaded(model), sequences, None, config, uniform, Sparsity(0.5))
        error[name] = np.mean([row["relative_error"] for row in report.rows])
    assert error["alps"] < error["sparsegpt"] < min(error["wanda"], error["ria"])
    assert max(error["wanda"], error["ria"]) < error["magnitude"]


@pytest.mark.parametrize("option", ["ridge", "rho", "iterations", "cg_steps"])
def test_options_that_make_no_sense_are_refused(option, pruner_config):
    with pytest.raises(UserError, match=rf"pruner\.{option}=0"):
        PRUNERS.get("alps")(pruner_config("alps", **{option: 0}))
