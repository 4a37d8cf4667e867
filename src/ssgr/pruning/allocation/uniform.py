"""The same sparsity everywhere."""

from torch import nn

from ssgr.config import AllocationConfig
from ssgr.pruning.allocation import ALLOCATIONS
from ssgr.pruning.sparsity import Sparsity


@ALLOCATIONS.register("uniform")
def uniform(config: AllocationConfig, sparsity: Sparsity, linears: dict[str, nn.Linear]) -> dict[str, float]:
    return dict.fromkeys(linears, sparsity.value)
