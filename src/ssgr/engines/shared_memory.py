"""Tensors on their way to another process of this machine, part after part through nameless memory.

It has no file that a killed program could leave behind, and does not count against the size of /dev/shm.
"""

import math
import mmap
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

PART_BYTES = 2**28  # what a piece of memory holds at a time, unless one tensor is larger
ALIGNED = 64  # bytes, so that every dtype may begin here

Place = tuple[str, str, list[int], int]  # name, dtype, shape, offset in bytes


@contextmanager
def written_parts(
    tensors: dict[str, "Tensor"], part_bytes: int = PART_BYTES
) -> Iterator[Iterator[tuple[str, list[Place]]]]:
    """Gives (path, places) of one part after the other; the paths open until this ends.

    A part is there until the next but one is asked for: two pieces of memory take turns, so that one is read while the
    other is written.
    """
    sizes = {name: tensor.numel() * tensor.element_size() for name, tensor in tensors.items()}
    room = max([part_bytes, *sizes.values()])
    parts: list[list[str]] = []
    left = 0
    for name, size in sizes.items():
        if size > left:
            parts.append([])
            left = room
        parts[-1].append(name)
        left -= aligned(size)
    with ExitStack() as opened:
        pieces = [opened.enter_context(piece(room)) for _ in parts[:2]]
        yield (
            _written(*pieces[number % 2], {name: tensors[name] for name in part}) for number, part in enumerate(parts)
        )


def _written(memory: mmap.mmap, path: str, tensors: dict[str, "Tensor"]) -> tuple[str, list[Place]]:
    places: list[Place] = []
    offset = 0
    for name, tensor in tensors.items():
        places.append((name, str(tensor.dtype).removeprefix("torch."), list(tensor.shape), offset))
        _view(memory, *places[-1][1:]).copy_(tensor)
        offset += aligned(tensor.numel() * tensor.element_size())
    return path, places


@contextmanager
def piece(size: int) -> Iterator[tuple[mmap.mmap, str]]:
    """So many bytes of memory, and the path that opens them meanwhile."""
    with open(os.memfd_create("ssgr"), "r+b", buffering=0) as file:
        file.truncate(size)
        yield mmap.mmap(file.fileno(), size), f"/proc/{os.getpid()}/fd/{file.fileno()}"


def aligned(size: int) -> int:
    return -(-size // ALIGNED) * ALIGNED


def read_part(path: str, places: Iterable[Place]) -> Iterator[tuple[str, "Tensor"]]:
    """(name, tensor) of each place: on the CPU, the memory itself and no copy of it."""
    with open(path, "rb") as file:
        memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)  # torch warns of what cannot be written
    for name, *place in places:
        yield name, _view(memory, *place)


def _view(memory: mmap.mmap, dtype: str, shape: list[int], offset: int) -> "Tensor":
    import torch

    return torch.frombuffer(memory, dtype=getattr(torch, dtype), count=math.prod(shape), offset=offset).view(shape)
