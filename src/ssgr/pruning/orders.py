"""What pruning is asked for: a request, its way through the blocks, how much each matrix is to lose, the report."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ssgr.config import AllocationConfig, Propagation, PrunerConfig, Sinks
from ssgr.errors import UserError
from ssgr.models.blocks import Linear, decoder_blocks, module_of
from ssgr.models.offload import resident
from ssgr.progress import track
from ssgr.pruning.activations import Calibration
from ssgr.pruning.allocation import ALLOCATIONS, Allocation
from ssgr.pruning.base import PRUNERS, Pruner
from ssgr.pruning.sparsity import Sparsity, matrix_quotas
from ssgr.pruning.statistics import InputStatistics


@dataclass(frozen=True)
class Request:
    """What one answer is to be."""

    pruner: PrunerConfig
    allocation: AllocationConfig
    sparsity: Sparsity


@dataclass
class PruneReport:
    """What was done to each linear. Shares are of the prunable weights; the mask is counted, not zeros."""

    target: float
    achieved: float
    pattern: str
    seconds: float  # of an answer among several: see `prune_for`
    rows: list[dict[str, Any]]
    blocks: list[dict[str, Any]]  # what `on_block` got, block after block

    def to_json(self) -> dict[str, Any]:
        return dict(vars(self))

    def experts(self) -> dict[str, int]:
        """How many experts the calibration tokens were to reach, and how many they reached too seldom, for at least one
        matrix; nothing where the model has none or the pruner needs no tokens."""
        scarce: dict[str, bool] = {}
        for row in self.rows:
            if "fallback" in row:
                expert = row["name"].rpartition(".")[0]
                scarce[expert] = scarce.get(expert, False) or row["fallback"] is not None
        return {"experts": len(scarce), "experts_by_magnitude": sum(scarce.values())} if scarce else {}


class Order:
    """A request on its way through the blocks.

    `needs` is what must be known of the inputs, as Pruner.needs, and `dtype` what pruned weights are rounded to.
    """

    def __init__(
        self, request: Request, method: Pruner, allocation: Allocation, linears: dict[str, Linear], dtype: torch.dtype
    ):
        self.method, self.allocation, self.dtype = method, allocation, dtype
        self.sparsity = request.sparsity if method.prunes else Sparsity(0.0)
        self.shapes = {name: tuple(linear.weight.shape) for name, linear in linears.items()}
        # uniform, until `allocate` has the blocks' scores
        self.quotas = matrix_quotas(dict.fromkeys(linears, self.sparsity.value), self.shapes, self.sparsity)
        if allocation.score_name and self.sparsity.n is not None:
            pattern, name = self.sparsity.pattern, allocation.config.name
            raise UserError(f"allocation={name}: {pattern} masks the same share of every matrix (allocation=uniform)")
        if not allocation.score_name:
            self._refuse_emptied()
        pruner = request.pruner
        self.measure = getattr(pruner, "measure_error", False)
        self.sinks = getattr(pruner, "sinks", Sinks.keep)
        self.propagation = getattr(pruner, "propagation", Propagation.pruned)
        masks = any(quota.count for quota in self.quotas.values())
        self.needs = ("gram" if self.measure else method.needs) if masks else "nothing"
        self.wants_scores = masks and bool(allocation.score_name)
        self.scores: dict[str, dict[str, float]] = {}  # of each linear's block, as the report has them
        self.allocating = 0.0  # seconds
        self.fallback = PRUNERS.get("magnitude")(pruner)
        self.rows: list[dict[str, Any]] = []  # of the report
        self.blocks: list[dict[str, Any]] = []

    def method_for(self, statistics: InputStatistics | None) -> Pruner:
        """The pruner, or magnitude for an expert that too few tokens reached to go by them."""
        needed = self.method.needs != "nothing" and statistics is not None
        return self.fallback if needed and statistics.scarce else self.method

    def set_quotas(self, blocks: list[dict[str, Linear]], scores: list[float]) -> None:
        """From the scores of all blocks; each linear gets the sparsity of its block, and keeps at least one weight."""
        sizes = [[math.prod(self.shapes[name]) for name in block] for block in blocks]
        value = self.sparsity.value
        caps = [max(1 - 1 / min(inside), value) for inside in sizes]
        sparsities = self.allocation.sparsities(scores, [sum(inside) for inside in sizes], caps, value)
        targets = {name: share for block, share in zip(blocks, sparsities, strict=True) for name in block}
        self.quotas = matrix_quotas(targets, self.shapes, self.sparsity)
        self._refuse_emptied()
        score_name = self.allocation.score_name
        self.scores = {name: {score_name: of} for block, of in zip(blocks, scores, strict=True) for name in block}

    def _refuse_emptied(self) -> None:
        """UserError naming a matrix that would lose all of its weights, which only a tiny one can."""
        for name, shape in self.shapes.items():
            if self.quotas[name].count == (size := math.prod(shape)):
                line = f"{name} would lose all of its {size:,} weights; below {1 - 1 / size:g} it keeps one"
                raise UserError(f"sparsity.value={self.sparsity.value:g}: {line}")

    def report(self, seconds: float) -> PruneReport:
        sizes = [math.prod(row["shape"]) for row in self.rows]
        achieved = sum(row["achieved"] * size for row, size in zip(self.rows, sizes, strict=True)) / sum(sizes)
        return PruneReport(self.sparsity.value, achieved, self.sparsity.pattern, seconds, self.rows, self.blocks)


def make_orders(requests: list[Request], linears: dict[str, Linear], dtype: torch.dtype) -> list[Order]:
    """Equal options, one pruner and one allocation: what it knows of an input or a block serves all sparsities."""
    orders: list[Order] = []
    for request in requests:
        method = next((order.method for order in orders if order.method.config == request.pruner), None)
        method = method or PRUNERS.get(request.pruner.name)(request.pruner)
        allocation = next((o.allocation for o in orders if o.allocation.config == request.allocation), None)
        allocation = allocation or ALLOCATIONS.get(request.allocation.name)(request.allocation)
        orders.append(Order(request, method, allocation, linears, dtype))
    return orders


def allocate(
    model: nn.Module,
    linears: dict[str, Linear],
    orders: list[Order],
    dense: Callable[[], Calibration],
) -> None:
    """Gives the orders that are not uniform their quotas, all from one walk over the dense blocks.

    `dense` makes the calibration for that walk; it is not called where no allocation reads inputs.
    """
    started = time.perf_counter()
    asking = [order for order in orders if order.wants_scores]
    if not asking:
        return
    scores: dict[Allocation, list[float]] = {order.allocation: [] for order in asking}
    calibration = dense() if any(allocation.needs == "diagonal" for allocation in scores) else None
    blocks = decoder_blocks(model)
    own = [linears_of(block, linears) for block in blocks]
    with track("allocating", len(blocks)) as bar:
        for index, (block, inside) in enumerate(zip(blocks, own, strict=True)):
            last = index == len(blocks) - 1
            with resident(block):
                collected = calibration.collect(index, block, inside, last) if calibration else {}
                inputs = {name: known["diagonal"] for name, known in collected.items()}
                diagonals = {name: known.diagonal() for name, known in inputs.items() if not known.scarce}
                weights = {name: linear.weight.data for name, linear in inside.items()}
                for allocation, found in scores.items():
                    found.append(allocation.score(weights, diagonals))
            bar.advance()
    for order in asking:
        order.set_quotas(own, scores[order.allocation])
    for order in asking:
        order.allocating = (time.perf_counter() - started) / len(asking)


def linears_of(block: nn.Module, linears: dict[str, Linear]) -> dict[str, Linear]:
    inside = set(block.modules())
    return {name: linear for name, linear in linears.items() if module_of(linear) in inside}
