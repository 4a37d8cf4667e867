"""Tensors on their way to another process of this machine, part after part through one nameless piece of memory.

It has no file that a killed program could leave behind, and does not count against the size of /dev/shm.
"""

import math
import mmap
import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

PART_BYTES = 2**28  # what the memory holds at a time, unless one tensor is larger
ALIGNED = 64  # bytes, so that every dtype may begin here

Place = tuple[str, str, list[int], int]  # name, dtype, shape, offset in bytes


def written_parts(tensors: dict[str, "Tensor"], part_bytes: int = PART_BYTES) -> Iterator[tuple[str, list[Place]]]:
    """(path, places) of each part; it is there until the next is asked for. The path opens as long as we run."""
    sizes = {name: tensor.numel() * tensor.element_size() for name, tensor in tensors.items()}
    room = max([part_bytes, *sizes.values()])
    with open(os.memfd_create("ssgr"), "r+b", buffering=0) as file:
        file.truncate(room)
        memory = mmap.mmap(file.fileno(), room)
        path, places, offset = f"/proc/{os.getpid()}/fd/{file.fileno()}", [], 0
        for name, tensor in tensors.items():
            if offset + sizes[name] > room:
                yield path, places
                places, offset = [], 0
            place = (name, str(tensor.dtype).removeprefix("torch."), list(tensor.shape), offset)
            _view(memory, *place[1:]).copy_(tensor)
            places.append(place)
            offset += -(-sizes[name] // ALIGNED) * ALIGNED
        if places:
            yield path, places


def read_part(path: str, places: Iterable[Place]) -> Iterator[tuple[str, "Tensor"]]:
    """(name, tensor) of each place: on the CPU, the memory itself and no copy of it."""
    with open(path, "rb") as file:
        memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)  # torch warns of what cannot be written
    for name, *place in places:
        yield name, _view(memory, *place)


def _view(memory: mmap.mmap, dtype: str, shape: list[int], offset: int) -> "Tensor":
    import torch

    return torch.frombuffer(memory, dtype=getattr(torch, dtype), count=math.prod(shape), offset=offset).view(shape)
