"""The bins of difficulty and length: what lies in one, and which make no sense."""

from fractions import Fraction

import numpy as np

from ssgr.config import Balance, Correctness, DifficultyConfig, LengthConfig, SelectionConfig, check_at_least_one
from ssgr.errors import UserError

LARGEST_K = 1_000


def counts_in_bin(k: int, pass_rate: list[float], closed: bool = False) -> np.ndarray:
    """For 0, 1, … k solved rollouts, whether solved / k lies in (lo, hi]: bool, shape (k + 1,).

    In exact arithmetic: 0.3333 in an option file means a third. `closed`: a bin that begins at 0 holds 0 too, as
    under rollouts.split, where a problem that the estimating half never solved can have correct traces in the other.
    """
    low, high = (_as_fraction(bound) for bound in pass_rate)
    rates = [Fraction(solved, k) for solved in range(k + 1)]
    return np.array([low < rate <= high or (closed and rate == pass_rate[0] == 0) for rate in rates])


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
    least = 2 if split else 1
    if k < least:
        needs = "rollouts.split needs at least two rollouts" if split else "at least one rollout"
        raise UserError(f"rollouts.k={k}: {needs} of each problem{'' if split else ' is needed'}")
    if selection is not None:
        check_selection(selection, difficulty, length)
    if difficulty.pass_rate is not None:
        _check_range("difficulty.pass_rate", difficulty.pass_rate, 0, 1)
        if not _populated(k, difficulty.pass_rate, split):
            most = LARGEST_K + 1
            enough = next((n for n in range(least, most) if _populated(n, difficulty.pass_rate, split)), None)
            help_ = f"the smallest k that can is rollouts.k={enough}" if enough else f"no k up to {LARGEST_K} can"
            low, high = difficulty.pass_rate
            counted = f"{k // 2} of {k} rollouts (rollouts.split)" if split else f"{k} rollouts"
            raise UserError(
                f"difficulty={difficulty.name} (pass rate in ({low:g}, {high:g}]): {counted} of a problem cannot "
                f"have such a pass rate; {help_}"
            )
    if difficulty.level is not None:
        _check_range("difficulty.level", difficulty.level, 0, None, may_touch=True)
    if length is not None and length.percentile is not None:
        _check_range("length.percentile", length.percentile, 0, 100)
    if length is not None and length.tokens is not None:
        _check_range("length.tokens", length.tokens, 0, None, may_touch=True)


def check_selection(selection: SelectionConfig, difficulty: DifficultyConfig, length: LengthConfig | None) -> None:
    """UserError for choices among traces that contradict each other, such as to hold still what a bin varies."""
    check_at_least_one(selection, "selection", "max_traces_per_problem")
    if selection.matched and selection.correctness == Correctness.any:
        raise UserError(
            "selection.matched=true compares correct with wrong traces of the same problems: it needs "
            "selection.correctness=correct or incorrect, not any"
        )
    varied = {
        Balance.difficulty: {"difficulty.pass_rate": difficulty.pass_rate},
        Balance.level: {"difficulty.level": difficulty.level},
        Balance.length: {
            **(
                {f"length.{name}": getattr(length, name) for name in ("percentile", "tokens", "pick")} if length else {}
            ),
            "selection.matched": selection.matched or None,  # takes the same problems, whatever their traces' length
        },
    }
    for variable, options in varied.items():
        for option, value in options.items():
            if variable in selection.balance and value is not None:
                raise UserError(
                    f"selection.balance holds {variable} still, which {option}={value} does not go with: leave "
                    f"{variable} out of selection.balance or unset {option}"
                )


def _as_fraction(bound: float) -> Fraction:
    """The nearest simple fraction where one is meant (0.6667, 0.333), else the bound itself."""
    simple = Fraction(bound).limit_denominator(LARGEST_K)
    return simple if abs(simple - Fraction(bound)) <= Fraction(1, 10_000) else Fraction(bound)


def _populated(k: int, pass_rate: list[float], split: bool) -> bool:
    graded, (low, high) = k // 2 if split else k, (_as_fraction(bound) for bound in pass_rate)
    return int(high * graded) > low * graded or (split and pass_rate[0] == 0)


def _check_range(option: str, bounds: list[float], least: float, most: float | None, may_touch: bool = False) -> None:
    if len(bounds) != 2:
        raise UserError(f"{option}={list(bounds)}: two numbers are needed, [lo, hi]")
    low, high = bounds
    ordered = low <= high if may_touch else low < high
    if not (ordered and low >= least and (most is None or high <= most)):
        limits = f"from {least} to {most}" if most is not None else f"of at least {least}"
        raise UserError(f"{option}={list(bounds)}: needs [lo, hi] {limits} with lo {'<=' if may_touch else '<'} hi")
