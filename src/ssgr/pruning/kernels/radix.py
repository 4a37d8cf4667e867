"""The smallest entries of a matrix, exactly and without a sort: radix selection, eight bits a pass.

Floats that are not negative are ordered as their bit patterns are. A pass counts the next eight bits of the entries
that may still be the `count`-th smallest; after four passes that entry's pattern is known, and how many of its equals
go too. Nothing is read back to the host. Entries are fp32 and not negative, no −0.0 either; NaN counts as the largest.
"""

from itertools import accumulate

import torch
import triton
import triton.language as tl

from ssgr.pruning.kernels import on_its_card

CHUNK = 4096  # entries of one program
FLAT = 128  # as so many columns a tensor is read whose shape does not matter


def lowest(saliency: torch.Tensor, count: int) -> torch.Tensor:
    """A mask (bool, the shape of `saliency`, fp32) of just the `count` smallest entries, equals in row-major order."""
    flat = saliency.contiguous()
    mask = torch.empty_like(flat, dtype=torch.bool)
    if count == 0 or not flat.numel():
        return mask.fill_(False)
    rows = triton.cdiv(flat.numel(), FLAT)
    selection = Selection([rows], [[count]], FLAT, flat.device)
    launch(flat, selection, 0, mask, FLAT, (FLAT, FLAT), flat.numel())
    return mask


class Selection:
    """What is to be chosen in the blocks of matrices that stand one above the other, and the room to count it in."""

    def __init__(self, heights: list[int], counts: list[list[int]], width: int, device: torch.device):
        """`heights` are the matrices' rows, `counts` what each loses in each block; blocks are at most `width` wide."""
        programs = [triton.cdiv(rows * width, CHUNK) for rows in heights]
        firsts = zip(accumulate(programs, initial=0), accumulate(heights, initial=0), heights, strict=False)
        self.matrices = torch.tensor([list(first) for first in firsts], dtype=torch.int32, device=device)
        self.counts = torch.tensor(counts, dtype=torch.int32, device=device)
        self.tallies = torch.zeros(*self.counts.shape, 4, 256, dtype=torch.int32, device=device)
        self.last = torch.empty(sum(programs), 256, dtype=torch.int32, device=device)

    def choose(
        self,
        block: int,
        answer: torch.Tensor,
        deviation: torch.Tensor,
        reached: torch.Tensor | None,
        mask: torch.Tensor,
    ) -> None:
        """Sets in `mask` (bool, the shape of `answer`, rows contiguous) the lowest (w / U_jj)² of each matrix's rows.

        `answer` is the block's fp32 [out, columns], `deviation` its U_jj; of columns that are not `reached` (bool
        [columns]; None: all are) the mask stays as it is, and they are not counted.
        """
        strides = answer.stride(0), mask.stride(0)
        launch(answer, self, block, mask, answer.shape[1], strides, answer.numel(), deviation, reached)


@on_its_card
def launch(
    values: torch.Tensor,
    selection: Selection,
    block: int,
    mask: torch.Tensor,
    width: int,
    strides: tuple[int, int],
    size: int,
    deviation: torch.Tensor | None = None,
    reached: torch.Tensor | None = None,
) -> None:
    """Four launches that count and one that marks; of a lone matrix whose last row is short `size` is the entries."""
    matrices, counts, tallies = selection.matrices, selection.counts[block], selection.tallies[block]
    grid = (len(selection.last),)
    read = values, deviation, reached, matrices, counts, tallies, selection.last, len(matrices), strides[0], size
    options = {"WIDTH": width, "CHUNK": CHUNK, "num_warps": 8}
    for step in range(4):
        tally[grid](*read, STEP=step, **options)
    mark[grid](*read, mask, strides[1], **options)


@triton.jit
def own_entries(
    values,
    deviation,
    reached,
    matrices,
    how_many,
    stride,
    size,
    WIDTH: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """This program's matrix and the first program of that, its entries' rows, columns and patterns, and which count."""
    program = tl.program_id(0)
    matrix, first, top, rows, each = 0, 0, 0, 0, 0
    while each < how_many:
        start = tl.load(matrices + 3 * each)
        reaches = program >= start
        matrix, first = tl.where(reaches, each, matrix), tl.where(reaches, start, first)
        top = tl.where(reaches, tl.load(matrices + 3 * each + 1), top)
        rows = tl.where(reaches, tl.load(matrices + 3 * each + 2), rows)
        each += 1
    index = (program - first) * CHUNK + tl.arange(0, CHUNK)
    row, column = top + index // WIDTH, index % WIDTH
    counted = index < tl.minimum(rows * WIDTH, size)
    if reached is not None:
        counted &= tl.load(reached + column, mask=counted, other=0) != 0
    value = tl.load(values + row.to(tl.int64) * stride + column, mask=counted, other=0.0)
    if deviation is not None:
        value = tl.div_rn(value, tl.load(deviation + column, mask=counted, other=1.0))
        value = value * value
    return matrix, first, row, column, value.to(tl.uint32, bitcast=True), counted


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


@triton.jit(do_not_specialize=["how_many"])  # which 1 and 3 would compile anew
def tally(
    values,
    deviation,
    reached,
    matrices,
    counts,
    tallies,
    last,
    how_many,
    stride,
    size,
    WIDTH: tl.constexpr,
    CHUNK: tl.constexpr,
    STEP: tl.constexpr,
):
    """Counts the entries that share the first 8·STEP bits of the wanted one by their next eight bits."""
    matrix, _, _, _, bits, counted = own_entries(
        values, deviation, reached, matrices, how_many, stride, size, WIDTH, CHUNK
    )
    own = tallies + matrix * 4 * 256
    if STEP > 0:
        prefix, _ = narrowed(own, tl.load(counts + matrix), STEP)
        counted &= (bits >> (32 - 8 * STEP)).to(tl.int32) == prefix
    digit = ((bits >> (24 - 8 * STEP)) & 255).to(tl.int32)
    found = tl.histogram(digit, 256, mask=counted)
    tl.atomic_add(own + STEP * 256 + tl.arange(0, 256), found, mask=found > 0, sem="relaxed")
    if STEP == 3:
        tl.store(last + tl.program_id(0) * 256 + tl.arange(0, 256), found)


@triton.jit(do_not_specialize=["how_many"])
def mark(
    values,
    deviation,
    reached,
    matrices,
    counts,
    tallies,
    last,
    how_many,
    stride,
    size,
    mask,
    mask_stride,
    WIDTH: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Masks what is below the wanted entry, and of its equals as many as are missing, in their order."""
    program = tl.program_id(0)
    matrix, first, row, column, bits, counted = own_entries(
        values, deviation, reached, matrices, how_many, stride, size, WIDTH, CHUNK
    )
    pattern, missing = narrowed(tallies + matrix * 4 * 256, tl.load(counts + matrix), 4)
    earlier = tl.zeros((128,), dtype=tl.int32)  # equals in the matrix's programs before this one
    others = first + tl.arange(0, 128)
    while tl.min(others, axis=0) < program:
        earlier += tl.load(last + others * 256 + (pattern & 255), mask=others < program, other=0)
        others += 128
    threshold = pattern.to(tl.uint32, bitcast=True)
    equal = counted & (bits == threshold)
    order = tl.sum(earlier, axis=0) + tl.cumsum(equal.to(tl.int32), axis=0)
    chosen = (bits < threshold) | (equal & (order <= missing))
    tl.store(mask + row.to(tl.int64) * mask_stride + column, chosen, mask=counted)
