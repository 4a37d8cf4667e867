"""A preallocated key-value cache whose rows can be dropped, and decoding attention that reads it without copies."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.cache_utils import Cache, CacheLayerMixin
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

GROWTH = 256  # slots; a cache grows by at least so many, and by half of what it has


class RowLayer(CacheLayerMixin):
    """One layer's keys and values, [rows, heads, slots, width], written in place."""

    is_sliding = False

    def __init__(self, owner: "RowCache"):
        super().__init__()
        self.owner = owner

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        def empty(states: torch.Tensor) -> torch.Tensor:
            return states.new_empty(self.owner.rows, states.shape[1], self.owner.slots, states.shape[3])

        self.keys, self.values = empty(key_states), empty(value_states)
        self.is_initialized = True

    def update(self, key_states, value_states, *args, **kwargs):
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start = self.owner.length
        end = start + key_states.shape[2]
        keys, values = self.keys, self.values
        if self.owner.window is not None:
            keys, values = keys[self.owner.window], values[self.owner.window]
        keys[:, :, start:end] = key_states
        values[:, :, start:end] = value_states
        return keys[:, :, :end], values[:, :, :end]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.owner.length + query_length, 0

    def get_seq_length(self) -> int:
        return self.owner.length

    def get_max_length(self) -> int:
        return -1

    def resize(self, rows: torch.Tensor | None, first: int, slots: int) -> None:
        """Keeps `rows` (None: all) and the filled slots from `first` on, in new storage of `slots`."""
        length = self.owner.length - first

        def moved(states: torch.Tensor) -> torch.Tensor:
            kept = states[:, :, first : self.owner.length]
            target = states.new_empty(
                len(states) if rows is None else len(rows), states.shape[1], slots, states.shape[3]
            )
            target[:, :, :length] = kept if rows is None else kept.index_select(0, rows)
            return target

        self.keys = moved(self.keys)  # one after the other: at most one tensor is held twice
        self.values = moved(self.values)


class RowCache(Cache):
    """The cache of one batch. All rows share the slot that is written next: prompts are left-padded.

    `length` counts filled slots and is advanced by the loop, once every layer has written. `window` restricts a
    forward pass to some rows, so that a prefill can go a few rows at a time.
    """

    def __init__(self, layers: int, rows: int, slots: int):
        self.rows, self.slots, self.length = rows, slots, 0
        self.window: slice | None = None
        super().__init__(layers=[RowLayer(self) for _ in range(layers)])

    def reserve(self) -> None:
        """Makes room for one more slot."""
        if self.length == self.slots:
            self.slots += max(GROWTH, self.slots // 2)
            self._resize(None, 0)

    def keep(self, rows: torch.Tensor, first: int) -> None:
        """Drops every row but `rows` (int64 [kept]) and the first slots, which were padding in all of them."""
        self.rows, self.slots = len(rows), self.slots - first
        self._resize(rows, first)
        self.length -= first

    def _resize(self, rows: torch.Tensor | None, first: int) -> None:
        for layer in self.layers:
            if layer.is_initialized:
                layer.resize(rows, first, self.slots)


def grouped_decode_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs,
) -> tuple[torch.Tensor, None]:
    """transformers' sdpa attention, but one query token per row reads grouped keys as they lie in the cache.

    The query heads that share a key head become its query positions, which is the same sum: repeating keys and values
    for every query head costs more than the attention itself. Returns [rows, 1, heads, width].
    """
    rows, heads, length, width = query.shape
    groups = key.shape[1]
    shared_mask = attention_mask is None or attention_mask.shape[1] == 1
    if length != 1 or not shared_mask or kwargs.get("position_bias") is not None or heads % groups:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    grouped = query.reshape(rows, groups, heads // groups, width)
    output = nn.functional.scaled_dot_product_attention(grouped, key, value, attn_mask=attention_mask, scale=scaling)
    return output.reshape(rows, 1, heads, value.shape[3]), None


DECODING = "ssgr_decoding"
AttentionInterface.register(DECODING, grouped_decode_attention)
AttentionMaskInterface.register(DECODING, sdpa_mask)


@contextmanager
def decoding_attention(model: PreTrainedModel) -> Iterator[None]:
    """Swaps sdpa for the grouped attention while the block runs; a model that runs another attention keeps it.

    cuDNN's attention is left out: it plans for every new length of the cache, 80 ms at each step of a first batch.
    """
    before = model.config._attn_implementation
    if before == "sdpa":
        model.config._attn_implementation = DECODING
    try:
        with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]):
            yield
    finally:
        model.config._attn_implementation = before
