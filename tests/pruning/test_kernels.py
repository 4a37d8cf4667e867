import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ssgr.pruning import kernels


@pytest.mark.skipif(not kernels.installed(), reason="Triton is not installed: PyTorch for CPUs does not bring it")
def test_kernels_are_the_pytorch_path():
    cases = Path(__file__).with_name("kernel_cases.py")
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(cases)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cases.parents[2], env=dict(os.environ))
    assert done.returncode == 0, done.stdout[-5_000:] + done.stderr[-2_000:]


def test_on_a_cpu_the_pytorch_path_runs():
    assert not kernels.usable(torch.zeros(1))
