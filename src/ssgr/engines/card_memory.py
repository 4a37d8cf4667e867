"""Tensors on a card, read where they lie by another process that uses the same card (CUDA IPC).

Nothing passes through the host. It is for cards whose driver shares memory between processes, and for weights that lie
on the card at all: shared_memory.py is the way for everything else.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

Handle = tuple[str, tuple[Any, ...], int]  # name, what torch needs to open the tensor, checksum
DEVICE = 6  # its place among what torch needs


def handles(tensors: dict[str, "Tensor"]) -> list[Handle]:
    """What another process opens these CUDA tensors by, once; they must live until it is done with them.

    Raises RuntimeError where the driver does not share memory.
    """
    from torch.multiprocessing.reductions import reduce_tensor

    sums = checksums(list(tensors.values()))
    return [(name, reduce_tensor(tensor)[1], sum_) for (name, tensor), sum_ in zip(tensors.items(), sums, strict=True)]


def opened(shared: Sequence[Handle]) -> list[tuple[str, "Tensor"]]:
    """(name, tensor) of each handle: the other process's memory itself.

    Raises RuntimeError where it is not shared, or where other bytes are read than the other process has.
    """
    import torch
    from torch.multiprocessing.reductions import rebuild_cuda_tensor

    here = torch.cuda.current_device()  # the card may have another number in the process that gave it
    tensors = [rebuild_cuda_tensor(*parts[:DEVICE], here, *parts[DEVICE + 1 :]) for _, parts, _ in shared]
    if checksums(tensors) != [sum_ for *_, sum_ in shared]:
        raise RuntimeError("what was read is not what lies there")
    return [(name, tensor) for (name, *_), tensor in zip(shared, tensors, strict=True)]


def checksums(tensors: Sequence["Tensor"]) -> list[int]:
    """Of each tensor a number that its bytes decide: they are summed with weights, so that an order counts too."""
    import torch

    if not tensors:
        return []
    return torch.stack([checksum(tensor) for tensor in tensors]).tolist()


def checksum(tensor: "Tensor") -> "Tensor":
    """int64 []; wraps around. Rows and columns weigh by their number."""
    import torch

    numbers = tensor.contiguous().view(torch.uint8).reshape(len(tensor), -1)
    columns = numbers.sum(0, dtype=torch.int64)
    rows = numbers.sum(1, dtype=torch.int64)
    places = torch.arange(1, max(numbers.shape) + 1, device=tensor.device)
    return (columns * places[: len(columns)]).sum() + 31 * (rows * places[: len(rows)]).sum()
