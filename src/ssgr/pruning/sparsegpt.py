"""SparseGPT (Frantar and Alistarh 2023): optimal brain surgeon over the columns of one linear.

With H = G + λI and H⁻¹ = UᵀU, U upper triangular, U_jj² is the inverse of the j-th diagonal entry once the columns
before j are fixed. Pruning w_j costs w_j² / U_jj² (Hassibi and Stork 1993), and the best answer of the columns that
are still free is w_k −= (w_j / U_jj) U_jk for k > j.
"""

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch

from ssgr.config import DampingBasis, SparseGPTConfig
from ssgr.pruning import kernels
from ssgr.pruning.base import PRUNERS, Pruned, Pruner
from ssgr.pruning.factor import Damping, cut, inverse_factor, mean
from ssgr.pruning.sparsity import Quota, lowest, spread
from ssgr.pruning.statistics import InputStatistics

STRIP = 32  # columns walked one by one before their errors reach the rest of the block in one product


@PRUNERS.register("sparsegpt")
class SparseGPT(Pruner):
    """Masks per block of `block_size` columns over all rows (or per n:m group), and updates what stays.

    λ is `damping` times the mean of G's diagonal, as in the paper, or under `damping_basis=per_channel` times each
    channel's own entry of it, so that no channel is damped by what a few large ones weigh. The paper's and our defaults
    are damping 0.01 and blocks of 128.

    Columns that no token reached know no error: they lose their share by magnitude, and nothing is updated from or to
    them. In an n:m group they compete under the damped objective, w²λ, since the group's count is fixed.
    """

    needs = "gram"

    def __init__(self, config: SparseGPTConfig):
        super().__init__(config)
        # linears that share an input share its factor too, which goes when the input's statistics do
        self._factored: WeakKeyDictionary[InputStatistics, tuple] = WeakKeyDictionary()
        config.check()

    def prune(self, weight: torch.Tensor, statistics: InputStatistics, quota: Quota) -> Pruned:
        return self._walk([weight], statistics, [quota])[0]

    def prune_together(
        self, weights: list[torch.Tensor], statistics: InputStatistics, quotas: list[Quota]
    ) -> list[Pruned]:
        return self._walk(weights, statistics, quotas)

    def _walk(self, weights: list[torch.Tensor], statistics: InputStatistics, quotas: list[Quota]) -> list[Pruned]:
        if statistics not in self._factored:
            self._factored[statistics] = factored(statistics, self.config.damping, self.config.damping_basis)
        factor, reached, info = self._factored[statistics]
        together = walk_together if kernels.usable(weights[0]) else walk_each
        return [Pruned(*pair, info) for pair in together(weights, factor, self.config.block_size, quotas, reached)]


def factored(
    statistics: InputStatistics, share: float, basis: DampingBasis
) -> tuple[torch.Tensor, torch.Tensor, dict[str, Any]]:
    """U or R (fp32 [in, in], see `inverse_factor`; R for the kernels), which columns a token reached (bool [in]), and
    what the report says of the damping: its mean over the channels, and that of the median channel by its diagonal."""
    gram = statistics.gram()
    reached = gram.diagonal() > 0
    wanted = share * damping_basis(statistics, basis)
    if not reached.any():  # nothing to go by: magnitude alone decides
        gram, wanted = torch.eye(len(gram), dtype=gram.dtype, device=gram.device), share
    inverted = not kernels.usable(gram)
    factor, damping, steps = inverse_factor(gram, wanted, statistics.name, inverted)
    info = {"damping": mean(damping), "damping_over_median_diagonal": over_diagonal(damping, gram.diagonal())}
    return factor, reached, info | ({"damping_steps": steps} if steps else {})


def damping_basis(statistics: InputStatistics, basis: DampingBasis) -> Damping:
    """What damping is a share of: the mean of G's diagonal, or each channel's own entry (fp64 [in]).

    A channel that no token reached, or under `sinks=undamped` only sinks, has none of its own and takes the mean.
    """
    if basis == DampingBasis.mean:
        return statistics.damping_basis()
    own = statistics.damping_diagonal()
    return torch.where(own > 0, own, own.mean())


def over_diagonal(damping: Damping, diagonal: torch.Tensor) -> float | None:
    """λ / median of G_jj, per channel the median of λ_j / G_jj over the reached; None where there is no such median."""
    if isinstance(damping, torch.Tensor):
        reached = diagonal > 0
        return float((damping[reached] / diagonal[reached]).median())
    median = float(diagonal.median())
    return damping / median if median > 0 else None


def opened(
    weight: torch.Tensor, block_size: int, count: int, reached: torch.Tensor, seen: list[int]
) -> tuple[torch.Tensor, dict[tuple[int, int], int]]:
    """The mask (bool [out, in]) with what the unreached columns lose, and each block's count, by its bounds.

    `seen` are the reached columns before each column, and in all.
    """
    rows, columns = weight.shape
    bounds, live = cut(0, columns, block_size), seen[-1]
    live_count, dead_count = spread(count, [live * rows, (columns - live) * rows])
    counts = spread(live_count, [(seen[end] - seen[start]) * rows for start, end in bounds])
    mask = torch.zeros_like(weight, dtype=torch.bool)
    if live < columns:
        mask[:, ~reached] = lowest(weight[:, ~reached].abs(), dead_count)
    return mask, dict(zip(bounds, counts, strict=True))


def before_each(reached: torch.Tensor) -> list[int]:
    """How many columns a token reached before each, and in all: read back from the device once for all linears."""
    return [0, *reached.cumsum(0).tolist()]


def walk_together(
    weights: list[torch.Tensor], root: torch.Tensor, block_size: int, quotas: list[Quota], reached: torch.Tensor
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The new weight and the mask of each, from R and by the kernels: one above the other, rows know no neighbours."""
    from ssgr.pruning.kernels import walk as fused

    stacked, rows, seen = torch.cat(weights), [len(weight) for weight in weights], before_each(reached)
    if quotas[0].n is not None:
        answer, mask = fused.walk_groups(stacked, root, quotas[0].n, quotas[0].m)
    else:
        pairs = zip(weights, quotas, strict=True)
        masks, counts = zip(
            *(opened(weight, block_size, quota.count, reached, seen) for weight, quota in pairs), strict=True
        )
        mask = torch.cat(masks)
        some = reached if seen[-1] < len(reached) else None
        answer = fused.walk_blocks(stacked, root, mask, some, block_size, list(zip(rows, counts, strict=True)))
    return list(zip(answer.split(rows), mask.split(rows), strict=True))


def walk_each(
    weights: list[torch.Tensor], factor: torch.Tensor, block_size: int, quotas: list[Quota], reached: torch.Tensor
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The new weight and the mask of each, from U and in PyTorch."""
    return [
        walk_blocks(weight, factor, block_size, quota.count, reached)
        if quota.n is None
        else walk_groups(weight, factor, block_size, quota.n, quota.m)
        for weight, quota in zip(weights, quotas, strict=True)
    ]


def walk_blocks(
    weight: torch.Tensor, factor: torch.Tensor, block_size: int, count: int, reached: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Unstructured: the mask of a block is chosen when the walk reaches it, over all rows of its reached columns."""
    mask, counts = opened(weight, block_size, count, reached, before_each(reached))
    mask = mask.T.contiguous()
    deviation = factor.diagonal()

    def choose(answer: torch.Tensor, start: int, end: int) -> None:
        inside = reached[start:end].nonzero().flatten() + start
        saliency = (answer[inside] / deviation[inside, None]).square()
        mask[inside] = lowest(saliency.T.contiguous(), counts[start, end]).T

    return walk(weight, factor, mask, list(counts), STRIP, choose_block=choose), mask.T


def walk_groups(
    weight: torch.Tensor, factor: torch.Tensor, block_size: int, n: int, m: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """n:m: the mask of m neighbouring inputs is chosen when the walk reaches the first of them, row by row."""
    rows, columns = weight.shape
    mask = torch.zeros(columns, rows, dtype=torch.bool, device=weight.device)
    deviation = factor.diagonal()

    def choose(answer: torch.Tensor, start: int, end: int) -> None:
        saliency = (answer[start:end] / deviation[start:end, None]).square()
        lost = saliency.argsort(dim=0, stable=True)[: m - n]
        mask[start:end].scatter_(0, lost, True)

    # neither a block nor a strip may cut a group in two
    bounds, strip = cut(0, columns, max(m, block_size - block_size % m)), max(m, STRIP - STRIP % m)
    return walk(weight, factor, mask, bounds, strip, choose_group=choose, group=m), mask.T


def walk(
    weight: torch.Tensor,
    factor: torch.Tensor,
    mask: torch.Tensor,
    bounds: list[tuple[int, int]],
    strip: int,
    choose_block: Callable[[torch.Tensor, int, int], None] | None = None,
    choose_group: Callable[[torch.Tensor, int, int], None] | None = None,
    group: int = 1,
) -> torch.Tensor:
    """The updated weight fp32 [out, in]; `mask` [in, out] is filled by the choosers on the way.

    A column's error reaches its strip at once, the rest of its block after the strip and all later columns after the
    block, in one product each: the numbers are those of the plain column walk.
    """
    answer = weight.T.contiguous()  # columns as rows: every step works on contiguous memory
    errors = torch.empty_like(answer)
    for start, end in bounds:
        if choose_block:
            choose_block(answer, start, end)
        for first, last in cut(start, end, strip):
            for column in range(first, last):
                if choose_group and column % group == 0:
                    choose_group(answer, column, column + group)
                torch.mul(answer[column], mask[column], out=errors[column]).div_(factor[column, column])
                if column + 1 < last:
                    answer[column + 1 : last].addr_(factor[column, column + 1 : last], errors[column], alpha=-1)
            answer[last:end].addmm_(factor[first:last, last:end].T, errors[first:last], alpha=-1)
        answer[end:].addmm_(factor[start:end, end:].T, errors[start:end], alpha=-1)
    return answer.masked_fill_(mask, 0.0).T.contiguous()
