"""In which dtype a model computes, beside the one whose numbers its weights are."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

FAST_IN_BF16 = ("AVX512", "SVE")  # what PyTorch says of processors with instructions for it, or for emulating it well


def is_slow(dtype: torch.dtype) -> bool:
    """Whether this processor multiplies in `dtype` far more slowly than in float32, as one with AVX2 alone does."""
    return dtype.itemsize < 4 and not torch.backends.cpu.get_cpu_capability().startswith(FAST_IN_BF16)


def cast_parameters(model: nn.Module, dtype: torch.dtype) -> None:
    """In place, and not the buffers, whose rotary frequencies are float32 whatever the weights are."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)


@contextmanager
def weights_in(model: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """The model's parameters in `dtype`, whose numbers they are, for as long as this lasts."""
    computing = next(model.parameters()).dtype
    if computing == dtype:
        yield
        return
    cast_parameters(model, dtype)
    try:
        yield
    finally:
        cast_parameters(model, computing)
