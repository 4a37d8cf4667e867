"""The block loop: collect a block's statistics, prune its linears, run it again, next block."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from ssgr.config import AllocationConfig, Propagation, PrunerConfig, Sinks
from ssgr.errors import CellError
from ssgr.models.blocks import decoder_blocks, model_linears
from ssgr.models.load import LoadedModel
from ssgr.progress import track
from ssgr.pruning.activations import Calibration
from ssgr.pruning.allocation import ALLOCATIONS
from ssgr.pruning.base import PRUNERS, Pruner
from ssgr.pruning.sparsity import Quota, Sparsity, matrix_quotas
from ssgr.pruning.statistics import InputStatistics


@dataclass
class PruneReport:
    """What was done to each linear. Shares are of the prunable weights; the mask is counted, not zeros."""

    target: float
    achieved: float
    pattern: str
    seconds: float
    rows: list[dict[str, Any]]
    blocks: list[dict[str, Any]]  # what `on_block` got, block after block

    def to_json(self) -> dict[str, Any]:
        return dict(vars(self))


@torch.no_grad()
def prune_model(
    loaded: LoadedModel,
    sequences: list[np.ndarray] | None,
    weights: list[np.ndarray] | None,
    pruner: PrunerConfig,
    allocation: AllocationConfig,
    sparsity: Sparsity,
    on_block: Callable[[dict[str, Any]], None] | None = None,
    batch_tokens: int | None = None,
) -> PruneReport:
    """Prunes the model in place, in its own dtype; masked entries are exactly +0.0.

    `sequences` are token ids, int [tokens] each, and `weights` their weights, fp32 [tokens] each (None: all 1); both
    may be None where the pruner reads no calibration data. `on_block` gets the report's row of every block at once.
    Batches hold up to `batch_tokens` tokens with their padding.

    Raises UserError, before anything is changed, for a pattern that does not fit a linear, and CellError naming the
    linear for NaN or infinite weights, inputs or answers.
    """
    started = time.perf_counter()
    method: Pruner = PRUNERS.get(pruner.name)(pruner)
    if not method.prunes:
        sparsity = Sparsity(0.0)
    linears = model_linears(loaded.model)
    targets = ALLOCATIONS.get(allocation.name)(allocation, sparsity, linears)
    quotas = matrix_quotas(targets, {name: tuple(linear.weight.shape) for name, linear in linears.items()}, sparsity)
    measure = getattr(pruner, "measure_error", False)
    needed = any(quota.count for quota in quotas.values()) and (measure or method.needs != "nothing")
    calibration = None
    if needed:
        calibration = Calibration(
            loaded.model,
            sequences or [],
            weights or [np.ones(len(sequence), dtype=np.float32) for sequence in sequences or []],
            full=measure or method.needs == "gram",
            sinks=getattr(pruner, "sinks", Sinks.keep),
            propagation=getattr(pruner, "propagation", Propagation.pruned),
            batch_tokens=batch_tokens,
        )
    rows, history = prune_blocks(loaded.model, linears, method, quotas, calibration, measure, on_block)
    total = sum(linear.weight.numel() for linear in linears.values())
    achieved = sum(row["achieved"] * linears[row["name"]].weight.numel() for row in rows) / total
    return PruneReport(sparsity.value, achieved, sparsity.pattern, time.perf_counter() - started, rows, history)


def prune_blocks(
    model: nn.Module,
    linears: dict[str, nn.Linear],
    method: Pruner,
    quotas: dict[str, Quota],
    calibration: Calibration | None,
    measure: bool,
    on_block: Callable[[dict[str, Any]], None] | None,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Prunes block after block; the rows of the report's linears and of its blocks."""
    blocks = decoder_blocks(model)
    rows: list[dict[str, Any]] = []
    history: list[dict[str, Any]] = []
    with track("pruning", len(blocks)) as bar:
        for index, block in enumerate(blocks):
            started = time.perf_counter()
            last = index == len(blocks) - 1
            inside = set(block.modules())
            own = {name: linear for name, linear in linears.items() if linear in inside}
            statistics = calibration.collect(index, block, own, last) if calibration else {}
            done = [
                prune_linear(name, linear, method, statistics.get(name), quotas[name], measure)
                for name, linear in own.items()
            ]
            rows += done
            statistics.clear()
            if calibration and not last:
                calibration.advance(index, block)
            bar.advance()
            history.append(block_row(index, time.perf_counter() - started, done))
            if on_block:
                on_block(history[-1])
    return rows, history


def block_row(index: int, seconds: float, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """One block of the report: its seconds, forward passes included, and where measured its mean relative_error."""
    errors = [row["relative_error"] for row in rows if row.get("relative_error") is not None]
    return {"block": index, "seconds": seconds, "relative_error": sum(errors) / len(errors) if errors else None}


def prune_linear(
    name: str,
    linear: nn.Linear,
    method: Pruner,
    statistics: InputStatistics | None,
    quota: Quota,
    measure: bool,
) -> dict[str, Any]:
    """Prunes one linear in place and returns its row of the report."""
    started = time.perf_counter()
    weight = linear.weight.data.to(torch.float32, copy=True)
    if not torch.isfinite(weight).all():
        raise CellError(f"{name}: its weights are NaN or infinite")
    row: dict[str, Any] = {"name": name, "shape": list(weight.shape), "target": quota.count / weight.numel()}
    info: dict[str, Any] = {}
    masked = 0
    if quota.count:
        pruned, mask, info = method.prune(weight, statistics, quota)
        check_mask(name, mask, quota)
        rounded = pruned.to(linear.weight.dtype).masked_fill(mask, 0.0)
        if not torch.isfinite(rounded).all():
            raise CellError(f"{name}: its pruned weights are NaN or infinite")
        linear.weight.data.copy_(rounded)
        masked = int(mask.sum())
    row |= {"achieved": masked / weight.numel(), "damping": None, "damping_over_median_diagonal": None} | info
    row |= statistics.sink_report() if statistics else {"sinks": None, "sink_energy_share": None}
    if measure and statistics:
        row |= statistics.relative_errors(weight, linear.weight.data.float())
    row["seconds"] = time.perf_counter() - started  # the counts above wait for the device
    return row


def check_mask(name: str, mask: torch.Tensor, quota: Quota) -> None:
    """CellError where a pruner did not mask what it was asked to: the result would say a sparsity that is not there."""
    masked = int(mask.sum())
    if masked != quota.count:
        raise CellError(f"{name}: the pruner masked {masked:,} weights and was asked for {quota.count:,}")
    if quota.n is not None and (mask.reshape(-1, quota.m).sum(1) != quota.m - quota.n).any():
        raise CellError(f"{name}: the pruner's mask does not keep {quota.n} of every {quota.m} inputs")
