"""Intervals and tests for accuracies of arms that share problems and differ in calibration.

One arm is an array [seeds, problems]: the mean outcome of each problem under each calibration seed. Problems are the
same in all arms (crossed with arm and seed), seeds are drawn anew in each arm (nested in it). A difference between
arms therefore varies for three reasons: how differently the arms treat a problem, which traces the seed chose, and
chance. A bootstrap over problems sees the first and the third only; with several seeds it is too narrow.
"""

from dataclasses import dataclass

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class Estimate:
    """A value with its standard error, degrees of freedom and interval; `p` is two-sided against 0."""

    value: float
    se: float
    df: float
    low: float
    high: float
    p: float
    method: str  # variance components | problems only (one seed)

    @property
    def half_width(self) -> float:
        return (self.high - self.low) / 2


@dataclass(frozen=True)
class Components:
    """Variance of an arm's mean, split: seeds, problems, and what is left (seed x problem and sampling)."""

    seed: float
    problem: float
    residual: float

    @property
    def seed_share(self) -> float:
        total = self.seed + self.problem + self.residual
        return self.seed / total if total > 0 else float("nan")


def mean_squares(arm: np.ndarray) -> tuple[float, float]:
    """Of an array [seeds, problems] with at least two seeds: between seeds and left over, per cell of the table."""
    seeds, problems = arm.shape
    rows, columns = arm.mean(1), arm.mean(0)
    between = problems * np.var(rows, ddof=1)
    rest = arm - rows[:, None] - columns[None] + arm.mean()
    return float(between), float((rest**2).sum() / ((seeds - 1) * (problems - 1)))


def components(arm: np.ndarray) -> Components:
    """Where an arm's spread comes from, as contributions to the variance of its mean; negative estimates are 0."""
    seeds, problems = arm.shape
    if seeds < 2:
        raise ValueError("variance components need at least two calibration seeds")
    between, residual = mean_squares(arm)
    columns = seeds * np.var(arm.mean(0), ddof=1)
    seed = max((between - residual) / problems, 0.0)
    problem = max((columns - residual) / seeds, 0.0)
    return Components(seed / seeds, problem / problems, residual / (seeds * problems))


def difference(arm: np.ndarray, other: np.ndarray, confidence: float = 0.95) -> Estimate:
    """arm − other for arrays [seeds, problems] over the same problems; `other` may be one row (the dense model).

    The variance is Var_p(d_p) / P, with d_p the difference of the two arms' means on problem p, plus for each arm the
    seeds' variance that this does not hold: (MS_seed − MS_residual) / (S P). Degrees of freedom by Satterthwaite. With
    one seed in an arm that is drawn (not dense), its seed variance cannot be known: problems only, and labelled so.
    """
    arm, other = np.atleast_2d(arm), np.atleast_2d(other)
    if arm.shape[1] != other.shape[1]:
        raise ValueError(f"the arms hold {arm.shape[1]} and {other.shape[1]} problems: they must be the same ones")
    problems = arm.shape[1]
    per_problem = arm.mean(0) - other.mean(0)
    base = float(np.var(per_problem, ddof=1)) / problems
    terms = [(base, problems - 1)]
    extra = 0.0
    drawn = [part for part in (arm, other) if len(part) > 1]
    for part in drawn:
        seeds = len(part)
        between, residual = mean_squares(part)
        scale = seeds * problems
        extra += (between - residual) / scale
        terms += [(between / scale, seeds - 1), (residual / scale, (seeds - 1) * (problems - 1))]
    variance = base + max(extra, 0.0)
    if extra <= 0:
        terms = terms[:1]
    method = "variance components" if drawn and len(arm) > 1 else "problems only (one seed)"
    return _estimate(float(per_problem.mean()), variance, _satterthwaite(variance, terms), confidence, method)


def _satterthwaite(variance: float, terms: list[tuple[float, float]]) -> float:
    spread = sum(term**2 / df for term, df in terms)
    return variance**2 / spread if spread > 0 else float("inf")


def _estimate(value: float, variance: float, df: float, confidence: float, method: str) -> Estimate:
    se = float(np.sqrt(variance))
    reach = float(stats.t.ppf((1 + confidence) / 2, df)) * se
    p = float(2 * stats.t.sf(abs(value) / se, df)) if se > 0 else float(value == 0)
    return Estimate(value, se, df, value - reach, value + reach, p, method)


def holm(p_values: list[float]) -> list[float]:
    """Adjusted p values (Holm 1979), in the order given."""
    order = np.argsort(p_values)
    adjusted, running = np.empty(len(p_values)), 0.0
    for rank, index in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted.tolist()
