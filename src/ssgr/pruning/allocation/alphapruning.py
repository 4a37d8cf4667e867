"""AlphaPruning: sparsity by the heaviness of spectra's tails (Lu et al., NeurIPS 2024, arXiv 2410.10912).

Well-trained matrices have heavy-tailed spectra; blocks with lighter tails lose more weights. For the eigenvalues
λ_1 ≤ … ≤ λ_n of WᵀW above 0, the exponent of the density's tail is estimated from the k largest (Hill's estimator, the
paper's PL_Alpha_Hill)

    α = 1 + k / Σ_{i = 1…k} ln(λ_{n−i+1} / λ_{n−k})

A block's α is the mean over its matrices, q_b, and its sparsity (the code's `block_wise` mapping, its default)

    S_b = η ((q_b − min q) / (max q − min q) (s₂ − s₁) + s₁),   s₁ = 1 − τ, s₂ = 1 + τ, τ = `relative_spread` = 0.3

where η makes the mean S, weighted by the blocks' numbers of weights. τ = 0.3 is the code's default; its scripts take
0.2 for Wanda and SparseGPT on LLaMA-7B. A sparsity that would reach 1 is cut and η grows for the others, where the
code leaves it.

`tail` says where it begins. `peak`, the paper's "Fix-finger": at the lower edge of the fullest of 100 bins of ln λ.
`median`: k = n / 2, the `alpha_mid` of the paper's code. With a few hundred eigenvalues a bin holds a handful, and
which one is the fullest differs from matrix to matrix. The code's own `alpha_peak` goes on to fit several beginnings
near the peak and keeps the one of the least Kolmogorov-Smirnov distance; that is not done here.
"""

import torch

from ssgr.config import Tail
from ssgr.errors import CellError
from ssgr.pruning.allocation import ALLOCATIONS, Allocation
from ssgr.pruning.allocation.fitting import fitted, scaled

FLAT = 1e-6  # mean of ln(λ / λ at the tail's beginning) down to which eigenvalues count as equal
BINS = 100  # of the density in which the paper's code looks for the peak


@ALLOCATIONS.register("alphapruning")
class AlphaPruning(Allocation):
    """Reads no data."""

    score_name = "block_alpha"

    def score(self, weights: dict[str, torch.Tensor], diagonals: dict[str, torch.Tensor]) -> float:
        found = [tail_exponent(spectrum(weight), self.config.tail) for weight in weights.values()]
        alphas = [alpha for alpha in found if alpha is not None]
        if not alphas:
            raise CellError(f"{next(iter(weights))} and its block: allocation=alphapruning finds no spectrum in them")
        return sum(alphas) / len(alphas)

    def sparsities(self, scores: list[float], sizes: list[int], caps: list[float], value: float) -> list[float]:
        tau = self.config.relative_spread
        ratios = 1 - tau + 2 * tau * scaled(scores)
        return fitted(lambda factor: factor * ratios, (0.0, 1 / (1 - tau)), sizes, caps, value)


def spectrum(weight: torch.Tensor) -> torch.Tensor:
    """The eigenvalues of WᵀW and WWᵀ that both have, fp64, ascending: as many as the shorter side of `weight`."""
    wide = weight.double()
    return torch.linalg.eigvalsh(wide @ wide.T if wide.shape[0] <= wide.shape[1] else wide.T @ wide)


def tail_exponent(eigenvalues: torch.Tensor, tail: Tail) -> float | None:
    """α from ascending eigenvalues, those at rounding's level left out; None where fewer than two are left, or those
    above the tail's beginning are equal: they have no tail, and α has no bound."""
    floor = eigenvalues[-1] * len(eigenvalues) * torch.finfo(eigenvalues.dtype).eps
    positive = eigenvalues[eigenvalues > floor]
    if len(positive) < 2:
        return None
    k = len(positive) // 2 if tail == Tail.median else above_peak(positive)
    logs = float((positive[-k:] / positive[-k - 1]).log().sum())
    return 1 + k / logs if logs > k * FLAT else None


def above_peak(eigenvalues: torch.Tensor) -> int:
    """How many ascending positive eigenvalues lie above the first one of the fullest bin of their logarithms."""
    logs = eigenvalues.log()
    counts = torch.histc(logs, BINS)
    edge = logs[0] + (logs[-1] - logs[0]) * counts.argmax() / BINS
    first = int(torch.searchsorted(logs, edge))
    return max(len(logs) - 1 - first, 1)
