"""The smallest entries of a tensor, exactly and without a sort: radix selection, eight bits a pass.

Floats that are not negative are ordered as their bit patterns are. A pass counts the next eight bits of the entries
that may still be the `count`-th smallest; after four passes that entry's pattern is known, and how many of its equals
go too. Nothing is read back to the host. Entries are fp32 and not negative, no −0.0 either. In `lowest` NaN counts as
the largest; it must not come to the other two.
"""

import torch
import triton
import triton.language as tl

from ssgr.pruning.kernels import on_its_card

CHUNK = 8192  # entries of one program


@on_its_card
def lowest(saliency: torch.Tensor, count: int) -> torch.Tensor:
    """A mask (bool, the shape of `saliency`) of exactly the `count` smallest entries, equals in row-major order.

    `saliency` is fp32 and not negative; NaN counts as the largest.
    """
    if count == 0:
        return torch.zeros_like(saliency, dtype=torch.bool)
    flat = saliency.contiguous()
    mask = torch.empty_like(flat, dtype=torch.bool)
    programs = triton.cdiv(flat.numel(), CHUNK)
    tallies = torch.zeros(4, 256, dtype=torch.int32, device=flat.device)
    last = torch.empty(programs, 256, dtype=torch.int32, device=flat.device)
    for step in range(4):
        tally[(programs,)](flat, tallies, last, flat.numel(), count, STEP=step, CHUNK=CHUNK, num_warps=8)
    mark[(programs,)](flat, tallies, last, mask, flat.numel(), count, CHUNK=CHUNK, num_warps=8)
    return mask


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


@triton.jit
def narrowed(tallies, rank, STEPS: tl.constexpr):
    """The first 8·STEPS bits of the `rank`-th smallest entry, and its rank among those that begin with them."""
    prefix = 0
    for step in tl.static_range(STEPS):
        found = tl.load(tallies + step * 256 + tl.arange(0, 256))
        below = tl.cumsum(found, axis=0) < rank
        prefix = prefix * 256 + tl.sum(below.to(tl.int32), axis=0)
        rank -= tl.sum(tl.where(below, found, 0), axis=0)
    return prefix, rank


@triton.jit(do_not_specialize=["count"])  # which differs from block to block, and compiles nothing anew
def tally(saliency, tallies, last, size, count, STEP: tl.constexpr, CHUNK: tl.constexpr):
    """Counts the entries that share the first 8·STEP bits of the wanted one by their next eight bits."""
    program = tl.program_id(0)
    index = program.to(tl.int64) * CHUNK + tl.arange(0, CHUNK)
    counted = index < size
    bits = tl.load(saliency + index, mask=counted, other=0.0).to(tl.uint32, bitcast=True)
    if STEP > 0:
        prefix, _ = narrowed(tallies, count, STEP)
        counted &= (bits >> (32 - 8 * STEP)).to(tl.int32) == prefix
    digit = ((bits >> (24 - 8 * STEP)) & 255).to(tl.int32)
    found = tl.histogram(digit, 256, mask=counted)
    tl.atomic_add(tallies + STEP * 256 + tl.arange(0, 256), found, mask=found > 0, sem="relaxed")
    if STEP == 3:
        tl.store(last + program * 256 + tl.arange(0, 256), found)


@triton.jit(do_not_specialize=["count"])
def mark(saliency, tallies, last, mask, size, count, CHUNK: tl.constexpr):
    """Masks what is below the wanted entry, and of its equals as many as are missing, in their order."""
    program = tl.program_id(0)
    pattern, missing = narrowed(tallies, count, 4)
    earlier = tl.zeros((128,), dtype=tl.int32)  # equals in the programs before this one
    others = tl.arange(0, 128)
    while tl.min(others, axis=0) < program:
        earlier += tl.load(last + others * 256 + (pattern & 255), mask=others < program, other=0)
        others += 128
    index = program.to(tl.int64) * CHUNK + tl.arange(0, CHUNK)
    counted = index < size
    bits = tl.load(saliency + index, mask=counted, other=0.0).to(tl.uint32, bitcast=True)
    threshold = pattern.to(tl.uint32, bitcast=True)
    equal = counted & (bits == threshold)
    order = tl.sum(earlier, axis=0) + tl.cumsum(equal.to(tl.int32), axis=0)
    tl.store(mask + index, (bits < threshold) | (equal & (order <= missing)), mask=counted)


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
