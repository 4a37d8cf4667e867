"""How often the intervals of analysis/stats.py hold the truth, and how often its tests find what is not there.

    python tests/benchmarks/coverage.py [--draws 1000]

Each draw is a new study: new problems, new calibration sets, new samples. The truth is therefore a mean over the
populations that these come from, an integral and not the mean of what was drawn. Measures, and asserts nothing.
"""

import argparse
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))
from analysis import stats
from analysis.equivalence import equivalence

RESAMPLES = 1000  # of the plain bootstrap
DENSE_REPEATS = 8
# levels of the arms on the logit scale (accuracy) or the log scale (KL, where lower is better)
ACCURACY = {"poor": -1.0, "first": -0.1, "second": 0.0, "third": 0.0, "fourth": 0.0, "last": 0.1, "dense": 1.0}
KL = {"poor": 0.5, "first": 0.02, "second": 0.0, "third": 0.0, "fourth": 0.0, "last": -0.02}
LINE = ("first", "second", "third", "last")
NULLS = {
    "all equal": ("second", "third", "fourth"),
    "middle = high > low": ("poor", "second", "third"),
    "middle = low > high": ("second", "third", "poor"),
}


@dataclass(frozen=True)
class Case:
    """A population of studies: how much varies, as standard deviations on the logit (accuracy) or log (KL) scale."""

    name: str
    problems: int = 1000
    seeds: int = 4
    problem_sd: float = 3.0
    interaction_sd: float = 1.0
    seed_sd: float = 0.2
    kl: bool = False
    gamma_shape: float = 0.0  # of the problems' KL, instead of problem_sd
    residual_sd: float = 0.0  # of KL; an outcome that is right or wrong has its own

    @property
    def levels(self) -> dict[str, float]:
        return KL if self.kl else ACCURACY

    def truth(self, arm: str) -> float:
        """The mean of an arm over all problems, calibration sets and samples."""
        seed_sd = 0.0 if arm == "dense" else self.seed_sd
        variance = self.problem_sd**2 + self.interaction_sd**2 + seed_sd**2 + self.residual_sd**2
        if self.kl:
            return float(np.exp(self.levels[arm] + variance / 2))  # the gamma's mean is 1
        nodes, weights = np.polynomial.hermite_e.hermegauss(200)
        return float(np.average(sigmoid(self.levels[arm] + np.sqrt(variance) * nodes), weights=weights))

    def draw(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Arms [seeds, problems] over the same problems; the dense model is [problems]."""
        if self.gamma_shape:
            problems = np.log(rng.gamma(self.gamma_shape, 1 / self.gamma_shape, self.problems))
        else:
            problems = rng.normal(0, self.problem_sd, self.problems)
        return {arm: self._outcomes(rng, arm, problems + level) for arm, level in self.levels.items()}

    def _outcomes(self, rng: np.random.Generator, arm: str, problems: np.ndarray) -> np.ndarray:
        scale = problems + rng.normal(0, self.interaction_sd, self.problems)
        if arm == "dense":
            return rng.binomial(DENSE_REPEATS, sigmoid(scale)) / DENSE_REPEATS
        scale = scale + rng.normal(0, self.seed_sd, (self.seeds, 1))
        if self.kl:
            return np.exp(scale + rng.normal(0, self.residual_sd, scale.shape))
        return (rng.random(scale.shape) < sigmoid(scale)).astype(float)


HERE = Case("as here")  # spreads like those of the bundled model pruned to 40 and 50 %
KL_HERE = Case("KL", kl=True, problem_sd=0, gamma_shape=0.8, interaction_sd=0.25, seed_sd=0.05, residual_sd=0.3)
CASES = (
    HERE,
    replace(HERE, name="strong seeds", seed_sd=0.5),
    replace(HERE, name="no seed variance", seed_sd=0.0),
    replace(HERE, name="nor interaction", seed_sd=0.0, interaction_sd=0.0),
    replace(HERE, name="100 problems", problems=100),
    replace(HERE, name="8 seeds", seeds=8),
    replace(HERE, name="2 seeds", seeds=2),
    replace(HERE, name="1 seed", seeds=1),
    KL_HERE,
    replace(KL_HERE, name="KL, no seed variance", seed_sd=0.0),
    replace(KL_HERE, name="KL, 100 problems", problems=100),
    replace(KL_HERE, name="KL, heavy tail", gamma_shape=0, problem_sd=1.0),
)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits))


def measure(case: Case, draws: int, rng: np.random.Generator) -> dict[str, float]:
    """Shares of the draws: intervals that hold the truth, and tests that reject a null that is true."""
    truth = {arm: case.truth(arm) for arm in case.levels}
    hits: dict[str, list[bool]] = {}
    plain: dict[str, list[np.ndarray]] = {"difference": [], "mean": []}
    for _ in range(draws):
        arms = case.draw(rng)
        if case.seeds > 1:  # one seed gets the plain bootstrap below
            for name, hit in (intervals(arms, truth) | tests(arms, truth, "lower" if case.kl else "higher")).items():
                hits.setdefault(name, []).append(hit)
        plain["difference"].append(arms["last"].mean(0) - arms["first"].mean(0))
        plain["mean"].append(arms["second"].mean(0))
    shares = {name: float(np.mean(values)) for name, values in hits.items()}
    shares["bootstrap difference"] = bootstrap(plain["difference"], truth["last"] - truth["first"], rng)
    shares["bootstrap mean"] = bootstrap(plain["mean"], truth["second"], rng)
    return shares


def intervals(arms: dict[str, np.ndarray], truth: dict[str, float]) -> dict[str, bool]:
    slope = float(np.polyfit(range(len(LINE)), [truth[arm] for arm in LINE], 1)[0])
    row = {
        "difference": holds(stats.difference(arms["last"], arms["first"]), truth["last"] - truth["first"]),
        "mean": holds(stats.mean(arms["second"]), truth["second"]),
        "trend": holds(stats.trend([arms[arm] for arm in LINE]), slope),
    }
    if "dense" in arms:
        row["to dense"] = holds(stats.difference(arms["first"], arms["dense"]), truth["first"] - truth["dense"])
    return row


def tests(arms: dict[str, np.ndarray], truth: dict[str, float], better: str) -> dict[str, bool]:
    row = {null: stats.inverted_u(*(arms[arm] for arm in names), better=better).shown for null, names in NULLS.items()}
    margin = abs(truth["last"] - truth["first"])
    row["equivalent at the margin"] = equivalence(arms["last"], arms["first"], margin).shown
    return row | {"trend, all equal": stats.trend([arms[arm] for arm in NULLS["all equal"]]).p < 0.05}


def holds(estimate: stats.Estimate, truth: float) -> bool:
    return estimate.low <= truth <= estimate.high


def bootstrap(per_problem: list[np.ndarray], truth: float, rng: np.random.Generator) -> float:
    """The share of percentile intervals of a plain bootstrap over problems that hold the truth."""
    values = np.stack(per_problem)
    problems = values.shape[1]
    counts = rng.multinomial(problems, np.full(problems, 1 / problems), RESAMPLES)
    low, high = np.quantile(values @ counts.T / problems, [0.025, 0.975], axis=1)
    return float(((low <= truth) & (truth <= high)).mean())


def table(rows: dict[str, dict[str, float]], columns: dict[str, str]) -> str:
    """Of the shares in `columns`, under their titles; a share that a case does not have is a dash."""
    widths = [len(title) + 2 for title in columns.values()]
    lines = [[f"{title:>{width}}" for title, width in zip(columns.values(), widths, strict=True)]]
    for shares in rows.values():
        cells = [f"{shares[column]:.3f}" if column in shares else "–" for column in columns]
        lines.append([f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True)])
    lines = [f"{name:22}{''.join(cells)}" for name, cells in zip(["", *rows], lines, strict=True)]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=1000)
    draws = parser.parse_args().draws
    started = time.perf_counter()
    rows = {case.name: measure(case, draws, np.random.default_rng([7, row])) for row, case in enumerate(CASES)}
    chance = 2 * (0.05 * 0.95 / draws) ** 0.5
    print(
        f"share of {draws:,} draws (± {chance:.3f} by chance) whose 95 % interval holds the truth: 0.93 to 0.97 wanted"
    )
    columns = ["difference", "to dense", "mean", "trend", "bootstrap difference", "bootstrap mean"]
    print(table(rows, {column: column for column in columns}), end="\n\n")
    print("share of draws in which a test at 5 % finds what is not there: wanted at most 0.06")
    titles = {null: f"U, {null}" for null in NULLS}
    others = {name: name for name in ("trend, all equal", "equivalent at the margin")}
    print(table(rows, others | titles), end="\n\n")
    print(f"{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
