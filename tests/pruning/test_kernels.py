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


@pytest.mark.parametrize("size", [1, 7, 64, 100])
def test_an_inverse_by_panels_is_the_inverse(size):
    generator = torch.Generator().manual_seed(0)
    upper = torch.randn(50, 50, generator=generator, dtype=torch.float64).triu() + 10 * torch.eye(50)
    inverse = sparsegpt.panel_inverse(upper, size)
    assert torch.equal(inverse, inverse.triu())
    torch.testing.assert_close(inverse, sparsegpt.triangular_inverse(upper))


@pytest.mark.parametrize("shape", [(1, 1), (4, 4), (5, 5)], ids=str)
def test_flip_reverses_both_orders_of_storage(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    assert torch.equal(sparsegpt.flip(matrix.clone()), matrix.flip(0, 1))
    assert torch.equal(sparsegpt.flip(matrix.T.clone(memory_format=torch.preserve_format)), matrix.T.flip(0, 1))
