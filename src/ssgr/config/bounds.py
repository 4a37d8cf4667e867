"""Values that make no sense, in one line that names the option."""

from typing import Any

from ssgr.errors import UserError

SEEDS = 2**53  # what every reader of a table or of JSON holds exactly, and every generator takes


def check_at_least_one(options: Any, where: str, *names: str) -> None:
    """UserError for an option below 1; null passes. `where` is the node that holds them, empty at the top level."""
    for name in names:
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UserError(f"{where}{'.' if where else ''}{name}={value}: must be at least 1")


def check_seed(options: Any, where: str) -> None:
    """UserError for a seed that is negative or too large for a table of results; `where` as above."""
    if not 0 <= options.seed < SEEDS:
        raise UserError(f"{where}{'.' if where else ''}seed={options.seed}: must be at least 0 and below 2**53")


def check_sampling(options: Any, where: str, repeats: str) -> None:
    """UserError for a temperature or top_p (filled by now) that nothing can be drawn with, or nothing different.

    `repeats` is the option that says how often each prompt is put.
    """
    if not 0 <= options.temperature < float("inf"):
        raise UserError(f"{where}.temperature={options.temperature}: must be at least 0 (0 is greedy) and finite")
    if not 0 < options.top_p <= 1:
        raise UserError(f"{where}.top_p={options.top_p}: must be above 0 and at most 1")
    if options.temperature == 0 and getattr(options, repeats) > 1:
        raise UserError(
            f"{where}.temperature=0 (greedy) with {where}.{repeats}={getattr(options, repeats)}: completions of one "
            f"prompt would all be the same; use {where}.{repeats}=1"
        )
