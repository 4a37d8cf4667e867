"""The Triton kernels against the PyTorch path. test_kernels.py runs these: on a GPU as they are, else interpreted.

In a process of its own, since Triton is interpreted only where that was asked for before anything imported it.
"""

import os

import pytest
import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"

from ssgr.config import DampingBasis, Propagation, Sinks, SparseGPTConfig  # noqa: E402
from ssgr.pruning import kernels, sparsegpt, sparsity  # noqa: E402
from ssgr.pruning.base import PRUNERS  # noqa: E402
from ssgr.pruning.factor import inverse_factor  # noqa: E402
from ssgr.pruning.kernels import radix, walk  # noqa: E402
from ssgr.pruning.sparsity import Quota  # noqa: E402
from ssgr.pruning.statistics import InputStatistics  # noqa: E402


@pytest.fixture(autouse=True)
def plain(monkeypatch):
    """What is called without `fused` is the PyTorch path."""
    monkeypatch.setattr(kernels, "usable", lambda tensor: False)


@pytest.fixture
def fused(monkeypatch):
    def run(function, *arguments):
        with monkeypatch.context() as patch:
            patch.setattr(kernels, "usable", lambda tensor: True)
            return function(*map(moved, arguments))

    def moved(argument):
        if isinstance(argument, (list, tuple)):
            return [moved(each) for each in argument]
        return argument.to(DEVICE) if torch.is_tensor(argument) else argument

    return run


def matrix(rows, columns, dead=(), seed=0):
    """A weight fp32 [rows, columns], U and R = U⁻¹ of its correlated inputs, and which columns a token reached."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(2 * columns, columns, generator=generator) @ torch.randn(columns, columns, generator=generator)
    inputs[:, list(dead)] = 0
    gram = (inputs.T @ inputs).double() / len(inputs)
    damping = 0.01 * float(gram.diagonal().mean())
    factor, root = (inverse_factor(gram, damping, "linear", inverted)[0] for inverted in (True, False))
    return torch.randn(rows, columns, generator=generator), factor, root, gram.diagonal() > 0


def assert_same(ours, expected):
    (weight, mask), (expected_weight, expected_mask) = ours, expected
    assert torch.equal(mask.cpu(), expected_mask)
    assert not weight[mask].any() and not torch.signbit(weight[mask]).any()
    torch.testing.assert_close(weight.cpu(), expected_weight, rtol=1e-4, atol=1e-4)


KINDS = {
    "distinct": lambda shape, generator: torch.rand(shape, generator=generator),
    "ties": lambda shape, generator: torch.randint(0, 3, shape, generator=generator).float(),
    "tiny": lambda shape, generator: torch.rand(shape, generator=generator) * 1e-43,
    "wide": lambda shape, generator: torch.randn(shape, generator=generator).mul(20).exp(),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(1, 1), (9, 31), (128, 128), (130, 190)], ids=str)
def test_the_lowest_are_exact_and_ties_go_by_index(shape, kind, fused):
    saliency = KINDS[kind](shape, torch.Generator().manual_seed(0))
    for count in sorted({0, 1, saliency.numel() // 3, saliency.numel() - 1, saliency.numel()}):
        mask = fused(sparsity.lowest, saliency, count)
        assert mask.sum() == count
        assert torch.equal(mask.cpu(), sparsity.lowest(saliency, count))


@pytest.mark.parametrize("kind", KINDS)
def test_rows_lose_the_same_to_one_and_the_matrix_exactly(kind, fused):
    for shape in ((1, 1), (7, 40), (5, 130)):
        saliency = KINDS[kind](shape, torch.Generator().manual_seed(0))
        for count in sorted({0, 1, saliency.numel() // 3, saliency.numel() - 1, saliency.numel()}):
            mask = fused(sparsity.lowest_per_row, saliency, count)
            assert torch.equal(mask.cpu(), sparsity.lowest_per_row(saliency, count))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n", "m"), [(2, 4), (4, 8), (1, 3), (5, 12)])
def test_every_group_keeps_n(n, m, kind, fused):
    saliency = KINDS[kind]((11, 60 * m), torch.Generator().manual_seed(0))
    mask = fused(sparsity.lowest_in_groups, saliency, n, m)
    assert torch.equal(mask.cpu(), sparsity.lowest_in_groups(saliency, n, m))


@pytest.mark.parametrize("dead", [(), (3, 17)], ids=str)
@pytest.mark.parametrize("pattern", [(), (2, 4)], ids=str)
def test_inputs_that_no_token_reached_lose_their_share(pattern, dead, fused):
    weight = torch.randn(11, 40, generator=torch.Generator().manual_seed(0))
    reached = torch.ones(40, dtype=torch.bool).index_fill(0, torch.tensor(dead, dtype=torch.long), False)
    asked = weight.abs() * reached, weight, reached, Quota(220, *pattern)
    assert torch.equal(fused(sparsity.lowest_of_inputs, *asked).cpu(), sparsity.lowest_of_inputs(*asked))


def test_ties_are_counted_over_more_programs_than_are_read_at_once(monkeypatch):
    monkeypatch.setattr(radix, "CHUNK", 32)
    saliency = (torch.arange(32 * 132) % 7 == 0).float()
    mask = radix.lowest(saliency.to(DEVICE), 3_610).cpu()
    assert torch.equal(mask, sparsity.lowest(saliency, 3_610))


def test_infinite_and_nan_are_the_largest():
    saliency = torch.tensor([torch.inf, 2.0, -torch.nan, 1.0, torch.nan, 3.0])
    assert radix.lowest(saliency.to(DEVICE), 3).tolist() == [False, True, False, True, False, True]


@pytest.mark.parametrize("span", [64, 1024])
@pytest.mark.parametrize(
    ("rows", "columns", "block_size", "dead"),
    [(5, 40, 128, ()), (33, 136, 128, (0, 77, 135)), (70, 128, 48, (3,)), (8, 300, 200, (130, 131))],
)
def test_blocks_are_those_of_the_pytorch_path(rows, columns, block_size, dead, span, fused, monkeypatch):
    monkeypatch.setattr(walk, "SPAN", span)
    weight, factor, root, reached = matrix(rows, columns, dead)
    weights = weight.split([2, rows - 2])  # two linears of one input, each with its own count
    rest = block_size, [Quota(round(0.4 * weights[0].numel())), Quota(round(0.55 * weights[1].numel()))], reached
    ours = fused(sparsegpt.walk_together, weights, root, *rest)
    for each, expected in zip(ours, sparsegpt.walk_each(weights, factor, *rest), strict=True):
        assert_same(each, expected)


@pytest.mark.parametrize("dead", [(), (1, 130)])
def test_matrices_of_several_programs_each_choose_for_themselves(dead, fused, monkeypatch):
    monkeypatch.setattr(radix, "CHUNK", 256)  # so that programs begin inside of rows, and ties reach over several
    weight, factor, root, reached = matrix(24, 140, dead)
    weight = weight.mul(4).round()
    weights = weight.split([9, 1, 14])
    rest = 128, [Quota(500), Quota(140), Quota(3)], reached
    ours = fused(sparsegpt.walk_together, weights, root, *rest)
    for each, expected in zip(ours, sparsegpt.walk_each(weights, factor, *rest), strict=True):
        assert_same(each, expected)


@pytest.mark.parametrize("span", [64, 1024])
@pytest.mark.parametrize(("n", "m", "columns"), [(2, 4, 136), (4, 8, 72), (1, 3, 129), (5, 12, 60), (70, 140, 140)])
def test_groups_are_those_of_the_pytorch_path(n, m, columns, span, fused, monkeypatch):
    monkeypatch.setattr(walk, "SPAN", span)
    weight, factor, root, _ = matrix(19, columns, dead=(1, 2))
    ours = fused(walk.walk_groups, weight, root, n, m)
    assert_same(ours, sparsegpt.walk_groups(weight, factor, 128, n, m))
    assert (~ours[1]).view(19, -1, m).sum(2).eq(n).all()


def test_tied_weights_go_by_index(fused):
    weight, root, reached = torch.ones(40, 128), torch.eye(128), torch.ones(128, dtype=torch.bool)
    [(_, mask)] = fused(sparsegpt.walk_together, [weight], root, 128, [Quota(1_000)], reached)
    assert mask.flatten()[:1_000].all() and mask.sum() == 1_000
    [(_, mask)] = fused(sparsegpt.walk_together, [weight], root, 128, [Quota(40 * 96, 1, 4)], reached)
    assert mask.view(40, -1, 4)[..., :3].all() and mask.sum() == 40 * 96


@pytest.mark.parametrize("quota", [Quota(1_400), Quota(1_400, 2, 4)], ids=str)
def test_two_runs_give_the_same_bits_and_the_weight_that_came_in_stays(quota, fused, monkeypatch):
    monkeypatch.setattr(walk, "SPAN", 128)
    weight, _, root, reached = matrix(20, 140, dead=(135,))
    original = weight.clone()
    first, second = (fused(sparsegpt.walk_together, [weight], root, 128, [quota], reached) for _ in range(2))
    assert torch.equal(first[0][0], second[0][0]) and torch.equal(first[0][1], second[0][1])
    assert torch.equal(weight, original)


@pytest.mark.parametrize("span", [64, 1024])  # 64: R as the device's own factorisation stores it, in several spans
def test_the_pruner_takes_the_kernels_and_loses_no_more(span, fused, monkeypatch):
    monkeypatch.setattr(walk, "SPAN", span)
    """From ill-conditioned inputs, a sink among them: both answers measured against the Gram matrix itself."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(600, 160, generator=generator) @ torch.randn(160, 160, generator=generator) ** 3
    inputs[0] *= 300
    sink = torch.arange(600) == 0
    statistics = InputStatistics("linear", 160, True, Sinks.keep, torch.device(DEVICE))
    statistics.add(inputs.to(DEVICE), torch.ones(600, device=DEVICE), sink.to(DEVICE))
    weight = torch.randn(24, 160, generator=generator).to(DEVICE)
    errors = []
    for run in (fused, lambda function, *arguments: function(*arguments)):
        pruner = PRUNERS.get("sparsegpt")(
            SparseGPTConfig("sparsegpt", Propagation.dense, False, False, Sinks.keep, 0.01, DampingBasis.mean, 128)
        )
        answer, mask, info = run(pruner.prune, weight, statistics, Quota(24 * 80))
        assert mask.sum() == 24 * 80 and "damping_steps" not in info
        errors.append(statistics.relative_errors(weight, answer))
    ours, plain = errors
    assert ours == pytest.approx(plain, rel=1e-3)
