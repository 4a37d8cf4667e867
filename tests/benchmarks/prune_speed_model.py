"""What prune_speed.py prunes: a model whose numbers are as hard as a real one's, its tokens, and its weights again."""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from cost import SHAPES, random_model
from engines import composed
from torch import nn

from ssgr.models.blocks import decoder_blocks, model_linears
from ssgr.models.load import LoadedModel, load_model

OUTLIERS, LEAST, MOST = 4, 20.0, 50.0  # channels of an input, and how many times the others they are
SINK_ID, SINK_CHANNEL = 0, 0  # the first token of every sequence, and where its embedding stands out
MASSIVE = 20_000.0  # its value there: it outlasts what the blocks add
SINK_NORM = 680.0  # at down_proj's input, as design.md section 7 measured on a real model
GATED = 0.5  # standard deviation of gate_proj's and up_proj's outputs: a median token's norm is then 10 to 20


def block_count(text: str) -> int | None:
    return None if text == "all" else int(text)


def subject(given: argparse.Namespace, device: torch.device) -> tuple[LoadedModel, list[np.ndarray]]:
    """The model, of as many blocks as asked for, and its calibration sequences, int32 [tokens] each."""
    if given.model:
        named = [] if str(given.model) == "bundled" else ["model=hub", f"model.path={given.model}"]
        loaded = load_model(composed(named).model, device)
        cut_short(loaded.model, given.blocks)
    else:
        loaded = random_model(SHAPES[given.shape], given.blocks or SHAPES[given.shape].blocks, device)
        harden(loaded.model)
    count, length = given.tokens
    if given.traces:
        return loaded, trace_sequences(given.traces, count * length, length)
    return loaded, random_sequences(loaded.model.config.vocab_size, count, length)


@torch.no_grad()
def harden(model: nn.Module) -> None:
    """Outlier channels in the residual stream and at every down_proj's input, and a sink at position 0.

    The residual stream's are the norms' weights, the same in all blocks; down_proj's are rows of up_proj. The sink
    token's embedding is one huge channel, so that the norms turn it into a vector of its own, and one neuron of each
    block answers to that. The other tokens' gated products are brought to a real model's size.
    """
    generator = torch.Generator().manual_seed(1)  # on the CPU: the same channels on every card
    embedding = model.get_input_embeddings().weight
    embedding[:, SINK_CHANNEL] = 0.0
    embedding[SINK_ID, SINK_CHANNEL] = MASSIVE
    hidden = embedding.shape[1]
    channels = 1 + torch.randperm(hidden - 1, generator=generator)[:OUTLIERS]
    sizes = times(generator).to(embedding)
    for block in decoder_blocks(model):
        for norm in (block.input_layernorm, block.post_attention_layernorm):
            norm.weight[channels] = sizes
        gate, up = block.mlp.gate_proj.weight, block.mlp.up_proj.weight
        spread = (hidden + float(sizes.square().sum())) ** 0.5
        for weight in (gate, up):
            weight.mul_(GATED / (spread * float(weight.std())))
        *outliers, sink = torch.randperm(len(up), generator=generator)[: OUTLIERS + 1].tolist()
        up[outliers] *= times(generator).to(up)[:, None]
        gate[sink, SINK_CHANNEL] = up[sink, SINK_CHANNEL] = (SINK_NORM / hidden) ** 0.5  # the norm gives it √hidden


def times(generator: torch.Generator) -> torch.Tensor:
    return LEAST + (MOST - LEAST) * torch.rand(OUTLIERS, generator=generator)


def random_sequences(vocabulary: int, count: int, length: int) -> list[np.ndarray]:
    ids = np.random.default_rng(0).integers(SINK_ID + 1, vocabulary, (count, length), dtype=np.int32)
    ids[:, 0] = SINK_ID
    return list(ids)


def trace_sequences(path: Path, tokens: int, longest: int) -> list[np.ndarray]:
    """Traces of a Parquet file in a random order, correct ones where it says which, until they hold so many tokens."""
    rows = pd.read_parquet(path)
    if "correct" in rows:
        rows = rows[rows["correct"].astype("boolean").fillna(False)]
    sequences, left = [], tokens
    for row in np.random.default_rng(0).permutation(len(rows)):
        trace = np.concatenate([rows["prompt_ids"].iloc[row], rows["output_ids"].iloc[row]]).astype(np.int32)
        sequences.append(trace[: min(longest, left)])
        left -= len(sequences[-1])
        if left == 0:
            return sequences
    raise SystemExit(f"--traces {path} holds {tokens - left:,} tokens of correct traces and {tokens:,} are asked for")


def cut_short(model: nn.Module, blocks: int | None) -> None:
    model.get_decoder().layers = decoder_blocks(model)[:blocks]


@contextmanager
def shortened(model: nn.Module, blocks: int) -> Iterator[None]:
    """The model's first blocks alone, for as long as this lasts."""
    whole = decoder_blocks(model)
    cut_short(model, blocks)
    try:
        yield
    finally:
        model.get_decoder().layers = whole


class Originals:
    """The dense weights of a model's linears on the host, to prune the same model again and again."""

    def __init__(self, model: nn.Module):
        self.model = model
        self.copies = {name: on_host(linear.weight) for name, linear in model_linears(model).items()}

    def restore(self) -> None:
        for name, linear in model_linears(self.model).items():
            linear.weight.data.copy_(self.copies[name])


def on_host(weight: torch.Tensor) -> torch.Tensor:
    """A copy in memory from which it is quickly brought back."""
    copy = torch.empty(weight.shape, dtype=weight.dtype, pin_memory=weight.device.type == "cuda")
    return copy.copy_(weight)
