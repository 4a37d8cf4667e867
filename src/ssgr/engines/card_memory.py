"""Tensors on a card, read where they lie by another process that uses the same card (CUDA IPC).

Nothing passes through the host. It is for cards whose driver shares memory between processes, and for weights that lie
on the card at all: shared_memory.py is the way for everything else.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

Handle = tuple[str, tuple[Any, ...]]  # name, and what torch needs to open the tensor
DEVICE = 6  # its place among the latter


def handles(tensors: dict[str, "Tensor"]) -> list[Handle]:
    """What one other process opens these CUDA tensors by, once; they must live until it is done with them.

    Raises RuntimeError where the driver does not share memory.
    """
    from torch.multiprocessing.reductions import reduce_tensor

    return [(name, reduce_tensor(tensor)[1]) for name, tensor in tensors.items()]


def opened(shared: Sequence[Handle], wanted: str) -> list[tuple[str, "Tensor"]]:
    """(name, tensor) of each handle: the other process's memory itself, whose fingerprint is `wanted`.

    Raises RuntimeError where it is not shared, or where other bytes are read than the other process has.
    """
    import torch
    from torch.multiprocessing.reductions import rebuild_cuda_tensor

    from ssgr.models.fingerprint import fingerprint

    here = torch.cuda.current_device()  # the card may have another number in the process that gave it
    found = [(name, rebuild_cuda_tensor(*parts[:DEVICE], here, *parts[DEVICE + 1 :])) for name, parts in shared]
    if fingerprint(tensor for _, tensor in found) != wanted:
        raise RuntimeError("what was read is not what lies there")
    return found
