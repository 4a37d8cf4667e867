"""SparseGPT's walk over a matrix on a GPU, which needs of the factor U only its diagonal blocks.

With RRᵀ = H and R = U⁻¹, both upper triangular, a change δ of a row's weights costs ‖δR‖². With the first columns'
changes δ_p fixed it costs least where the next columns' are δ_s = −δ_p R_ps U_ss. So a span of columns is brought up to
date by one large product with all changes before it, and then walked with U_ss, the inverse of R's diagonal block:
per strip one kernel and one product with the rest of the span.

The numbers are the PyTorch path's up to rounding, and the same in every run. The host reads nothing back, so that the
GPU never waits for it. The products are plain fp32 unless `torch.set_float32_matmul_precision` was lowered.
"""

from collections.abc import Callable

import torch

from ssgr.pruning.kernels.columns import walk_strip
from ssgr.pruning.kernels.radix import Selection

SPAN = 1024  # columns that are brought up to date at once
STRIP = 128  # columns of one launch


def walk_blocks(
    weight: torch.Tensor,
    root: torch.Tensor,
    mask: torch.Tensor,
    reached: torch.Tensor | None,
    block_size: int,
    quotas: list[tuple[int, dict[tuple[int, int], int]]],
) -> torch.Tensor:
    """The updated weight fp32 [out, in] of matrices stacked one above the other, each with its rows and its counts.

    A count is what the matrix loses in the reached columns of a block (start, end). `root` is R, fp32 [in, in]; `mask`
    bool [out, in] comes with what the unreached columns lose, and is filled. `reached` None: all are.
    """
    counts = [[matrix[block] for _, matrix in quotas] for block in quotas[0][1]]
    selection = Selection([rows for rows, _ in quotas], counts, min(block_size, weight.shape[1]), weight.device)

    def prune(answer: torch.Tensor, factor: torch.Tensor, first: int) -> None:
        deviation = factor.diagonal().contiguous()
        span_mask = mask[:, first : first + len(factor)]
        for start in range(0, len(factor), block_size):
            end = min(start + block_size, len(factor))
            here = None if reached is None else reached[first + start : first + end]
            block = (first + start) // block_size
            selection.choose(block, answer[:, start:end], deviation[start:end], here, span_mask[:, start:end])
            walk_columns(answer, factor, deviation, span_mask, start, end, STRIP)

    return walk_spans(weight, root, block_size, prune)


def walk_groups(weight: torch.Tensor, root: torch.Tensor, n: int, m: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The updated weight fp32 [out, in] and its mask, n of every m inputs kept; `root` is R, fp32 [in, in]."""
    mask = torch.zeros_like(weight, dtype=torch.bool)

    def prune(answer: torch.Tensor, factor: torch.Tensor, first: int) -> None:
        deviation = factor.diagonal().contiguous()
        span_mask = mask[:, first : first + len(factor)]
        walk_columns(answer, factor, deviation, span_mask, 0, len(factor), max(m, STRIP - STRIP % m), (n, m))

    return walk_spans(weight, root, m, prune), mask


def walk_spans(
    weight: torch.Tensor, root: torch.Tensor, unit: int, prune: Callable[[torch.Tensor, torch.Tensor, int], None]
) -> torch.Tensor:
    """The weight after `prune` of every span in place, given its part of U and its first column; no unit is cut."""
    answer, change = weight.clone(), torch.empty_like(weight)
    columns, span = weight.shape[1], max(unit, SPAN - SPAN % unit)
    for first in range(0, columns, span):
        last = min(first + span, columns)
        identity = torch.eye(last - first, device=root.device)
        factor = torch.linalg.solve_triangular(root[first:last, first:last], identity, upper=True).contiguous()
        part = answer[:, first:last]
        if first:
            part.addmm_(change[:, :first] @ root[:first, first:last], factor, alpha=-1)
        prune(part, factor, first)
        torch.sub(part, weight[:, first:last], out=change[:, first:last])
    return answer


def walk_columns(
    answer: torch.Tensor,
    factor: torch.Tensor,
    deviation: torch.Tensor,
    mask: torch.Tensor,
    start: int,
    end: int,
    strip: int,
    group: tuple[int, int] = (0, 0),
) -> None:
    """Prunes the columns from `start` to `end` in place and updates all that follow in the span."""
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
        if last < answer.shape[1]:
            answer[:, last:].addmm_(left, factor[first:last, last:], alpha=-1)
