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

    Raises UserError for a pattern that does not fit a linear and CellError naming the linear for NaN or infinite
    weights, both before anything is changed; CellError naming the linear for NaN or infinite inputs or answers.
    """
    started = time.perf_counter()
    method: Pruner = PRUNERS.get(pruner.name)(pruner)
    if not method.prunes:
        sparsity = Sparsity(0.0)
    linears = model_linears(loaded.model)
    targets = ALLOCATIONS.get(allocation.name)(allocation, sparsity, linears)
    quotas = matrix_quotas(targets, {name: tuple(linear.weight.shape) for name, linear in linears.items()}, sparsity)
    measure = getattr(pruner, "measure_error", False)
    check_weights(linears)
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
            done = prune_block(own, method, statistics, quotas, measure)
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
    """One block of the report: its seconds, forward passes included, and where measured its mean relative_error.

    An accelerator still runs the block's last pass when its seconds end: they are counted in the next block.
    """
    errors = [row["relative_error"] for row in rows if row.get("relative_error") is not None]
    return {"block": index, "seconds": seconds, "relative_error": sum(errors) / len(errors) if errors else None}


def prune_block(
    linears: dict[str, nn.Linear],
    method: Pruner,
    statistics: dict[str, InputStatistics],
    quotas: dict[str, Quota],
    measure: bool,
) -> list[dict[str, Any]]:
    """Prunes the linears of one block in place, those with the same input together; their rows of the report."""
    groups: dict[Any, dict[str, nn.Linear]] = {}
    for name, linear in linears.items():
        groups.setdefault(statistics.get(name, name), {})[name] = linear
    rows: dict[str, dict[str, Any]] = {}
    for group in groups.values():
        rows |= prune_group(group, method, statistics.get(next(iter(group))), quotas, measure)
    return [rows[name] for name in linears]


def prune_group(
    linears: dict[str, nn.Linear],
    method: Pruner,
    statistics: InputStatistics | None,
    quotas: dict[str, Quota],
    measure: bool,
) -> dict[str, dict[str, Any]]:
    """Prunes linears that share an input in place; their rows of the report, seconds by their share of the weights."""
    started = time.perf_counter()
    weights = {name: linear.weight.data.to(torch.float32, copy=True) for name, linear in linears.items()}
    asked = [name for name in linears if quotas[name].count]
    together = [weights[name] for name in asked], statistics, [quotas[name] for name in asked]
    pruned = dict(zip(asked, method.prune_together(*together) if asked else [], strict=True))
    rounded = {
        name: weight.to(linears[name].weight.dtype).masked_fill(mask, 0.0) for name, (weight, mask, _) in pruned.items()
    }
    masked = check_answers(rounded, {name: mask for name, (_, mask, _) in pruned.items()}, quotas)
    for name, weight in rounded.items():
        linears[name].weight.data.copy_(weight)
    sinks = statistics.sink_report() if statistics else {"sinks": None, "sink_energy_share": None}
    rows = {}
    for name, weight in weights.items():
        size = weight.numel()
        row = {"name": name, "shape": list(weight.shape), "target": quotas[name].count / size}
        row |= {"achieved": masked.get(name, 0) / size, "damping": None, "damping_over_median_diagonal": None}
        rows[name] = row | (pruned[name].info if name in pruned else {}) | sinks
        if measure and statistics:
            rows[name] |= statistics.relative_errors(weight, linears[name].weight.data.float())
    seconds = time.perf_counter() - started  # the checks above wait for the device
    total = sum(weight.numel() for weight in weights.values())
    return {name: row | {"seconds": seconds * weights[name].numel() / total} for name, row in rows.items()}


def check_weights(linears: dict[str, nn.Linear]) -> None:
    finite = torch.stack([linear.weight.data.isfinite().all() for linear in linears.values()])
    for name, good in zip(linears, finite.tolist(), strict=True):
        if not good:
            raise CellError(f"{name}: its weights are NaN or infinite")


def check_answers(
    answers: dict[str, torch.Tensor], masks: dict[str, torch.Tensor], quotas: dict[str, Quota]
) -> dict[str, int]:
    """How many weights each mask takes, all counted before the device is waited for.

    CellError where a pruner did not mask what it was asked to: the result would say a sparsity that is not there.
    """
    facts = []
    for name, mask in masks.items():
        n, m = quotas[name].n, quotas[name].m
        torn = mask.new_zeros(()) if n is None else (mask.reshape(-1, m).sum(1) != m - n).any()
        facts.append(torch.stack([mask.sum(), torn.long(), answers[name].isfinite().all().long()]))
    counts = {}
    for name, fact in zip(masks, torch.stack(facts).tolist() if facts else [], strict=True):
        counts[name], torn, finite = fact
        quota = quotas[name]
        if counts[name] != quota.count:
            raise CellError(f"{name}: the pruner masked {counts[name]:,} weights and was asked for {quota.count:,}")
        if torn:
            raise CellError(f"{name}: the pruner's mask does not keep {quota.n} of every {quota.m} inputs")
        if not finite:
            raise CellError(f"{name}: its pruned weights are NaN or infinite")
    return counts
