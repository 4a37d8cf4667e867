"""RIA: relative importance and activations (Zhang, Bai, Lin et al. 2024, "Plug-and-Play", equation 4)."""

import torch

from ssgr.pruning.base import PRUNERS, Pruned, Pruner
from ssgr.pruning.sparsity import Quota, lowest_of_inputs
from ssgr.pruning.statistics import InputStatistics


@PRUNERS.register("ria")
class RIA(Pruner):
    """Saliency (|W_ij| / Σ_i |W_ij| + |W_ij| / Σ_j |W_ij|) · ‖X_j‖₂^a, compared within each output row.

    The first sum runs over the outputs of input j, the second over the inputs of output i, so that neither a weak input
    nor a weak output loses all of its weights. a is `activation_power`, 0.5 in the paper. The weights that stay are not
    changed, and inputs are not permuted for n:m.

    The paper's norm is of the sum over tokens, ours of their weighted mean: one factor for the whole matrix, which
    leaves the order as it is. Inputs that no token reached lose their share of each row by magnitude, as in Wanda; a
    power of 0 knows none, since tokens do not count.
    """

    needs = "diagonal"

    def prune(self, weight: torch.Tensor, statistics: InputStatistics, quota: Quota) -> Pruned:
        norms = statistics.diagonal().sqrt().pow(self.config.activation_power).to(weight.dtype)
        mask = lowest_of_inputs(relative_importance(weight).mul_(norms), weight, norms > 0, quota)
        return Pruned(weight.masked_fill(mask, 0.0), mask, {})


def relative_importance(weight: torch.Tensor) -> torch.Tensor:
    """Each weight's share of its column plus its share of its row, both of absolute values, fp32 [out, in]."""
    size = weight.abs()
    smallest = torch.finfo(size.dtype).tiny  # a row or column of zeros has no shares
    columns, rows = (size.sum(along, keepdim=True).clamp_min_(smallest) for along in (0, 1))
    return size / columns + size / rows
