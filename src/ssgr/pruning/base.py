"""What a pruner is. A new one is one file in this package with a registered class, and one option file."""

from typing import Any, ClassVar, Literal, NamedTuple

import torch

from ssgr.config import PrunerConfig
from ssgr.pruning.sparsity import Quota
from ssgr.pruning.statistics import InputStatistics
from ssgr.registry import Registry

PRUNERS: Registry = Registry("pruner", "ssgr.pruning")


class Pruned(NamedTuple):
    """One pruned matrix: the new weight fp32 [out, in], what is masked bool [out, in], and entries for the report."""

    weight: torch.Tensor
    mask: torch.Tensor
    info: dict[str, Any]


class Pruner:
    """Chooses and updates the weights of one linear at a time.

    `needs` says which statistics of the linear's input the loop must collect: nothing, the diagonal of the Gram
    matrix, or all of it. `prunes` is False only for the pruner that leaves the model dense.
    """

    needs: ClassVar[Literal["nothing", "diagonal", "gram"]] = "nothing"
    prunes: ClassVar[bool] = True

    def __init__(self, config: PrunerConfig):
        self.config = config

    def prune(self, weight: torch.Tensor, statistics: InputStatistics | None, quota: Quota) -> Pruned:
        """Masks exactly `quota.count` entries of `weight` (fp32 [out, in]), under n:m exactly m - n in every group.

        `statistics` is None where `needs` is "nothing" and no errors are measured. `weight` is not changed.
        """
        raise NotImplementedError

    def prune_together(
        self, weights: list[torch.Tensor], statistics: InputStatistics | None, quotas: list[Quota]
    ) -> list[Pruned]:
        """Prunes linears that share an input: what `prune` gives for each, up to rounding."""
        return [self.prune(weight, statistics, quota) for weight, quota in zip(weights, quotas, strict=True)]
