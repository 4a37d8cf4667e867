"""The engine that needs nothing but transformers: a lean sampling loop around any decoder's forward pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING

from ssgr.config import EngineConfig
from ssgr.engines.base import ENGINES, Generation, Sampling
from ssgr.errors import UserError

if TYPE_CHECKING:
    from ssgr.models.load import LoadedModel

CPU_ROWS, ACCELERATOR_ROWS = 64, 1024


@ENGINES.register("hf")
class HfEngine:
    """Generates with the loaded model itself, so weights that were changed in place need no copy.

    Generality costs speed: the decoder layers are transformers' own modules, about 50 small kernels a layer and step.
    """

    name = "hf"

    def __init__(self, config: EngineConfig, loaded: LoadedModel):
        self.loaded = loaded
        self.batch_size = config.batch_size or (CPU_ROWS if loaded.device.type == "cpu" else ACCELERATOR_ROWS)
        self.identity = {"engine": "hf", "torch": version("torch"), "transformers": version("transformers")}

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[int],
        sampling: Sampling,
        on_tokens: Callable[[int, int], None] | None = None,
    ) -> list[Generation]:
        """One completion per prompt, in order; `on_tokens(new_tokens, finished_rows)` is called every few steps.

        Raises UserError for a prompt that leaves no room in the context, CellError when the logits are not finite.
        """
        from ssgr.engines.decoding.loop import decode_batch

        context = self.loaded.context
        for number, prompt in enumerate(prompts):
            if not 0 < len(prompt) < context:
                raise UserError(f"prompt {number} has {len(prompt)} tokens; the model's context holds {context}")
        generations: list[Generation] = []
        for start in range(0, len(prompts), self.batch_size):
            rows = slice(start, start + self.batch_size)
            generations += decode_batch(
                self.loaded.model, prompts[rows], seeds[rows], sampling, self.end_ids(), context, on_tokens
            )
        return generations

    def end_ids(self) -> list[int]:
        """Every token that ends a completion: the generation config's and the tokenizer's."""
        declared = self.loaded.model.generation_config.eos_token_id
        ends = set(declared if isinstance(declared, list | tuple) else [declared])
        ends.add(getattr(self.loaded.tokenizer, "eos_token_id", None))
        return sorted(end for end in ends if end is not None)

    def weights_changed(self) -> None:
        """Nothing to do: the engine generates with the model object itself."""

    def close(self) -> None:
        """Nothing to free: the model belongs to whoever loaded it."""
