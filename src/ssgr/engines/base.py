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


Prompts = Sequence[Sequence[int]]  # token ids of each
Finished = tuple[list[int], list[Generation]]  # which prompts, and what was generated for each
OnTokens = Callable[[int, int], None] | None  # told of new tokens and of finished rows, now and then


def end_ids(loaded: Any) -> list[int]:
    """Every token that ends a completion of a LoadedModel: the generation config's and the tokenizer's."""
    declared = loaded.model.generation_config.eos_token_id
    ends = set(declared if isinstance(declared, list | tuple) else [declared])
    ends.add(getattr(loaded.tokenizer, "eos_token_id", None))
    return sorted(end for end in ends if end is not None)


class Engine(ABC):
    """Generates completions for token-id prompts.

    `batch_size` is the number of rows that are stored together. An engine is made from its options and the loaded
    model, with `longest` (the largest number of new tokens that the cell can ask for) and `log_folder`. The model's
    weights may change in place between two calls: what is generated is always of the weights as they stand.
    `seconds` were spent on generating so far, without what starting takes and whoever reads the completions.
    """

    name: str
    seconds: float = 0.0
    batch_size: int
    identity: dict[str, str]  # name and versions: what enters a cache key beside the weights

    @abstractmethod
    def stream(
        self, prompts: Prompts, seeds: Sequence[int], sampling: Sampling, on_tokens: OnTokens = None
    ) -> Iterator[Finished]:
        """One completion per prompt, in groups that are worth storing as they come.

        Each row has its own seed; whether its draws depend on it alone is the engine's affair.
        """

    def generate(
        self, prompts: Prompts, seeds: Sequence[int], sampling: Sampling, on_tokens: OnTokens = None
    ) -> list[Generation]:
        """The same in one list, in the prompts' order."""
        made: list[Generation | None] = [None] * len(prompts)
        for rows, generations in self.stream(prompts, seeds, sampling, on_tokens):
            for row, generation in zip(rows, generations, strict=True):
                made[row] = generation
        return made

    def close(self) -> None:  # noqa: B027  most engines hold nothing for one cell alone
        """Frees what the engine holds for this cell; calling it twice does no harm."""
