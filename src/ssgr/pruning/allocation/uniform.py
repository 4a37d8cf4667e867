"""The same sparsity everywhere."""

from ssgr.pruning.allocation import ALLOCATIONS, Allocation


@ALLOCATIONS.register("uniform")
class Uniform(Allocation):
    """Needs no scores."""

    def sparsities(self, scores: list[float], sizes: list[int], caps: list[float], value: float) -> list[float]:
        return [value] * len(sizes)
