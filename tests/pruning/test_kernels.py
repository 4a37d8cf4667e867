import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ssgr.pruning import kernels, sparsegpt


@pytest.mark.skipif(not kernels.installed(), reason="Triton is not installed: PyTorch for CPUs does not bring it")
def test_kernels_are_the_pytorch_path():
    cases = Path(__file__).with_name("kernel_cases.py")
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(cases)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cases.parents[2], env=dict(os.environ))
    assert done.returncode == 0, done.stdout[-5_000:] + done.stderr[-2_000:]


def test_on_a_cpu_the_pytorch_path_runs():
    assert not kernels.usable(torch.zeros(1))


@pytest.mark.parametrize("upper", [True, False])
def test_a_triangular_matrix_is_solved_by_panels(upper, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(50, 50, generator=generator).triu() + 10 * torch.eye(50)
    matrix = matrix if upper else matrix.T
    vectors = torch.randn(50, 3, generator=generator, dtype=torch.float64)
    for size in (1, 7, 64):
        monkeypatch.setattr(sparsegpt, "PANEL", size)
        torch.testing.assert_close(matrix.double() @ sparsegpt.solution(matrix, vectors, upper), vectors)
        torch.testing.assert_close(sparsegpt.product(matrix, vectors), matrix.double() @ vectors)


def test_the_root_is_the_inverse_of_the_factor():
    root = torch.randn(60, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    gram = root.T @ root / 60
    (inverse, *rest), (upper, *same) = (sparsegpt.inverse_factor(gram, 0.01, "linear", each) for each in (True, False))
    assert rest == same == [0.01, []]
    torch.testing.assert_close(inverse @ upper, torch.eye(40), rtol=1e-4, atol=1e-4)
    assert torch.equal(upper, upper.triu())


@pytest.mark.parametrize("shape", [(1, 1), (4, 4), (5, 5)], ids=str)
def test_flip_reverses_both_orders_of_storage(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    assert torch.equal(sparsegpt.flip(matrix.clone()), matrix.flip(0, 1))
    assert torch.equal(sparsegpt.flip(matrix.T.clone(memory_format=torch.preserve_format)), matrix.T.flip(0, 1))
