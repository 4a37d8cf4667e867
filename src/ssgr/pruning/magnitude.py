"""Magnitude pruning: the smallest weights go; the comparison group is the matrix (Han et al. 2015)."""

import torch

from ssgr.pruning.base import PRUNERS, Pruned, Pruner
from ssgr.pruning.sparsity import Quota, lowest, lowest_in_groups
from ssgr.pruning.statistics import InputStatistics


@PRUNERS.register("magnitude")
class Magnitude(Pruner):
    """Saliency |W|, compared over the whole matrix; looks at no calibration data."""

    def prune(self, weight: torch.Tensor, statistics: InputStatistics | None, quota: Quota) -> Pruned:
        saliency = weight.abs()
        in_groups = quota.n is not None
        mask = lowest_in_groups(saliency, quota.n, quota.m) if in_groups else lowest(saliency, quota.count)
        return Pruned(weight.masked_fill(mask, 0.0), mask, {})
