"""Tensors on a card, read where they lie by another process that uses the same card (CUDA IPC).

Nothing passes through the host. It is for cards whose driver shares memory between processes, and for weights that lie
on the card at all: shared_memory.py is the way for everything else.
"""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

Handle = tuple[str, tuple[Any, ...]]  # name, and what torch needs to open the tensor
DEVICE = 6  # its place among the latter


def handles(tensors: dict[str, "Tensor"]) -> list[Handle]:
    """What another process opens these CUDA tensors by; they must live until it is done with them.

    Raises RuntimeError where the driver does not share memory.
    """
    from torch.multiprocessing.reductions import reduce_tensor

    return [(name, reduce_tensor(tensor)[1]) for name, tensor in tensors.items()]


def opened(shared: Iterable[Handle]) -> Iterator[tuple[str, "Tensor"]]:
    """(name, tensor) of each handle: the other process's memory itself. Raises RuntimeError where it is not shared."""
    import torch
    from torch.multiprocessing.reductions import rebuild_cuda_tensor

    here = torch.cuda.current_device()  # the card may have another number in the process that gave it
    for name, parts in shared:
        yield name, rebuild_cuda_tensor(*parts[:DEVICE], here, *parts[DEVICE + 1 :])
