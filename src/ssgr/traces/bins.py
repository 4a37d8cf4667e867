"""The bins of difficulty and length: what lies in one, and which make no sense."""

from fractions import Fraction

import numpy as np

from ssgr.config import DifficultyConfig, LengthConfig, SelectionConfig
from ssgr.errors import UserError

LARGEST_K = 1_000


def in_pass_rate_bin(solved: int, k: int, pass_rate: list[float]) -> bool:
    """Whether solved / k lies in (lo, hi], in exact arithmetic: 0.3333 in an option file means a third."""
    low, high = (_as_fraction(bound) for bound in pass_rate)
    return low < Fraction(solved, k) <= high


def length_mask(tokens: np.ndarray, population: np.ndarray, percentile: list[float] | None) -> np.ndarray:
    """Which of these lengths lie in the percentiles [lo, hi] of the lengths tokens[population].

    A bin is (length at lo, length at hi], so equal lengths fall on one side together and neighbouring bins share
    nothing; 0 and 100 are open ends, so that nothing falls outside every bin.
    """
    inside = np.ones(len(tokens), bool)
    if percentile is None:
        return inside
    if not population.any():
        return ~inside
    low, high = percentile
    lengths = tokens[population]
    if low > 0:
        inside &= tokens > length_at(lengths, low)
    if high < 100:
        inside &= tokens <= length_at(lengths, high)
    return inside


def length_at(lengths: np.ndarray, percentile: float) -> int:
    """The length at this percentile by nearest rank, so that 66.7 means two thirds of six traces too."""
    rank = max(round(len(lengths) * percentile / 100), 1)
    return int(np.sort(lengths)[rank - 1])


def check_bins(
    k: int,
    difficulty: DifficultyConfig,
    length: LengthConfig | None = None,
    selection: SelectionConfig | None = None,
    split: bool = False,
) -> None:
    """UserError, before anything is generated, for bins that make no sense or that k rollouts cannot populate."""
    if k < 1:
        raise UserError(f"rollouts.k={k}: at least one rollout of each problem is needed")
    if selection is not None and selection.max_traces_per_problem < 1:
        raise UserError(f"selection.max_traces_per_problem={selection.max_traces_per_problem}: must be at least 1")
    if difficulty.pass_rate is not None:
        _check_range("difficulty.pass_rate", difficulty.pass_rate, 0, 1)
        if not _populated(k, difficulty.pass_rate):
            enough = next((n for n in range(1, LARGEST_K + 1) if _populated(n, difficulty.pass_rate)), None)
            help_ = f"the smallest k that can is rollouts.k={enough}" if enough else f"no k up to {LARGEST_K} can"
            low, high = difficulty.pass_rate
            raise UserError(
                f"difficulty={difficulty.name} (pass rate in ({low:g}, {high:g}]): {k} rollouts of a problem cannot "
                f"have such a pass rate; {help_}"
            )
    if difficulty.level is not None:
        _check_range("difficulty.level", difficulty.level, 0, None, may_touch=True)
    if length is not None and length.percentile is not None:
        _check_range("length.percentile", length.percentile, 0, 100)
    if length is not None and length.tokens is not None:
        _check_range("length.tokens", length.tokens, 0, None, may_touch=True)


def _as_fraction(bound: float) -> Fraction:
    """The nearest simple fraction where one is meant (0.6667, 0.333), else the bound itself."""
    simple = Fraction(bound).limit_denominator(LARGEST_K)
    return simple if abs(simple - Fraction(bound)) <= Fraction(1, 10_000) else Fraction(bound)


def _populated(k: int, pass_rate: list[float]) -> bool:
    return any(in_pass_rate_bin(solved, k, pass_rate) for solved in range(1, k + 1))


def _check_range(option: str, bounds: list[float], least: float, most: float | None, may_touch: bool = False) -> None:
    if len(bounds) != 2:
        raise UserError(f"{option}={list(bounds)}: two numbers are needed, [lo, hi]")
    low, high = bounds
    ordered = low <= high if may_touch else low < high
    if not (ordered and low >= least and (most is None or high <= most)):
        limits = f"from {least} to {most}" if most is not None else f"of at least {least}"
        raise UserError(f"{option}={list(bounds)}: needs [lo, hi] {limits} with lo {'<=' if may_touch else '<'} hi")
