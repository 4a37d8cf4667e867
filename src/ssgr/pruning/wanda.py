"""Wanda: weights and activations (Sun, Liu, Bair and Kolter 2023, equation 1)."""

import torch

from ssgr.pruning.base import PRUNERS, Pruned, Pruner
from ssgr.pruning.sparsity import Quota, lowest_of_inputs
from ssgr.pruning.statistics import InputStatistics


@PRUNERS.register("wanda")
class Wanda(Pruner):
    """Saliency |W_ij| · ‖X_j‖₂, compared within each output row; the weights that stay are not changed.

    The norm is taken over the weighted mean of squares, which orders entries as the sum of squares does. Inputs that no
    token reached lose their share of each row by magnitude: their norm of 0 would have them lose everything first.
    """

    needs = "diagonal"

    def prune(self, weight: torch.Tensor, statistics: InputStatistics, quota: Quota) -> Pruned:
        norms = statistics.diagonal().sqrt().to(weight.dtype)
        mask = lowest_of_inputs(weight.abs() * norms, weight, norms > 0, quota)
        return Pruned(weight.masked_fill(mask, 0.0), mask, {})
