"""OWL: outlier weighed layerwise sparsity (Yin et al., ICML 2024, arXiv 2310.05175).

Blocks whose inputs and weights hold more outliers lose fewer weights. With A_ij = |W_ij| · ‖X_j‖₂ over all matrices of
block b, and A̅ the mean of these entries, the block's share of outliers is (section 3.2, "LOD")

    D_b = #{A_ij > M · A̅} / #{A_ij},   M = `outlier_multiple` = 5

and its sparsity, as the authors' code has it (lib/prune_all.py),

    S_b = S − (r_b − mean of r),   r_b = 2λ (D_b − min D) / (max D − min D),   λ = `spread` = 0.08

so that the sparsest block and the least sparse one are 2λ apart and the mean is S. The paper's text says that S_b lies
in [S − λ, S + λ]: that is the same only where the mean of r is λ, and a model with one block far from the others has
that block up to 2λ from S in the paper's results and here. Two differences: the mean is weighted by the blocks' numbers
of weights (the code's is not; with equal blocks they are one), and a sparsity that would leave [0, 1) is cut and the
rest shifted on, where the code takes 0.01 and misses S.
"""

import torch

from ssgr.pruning.allocation import ALLOCATIONS, Allocation
from ssgr.pruning.allocation.fitting import fitted, scaled


@ALLOCATIONS.register("owl")
class Owl(Allocation):
    """The norm is taken over the weighted mean of squares: the share does not change with the scale of a block's A."""

    needs = "diagonal"
    score_name = "block_outlier_share"

    def score(self, weights: dict[str, torch.Tensor], diagonals: dict[str, torch.Tensor]) -> float:
        def saliency(name: str) -> torch.Tensor:  # made twice, because a block's would be twice its weights
            return weights[name].float().abs() * diagonals[name].sqrt().float()

        known = [name for name in weights if name in diagonals]
        entries = sum(weights[name].numel() for name in known)
        mean = sum(saliency(name).sum(dtype=torch.float64) for name in known) / entries
        outliers = sum((saliency(name) > self.config.outlier_multiple * mean).sum() for name in known)
        return int(outliers) / entries

    def sparsities(self, scores: list[float], sizes: list[int], caps: list[float], value: float) -> list[float]:
        below = 2 * self.config.spread * scaled(scores)
        return fitted(lambda shift: shift - below, (-1.0, 2.0), sizes, caps, value)
