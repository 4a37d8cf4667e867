"""SparseGPT's walk over a matrix on a GPU: per strip one kernel and one product with all later columns.

The numbers are those of the PyTorch path up to rounding, and the same in every run. The host reads nothing back, so
that the GPU never waits for it. The products are plain fp32 unless `torch.set_float32_matmul_precision` was lowered.
"""

import torch

from ssgr.pruning.kernels.columns import walk_strip
from ssgr.pruning.kernels.selection import lowest

STRIP = 128  # columns of one launch


def walk_blocks(
    weight: torch.Tensor,
    factor: torch.Tensor,
    mask: torch.Tensor,
    reached: torch.Tensor,
    quotas: dict[tuple[int, int], int],
) -> torch.Tensor:
    """The updated weight fp32 [out, in]; each block (start, end) of `quotas` loses so many weights of reached columns.

    `mask` bool [out, in] comes with what the unreached columns lose and is filled.
    """
    answer, factor = weight.clone(), factor.contiguous()
    deviation = factor.diagonal().contiguous()
    everywhere = bool(reached.all())
    for (start, end), count in quotas.items():
        saliency = torch.div(answer[:, start:end], deviation[start:end]).square_()
        if not everywhere:
            saliency.masked_fill_(~reached[start:end], torch.inf)  # above whatever the quota takes
        mask[:, start:end].logical_or_(lowest(saliency, count))
        walk(answer, factor, deviation, mask, start, end, STRIP)
    return answer


def walk_groups(weight: torch.Tensor, factor: torch.Tensor, n: int, m: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The updated weight fp32 [out, in] and its mask, n of every m inputs kept."""
    answer, factor = weight.clone(), factor.contiguous()
    deviation = factor.diagonal().contiguous()
    mask = torch.zeros_like(answer, dtype=torch.bool)
    walk(answer, factor, deviation, mask, 0, weight.shape[1], max(m, STRIP - STRIP % m), (n, m))
    return answer, mask


def walk(
    answer: torch.Tensor,
    factor: torch.Tensor,
    deviation: torch.Tensor,
    mask: torch.Tensor,
    start: int,
    end: int,
    strip: int,
    group: tuple[int, int] = (0, 0),
) -> None:
    """Prunes the columns from `start` to `end` in place and updates all that follow."""
    errors = answer.new_empty(len(answer), strip)
    for first in range(start, end, strip):
        last = min(first + strip, end)
        left = errors[:, : last - first]
        walk_strip(
            answer[:, first:last],
            factor[first:last, first:last],
            deviation[first:last],
            mask[:, first:last],
            left,
            group,
        )
        answer[:, last:].addmm_(left, factor[first:last, last:], alpha=-1)
