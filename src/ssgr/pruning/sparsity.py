"""Which entries are pruned: exact counts, never a threshold. Ties go by index, the lowest index is pruned first."""

from dataclasses import dataclass

import torch

from ssgr.config import SparsityConfig
from ssgr.errors import UserError
from ssgr.pruning import kernels


@dataclass(frozen=True)
class Sparsity:
    """The share of the prunable weights that is masked; n:m keeps n of every m inputs."""

    value: float
    n: int | None = None
    m: int | None = None

    @property
    def pattern(self) -> str:
        return "unstructured" if self.n is None else f"{self.n}:{self.m}"

    @classmethod
    def from_config(cls, config: SparsityConfig) -> "Sparsity":
        """Raises UserError where the options contradict each other or are out of range."""
        config.check()
        if config.n is not None:
            return cls(1 - config.n / config.m, config.n, config.m)
        return cls(float(config.value))


@dataclass(frozen=True)
class Quota:
    """How many weights of one matrix are masked, and in which pattern."""

    count: int
    n: int | None = None
    m: int | None = None


def matrix_quotas(
    targets: dict[str, float], shapes: dict[str, tuple[int, int]], sparsity: Sparsity
) -> dict[str, Quota]:
    """The quota of each matrix, from the share each should lose and its shape (out, in).

    Counts are floor or ceil of share x weights, by largest remainder, and add up to the rounded share that `sparsity`
    asks for, which the targets must average to. Under n:m the targets do not count. Raises UserError naming a matrix
    whose inputs are not a multiple of m.
    """
    if sparsity.n is None:
        exact = {name: targets[name] * out * columns for name, (out, columns) in shapes.items()}
        total = round(sum(sparsity.value * out * columns for out, columns in shapes.values()))
        counts = largest_remainder(list(exact.values()), total)
        return {name: Quota(count) for name, count in zip(exact, counts, strict=True)}
    for name, (_, columns) in shapes.items():
        if columns % sparsity.m:
            raise UserError(f"sparsity {sparsity.pattern}: {name} has {columns} inputs, not a multiple of {sparsity.m}")
    dropped = sparsity.m - sparsity.n
    return {
        name: Quota(out * columns // sparsity.m * dropped, sparsity.n, sparsity.m)
        for name, (out, columns) in shapes.items()
    }


def largest_remainder(shares: list[float], total: int) -> list[int]:
    """Whole numbers, each the floor or ceil of its share, whose sum is `total`, to which the shares' sum rounds."""
    floors = [int(share + 1e-9) for share in shares]  # 0.55 * 100 is a little more or less than 55
    missing = total - sum(floors)
    order = sorted(range(len(shares)), key=lambda index: floors[index] - shares[index])
    for index in order[: max(missing, 0)]:
        floors[index] += 1
    return floors


def spread(count: int, sizes: list[int]) -> list[int]:
    """`count` cut over consecutive parts by cumulative rounding: no part takes more than its size."""
    total, seen, taken, parts = sum(sizes), 0, 0, []
    for size in sizes:
        seen += size
        upto = (count * seen * 2 + total) // (2 * total) if total else 0
        parts.append(upto - taken)
        taken = upto
    return parts


def lowest(saliency: torch.Tensor, count: int) -> torch.Tensor:
    """A mask (bool, the shape of `saliency`) of exactly the `count` smallest entries, equals in row-major order.

    No entry of `saliency` is negative, here and in what follows; where kernels choose, they are compared in fp32.
    """
    if kernels.usable(saliency):
        from ssgr.pruning.kernels import radix

        return radix.lowest(single(saliency), count)
    flat = saliency.flatten()
    if count == 0:
        return torch.zeros_like(saliency, dtype=torch.bool)
    threshold = flat.kthvalue(count).values
    mask, ties = flat < threshold, flat == threshold
    mask |= ties & (ties.cumsum(0) <= count - mask.sum())
    return mask.view(saliency.shape)


def lowest_per_row(saliency: torch.Tensor, count: int) -> torch.Tensor:
    """A mask of exactly `count` entries [out, in]: each row loses its smallest floor or ceil of count / out."""
    if kernels.usable(saliency):
        from ssgr.pruning.kernels import selection

        return selection.lowest_per_row(single(saliency), count)
    each, more = divmod(count, len(saliency))
    # all rows have the same remainder, so the first ones get the rest
    return lowest_in_rows(saliency, [(each + 1, more), (each, len(saliency) - more)])


def lowest_in_rows(saliency: torch.Tensor, quotas: list[tuple[int, int]]) -> torch.Tensor:
    """A mask [out, in] of each row's smallest entries; `quotas` are the entries of a row and of how many, in turn."""
    quota = torch.cat([torch.full((rows, 1), count, device=saliency.device) for count, rows in quotas])
    order = saliency.argsort(dim=1, stable=True)
    ranked = torch.arange(saliency.shape[1], device=saliency.device) < quota
    return torch.zeros_like(saliency, dtype=torch.bool).scatter_(1, order, ranked)


def lowest_in_groups(saliency: torch.Tensor, n: int, m: int) -> torch.Tensor:
    """A mask [out, in] that keeps the n largest of every m neighbouring inputs in a row."""
    if kernels.usable(saliency):
        from ssgr.pruning.kernels import selection

        return selection.lowest_in_groups(single(saliency), n, m)
    groups = saliency.view(saliency.shape[0], -1, m)
    order = groups.argsort(dim=2, stable=True)[..., : m - n]
    return torch.zeros_like(groups, dtype=torch.bool).scatter_(2, order, True).view(saliency.shape)


def lowest_of_inputs(saliency: torch.Tensor, weight: torch.Tensor, reached: torch.Tensor, quota: Quota) -> torch.Tensor:
    """The mask [out, in] of the quota, chosen within rows by a saliency that is 0 in inputs not `reached` (bool [in]).

    Inputs that no token reached go by the magnitude of `weight` [out, in]: a row's count is cut over reached and
    unreached inputs by their number. An n:m group's count is fixed: there they compete by their saliency of 0, and go
    before the others, by magnitude among themselves.
    """
    if reached.all():
        if quota.n is not None:
            return lowest_in_groups(saliency, quota.n, quota.m)
        return lowest_per_row(saliency, quota.count)
    size = weight.abs()
    if quota.n is not None:
        return lowest_in_groups_of_inputs(saliency, size, quota.n, quota.m)
    (each, more), (rows, columns) = divmod(quota.count, len(weight)), weight.shape
    live = int(reached.sum())
    parts = [(spread(count, [live, columns - live]), times) for count, times in ((each + 1, more), (each, rows - more))]
    mask = torch.zeros_like(weight, dtype=torch.bool)
    mask[:, reached] = lowest_in_rows(saliency[:, reached], [(alive, times) for (alive, _), times in parts])
    mask[:, ~reached] = lowest_in_rows(size[:, ~reached], [(dead, times) for (_, dead), times in parts])
    return mask


def lowest_in_groups_of_inputs(saliency: torch.Tensor, size: torch.Tensor, n: int, m: int) -> torch.Tensor:
    """The same as `lowest_in_groups`, where equals go by `size` [out, in] before they go by index."""
    saliency, size = (matrix.reshape(len(matrix), -1, m) for matrix in (saliency, size))
    by_size = size.argsort(dim=2, stable=True)
    order = by_size.gather(2, saliency.gather(2, by_size).argsort(dim=2, stable=True))
    mask = torch.zeros_like(size, dtype=torch.bool).scatter_(2, order[..., : m - n], True)
    return mask.flatten(1)


def single(saliency: torch.Tensor) -> torch.Tensor:
    """In fp32, and without the −0.0 whose bits lie above all other numbers'."""
    return saliency.float() + 0.0
