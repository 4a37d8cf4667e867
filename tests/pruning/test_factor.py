import weakref

import pytest
import torch

from ssgr.errors import CellError
from ssgr.pruning import factor as factoring
from ssgr.pruning.factor import flip, inverse_factor, product, solution


def test_a_factor_that_fails_is_tried_again_and_every_step_is_logged():
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(40, 8, generator=generator, dtype=torch.float64)
    gram = root @ root.T  # rank 8: not positive definite without damping
    factor, damping, steps = inverse_factor(gram, 1e-9, "linear")
    assert damping == pytest.approx(1e-9)
    assert steps and steps[0].startswith("float32")
    _, damping, steps = inverse_factor(gram - 1e-8 * torch.eye(40), 1e-9, "linear")
    assert damping == pytest.approx(1e-7)
    assert len(steps) == 3
    with pytest.raises(CellError, match="linear: the Gram matrix cannot be factored"):
        inverse_factor(-gram, 1e-9, "linear")
    well = gram + torch.eye(40)
    factor, _, steps = inverse_factor(well, 0.1, "linear")
    assert steps == [] and torch.equal(factor, factor.triu())
    inverse = (well + 0.1 * torch.eye(40)).inverse()
    torch.testing.assert_close((factor.T @ factor).double(), inverse, rtol=1e-4, atol=1e-5)


def test_nothing_of_a_failed_attempt_lies_beside_the_next(monkeypatch):
    factors, cholesky = [], factoring.cholesky

    def watched(matrix):
        assert not any(factor() is not None for factor in factors)
        lower, failed = cholesky(matrix)
        factors.append(weakref.ref(lower))
        return lower, failed

    monkeypatch.setattr(factoring, "cholesky", watched)
    monkeypatch.setattr(factoring, "probe_residual", lambda *each: 1.0)  # fails after the inverse is there
    root = torch.randn(40, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with pytest.raises(CellError):
        inverse_factor(root @ root.T, 1e-20, "linear")
    assert len(factors) > 2


@pytest.mark.parametrize("inverted", [True, False])
def test_damping_may_be_one_number_per_channel(inverted):
    root = torch.randn(60, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    gram = root.T @ root / 60
    damping = torch.linspace(0.01, 0.5, 40, dtype=torch.float64)
    factor, used, steps = inverse_factor(gram, damping, "linear", inverted)
    assert torch.equal(used, damping) and steps == []
    product = factor.T @ factor if inverted else (factor @ factor.T).inverse()
    torch.testing.assert_close(product.double(), (gram + damping.diag()).inverse(), rtol=1e-3, atol=1e-4)
    # what is probed is the factor of this damping, and no other's
    assert factoring.probe_residual(factor, gram, damping, inverted) < 1e-4
    assert factoring.probe_residual(factor, gram, damping.mean().item(), inverted) > 1e-2
    least = torch.linalg.eigvalsh(gram)[0] + 0.05  # raised together, until the smallest outweighs what is missing
    _, used, steps = inverse_factor(gram - least * torch.eye(40), 0.1 * damping, "linear", inverted)
    torch.testing.assert_close(used, damping)
    assert len(steps) == 2 and f"damping {0.1 * damping.mean():.3g}: not positive definite" in steps[0]


@pytest.mark.parametrize("upper", [True, False])
def test_a_triangular_matrix_is_solved_by_panels(upper, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(50, 50, generator=generator).triu() + 10 * torch.eye(50)
    matrix = matrix if upper else matrix.T
    vectors = torch.randn(50, 3, generator=generator, dtype=torch.float64)
    for size in (1, 7, 64):
        monkeypatch.setattr(factoring, "PANEL", size)
        torch.testing.assert_close(matrix.double() @ solution(matrix, vectors, upper), vectors)
        torch.testing.assert_close(product(matrix, vectors), matrix.double() @ vectors)


def test_the_root_is_the_inverse_of_the_factor():
    root = torch.randn(60, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    gram = root.T @ root / 60
    (inverse, *rest), (upper, *same) = (inverse_factor(gram, 0.01, "linear", each) for each in (True, False))
    assert rest == same == [0.01, []]
    torch.testing.assert_close(inverse @ upper, torch.eye(40), rtol=1e-4, atol=1e-4)
    assert torch.equal(upper, upper.triu())


@pytest.mark.parametrize("shape", [(1, 1), (4, 4), (5, 5)], ids=str)
def test_flip_reverses_both_orders_of_storage(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    assert torch.equal(flip(matrix.clone()), matrix.flip(0, 1))
    assert torch.equal(flip(matrix.T.clone(memory_format=torch.preserve_format)), matrix.T.flip(0, 1))


@pytest.mark.parametrize(("capability", "first"), [((9, 0), torch.float64), ((8, 9), torch.float32)])
def test_fp64_comes_first_on_cards_that_are_made_for_it(capability, first, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    tried = factoring.attempts(torch.device("cuda"))
    assert tried[0] == (first, 1.0) and tried[-1] == (torch.float64, 1e5)
    assert factoring.attempts(torch.device("cpu"))[0] == (torch.float32, 1.0)


def test_an_fp64_factor_is_probed_only_where_rounding_could_spoil_it(monkeypatch):
    probed, probe = [], factoring.probe_residual
    monkeypatch.setattr(factoring, "probe_residual", lambda *each: probed.append(1) or probe(*each))
    monkeypatch.setattr(factoring, "attempts", lambda device: [(torch.float64, 1.0)])
    root = torch.randn(60, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    gram = root.T @ root / 60
    factor, _, _ = inverse_factor(gram, 0.01, "linear")
    assert not probed
    inverse = (gram + 0.01 * torch.eye(40)).inverse()
    torch.testing.assert_close((factor.T @ factor).double(), inverse, rtol=1e-5, atol=1e-5)
    inverse_factor(gram, 1e-11, "linear")
    assert probed
