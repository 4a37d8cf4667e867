"""ALPS (Meng, Behdin, Wang and Mazumder, NeurIPS 2024): a support by ADMM, its best weights by conjugate gradients.

For one linear, W [out, in] and inputs X with Gram matrix G, it looks for the Ŵ with the asked number of weights that
minimises equation 2 of the paper, ‖(Ŵ − W)X‖² + λ‖Ŵ − W‖² = tr((Ŵ − W) H (Ŵ − W)ᵀ), H = G + λI.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch

from ssgr.config import ALPSConfig, DampingBasis
from ssgr.errors import CellError
from ssgr.pruning.base import PRUNERS, Pruned, Pruner
from ssgr.pruning.factor import cholesky
from ssgr.pruning.sparsegpt import factored
from ssgr.pruning.sparsity import Quota, lowest, lowest_in_groups, spread
from ssgr.pruning.statistics import InputStatistics

CHECKED = 3  # iterations between two looks at how much of the support has changed
RAISES = [(0.1, 1.3), (0.005, 1.2), (0.0, 1.1)]  # ρ is multiplied by this where more of the kept weights changed
SETTLED, EARLIEST = 3e-4, 30  # from this iteration on, a support that changes less stands still
LOWERED = 5.0  # ρ is divided by this where it holds the support fast from the start
SMALLEST_RHO, LARGEST_RHO = 1e-4, 1e6  # where it is lowered and raised to: fp32 holds H + ρI between them


class Known(NamedTuple):
    """What linears with one input share: H scaled to a unit diagonal fp32 [in, in], the roots of its diagonal fp32
    [in], which columns a token reached (bool [in]), how many those are, and entries for the report."""

    hessian: torch.Tensor
    scale: torch.Tensor
    reached: torch.Tensor
    live: int
    info: dict


@PRUNERS.register("alps")
class ALPS(Pruner):
    """Chooses the support over the whole matrix (or per n:m group) and solves for what stays.

    Defaults are those of the paper's code: `ridge` 0.01, so that λ is 0.01 times the mean of G's diagonal (there of
    XXᵀ, the same share of a sum), where `sinks=undamped` leaves the sinks out of that mean; `rho` 0.1, raised by 1.3,
    1.2 or 1.1 every 3 iterations; at most 300 `iterations`; 10 `cg_steps`. λ is raised by tens where H has no Cholesky
    factor, as SparseGPT's damping is, and reported as damping.

    Columns that no token reached know no error: they lose their share by magnitude. In an n:m group they compete under
    the ridge, w²λ, since the group's count is fixed.
    """

    needs = "gram"

    def __init__(self, config: ALPSConfig):
        super().__init__(config)
        self._known: WeakKeyDictionary[InputStatistics, Known] = WeakKeyDictionary()
        config.check()

    def prune(self, weight: torch.Tensor, statistics: InputStatistics, quota: Quota) -> Pruned:
        if statistics not in self._known:
            self._known[statistics] = known(statistics, self.config.ridge)
        hessian, scale, reached, live, info = self._known[statistics]
        rows, columns = weight.shape
        if live == 0:  # nothing to go by: magnitude alone decides
            mask = projection(quota)(weight)
            return Pruned(weight.masked_fill(mask, 0.0), mask, info)
        if quota.n is not None or live == columns:
            answer, mask, steps = self._solve(weight * scale, hessian, quota, statistics.name)
            return Pruned((answer / scale).masked_fill_(mask, 0.0), mask, info | steps)
        live_count, dead_count = spread(quota.count, [live * rows, (columns - live) * rows])
        answer, mask = weight.clone(), torch.zeros_like(weight, dtype=torch.bool)
        mask[:, ~reached] = lowest(weight[:, ~reached].abs(), dead_count)
        part, scale = hessian[reached][:, reached], scale[reached]
        dense, live_quota = weight[:, reached] * scale, Quota(live_count)
        solution, mask[:, reached], steps = self._solve(dense, part, live_quota, statistics.name)
        answer[:, reached] = solution / scale
        return Pruned(answer.masked_fill_(mask, 0.0), mask, info | steps)

    def _solve(
        self, dense: torch.Tensor, hessian: torch.Tensor, quota: Quota, name: str
    ) -> tuple[torch.Tensor, torch.Tensor, dict]:
        right, factor = dense @ hessian, partial(shifted_factor, hessian, name)
        start, mask, steps = admm(dense, right, factor, projection(quota), self.config.rho, self.config.iterations)
        return conjugate_gradients(start, mask, right, hessian, self.config.cg_steps), mask, {"admm_iterations": steps}


def known(statistics: InputStatistics, ridge: float) -> Known:
    _, reached, info = factored(statistics, ridge, DampingBasis.mean)  # with a ridge that leaves H positive definite
    hessian = statistics.gram()
    hessian.diagonal().add_(info["damping"])
    scale = hessian.diagonal().sqrt()
    hessian.div_(scale).div_(scale[:, None])  # in fp64, since the largest diagonal entry may be 10⁵ times the smallest
    return Known(hessian.float(), scale.float(), reached, int(reached.sum()), info)


def projection(quota: Quota) -> Callable[[torch.Tensor], torch.Tensor]:
    """What gives the mask (bool [out, in]) of the weights that are not among the largest."""
    if quota.n is not None:
        return lambda weight: lowest_in_groups(weight.abs(), quota.n, quota.m)
    return lambda weight: lowest(weight.abs(), quota.count)


def admm(
    dense: torch.Tensor,
    right: torch.Tensor,
    factor_for: Callable[[float], torch.Tensor],
    project: Callable[[torch.Tensor], torch.Tensor],
    rho: float,
    iterations: int,
) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Algorithm 1: the sparse weights fp32 [out, in], the mask of the others, and the iterations that it took.

    In turn B = (right − V + ρD)(H + ρI)⁻¹, D = the largest entries of B + V/ρ, V = V + ρ(B − D). `right` is dense · H,
    and `factor_for` gives the lower Cholesky factor of H + ρI.

    A Cholesky factor per ρ, not one eigendecomposition for all of them as in the paper's code: ρ takes a dozen values
    as a rule, a factor of 18,944 inputs takes a GPU less than 0.1 s and an eigendecomposition far more than a dozen of
    those, after which each iteration needs two products where a factor needs two triangular solves, half the work each.
    On a CPU it also leaves the result independent of the number of threads.
    """
    mask = first = project(dense)
    sparse, dual = dense.masked_fill(first, 0.0), torch.zeros_like(dense)
    kept, moving, before, step = int((~first).sum()), False, first, 0
    factor = factor_for(rho)
    for step in range(1, iterations + 1):
        answer = solved(factor, right - dual + rho * sparse)
        moved = answer + dual / rho
        mask = project(moved)
        sparse = moved.masked_fill(mask, 0.0)
        dual = rho * (moved - sparse)
        if step % CHECKED:
            continue
        changed = int((mask != before).sum()) / max(kept, 1)
        if (moving and changed == 0) or (step >= EARLIEST and changed < SETTLED):
            break
        moving = moving or changed > RAISES[1][0]
        if moving:
            rho = min(rho * next(times for least, times in RAISES if changed > least), LARGEST_RHO)
            before = mask
        else:  # so large a ρ never lets go of the magnitudes
            rho, before = min(rho, max(rho / LOWERED, SMALLEST_RHO)), first
            sparse, dual = dense.masked_fill(first, 0.0), torch.zeros_like(dense)
        factor = factor_for(rho)
    mask = project(answer)
    return answer.masked_fill_(mask, 0.0), mask, step


def shifted_factor(hessian: torch.Tensor, name: str, rho: float) -> torch.Tensor:
    """The lower Cholesky factor of H + ρI, fp32, from an fp64 one where fp32 has none."""
    for dtype in (torch.float32, torch.float64):
        shifted = hessian.to(dtype, copy=True)
        shifted.diagonal().add_(rho)
        lower, failed = cholesky(shifted)
        if not failed:
            return lower.float()
    raise CellError(f"{name}: the scaled Gram matrix cannot be factored with rho {rho:.3g}")


def solved(lower: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """The X with X L Lᵀ = right."""
    half = torch.linalg.solve_triangular(lower.T, right, upper=True, left=False)
    # on a GPU its columns lie one after another, and what chooses reads rows
    return torch.linalg.solve_triangular(lower, half, upper=False, left=False).contiguous()


def conjugate_gradients(
    start: torch.Tensor, mask: torch.Tensor, right: torch.Tensor, hessian: torch.Tensor, steps: int
) -> torch.Tensor:
    """Algorithm 2: X on the support (not `mask`) with X H = right there, row by row, `steps` steps from `start`.

    All rows at once: each has a system of its own, whose residual is masked. H's unit diagonal is the preconditioner.
    """
    answer, smallest = start.clone(), torch.finfo(start.dtype).tiny  # for rows that are solved, or have no weights left
    residual = (right - answer @ hessian).masked_fill_(mask, 0.0)
    direction, energy = residual.clone(), residual.square().sum(1, keepdim=True)
    for _ in range(steps):
        image = direction @ hessian
        length = energy / (direction * image).sum(1, keepdim=True).clamp_min_(smallest)
        answer.addcmul_(length, direction)
        residual.addcmul_(length, image, value=-1).masked_fill_(mask, 0.0)
        before, energy = energy, residual.square().sum(1, keepdim=True)
        direction.mul_(energy / before.clamp_min(smallest)).add_(residual)
    return answer
