"""The dense model, as one more row of a study."""

import torch

from ssgr.pruning.base import PRUNERS, Pruned, Pruner
from ssgr.pruning.sparsity import Quota
from ssgr.pruning.statistics import InputStatistics


@PRUNERS.register("none")
class Dense(Pruner):
    """Leaves every weight as it is, whatever the sparsity."""

    prunes = False

    def prune(self, weight: torch.Tensor, statistics: InputStatistics | None, quota: Quota) -> Pruned:
        return Pruned(weight, torch.zeros_like(weight, dtype=torch.bool), {})
