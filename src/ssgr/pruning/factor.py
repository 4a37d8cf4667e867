"""The triangular factor of a damped Gram matrix's inverse, and whether it is right."""

import math

import torch

from ssgr.errors import CellError

CORNER = 256  # columns of one panel of the Cholesky factorisation on a CPU
PANEL = 2048  # rows that the probe brings to fp64 at once
PROBES = 16
TOLERANCE = 1e-3  # of (U H Uᵀ − I) v against v, for random v
Damping = float | torch.Tensor
STRONG_FP64 = {(6, 0), (7, 0), (8, 0), (9, 0), (10, 0)}  # NVIDIA's that factor in fp64 about as fast as in fp32


def inverse_factor(
    gram: torch.Tensor, damping: Damping, name: str, inverted: bool = True
) -> tuple[torch.Tensor, Damping, list[str]]:
    """U (fp32, upper triangular [in, in]) with UᵀU = (G + λI)⁻¹, the λ that was used, and the attempts that failed.

    λ is one number, or one per channel (fp64 [in]), and then λI is their diagonal matrix; all above 0.

    Where not `inverted`, R = U⁻¹, upper triangular too, with RRᵀ = G + λI, in place of U.

    One Cholesky factorisation of the matrix with rows and columns reversed and a triangular solve, so that the inverse
    itself is never formed. Raises CellError where even 100,000 times the damping does not help.
    """
    steps: list[str] = []
    for dtype, multiple in attempts(gram.device):
        used = damping * multiple
        factor, reason = attempt(gram, used, dtype, inverted)
        if factor is not None:
            return factor.float(), used, steps
        steps.append(f"{str(dtype).removeprefix('torch.')}, damping {mean(used):.3g}: {reason}")
    raise CellError(f"{name}: the Gram matrix cannot be factored, even with damping {mean(used):.3g}")


def attempt(
    gram: torch.Tensor, damping: Damping, dtype: torch.dtype, inverted: bool
) -> tuple[torch.Tensor | None, str]:
    """What `inverse_factor` returns, in this dtype, or None and why not: then nothing of it is left in memory."""
    damped = gram.to(dtype, copy=True)
    damped.diagonal().copy_(gram.diagonal() + damping)
    lower, failed = cholesky(flip(damped))
    del damped  # at 18,944 inputs every matrix that stays is 1.4 GB, 2.9 in fp64
    if failed:
        return None, "not positive definite"
    factor = flip(lower)
    if inverted:
        invert(factor)
    # the largest eigenvalue of Λ⁻¹G is at most its trace, so this bounds what rounding can do
    trace = float((gram.diagonal() / damping).sum())
    certain = len(gram) * torch.finfo(dtype).eps * (trace + len(gram)) < TOLERANCE
    residual = 0.0 if certain else probe_residual(factor, gram, damping, inverted)
    return (factor, "") if residual < TOLERANCE else (None, f"residual {residual:.1g}")


def mean(damping: Damping) -> float:
    """What a report says of it."""
    return float(damping.mean()) if isinstance(damping, torch.Tensor) else damping


def attempts(device: torch.device) -> list[tuple[torch.dtype, float]]:
    """What is tried in turn: dtype and multiple of the damping. fp32 comes first where fp64 would take far longer."""
    raised = [(torch.float64, 10.0**power) for power in range(6)]
    if device.type == "cuda" and torch.cuda.get_device_capability(device) in STRONG_FP64:
        return raised
    return [(torch.float32, 1.0), *raised]


def cholesky(matrix: torch.Tensor) -> tuple[torch.Tensor, bool]:
    """The lower Cholesky factor of a matrix [n, n], and whether there is none. The matrix may be overwritten.

    On a CPU panel by panel, the panels' corners on one thread: LAPACK's last digits depend on the number of threads,
    and a cell's masks must not depend on how many cells share the machine.
    """
    if matrix.device.type != "cpu":
        lower, failed = torch.linalg.cholesky_ex(matrix)
        return lower, bool(failed)
    lower, threads = matrix, torch.get_num_threads()  # in place: a copy is 2.9 GB at 18,944 inputs in fp64
    for start, end in cut(0, len(matrix), CORNER):
        torch.set_num_threads(1)
        corner, failed = torch.linalg.cholesky_ex(lower[start:end, start:end])
        torch.set_num_threads(threads)
        if failed:
            return lower, True
        lower[start:end, start:end] = corner
        below = torch.linalg.solve_triangular(corner, lower[end:, start:end].T, upper=False).T
        lower[end:, start:end] = below
        lower[end:, end:].addmm_(below, below.T, alpha=-1)
    return lower.tril_(), False


def flip(matrix: torch.Tensor) -> torch.Tensor:
    """The matrix with rows and columns reversed, in place: its storage read backwards, in either order of storage."""
    flat = (matrix if matrix.is_contiguous() else matrix.T).view(-1)
    for start, end in cut(0, len(flat) // 2, 1 << 24):
        head, tail = flat[start:end], flat[len(flat) - end : len(flat) - start]
        reversed_head = head.flip(0)
        head.copy_(tail.flip(0))
        tail.copy_(reversed_head)
    return matrix


def probe_residual(factor: torch.Tensor, gram: torch.Tensor, damping: Damping, inverted: bool) -> float:
    """‖(U H Uᵀ − I) V‖ / ‖V‖ for a few random signs V: a Cholesky that returns is not yet one that is right."""
    generator = torch.Generator().manual_seed(0)
    signs = torch.randint(0, 2, (len(gram), PROBES), generator=generator).to(gram) * 2 - 1
    inner = product(factor.T, signs) if inverted else solution(factor.T, signs, upper=False)
    outer = gram @ inner + (damping * inner.T).T
    outer = product(factor, outer) if inverted else solution(factor, outer, upper=True)
    residual = float((outer - signs).norm() / signs.norm())
    return residual if math.isfinite(residual) else math.inf


def invert(upper: torch.Tensor) -> None:
    """Puts the inverse of an upper triangular matrix in its place.

    A panel's columns of it need nothing to their right, so from the right each may overwrite its own: no identity and
    no answer of the matrix' size stand beside it, and what would be zero is not computed.
    """
    for start, end in reversed(cut(0, len(upper), PANEL)):
        columns = upper.new_zeros(end, end - start)
        columns[start:].fill_diagonal_(1.0)
        upper[:end, start:end] = solution(upper[:end, :end], columns, upper=True)


def product(matrix: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
    """Matrix times vectors in the vectors' dtype, without a copy of the whole matrix in it."""
    return torch.cat([panel.to(vectors.dtype) @ vectors for panel in matrix.split(PANEL)])


def solution(matrix: torch.Tensor, vectors: torch.Tensor, upper: bool) -> torch.Tensor:
    """What a triangular matrix takes to the vectors, in their dtype, without a copy of the whole matrix in it."""
    answer = torch.empty_like(vectors)
    panels = cut(0, len(matrix), PANEL)
    for start, end in reversed(panels) if upper else panels:
        known = slice(end, None) if upper else slice(0, start)
        panel = matrix[start:end]
        rest = vectors[start:end] - panel[:, known].to(vectors.dtype) @ answer[known]
        corner = panel[:, start:end].to(vectors.dtype)
        answer[start:end] = torch.linalg.solve_triangular(corner, rest, upper=upper)
    return answer


def cut(start: int, end: int, size: int) -> list[tuple[int, int]]:
    return [(first, min(first + size, end)) for first in range(start, end, size)]
