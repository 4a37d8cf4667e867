"""A model's hidden states and logits on texts that are given: in batches of similar lengths, logits in chunks."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BATCH_TOKENS = 8192  # of one forward pass, padding included; fixed, since the cached states follow its batches
LOGIT_ELEMENTS = 1 << 24  # tokens x vocabulary of one chunk
LOGIT_ELEMENTS_ON_CARD = 1 << 27  # 1.6 GB with what is made of them; fewer tokens would mostly read lm_head


def length_sorted_batches(sequences: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[list[int]]:
    """Row numbers in batches of at most BATCH_TOKENS with padding, or of one row; similar lengths stand together."""
    lengths = [len(prompt) + len(output) for prompt, output in sequences]
    batches: list[list[int]] = []
    longest = 0
    for row in sorted(range(len(lengths)), key=lambda row: (-lengths[row], row)):
        if not batches or (len(batches[-1]) + 1) * longest > BATCH_TOKENS:
            batches.append([])
            longest = lengths[row]
        batches[-1].append(row)
    return batches


@torch.inference_mode()
def final_states(
    model: "PreTrainedModel", sequences: Sequence[tuple[np.ndarray, np.ndarray]], feed_last: bool = True
) -> torch.Tensor:
    """The hidden states, after the final norm, that predict each generated token: [generated tokens, hidden].

    Sequences are (prompt ids, output ids). Right padding needs no mask: attention is causal. The last token predicts
    none of them: feed_last=False leaves it out, where it would stand beyond the context.
    """
    lengths = [len(prompt) + len(output) - (not feed_last) for prompt, output in sequences]
    ids = torch.zeros(len(sequences), max(lengths), dtype=torch.int64)
    for row, (prompt, output) in enumerate(sequences):
        ids[row, : lengths[row]] = torch.as_tensor(np.concatenate([prompt, output])[: lengths[row]])
    hidden = model.base_model(input_ids=ids.to(model.device), use_cache=False).last_hidden_state
    kept = [
        hidden[row, len(prompt) - 1 : len(prompt) + len(output) - 1] for row, (prompt, output) in enumerate(sequences)
    ]
    return torch.cat(kept)


def output_logits(model: "PreTrainedModel", states: torch.Tensor) -> torch.Tensor:
    """Logits of final hidden states in the model's dtype, or in fp32 where Gemma, Granite or Cohere rescale them."""
    config = model.config.get_text_config()
    logits = model.get_output_embeddings()(states)
    scale = (getattr(config, "logit_scale", None) or 1.0) / (getattr(config, "logits_scaling", None) or 1.0)
    cap = getattr(config, "final_logit_softcapping", None)
    if scale != 1.0:
        logits = logits.float() * scale
    return torch.tanh(logits.float() / cap) * cap if cap else logits


def chunks(tokens: int, model: "PreTrainedModel") -> Iterator[slice]:
    """Slices of so many tokens that their logits are of about LOGIT_ELEMENTS elements, on a card many more."""
    weight = model.get_output_embeddings().weight
    size = max(1, (LOGIT_ELEMENTS_ON_CARD if weight.is_cuda else LOGIT_ELEMENTS) // weight.shape[0])
    return (slice(start, start + size) for start in range(0, tokens, size))
