"""The smallest entries of each row, and of each group of neighbours, exactly and without a sort.

Entries are fp32, not negative, no −0.0 and no NaN: their bit patterns are in their order.
"""

import torch
import triton
import triton.language as tl

from ssgr.pruning.kernels import on_its_card


@on_its_card
def lowest_per_row(saliency: torch.Tensor, count: int) -> torch.Tensor:
    """A mask of exactly `count` entries [out, in], fp32: each row loses its smallest floor or ceil of count / out."""
    saliency = saliency.contiguous()
    mask = torch.empty_like(saliency, dtype=torch.bool)
    rows, columns = saliency.shape
    span = triton.next_power_of_2(columns)
    warps = min(max(span // 1024, 4), 32)
    mark_rows[(rows,)](saliency, mask, columns, *divmod(count, rows), SPAN=span, num_warps=warps)
    return mask


@on_its_card
def lowest_in_groups(saliency: torch.Tensor, n: int, m: int) -> torch.Tensor:
    """A mask [out, in] that keeps the n largest of every m neighbouring inputs, fp32, in a row."""
    saliency = saliency.contiguous()
    mask = torch.empty_like(saliency, dtype=torch.bool)
    groups, span = saliency.numel() // m, triton.next_power_of_2(m)
    tile = max(2048 // span, 1)
    mark_groups[(triton.cdiv(groups, tile),)](saliency, mask, groups, GROUP=m, DROPPED=m - n, SPAN=span, TILE=tile)
    return mask


@triton.jit(do_not_specialize=["each", "more"])
def mark_rows(saliency, mask, columns, each, more, SPAN: tl.constexpr):
    """Masks the `each` smallest entries of a row, one more in the first `more` rows: the wanted pattern bit by bit."""
    row = tl.program_id(0)
    count = each + (row < more).to(tl.int32)
    column = tl.arange(0, SPAN)
    inside = column < columns
    at = row.to(tl.int64) * columns + column
    bits = tl.load(saliency + at, mask=inside, other=float("inf")).to(tl.int32, bitcast=True)
    pattern = 0  # in the end the largest that fewer than `count` entries are below
    for place in range(31):
        candidate = pattern + (1 << (30 - place))
        pattern = tl.where(tl.sum((inside & (bits < candidate)).to(tl.int32), axis=0) < count, candidate, pattern)
    below, equal = inside & (bits < pattern), inside & (bits == pattern)
    missing = count - tl.sum(below.to(tl.int32), axis=0)
    tl.store(mask + at, below | (equal & (tl.cumsum(equal.to(tl.int32), axis=0) <= missing)), mask=inside)


@triton.jit
def mark_groups(
    saliency,
    mask,
    groups,
    GROUP: tl.constexpr,
    DROPPED: tl.constexpr,
    SPAN: tl.constexpr,
    TILE: tl.constexpr,
):
    """Masks the DROPPED smallest of every GROUP entries: those that few others of their group go before."""
    group = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)
    member = tl.arange(0, SPAN)[None, :]
    at = group[:, None] * GROUP + member
    inside = (group[:, None] < groups) & (member < GROUP)
    own = tl.load(saliency + at, mask=inside, other=0.0)
    rank = tl.zeros(own.shape, dtype=tl.int32)
    for other in range(GROUP):
        rival = tl.load(saliency + group * GROUP + other, mask=group < groups, other=0.0)[:, None]
        rank += ((rival < own) | ((rival == own) & (other < member))).to(tl.int32)
    tl.store(mask + at, rank < DROPPED, mask=inside)
