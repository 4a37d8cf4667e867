"""SparseGPT's column walk (Frantar and Alistarh 2023, algorithm 1) over a strip of columns in one launch.

A program keeps its rows of the strip in registers and walks the columns: err = w_j / U_jj where w_j is pruned, then
w_k −= err U_jk for the strip's later columns. Rows do not know of each other, so how many a program takes changes no
bit of the answer.
"""

import torch
import triton
import triton.language as tl

from ssgr.pruning.kernels import on_its_card

TILE, WARPS = 16, 8  # rows of one program; 16 lanes share a row


@on_its_card
def walk_strip(
    answer: torch.Tensor,
    factor: torch.Tensor,
    deviation: torch.Tensor,
    mask: torch.Tensor,
    errors: torch.Tensor,
    group: tuple[int, int] = (0, 0),
) -> None:
    """Prunes a strip of columns in place: `answer` fp32 [out, strip] where `mask` (bool, same shape) is set.

    `factor` is the strip's diagonal block of U, fp32 [strip, strip], zero below its diagonal, which `deviation` holds.
    `errors` fp32 [out, strip] is filled with err, 0 where nothing is pruned. With `group` = (n, m) the m − n entries
    of every m that go are chosen on the way and set in `mask`, which comes empty. Every row is contiguous.
    """
    rows, width = answer.shape
    n, m = group
    walk_rows[(triton.cdiv(rows, TILE),)](
        *(answer, factor, deviation, mask, errors),
        *(answer.stride(0), factor.stride(0), mask.stride(0), errors.stride(0), rows),
        WIDTH=width,
        GROUP=m,
        DROPPED=m - n,
        TILE=TILE,
        STRIP=triton.next_power_of_2(width),
        num_warps=WARPS,
    )


@triton.jit
def walk_rows(
    answer,
    factor,
    deviation,
    mask,
    errors,
    answer_stride,
    factor_stride,
    mask_stride,
    errors_stride,
    rows,
    WIDTH: tl.constexpr,
    GROUP: tl.constexpr,
    DROPPED: tl.constexpr,
    TILE: tl.constexpr,
    STRIP: tl.constexpr,
):
    row = tl.program_id(0) * TILE + tl.arange(0, TILE)
    column = tl.arange(0, STRIP)
    inside = (row[:, None] < rows) & (column[None, :] < WIDTH)
    row = row.to(tl.int64)[:, None]
    tile = tl.load(answer + row * answer_stride + column[None, :], mask=inside, other=0.0)
    lost = tl.load(mask + row * mask_stride + column[None, :], mask=inside, other=0) != 0
    scale = tl.load(deviation + column, mask=column < WIDTH, other=1.0)
    for step in range(WIDTH):
        if GROUP > 0:  # noqa: SIM102  known to the compiler, the second is not
            if step % GROUP == 0:
                lost = lost | group_lowest(tile, scale, column, step, GROUP, DROPPED)
        pruned = (column[None, :] == step) & lost
        # a tile in registers has no index: the sum finds the one weight among zeros
        error = tl.div_rn(tl.sum(tl.where(pruned, tile, 0.0), axis=1), tl.load(deviation + step))
        onward = tl.load(factor + step * factor_stride + column, mask=column < WIDTH, other=0.0)
        # the place of a pruned weight is free: its error stays there
        tile = tl.where(pruned, error[:, None], tile - error[:, None] * onward[None, :])
    tl.store(answer + row * answer_stride + column[None, :], tl.where(lost, 0.0, tile), mask=inside)
    tl.store(errors + row * errors_stride + column[None, :], tl.where(lost, tile, 0.0), mask=inside)
    if GROUP > 0:
        tl.store(mask + row * mask_stride + column[None, :], lost, mask=inside)


@triton.jit
def group_lowest(tile, scale, column, first, GROUP: tl.constexpr, DROPPED: tl.constexpr):
    """Which DROPPED of the GROUP columns from `first` on have the lowest (w / U_jj)², equals by index."""
    scaled = tl.div_rn(tile, scale[None, :])
    saliency = scaled * scaled
    rank = tl.zeros(tile.shape, dtype=tl.int32)
    for offset in range(GROUP):
        rival_column = first + offset
        rival = tl.sum(tl.where(column[None, :] == rival_column, saliency, 0.0), axis=1)[:, None]
        ahead = (rival < saliency) | ((rival == saliency) & (rival_column < column[None, :]))
        rank += ahead.to(tl.int32)
    member = (column >= first) & (column < first + GROUP)
    return member[None, :] & (rank < DROPPED)
