"""The engine that needs nothing but transformers: a lean sampling loop around any decoder's forward pass."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from ssgr.config import EngineConfig
from ssgr.engines.base import ENGINES, Engine, Finished, OnTokens, Prompts, Sampling, end_ids
from ssgr.errors import UserError

if TYPE_CHECKING:
    from ssgr.models.load import LoadedModel

CPU_ROWS, ACCELERATOR_ROWS = 64, 1024


@ENGINES.register("hf")
class HfEngine(Engine):
    """Generates with the loaded model itself, so weights that were changed in place need no copy.

    Generality costs speed: the decoder layers are transformers' own modules, about 50 small kernels a layer and step.
    """

    name = "hf"

    def __init__(self, config: EngineConfig, loaded: LoadedModel, *, longest: int = 0, log_folder: Path | None = None):
        self.loaded = loaded
        self.batch_size = config.batch_size or (CPU_ROWS if loaded.device.type == "cpu" else ACCELERATOR_ROWS)
        self.identity = {"engine": "hf", "torch": version("torch"), "transformers": version("transformers")}

    def stream(
        self, prompts: Prompts, seeds: Sequence[int], sampling: Sampling, on_tokens: OnTokens = None
    ) -> Iterator[Finished]:
        """Fixed batches of batch_size prompts, in order; a row's draws depend on its own seed alone.

        `on_tokens(new_tokens, finished_rows)` is called every few steps. Raises UserError for a prompt that leaves no
        room in the context, CellError when the logits are not finite.
        """
        from ssgr.engines.decoding.loop import decode_batch

        context = self.loaded.context
        for number, prompt in enumerate(prompts):
            if not 0 < len(prompt) < context:
                raise UserError(f"prompt {number} has {len(prompt)} tokens; the model's context holds {context}")
        ends = end_ids(self.loaded)
        for start in range(0, len(prompts), self.batch_size):
            rows, before = slice(start, start + self.batch_size), time.monotonic()
            made = decode_batch(self.loaded.model, prompts[rows], seeds[rows], sampling, ends, context, on_tokens)
            self.seconds += time.monotonic() - before
            yield list(range(start, start + len(made))), made
