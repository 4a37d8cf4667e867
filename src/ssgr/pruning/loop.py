"""The block loop: collect a block's statistics, prune its linears, run it again, next block."""

import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from ssgr.config import AllocationConfig, Propagation, PrunerConfig
from ssgr.errors import CellError
from ssgr.models.blocks import Linear, decoder_blocks, model_linears
from ssgr.models.load import LoadedModel
from ssgr.models.offload import resident
from ssgr.progress import track
from ssgr.pruning.activations import Calibration, Collected
from ssgr.pruning.orders import Order, PruneReport, Request, allocate, linears_of, make_orders
from ssgr.pruning.sparsity import Quota, Sparsity
from ssgr.pruning.statistics import InputStatistics


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
    may be None where neither pruner nor allocation reads calibration data. `on_block` gets the report's row of every
    block at once. Batches hold up to `batch_tokens` tokens with their padding.

    Raises UserError for a pattern that does not fit a linear and CellError naming the linear for NaN or infinite
    weights, both before anything is changed; CellError naming the linear for NaN or infinite inputs or answers.
    """
    linears = model_linears(loaded.model)

    def put_in(_: int, name: str, weight: torch.Tensor) -> None:
        linears[name].weight.data.copy_(weight)

    asked = [Request(pruner, allocation, sparsity)]
    return prune_for(loaded, sequences, weights, asked, put_in, on_block, batch_tokens)[0]


@torch.no_grad()
def prune_for(
    loaded: LoadedModel,
    sequences: list[np.ndarray] | None,
    weights: list[np.ndarray] | None,
    requests: list[Request],
    take: Callable[[int, str, torch.Tensor], None],
    on_block: Callable[[dict[str, Any]], None] | None = None,
    batch_tokens: int | None = None,
) -> list[PruneReport]:
    """Answers every request in one walk over the blocks, by the same numbers as each alone; the reports in their order.

    `take(request's index, linear's name, weight)` gets every pruned weight, on the model's device and in its dtype,
    once its input's statistics were read; it may put it into the model where the request is the only one. Several
    requests need dense propagation and one `sinks` option among them (ValueError). The rest is as in `prune_model`;
    `on_block` gets the first request's rows.

    An answer's seconds, in all and per block, are those of its own solving, in which a factor that several answers use
    counts for the first of them, and an equal share of all that they have in common; those that are not allocated
    uniformly share the scoring of the blocks.
    """
    started = time.perf_counter()
    linears = model_linears(loaded.model)
    orders = make_orders(requests, linears, loaded.dtype)
    if len(requests) > 1 and {(order.propagation, order.sinks) for order in orders} != {
        (Propagation.dense, orders[0].sinks)
    }:
        raise ValueError("requests that share a pass need dense propagation and the same sinks")
    check_weights(linears)

    def calibration(needs: Iterable[str], propagation: Propagation) -> Calibration:
        return Calibration(
            loaded.model,
            sequences or [],
            weights or [np.ones(len(sequence), dtype=np.float32) for sequence in sequences or []],
            needs=needs,
            sinks=orders[0].sinks,
            propagation=propagation,
            batch_tokens=batch_tokens,
        )

    allocate(loaded.model, linears, orders, lambda: calibration(["diagonal"], Propagation.dense))
    needs = {order.needs: None for order in orders if order.needs != "nothing"}
    calibrated = calibration(needs, orders[0].propagation) if needs else None
    prune_blocks(loaded.model, linears, orders, calibrated, take, on_block)
    own = [order.allocating + sum(row["seconds"] for row in order.rows) for order in orders]
    common = (time.perf_counter() - started - sum(own)) / len(orders)
    return [order.report(common + seconds) for order, seconds in zip(orders, own, strict=True)]


def prune_blocks(
    model: nn.Module,
    linears: dict[str, Linear],
    orders: list[Order],
    calibration: Calibration | None,
    take: Callable[[int, str, torch.Tensor], None],
    on_block: Callable[[dict[str, Any]], None] | None,
) -> None:
    """Answers the orders block after block; the report's rows go to them."""
    blocks = decoder_blocks(model)
    with track("pruning", len(blocks)) as bar:
        for index, block in enumerate(blocks):
            started = time.perf_counter()
            last = index == len(blocks) - 1
            own = linears_of(block, linears)
            with resident(block, changing=True):
                collected = calibration.collect(index, block, own, last) if calibration else {}
                done = prune_block(own, orders, collected, take)
                collected.clear()
                if calibration and not last:
                    calibration.advance(index, block)
            bar.advance()
            solving = [sum(row["seconds"] for row in rows) for rows in done]
            common = (time.perf_counter() - started - sum(solving)) / len(orders)
            for order, rows, seconds in zip(orders, done, solving, strict=True):
                order.rows += rows
                order.blocks.append(block_row(index, common + seconds, rows))
            if on_block:
                on_block(orders[0].blocks[-1])


def block_row(index: int, seconds: float, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """One block of the report: its seconds, forward passes included, and where measured its mean relative_error.

    An accelerator still runs the block's last pass when its seconds end: they are counted in the next block.
    """
    errors = [row["relative_error"] for row in rows if row.get("relative_error") is not None]
    return {"block": index, "seconds": seconds, "relative_error": sum(errors) / len(errors) if errors else None}


def prune_block(
    linears: dict[str, Linear],
    orders: list[Order],
    collected: dict[str, Collected],
    take: Callable[[int, str, torch.Tensor], None],
) -> list[list[dict[str, Any]]]:
    """Prunes the linears of one block, those with the same input together; each order's rows of the report."""
    groups: dict[Any, dict[str, Linear]] = {}
    for name, linear in linears.items():
        groups.setdefault(id(collected[name]) if collected else name, {})[name] = linear
    rows: list[dict[str, dict[str, Any]]] = [{} for _ in orders]
    for group in groups.values():
        # before the first answer may be put in
        weights = {name: linear.weight.data.to(torch.float32, copy=True) for name, linear in group.items()}
        known = collected.get(next(iter(group)), {})
        for number, order in enumerate(orders):
            rows[number] |= prune_group(group, weights, order, known.get(order.needs), partial(take, number))
    return [[done[name] for name in linears] for done in rows]


def prune_group(
    linears: dict[str, Linear],
    weights: dict[str, torch.Tensor],
    order: Order,
    statistics: InputStatistics | None,
    take: Callable[[str, torch.Tensor], None],
) -> dict[str, dict[str, Any]]:
    """Prunes linears that share an input, `weights` being theirs in fp32; their rows of the report, seconds by their
    share of the weights."""
    started = time.perf_counter()
    quotas, method = order.quotas, order.method_for(statistics)
    asked = [name for name in linears if quotas[name].count]
    together = [weights[name] for name in asked], statistics, [quotas[name] for name in asked]
    pruned = dict(zip(asked, method.prune_together(*together) if asked else [], strict=True))
    rounded = {
        name: weight.to(order.dtype).to(linears[name].weight.dtype).masked_fill(mask, 0.0)
        for name, (weight, mask, _) in pruned.items()
    }
    masked = check_answers(rounded, {name: mask for name, (_, mask, _) in pruned.items()}, quotas)
    for name, weight in rounded.items():
        take(name, weight)
    sinks = statistics.sink_report() if statistics else {"sinks": None, "sink_energy_share": None}
    rows = {}
    for name, weight in weights.items():
        size = weight.numel()
        row = {"name": name, "shape": list(weight.shape), "target": quotas[name].count / size}
        row |= {"achieved": masked.get(name, 0) / size, "damping": None, "damping_over_median_diagonal": None}
        row |= order.scores.get(name, {})
        rows[name] = row | (pruned[name].info if name in pruned else {}) | sinks
        if statistics and statistics.floor and order.method.needs != "nothing":
            rows[name] |= {"tokens": statistics.tokens, "fallback": "magnitude" if method is order.fallback else None}
        if order.measure and statistics:
            rows[name] |= statistics.relative_errors(weight, rounded[name].float() if name in rounded else weight)
    seconds = time.perf_counter() - started  # the checks above wait for the device
    total = sum(weight.numel() for weight in weights.values())
    return {name: row | {"seconds": seconds * weights[name].numel() / total} for name, row in rows.items()}


def check_weights(linears: dict[str, Linear]) -> None:
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
