"""The sampling loop: left-padded prompts, a preallocated cache, finished rows dropped on the way."""

import inspect
from collections.abc import Callable, Sequence

import torch
from transformers import PreTrainedModel

from ssgr.engines.base import Generation, Sampling
from ssgr.engines.decoding.kv_cache import GROWTH, RowCache, decoding_attention
from ssgr.engines.decoding.sampling import draw, row_uniforms
from ssgr.errors import CellError
from ssgr.models.offload import free_on_card

PREFILL_TOKENS = 16384  # prompt tokens, padding included, of one forward pass
SYNC_STEPS = 8  # steps between two looks at an accelerator; looking makes the host wait for it
REPORT_STEPS = 16
COMPACT_SHARE = 8  # a batch is compacted when one in so many of its rows has finished
MEMORY_SHARE = 0.8


def decode_batch(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[int],
    sampling: Sampling,
    end_ids: Sequence[int],
    context: int,
    on_tokens: Callable[[int, int], None] | None = None,
) -> list[Generation]:
    """Completions of one batch, in order; a row's cap is max_new_tokens or what its prompt leaves of the context."""
    rows = _rows_that_fit(model, prompts, sampling, context)
    generations: list[Generation] = []
    with torch.inference_mode(), decoding_attention(model):
        for start in range(0, len(prompts), rows):
            part = slice(start, start + rows)
            decoder = _Decoder(model, prompts[part], seeds[part], sampling, end_ids, context)
            generations += decoder.run(on_tokens or (lambda tokens, finished: None))
    return generations


def _rows_that_fit(model: PreTrainedModel, prompts: Sequence, sampling: Sampling, context: int) -> int:
    """How many rows an accelerator's free memory holds if every one of them reaches its cap."""
    if model.device.type != "cuda" or not prompts:
        return max(len(prompts), 1)
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    longest = min(max(map(len, prompts)) + sampling.max_new_tokens, context)
    cached = 2 * config.num_hidden_layers * heads * width * model.dtype.itemsize * longest
    sampled = 40 * config.vocab_size  # logits, probabilities, their sums in fp64 and what is sorted
    return max(1, min(len(prompts), int(MEMORY_SHARE * free_on_card(model.device) / (cached + sampled))))


class _Decoder:
    """The state of one batch; per-row tensors hold the rows that are still in it, and `index` says which they are."""

    def __init__(self, model, prompts, seeds, sampling: Sampling, end_ids: Sequence[int], context: int):
        self.model, self.sampling, self.device = model, sampling, model.device
        lengths = torch.tensor([len(prompt) for prompt in prompts])
        self.longest = int(lengths.max())
        caps = (context - lengths).clamp(max=sampling.max_new_tokens)
        self.steps = int(caps.max())
        padded = [[0] * (self.longest - len(prompt)) + list(prompt) for prompt in prompts]
        self.prompts = torch.tensor(padded, device=self.device)
        self.pads = (self.longest - lengths).to(self.device)
        self.caps = caps.to(self.device)
        self.ends = torch.tensor(list(end_ids), dtype=torch.int64, device=self.device)
        self.uniforms = row_uniforms(seeds, self.steps if sampling.temperature > 0 else 1, self.device)
        self.tokens = torch.zeros(len(prompts), self.steps, dtype=torch.int32, device=self.device)
        self.lengths = torch.zeros(len(prompts), dtype=torch.int64, device=self.device)
        self.done = torch.zeros(len(prompts), dtype=torch.bool, device=self.device)
        self.index = list(range(len(prompts)))
        self.generations: list[Generation | None] = [None] * len(prompts)
        self.reported = 0, 0
        self.retired_tokens = 0

        text = model.config.get_text_config()
        self.cache = RowCache(
            text.num_hidden_layers, len(prompts), self.longest + min(self.steps, max(GROWTH, self.longest))
        )
        self.padded = bool((lengths != self.longest).any())
        window = getattr(text, "sliding_window", None) or getattr(text, "attention_chunk_size", None)
        # a ready-made mask is the same for every layer and skips the model's own mask building at every step
        fits = window is None or self.longest + self.steps <= window
        self.ready_mask = fits and model.config._attn_implementation in ("sdpa", "ssgr_decoding")
        self.mask = self._slots_mask(self.cache.slots)
        takes_last = "logits_to_keep" in inspect.signature(model.forward).parameters
        self.options = {"use_cache": True, "past_key_values": self.cache} | (
            {"logits_to_keep": 1} if takes_last else {}
        )

    def _slots_mask(self, slots: int) -> torch.Tensor:
        """Which slots hold a token of the row, bool [rows, slots]; slots not written yet count as tokens."""
        return torch.arange(slots, device=self.device) >= self.pads[:, None]

    def run(self, on_tokens: Callable[[int, int], None]) -> list[Generation]:
        logits = self._prefill()
        every = 1 if self.device.type == "cpu" else SYNC_STEPS
        for step in range(self.steps):
            self._take(step, draw(logits, self._draws(step), self.sampling.temperature, self.sampling.top_p))
            last = step + 1 == self.steps
            if last or (step + 1) % every == 0:
                self._retire(logits, last)
                if last or not self.index or (step + 1) % REPORT_STEPS == 0:
                    self._report(on_tokens)
                if not self.index:
                    break
            logits = self._forward(step)
        return self.generations

    def _draws(self, step: int) -> torch.Tensor:
        return self.uniforms[:, min(step, self.uniforms.shape[1] - 1)]

    def _take(self, step: int, tokens: torch.Tensor) -> None:
        """Appends one token to every row that has not finished."""
        self.tokens[:, step] = tokens
        self.lengths += ~self.done
        self.done |= self.lengths >= self.caps
        self.done |= (tokens[:, None] == self.ends).any(1)

    def _retire(self, logits: torch.Tensor, everything: bool) -> None:
        """Turns finished rows into generations and drops them, once enough of them wait for it."""
        finished = int(self.done.sum())
        if not everything and finished < len(self.index) and finished * COMPACT_SHARE < len(self.index):
            return
        if bool(logits.isnan().any()):
            raise CellError("the model's logits are not finite (NaN): its weights cannot be generated from")
        rows = self.done.nonzero().squeeze(1)
        lengths, tokens = self.lengths[rows].tolist(), self.tokens[rows].tolist()
        ends = set(self.ends.tolist())
        for row, length, output in zip(rows.tolist(), lengths, tokens, strict=True):
            output = output[:length]
            reason = "stop" if output[-1] in ends else "length"
            self.generations[self.index[row]] = Generation(output, reason)
        self.retired_tokens += sum(lengths)
        kept = (~self.done).nonzero().squeeze(1)
        self.index = [self.index[row] for row in kept.tolist()]
        if self.index:
            self._keep(kept)

    def _keep(self, kept: torch.Tensor) -> None:
        for name in ("pads", "caps", "uniforms", "tokens", "lengths", "done"):
            setattr(self, name, getattr(self, name)[kept])
        first = int(self.pads.min())  # padding that no row needs any more
        self.cache.keep(kept, first)
        self.pads = self.pads - first
        self.longest -= first
        self.padded = bool((self.pads > 0).any())
        self.mask = self._slots_mask(self.cache.slots)

    def _prefill(self) -> torch.Tensor:
        """Runs the prompts, a few rows at a time; returns the logits of their last tokens, [rows, vocabulary]."""
        rows = max(1, PREFILL_TOKENS // self.longest)
        logits = []
        for start in range(0, len(self.prompts), rows):
            part = slice(start, start + rows)
            pads = self.pads[part]
            slots = torch.arange(self.longest, device=self.device)
            mask = None
            if self.padded and self.ready_mask:
                tokens = slots >= pads[:, None]
                # a padded slot sees itself: a row of the softmax without any key would be NaN
                mask = (slots[:, None] >= slots) & tokens[:, None, :] | torch.eye(
                    self.longest, dtype=torch.bool, device=self.device
                )
                mask = mask[:, None]
            elif self.padded:
                mask = (slots >= pads[:, None]).long()
            self.cache.window = part
            positions = (slots - pads[:, None]).clamp(min=0)
            output = self.model(self.prompts[part], attention_mask=mask, position_ids=positions, **self.options)
            logits.append(output.logits[:, -1])
        self.cache.window = None
        self.cache.length = self.longest
        return torch.cat(logits)

    def _forward(self, step: int) -> torch.Tensor:
        """Feeds the tokens drawn at `step`; returns the logits that follow them, [rows, vocabulary]."""
        self.cache.reserve()
        if self.mask.shape[1] < self.cache.slots:
            self.mask = self._slots_mask(self.cache.slots)
        mask = None
        if self.padded:
            mask = self.mask[:, : self.cache.length + 1]
            mask = mask[:, None, None] if self.ready_mask else mask.long()
        positions = (self.longest + step - self.pads)[:, None]
        output = self.model(
            self.tokens[:, step, None].long(), attention_mask=mask, position_ids=positions, **self.options
        )
        self.cache.length += 1
        return output.logits[:, -1]

    def _report(self, on_tokens: Callable[[int, int], None]) -> None:
        tokens = self.retired_tokens + int(self.lengths[~self.done].sum() if self.index else 0)
        finished = len(self.generations) - len(self.index)
        on_tokens(tokens - self.reported[0], finished - self.reported[1])
        self.reported = tokens, finished
