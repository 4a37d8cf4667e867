"""Triton kernels. Each has a PyTorch path beside it, which runs on CPUs and is what the kernel is tested against.

SSGR_KERNELS=0 in the environment leaves a GPU to the PyTorch path too: slower, and a way to tell whether a kernel errs.
"""

import os
from collections.abc import Callable
from functools import cache, wraps
from importlib.util import find_spec
from typing import Any

import torch

from ssgr.errors import first_line
from ssgr.progress import say


def usable(tensor: torch.Tensor) -> bool:
    """Whether a kernel may work on this tensor: it lies on an NVIDIA GPU, and Triton can build kernels here.

    The kernels' modules import Triton: import them only after asking.
    """
    on_card = tensor.is_cuda and torch.version.cuda is not None
    return on_card and os.environ.get("SSGR_KERNELS") != "0" and installed() and builds()


@cache
def installed() -> bool:
    """Whether there is a Triton: PyTorch for CUDA brings one."""
    return find_spec("triton") is not None


@cache
def builds() -> bool:
    """Whether Triton finds the C compiler and the headers that it needs; said where it does not."""
    from triton.runtime import driver

    try:
        driver.active.get_current_target()
    except Exception as error:  # of the compiler, of the system, of Triton
        say(f"Triton cannot build kernels here ({first_line(error)[:200]}): the slower PyTorch path prunes")
        return False
    return True


def on_its_card(launch: Callable[..., Any]) -> Callable[..., Any]:
    """Makes the card of the first tensor the current one: Triton launches there, wherever its tensors lie."""

    @wraps(launch)
    def launched(tensor: torch.Tensor, *arguments: Any, **options: Any) -> Any:
        with torch.cuda.device_of(tensor):
            return launch(tensor, *arguments, **options)

    return launched
