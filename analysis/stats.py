"""Intervals and tests for accuracies and divergences of arms that share problems and differ in calibration.

One arm is an array [seeds, problems]: the mean outcome of each problem under each calibration seed. Problems are the
same in all arms (crossed with arm and seed), seeds are drawn anew in each arm (nested in it). A contrast between arms
therefore varies for three reasons: how differently the arms treat a problem, which traces the seed chose, and chance.
A bootstrap over problems sees the first and the third only; with several seeds it is too narrow.

An array [problems] is a model that no calibration seed chose: the dense model, magnitude pruning. It has no seed
variance. An array [1, problems] is one draw of something that could have come out otherwise: its seed variance is
there and cannot be known.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

COMPONENTS = "variance components"
BOOTSTRAP = "bootstrap over problems (one seed)"
ALTERNATIVES = ("two-sided", "greater", "less")
RESAMPLES = 9999
LEAST = 0.25  # of the variance that the problems alone show: what a contrast is never below


@dataclass(frozen=True)
class Estimate:
    """A value with its standard error and interval, and p against 0 under `alternative`.

    A one-sided alternative has a one-sided interval (`high` is inf for greater, `low` is -inf for less), so that the
    interval excludes 0 exactly where p < level. `df` is NaN where no t distribution was used.
    """

    value: float
    se: float
    df: float
    low: float
    high: float
    p: float
    method: str  # COMPONENTS | BOOTSTRAP
    problems: int
    seeds: tuple[int, ...]  # of each arm, in order; 0 for a model that no seed chose
    confidence: float = 0.95
    alternative: str = "two-sided"

    @property
    def level(self) -> float:
        """Of a test: p below it is a finding."""
        return round(1 - self.confidence, 12)  # 0.05, which 1 - 0.95 is not

    @property
    def half_width(self) -> float:
        return (self.high - self.low) / 2


@dataclass(frozen=True)
class InvertedU:
    """`rise` is middle − low and `fall` middle − high, each tested one-sided; p is the larger of theirs."""

    rise: Estimate
    fall: Estimate
    p: float
    shown: bool
    better: str  # higher | lower


@dataclass(frozen=True)
class Components:
    """Variance of an arm's mean, split: seeds, problems, and what is left (seed x problem and sampling)."""

    seed: float
    problem: float
    residual: float
    problems: int
    seeds: int

    @property
    def total(self) -> float:
        return self.seed + self.problem + self.residual

    @property
    def seed_share(self) -> float:
        return self._share(self.seed)

    @property
    def problem_share(self) -> float:
        return self._share(self.problem)

    @property
    def residual_share(self) -> float:
        return self._share(self.residual)

    def _share(self, part: float) -> float:
        """NaN where nothing varies."""
        return part / self.total if self.total > 0 else float("nan")


def contrast(
    arms: Sequence[np.ndarray], weights: Sequence[float], confidence: float = 0.95, alternative: str = "two-sided"
) -> Estimate:
    """The weighted sum of the arms' means, over problems and calibration seeds drawn from their populations.

    `arms` are [seeds, problems] over the same problems in the same order, or [problems] (see the module); they may
    have different numbers of seeds, and one of weight 0 adds nothing.

    Variance: (Var_p(d_p) − Σ w² MS_residual / S) / P, at least 0, of problems and problem x arm, with d_p the
    contrast of the arms' means on problem p, plus Σ w² MS_seed / (S P) of seeds and chance. A seed variance that comes
    out negative is left so, down to LEAST (few seeds can agree by chance): cut off at 0, the intervals of arms whose
    seeds do not differ would hold the truth too often.
    Degrees of freedom by Satterthwaite (1946), with two cautions where seeds are few and happen to lie close, which
    promises more degrees of freedom than there are: MS_seed counts (S + 1) / (S − 1) times, and for no less than
    MS_residual, its expectation where seeds do not differ. tests/benchmarks/coverage.py measures what this holds.

    With a single seed in an arm: a percentile bootstrap over problems from a fixed generator; its p is the share of
    resamples on the other side of 0 (doubled if two-sided), the level at which the interval reaches 0. Of few problems
    it is too sure, so that interval and p are never narrower and smaller than those of Student's t over the problems.
    It speaks of these calibration sets only.

    Raises ValueError for arms over other problems, fewer than two problems, missing values, an unknown alternative.
    """
    arms = [np.asarray(arm, float) for arm in arms]
    _check(arms, weights, confidence, alternative)
    seeds = tuple(len(arm) if arm.ndim == 2 else 0 for arm in arms)
    weighed = [(np.atleast_2d(arm), weight, drawn) for arm, weight, drawn in zip(arms, weights, seeds, strict=True)]
    per_problem = np.sum([weight * arm.mean(0) for arm, weight, _ in weighed], axis=0)
    drawn = [(arm, weight) for arm, weight, count in weighed if count and weight]
    about = {"problems": len(per_problem), "seeds": seeds, "confidence": confidence, "alternative": alternative}
    if any(len(arm) == 1 for arm, _ in drawn):
        return _bootstrap(per_problem, **about)
    variance, df = _variance(per_problem, drawn)
    return _student(float(per_problem.mean()), variance, df, **about)


def difference(
    arm: np.ndarray, other: np.ndarray, confidence: float = 0.95, alternative: str = "two-sided"
) -> Estimate:
    """arm − other, as `contrast` has it; the dense model is an array [problems]."""
    return contrast([arm, other], [1, -1], confidence, alternative)


def mean(arm: np.ndarray, confidence: float = 0.95) -> Estimate:
    """The arm's mean as an estimate for all problems and all calibration seeds; its p against 0 means little."""
    return contrast([arm], [1], confidence)


def trend(arms: Sequence[np.ndarray], confidence: float = 0.95, alternative: str = "two-sided") -> Estimate:
    """Slope per step of the least-squares line through the means of arms in order, equally far apart.

    It says that the ends differ along the order, not that every step goes the same way. Raises ValueError for fewer
    than two arms.
    """
    if len(arms) < 2:
        raise ValueError(f"a trend needs at least two arms, not {len(arms)}")
    steps = np.arange(len(arms)) - (len(arms) - 1) / 2
    return contrast(arms, steps / (steps**2).sum(), confidence, alternative)


def inverted_u(
    low: np.ndarray, middle: np.ndarray, high: np.ndarray, better: str = "higher", confidence: float = 0.95
) -> InvertedU:
    """Whether the middle arm is better than both its neighbours: an intersection-union test (Berger 1982).

    Both one-sided tests have to reject, so p is the larger one and needs no correction for there being two. `better`
    says which way better is: "higher" (accuracy) or "lower" (KL).
    """
    if better not in ("higher", "lower"):
        raise ValueError(f"better: {better!r} is not one of higher, lower")
    alternative = "greater" if better == "higher" else "less"
    rise, fall = (difference(middle, end, confidence, alternative) for end in (low, high))
    p = max(rise.p, fall.p)
    return InvertedU(rise, fall, p, p < rise.level, better)


def components(arm: np.ndarray) -> Components:
    """Where an arm's spread comes from, as contributions to the variance of its mean; negative estimates are 0.

    Raises ValueError for fewer than two seeds.
    """
    arm = np.asarray(arm, float)
    if arm.ndim != 2 or len(arm) < 2:
        raise ValueError("variance components need at least two calibration seeds")
    _check([arm], [1])
    seeds, problems = arm.shape
    between, residual = mean_squares(arm)
    columns = seeds * np.var(arm.mean(0), ddof=1)
    seed = max((between - residual) / problems, 0.0)
    problem = max(float(columns - residual) / seeds, 0.0)
    return Components(seed / seeds, problem / problems, residual / (seeds * problems), problems, seeds)


def mean_squares(arm: np.ndarray) -> tuple[float, float]:
    """Of an array [seeds, problems] with at least two seeds: between seeds and left over, per cell of the table."""
    seeds, problems = arm.shape
    rows, columns = arm.mean(1), arm.mean(0)
    between = problems * np.var(rows, ddof=1)
    rest = arm - rows[:, None] - columns[None] + arm.mean()
    return float(between), float((rest**2).sum() / ((seeds - 1) * (problems - 1)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p values (Holm 1979), in the order given."""
    order = np.argsort(p_values)
    adjusted, running = np.empty(len(p_values)), 0.0
    for rank, index in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted.tolist()


def _check(
    arms: Sequence[np.ndarray], weights: Sequence[float], confidence: float = 0.95, alternative: str = "two-sided"
) -> None:
    if alternative not in ALTERNATIVES:
        raise ValueError(f"alternative: {alternative!r} is not one of {', '.join(ALTERNATIVES)}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence: {confidence} is not between 0 and 1")
    if len(arms) != len(weights) or not any(weights):
        raise ValueError(f"{len(arms)} arms with the weights {list(weights)}: one each, and not all 0")
    if any(arm.ndim not in (1, 2) or not arm.size for arm in arms):
        raise ValueError(f"arms are [seeds, problems] or [problems], not {[arm.shape for arm in arms]}")
    counts = [arm.shape[-1] for arm in arms]
    if len(set(counts)) > 1:
        raise ValueError(f"the arms hold {' and '.join(map(str, counts))} problems: they must be the same ones")
    if counts[0] < 2:
        raise ValueError("one problem says nothing about others: at least two are needed")
    if not all(np.isfinite(arm).all() for arm in arms):
        raise ValueError("an arm holds missing values: keep the problems that every arm has")


def _variance(per_problem: np.ndarray, drawn: Sequence[tuple[np.ndarray, float]]) -> tuple[float, float]:
    """Of the contrast, with its degrees of freedom; `drawn` are the arms with their weights."""
    problems = len(per_problem)
    base = float(np.var(per_problem, ddof=1)) / problems
    squares = np.array([mean_squares(arm) for arm, _ in drawn]).reshape(-1, 2)
    seeds = np.array([len(arm) for arm, _ in drawn])
    scale = np.array([weight**2 for _, weight in drawn]) / (seeds * problems)
    between, residual = squares[:, 0] * scale, squares[:, 1] * scale
    shared = max(base - residual.sum(), 0.0)
    cautious = np.maximum(between * (seeds + 1) / (seeds - 1), residual)
    spread = base**2 / (problems - 1) + (cautious**2 / (seeds - 1)).sum()
    spread += (residual**2 / ((seeds - 1) * (problems - 1))).sum()
    df = (shared + cautious.sum()) ** 2 / spread if spread > 0 else problems - 1
    return max(float(shared + between.sum()), LEAST * base), float(df)


def _student(value: float, variance: float, df: float, confidence: float, alternative: str, **about) -> Estimate:
    se = float(np.sqrt(variance))
    tails = 2 if alternative == "two-sided" else 1
    reach = float(stats.t.ppf(1 - (1 - confidence) / tails, df)) * se
    low = -np.inf if alternative == "less" else value - reach
    high = np.inf if alternative == "greater" else value + reach
    distance = {"two-sided": abs(value), "greater": value, "less": -value}[alternative]
    # where nothing varies at all, the value is what it is
    p = min(1.0, tails * float(stats.t.sf(distance / se, df))) if se > 0 else float(distance <= 0)
    return Estimate(value, se, df, low, high, p, COMPONENTS, confidence=confidence, alternative=alternative, **about)


def _bootstrap(per_problem: np.ndarray, confidence: float, alternative: str, **about) -> Estimate:
    drawn = stats.bootstrap(
        (per_problem,),
        np.mean,
        n_resamples=RESAMPLES,
        batch=1000,
        confidence_level=confidence,
        alternative=alternative,
        method="percentile",
        rng=np.random.default_rng(0),  # the same input gives the same bytes
    )
    means = drawn.bootstrap_distribution
    # one more than counted, so that no p is 0: the data themselves are one of the resamples
    below, above = ((np.count_nonzero(beyond) + 1) / (RESAMPLES + 1) for beyond in (means <= 0, means >= 0))
    p = {"two-sided": min(1.0, 2 * min(below, above)), "greater": below, "less": above}[alternative]
    low, high = (float(bound) for bound in drawn.confidence_interval)
    count, value, se = len(per_problem), float(per_problem.mean()), float(drawn.standard_error)
    about |= {"confidence": confidence, "alternative": alternative}
    plain = _student(value, float(per_problem.var(ddof=1)) / count, count - 1, **about)
    low, high, p = min(low, plain.low), max(high, plain.high), max(float(p), plain.p)
    return Estimate(value, se, float("nan"), low, high, p, BOOTSTRAP, **about)
