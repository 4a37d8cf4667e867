"""Which cells of one process one calibration pass may serve (pruner.one_pass), and that they come one after another."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from ssgr.cache import content_hash
from ssgr.cell import Cell, without
from ssgr.config import Sinks

Job = TypeVar("Job")

_ahead: list[Cell] = []  # what this process was given to run, in that order


def family(cell: Cell) -> str | None:
    """A hash of all that cells of one pass have in common; None for a cell that is pruned by itself.

    They may differ in the pruner and its options that touch no statistics, in sparsity and in allocation.
    """
    pruner = cell.config.pruner
    if not (cell.reads_calibration and pruner.one_pass):
        return None
    common = without(cell.identity, "pruner", "sparsity", "allocation")
    return content_hash([common, getattr(pruner, "sinks", Sinks.keep), cell.config.device])


def side_by_side(jobs: Sequence[Job], cell_of: Callable[[Job], Cell]) -> list[Job]:
    """The jobs with those of a family right behind its first one; the others keep their order."""
    first: dict[str | int, int] = {}
    ranks = [first.setdefault(family(cell_of(job)) or index, index) for index, job in enumerate(jobs)]
    return [jobs[index] for index in sorted(range(len(jobs)), key=ranks.__getitem__)]


@contextmanager
def in_this_process(cells: Sequence[Cell]) -> Iterator[None]:
    """For as long as it lasts, these cells are run here in this order."""
    _ahead[:] = cells
    try:
        yield
    finally:
        _ahead.clear()


def after(cell: Cell) -> list[Cell]:
    """The cells of this one's family that are still to come in this process."""
    names, own = [other.name for other in _ahead], family(cell)
    if own is None or cell.name not in names:
        return []
    return [other for other in _ahead[names.index(cell.name) + 1 :] if family(other) == own]
