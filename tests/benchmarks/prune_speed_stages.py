"""The seconds of prune_model's stages, from outside: its functions are wrapped, and the device is waited for at each.

That hinders what would overlap, so it is a run of its own, and the seconds that count are those of an undisturbed one.
"""

import importlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import reduce, wraps
from typing import Any

import torch

STAGES = {  # the innermost counts; what is in none of them is "rest": rounding, counting the mask, the report
    "forward": ("ssgr.pruning.activations:make_batches", "ssgr.pruning.activations:replay"),
    "gram": ("ssgr.pruning.statistics:InputStatistics.add", "ssgr.pruning.statistics:InputStatistics.gram"),
    "factor": ("ssgr.pruning.sparsegpt:factored",),
    "solve": (
        "ssgr.pruning.base:Pruner.prune_together",
        "ssgr.pruning.sparsegpt:SparseGPT.prune_together",
        "ssgr.pruning.wanda:Wanda.prune",
        "ssgr.pruning.magnitude:Magnitude.prune",
    ),
}


class Stages:
    """Seconds by stage, of what runs inside `watching`; `missing` names the functions that the program has no more."""

    def __init__(self, device: torch.device):
        self.device, self.seconds = device, dict.fromkeys((*STAGES, "rest"), 0.0)
        self.missing: list[str] = []
        self._inside, self._since = ["rest"], 0.0

    @contextmanager
    def watching(self) -> Iterator[None]:
        wrapped = []
        for stage, names in STAGES.items():
            for name in names:
                try:
                    owner, attribute = found(name)
                except (ImportError, AttributeError):
                    self.missing.append(name)
                    continue
                wrapped.append((owner, attribute, getattr(owner, attribute)))
                setattr(owner, attribute, self._timed(stage, wrapped[-1][2]))
        self._charge(None)
        try:
            yield
        finally:
            self._charge("rest")
            for owner, attribute, original in wrapped:
                setattr(owner, attribute, original)

    def _timed(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def call(*arguments: Any, **options: Any) -> Any:
            self._charge(self._inside[-1])
            self._inside.append(stage)
            try:
                return function(*arguments, **options)
            finally:
                self._charge(self._inside.pop())

        return call

    def _charge(self, stage: str | None) -> None:
        """Gives the time since the last call to a stage, or to none."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        if stage:
            self.seconds[stage] += now - self._since
        self._since = now


def found(name: str) -> tuple[Any, str]:
    """What holds the function (a module or a class), and the function's name in it."""
    module, _, path = name.partition(":")
    *owners, attribute = path.split(".")
    owner = reduce(getattr, owners, importlib.import_module(module))
    getattr(owner, attribute)
    return owner, attribute
