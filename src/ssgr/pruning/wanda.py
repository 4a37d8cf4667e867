"""Wanda: weights and activations (Sun, Liu, Bair and Kolter 2023, equation 1)."""

import torch

from ssgr.pruning.base import PRUNERS, Pruned, Pruner
from ssgr.pruning.sparsity import Quota, lowest_in_groups, lowest_per_row
from ssgr.pruning.statistics import InputStatistics


@PRUNERS.register("wanda")
class Wanda(Pruner):
    """Saliency |W_ij| · ‖X_j‖₂, compared within each output row; the weights that stay are not changed.

    The norm is taken over the weighted mean of squares, which orders entries as the sum of squares does.
    """

    needs = "diagonal"

    def prune(self, weight: torch.Tensor, statistics: InputStatistics, quota: Quota) -> Pruned:
        saliency = weight.abs() * statistics.diagonal().sqrt().to(weight.dtype)
        in_groups = quota.n is not None
        mask = lowest_in_groups(saliency, quota.n, quota.m) if in_groups else lowest_per_row(saliency, quota.count)
        return Pruned(weight.masked_fill(mask, 0.0), mask, {})
