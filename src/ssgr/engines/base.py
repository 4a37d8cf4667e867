"""What a generation engine is: token ids in, token ids and a finish reason out."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

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


def end_ids(loaded: Any) -> list[int]:
    """Every token that ends a completion of a LoadedModel: the generation config's and the tokenizer's."""
    declared = loaded.model.generation_config.eos_token_id
    ends = set(declared if isinstance(declared, list | tuple) else [declared])
    ends.add(getattr(loaded.tokenizer, "eos_token_id", None))
    return sorted(end for end in ends if end is not None)


class Engine(ABC):
    """Generates completions for token-id prompts.

    `batch_size` is the number of rows that are stored together. An engine is made from its options and the loaded
    model, with `longest` (the largest number of new tokens that the cell can ask for) and `log_folder`.
    """

    name: str
    batch_size: int
    identity: dict[str, str]  # name and versions: what enters a cache key beside the weights

    @abstractmethod
    def stream(
        self,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[int],
        sampling: Sampling,
        on_tokens: Callable[[int, int], None] | None = None,
    ) -> Iterator[tuple[list[int], list[Generation]]]:
        """One completion per prompt, in groups that are worth storing as they come: which prompts, what was generated.

        `on_tokens(new_tokens, finished_rows)` is called now and then. Each row has its own seed; whether its draws
        depend on it alone is the engine's affair.
        """

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[int],
        sampling: Sampling,
        on_tokens: Callable[[int, int], None] | None = None,
    ) -> list[Generation]:
        """The same in one list, in the prompts' order."""
        made: list[Generation | None] = [None] * len(prompts)
        for rows, generations in self.stream(prompts, seeds, sampling, on_tokens):
            for row, generation in zip(rows, generations, strict=True):
                made[row] = generation
        return made

    def weights_changed(self) -> None:  # noqa: B027  most engines look at the weights themselves
        """Called after the model that the engine was made from was changed in place."""

    def close(self) -> None:  # noqa: B027
        """Frees what the engine holds for this cell; calling it twice does no harm."""
