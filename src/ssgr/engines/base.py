"""What a generation engine is: token ids in, token ids and a finish reason out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from ssgr.registry import Registry

ENGINES: Registry = Registry("engine", "ssgr.engines")


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn: temperature 0 is greedy; top_p 1 keeps the whole vocabulary."""

    temperature: float
    top_p: float
    max_new_tokens: int


@dataclass(frozen=True)
class Generation:
    """One completion, exactly as sampled; with finish_reason `stop`, output_ids ends in the end-of-sequence token."""

    output_ids: list[int]
    finish_reason: str  # stop | length | repetition


class Engine(Protocol):
    """Generates completions for token-id prompts.

    `batch_size` is the number of rows of one stored batch, fixed for an engine and device: callers that must resume
    exactly hand over whole batches. A row's draws depend on its own seed alone, never on its neighbours.
    """

    name: str
    batch_size: int
    identity: dict[str, str]  # name and versions: what enters a cache key beside the weights

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[int],
        sampling: Sampling,
        on_tokens: Callable[[int, int], None] | None = None,
    ) -> list[Generation]:
        """One completion per prompt, in order. `on_tokens(new_tokens, finished_rows)` is called now and then."""

    def weights_changed(self) -> None:
        """Called after the model that the engine was made from was changed in place."""

    def close(self) -> None:
        """Frees what the engine holds; calling it twice does no harm."""
