"""Contrasts with a margin below which a difference does not matter: better, worse, equivalent, or not resolved.

The words are for contrasts that were fixed beforehand. "Not resolved" is the one verdict that more data may change;
without a margin it could not be told from "equivalent".
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from analysis import stats, verdicts
from analysis.stats import Estimate
from analysis.verdicts import Measure

LEVEL = 0.05  # of each of the two one-sided tests
BETTER, WORSE, EQUIVALENT, NOT_RESOLVED = "better", "worse", "equivalent", "not resolved"


@dataclass(frozen=True)
class Equivalence:
    """Whether a difference is within ± `margin`: `inside` is its interval of 1 − 2 LEVEL, p that of both tests."""

    inside: Estimate
    margin: float
    p: float

    @property
    def shown(self) -> bool:
        return -self.margin < self.inside.low and self.inside.high < self.margin


def equivalence(arm: np.ndarray, other: np.ndarray, margin: float) -> Equivalence:
    """Two one-sided tests (Schuirmann 1987) of arm − other against ± margin, by the variance of `stats.contrast`.

    Both have to reject, so that p is the larger one and needs no correction for there being two; it is below LEVEL
    where the interval of 1 − 2 LEVEL lies inside the margin (of a single seed, up to the bootstrap's resamples). Raises
    ValueError for a margin that is not above 0, and as `stats.contrast` does.
    """
    if not margin > 0:
        raise ValueError(f"a margin must be above 0, not {margin}")
    # a constant that is added to an arm changes neither its mean squares nor its degrees of freedom
    above = stats.difference(np.asarray(arm, float) + margin, other, 1 - LEVEL, "greater")
    below = stats.difference(np.asarray(arm, float) - margin, other, 1 - LEVEL, "less")
    return Equivalence(stats.difference(arm, other, 1 - 2 * LEVEL), margin, max(above.p, below.p))


def verdict(estimate: Estimate, test: Equivalence, measure: Measure, adjusted: float | None = None) -> str:
    """BETTER or WORSE where a difference is shown, else EQUIVALENT where that is, else NOT_RESOLVED."""
    if verdicts.shown(estimate, adjusted):
        return BETTER if (estimate.value > 0) == (measure.better == "higher") else WORSE
    return EQUIVALENT if test.shown else NOT_RESOLVED


def claim(contrast: str, estimate: Estimate, test: Equivalence, measure: Measure, adjusted: float | None = None) -> str:
    """One sentence: both intervals, p, the margin, half the width of the 95 % interval, on what it rests, the verdict.

    `contrast` names it: `hard − easy, matched by length`.
    """
    places = verdicts.decimals(
        (estimate.value, estimate.low, estimate.high, test.inside.low, test.inside.high, test.margin), measure
    )
    level = f"{100 * test.inside.confidence:g} % interval"
    inner = ", ".join(verdicts.number(bound, places) for bound in (test.inside.low, test.inside.high))
    numbers = f"{verdicts.signed(estimate, measure, places)}, {verdicts.p_value(estimate, adjusted)}"
    margin = f"{level} [{inner}] for a margin of ± {test.margin:.{places}f}"
    rests = f"half width {estimate.half_width:.{places}f}, {verdicts.drawn(estimate)}"
    found = verdict(estimate, test, measure, adjusted)
    if found in (BETTER, WORSE):
        found += ", by less than the margin" * test.shown
    else:
        found += verdicts.unadjusted(estimate, adjusted)
    sentence = f"{contrast}, in {measure.title}: {numbers}, {margin} ({rests}): {found}{verdicts.scope(estimate)}."
    return verdicts.capital(sentence)


def best(name: str, than: Mapping[str, str], which: str, measure: Measure) -> str:
    """Whether one arm is better than each of the others, from the verdicts of its contrasts with them."""
    shown = all(found == BETTER for found in than.values())
    told = ", ".join(f"against {other} {found}" for other, found in than.items())
    found = "shown" if shown else "not shown"
    return verdicts.capital(f"{name} is best, {which}, in {measure.name}: {found} ({told}).")
