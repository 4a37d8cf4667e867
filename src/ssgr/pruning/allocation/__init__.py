"""How much of each decoder block is pruned. A new allocation is one file here with a registered class."""

from typing import ClassVar, Literal

import torch

from ssgr.config import AllocationConfig
from ssgr.registry import Registry

ALLOCATIONS: Registry = Registry("allocation", "ssgr.pruning.allocation")


class Allocation:
    """Scores every block of the dense model and turns the scores into sparsities; a block's matrices share theirs.

    `needs` says what a score is made of besides the weights: nothing, or the diagonals of the Gram matrices of the
    linears' inputs in the dense model. `score_name` is what the report calls a block's score, empty for an allocation
    that has none.
    """

    needs: ClassVar[Literal["nothing", "diagonal"]] = "nothing"
    score_name: ClassVar[str] = ""

    def __init__(self, config: AllocationConfig):
        self.config = config

    def score(self, weights: dict[str, torch.Tensor], diagonals: dict[str, torch.Tensor]) -> float:
        """Of one block: `weights` [out, in] in the model's dtype and `diagonals` fp64 [in], both by linear.

        `diagonals` is empty where `needs` is "nothing", and lacks the experts' linears that too few tokens reached.
        """
        raise NotImplementedError

    def sparsities(self, scores: list[float], sizes: list[int], caps: list[float], value: float) -> list[float]:
        """Each block's sparsity, at least 0 and at most its cap, from the scores of all.

        `sizes` are the blocks' numbers of weights; so weighted, the sparsities' mean is `value`. No cap lies below it.
        """
        raise NotImplementedError
