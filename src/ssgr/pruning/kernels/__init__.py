"""Triton kernels. Each has a PyTorch path beside it, which runs on CPUs and is what the kernel is tested against.

SSGR_KERNELS=0 in the environment leaves a GPU to the PyTorch path too: slower, and a way to tell whether a kernel errs.
"""

import os
from functools import cache
from importlib.util import find_spec

import torch


@cache
def installed() -> bool:
    return find_spec("triton") is not None


def usable(tensor: torch.Tensor) -> bool:
    """Whether a kernel may work on this tensor: it lies on a GPU, and Triton is installed (PyTorch for CUDA brings it).

    The kernels' modules import Triton: import them only after asking.
    """
    return tensor.is_cuda and installed() and os.environ.get("SSGR_KERNELS") != "0"
