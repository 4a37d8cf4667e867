"""How much of each matrix is pruned. A new allocation is one file here with a registered function."""

from ssgr.registry import Registry

# name -> function (AllocationConfig, Sparsity, {linear name: nn.Linear}) -> {linear name: share of weights to mask}
ALLOCATIONS: Registry = Registry("allocation", "ssgr.pruning.allocation")
