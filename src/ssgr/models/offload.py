"""Models larger than the accelerator (model.offload): decoder blocks wait in host memory and come one at a time.

A block's forward brings its weights to the device and lets go of them at its end, so that whatever runs the model works
as it is: dense states, divergence, perplexity, generation. Who works on a block for longer holds it there (`resident`).
The numbers are the same, because the same operations run on the same device.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import chain
from typing import Any

import torch
from torch import nn

from ssgr.models.blocks import decoder_blocks


def offload_blocks(model: nn.Module, device: torch.device) -> None:
    """Leaves the decoder blocks where they are and moves the rest (embeddings, last norm, head) to the device."""
    decoder, blocks = model.get_decoder(), decoder_blocks(model)
    decoder.layers = nn.ModuleList()
    model.to(device)
    decoder.layers = blocks
    for block in blocks:
        block.forward = VisitingForward(block, device)


def free_on_card(device: torch.device) -> int:
    """Bytes of a CUDA device's memory that this process may still take, what its allocator holds unused among them."""
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + unused


def resident(block: nn.Module, changing: bool = False) -> AbstractContextManager[None]:
    """The block's weights on the model's device for as long as this lasts; nothing to do for a model that is there.

    What is written into them is lost at the end, unless it was said that they are changing.
    """
    forward = vars(block).get("forward")
    return forward.visit(changing) if isinstance(forward, VisitingForward) else nullcontext()


class VisitingForward:
    """In the place of a block's forward: its class's own, with its weights on the device for as long as it runs."""

    def __init__(self, block: nn.Module, device: torch.device):
        self.block, self.device, self.visiting = block, device, False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with self.visit():
            return type(self.block).forward(self.block, *args, **kwargs)

    @contextmanager
    def visit(self, changing: bool = False) -> Iterator[None]:
        if self.visiting:
            yield
            return
        tensors = list(chain(self.block.parameters(), self.block.buffers()))
        waiting = [tensor.data for tensor in tensors]
        try:
            with torch.inference_mode(False):  # what it makes could not take a parameter's place
                for tensor, host in zip(tensors, waiting, strict=True):
                    tensor.data = host.to(self.device, copy=True)
            self.visiting = True
            yield
            if changing:
                for tensor, host in zip(tensors, waiting, strict=True):
                    host.copy_(tensor.data)
        finally:
            for tensor, host in zip(tensors, waiting, strict=True):
                tensor.data = host
            self.visiting = False
