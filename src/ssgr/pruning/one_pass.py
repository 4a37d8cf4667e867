"""Many answers from one calibration pass (pruner.one_pass): the first cell prunes for those that come after it.

Held until its cell takes it: each answer's pruned weights, in the model's dtype, 2 bytes a weight in bf16; on the card
while half of what was free there lasts, then in host memory. A pass serves as many cells as fit into half of the host
memory that is free, and the first cell that it did not serve starts another. Nothing lies on disk, so a process that is
killed loses answers and leaves nothing behind.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ssgr.errors import CellError, UserError, first_line
from ssgr.models.blocks import model_linears
from ssgr.models.load import LoadedModel
from ssgr.models.offload import free_on_card
from ssgr.progress import say
from ssgr.pruning.loop import PruneReport, Request, prune_for, prune_model

MEMINFO, CONTAINER = Path("/proc/meminfo"), Path("/sys/fs/cgroup")
UNKNOWN = 4 * 2**30  # bytes taken to be free where the system does not say


@dataclass
class Answer:
    """The pruned weights of one request, by linear, in the model's dtype; on the model's device or in host memory."""

    request: Request
    report: PruneReport
    weights: dict[str, torch.Tensor] = field(repr=False)

    def put_into(self, model: torch.nn.Module) -> None:
        """Into the dense model that it was made from; the same bits as if the model had been pruned in place."""
        linears = model_linears(model)
        for name, weight in self.weights.items():
            linears[name].weight.data.copy_(weight)


@dataclass
class Pass:
    """What is left of a pass: the answers that no cell has taken yet. `source` is what it was calibrated on."""

    source: str = ""
    answers: list[Answer] = field(default_factory=list)
    failed: bool = False

    def take(self, request: Request) -> Answer | None:
        found = next((answer for answer in self.answers if answer.request == request), None)
        if found:
            self.answers.remove(found)
        return found


latest = Pass()  # of this process; another model or calibration set, or nobody left to serve, ends it


def prune_with_others(
    loaded: LoadedModel,
    sequences: list[np.ndarray] | None,
    weights: list[np.ndarray] | None,
    request: Request,
    others: list[Request],
    on_block: Callable[[dict[str, Any]], None] | None = None,
) -> PruneReport:
    """Prunes the model in place as `prune_model` does, by an answer of an earlier pass where there is one.

    Else `others`, requests that will come for the same model and the same calibration data, are answered in the same
    pass. Where that fails, for whichever of them, it is said, and each is pruned by itself. `on_block` then gets the
    rows of all blocks at the end.
    """
    global latest
    source = fingerprint(loaded, sequences, weights) if others or latest.answers else ""
    if latest.source != source:
        latest = Pass(source)
    answer = latest.take(request)
    if answer is None and not latest.failed:
        held = [found.request for found in latest.answers]
        asked = [request, *(other for other in others if other not in held)][: room(loaded)]
        if len(asked) > 1:
            serve(loaded, sequences, weights, asked)
            answer = latest.take(request)
    if not others:
        latest = Pass()
    if answer is None:
        return prune_model(
            loaded, sequences, weights, request.pruner, request.allocation, request.sparsity, on_block=on_block
        )
    answer.put_into(loaded.model)
    for row in answer.report.blocks if on_block else []:
        on_block(row)
    return answer.report


def serve(
    loaded: LoadedModel,
    sequences: list[np.ndarray] | None,
    weights: list[np.ndarray] | None,
    requests: list[Request],
) -> None:
    """Adds the answers of one pass to the latest, or notes that it failed."""
    say(f"one calibration pass for {len(requests)} cells (pruner.one_pass)")
    try:
        latest.answers += answers(loaded, sequences, weights, requests)
    except (CellError, UserError, MemoryError, torch.OutOfMemoryError) as error:
        latest.failed = True
        say(f"one pass for {len(requests)} cells failed ({first_line(error)}): each is pruned by itself")


def answers(
    loaded: LoadedModel,
    sequences: list[np.ndarray] | None,
    weights: list[np.ndarray] | None,
    requests: list[Request],
) -> list[Answer]:
    """The answer to each request, in their order; the model stays dense. What is raised is as in `prune_for`."""
    found: list[dict[str, torch.Tensor]] = [{} for _ in requests]
    left = free_on_card(loaded.device) // 2 if loaded.device.type == "cuda" else 0

    def keep(number: int, name: str, weight: torch.Tensor) -> None:
        nonlocal left
        left -= weight.nbytes
        found[number][name] = weight if left >= 0 else weight.to("cpu")

    reports = prune_for(loaded, sequences, weights, requests, keep)
    return [Answer(*parts) for parts in zip(requests, reports, found, strict=True)]


def room(loaded: LoadedModel) -> int:
    """How many answers a pass may hold beside one another."""
    weights = [linear.weight for linear in model_linears(loaded.model).values()]
    return free_memory() // 2 // sum(weight.nbytes for weight in weights)


def free_memory() -> int:
    """Bytes of memory that this process may still take: of the machine, or of its container where that has less."""
    try:
        lines = dict(line.split(":") for line in MEMINFO.read_text().splitlines())
        free = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, ValueError, KeyError):
        return UNKNOWN
    try:
        taken = dict(line.split() for line in (CONTAINER / "memory.stat").read_text().splitlines())
        # what it holds of files is given back when memory is short
        return min(free, int((CONTAINER / "memory.max").read_text()) - int(taken["anon"]))
    except (OSError, ValueError, KeyError):  # no container, or one without a limit ("max")
        return free


def fingerprint(loaded: LoadedModel, sequences: list[np.ndarray] | None, weights: list[np.ndarray] | None) -> str:
    """A hash of what statistics are made of: the dense model, and every token with its weight."""
    digest = hashlib.sha256(f"{loaded.weights_hash} {loaded.model.dtype} {loaded.device}".encode())
    for arrays in (sequences, weights):
        for array in arrays or []:
            digest.update(f"{array.dtype} {len(array)} ".encode())
            digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()
