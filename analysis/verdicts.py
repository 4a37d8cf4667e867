"""What a test found, as one sentence for the caption of a figure.

A sentence quotes the estimate, its interval (95 % where it says nothing else), p, the number of problems and of
calibration seeds, and claims what the test allows: "no difference shown" is not "no difference". p values that belong
to several comparisons are adjusted by the caller (`stats.holm`) and handed over as `adjusted`; intervals never are.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from analysis.stats import BOOTSTRAP, Components, Estimate, InvertedU

MOST_DECIMALS = 8


@dataclass(frozen=True)
class Measure:
    """A quantity as sentences name it; `decimals` are after the point, else three significant figures."""

    name: str
    better: str  # higher | lower
    decimals: int | None = None
    note: str = ""

    @property
    def title(self) -> str:
        return self.name + self.note


ACCURACY = Measure("accuracy", "higher", 3)
KL = Measure("KL", "lower", note=" (nats per token, lower is better)")


@dataclass(frozen=True)
class SignCheck:
    """Differences first − second by held-out bin, in bins that belong to neither arm; `sign` is the one that they and
    the overall difference share, 0 where they do not or where there is no such bin."""

    first: str
    second: str
    overall: float
    elsewhere: dict[str, float]
    sign: int


def difference(first: str, second: str, estimate: Estimate, measure: Measure, adjusted: float | None = None) -> str:
    """first − second: two arms, or an arm and the dense model or `all`."""
    found = finding(first, estimate, measure, adjusted)
    numbers = f"{signed(estimate, measure)}, {p_value(estimate, adjusted)} ({drawn(estimate)})"
    return capital(f"{first} − {second} in {measure.title}: {numbers}: {found}.")


def against(
    baseline: str,
    estimates: Mapping[str, Estimate],
    measure: Measure,
    adjusted: Mapping[str, float] | None = None,
) -> str:
    """Several arms, each minus the same baseline (the dense model, `all`), by their names."""
    about = {drawn(estimate) for estimate in estimates.values()}
    same = about.pop() if len(about) == 1 else None
    parts = []
    for name, estimate in estimates.items():
        p = adjusted[name] if adjusted else None
        counts = "" if same else f" ({drawn(estimate)})"
        numbers = f"{signed(estimate, measure)}, {p_value(estimate, p)}{counts}"
        parts.append(f"{name} {numbers}: {finding(name, estimate, measure, p)}")
    counts = f" ({same})" if same else ""
    return capital(f"against {baseline} in {measure.title}{counts}: {'; '.join(parts)}.")


def trend(arms: Sequence[str], estimate: Estimate, measure: Measure, adjusted: float | None = None) -> str:
    """The slope over the arms in this order."""
    order = ", ".join(arms)
    numbers = f"{signed(estimate, measure)} per step, {p_value(estimate, adjusted)} ({drawn(estimate)})"
    if not shown(estimate, adjusted):
        return f"No trend shown over {order} in {measure.title}: {numbers}{unadjusted(estimate, adjusted)}."
    way = "rises" if estimate.value > 0 else "falls"
    return f"Trend over {order} in {measure.title}: {numbers}: {measure.name} {way} on average{scope(estimate)}."


def inverted_u(
    arms: Sequence[str], test: InvertedU, measure: Measure, adjusted: float | None = None, elsewhere: bool = True
) -> str:
    """`arms` are the names of low, middle and high. Where lower is better the shape is a U, and called so.

    `elsewhere`: whether both leads hold in held-out bins like neither arm; else a shape that is shown does not count.
    """
    low, middle, high = arms
    if test.better != measure.better:
        raise ValueError(f"tested with {test.better} as better, while of {measure.name} {measure.better} is")
    shape = "inverted U" if test.better == "higher" else "U"
    p = test.p if adjusted is None else adjusted
    sides = ", ".join(
        f"{middle} − {end} {signed(estimate, measure)}" for end, estimate in ((low, test.rise), (high, test.fall))
    )
    which = "the larger one-sided p" if adjusted is None else "Holm-adjusted one-sided p"
    numbers = f"{sides}, {which} {p_text(p, test.rise.level)} ({drawn(test.rise, test.fall)})"
    if p < test.rise.level:
        found = f"{measure.name} is better for {middle} than for {low} and for {high}{scope(test.rise, test.fall)}"
        if not elsewhere:
            found += (
                ", on average; in held-out bins that belong to neither not both leads hold, so that it does not count"
            )
        return f"{capital(shape)} shown in {measure.title}: {numbers}: {found}."
    before = before_holm(test.p, test.rise.level) if test.shown else ""
    return f"No {shape} shown in {measure.title}: {numbers}{before}."


def shares(parts: Mapping[str, Components], measure: Measure) -> str:
    """What the variance of each arm's mean is made of, by the arms' names.

    It is the arm's own variance: in a difference between arms, what its problems have in common is gone.
    """
    arms = []
    for name, part in parts.items():
        seeds = "0 % (none found)" if part.seed == 0 else percent(part.seed_share)
        split = (
            f"problems {percent(part.problem_share)}, calibration seeds {seeds}, rest {percent(part.residual_share)}"
        )
        arms.append(f"{name}: {split if part.total > 0 else 'it does not vary'}")
    counts = {(part.problems, part.seeds) for part in parts.values()}
    about = "; ".join(f"{problems:,} problems, {seeds_text([seeds])}" for problems, seeds in sorted(counts))
    return (
        f"Where the variance of an arm's mean {measure.name} comes from, estimated ({about}): {'; '.join(arms)}; "
        "the rest is seed × problem and sampling. What all arms find hard or easy is gone from their differences."
    )


def same_sign(
    matrix: np.ndarray,
    arms: Sequence[str],
    bins: Sequence[str],
    first: str,
    second: str,
    overall: float,
    own: Collection[str] | None = None,
) -> SignCheck:
    """Whether first − second has one sign overall and in every held-out bin that belongs to neither arm.

    `matrix` [arms, bins] holds means of a measure, NaN where a bin is empty; `own` are the bins that belong to either
    arm, those of their names by default. It looks at signs and tests nothing. Raises ValueError for unknown arms.
    """
    matrix = np.asarray(matrix, float)
    if matrix.shape != (len(arms), len(bins)):
        raise ValueError(f"a matrix of {matrix.shape} for {len(arms)} arms and {len(bins)} held-out bins")
    if unknown := {first, second} - set(arms):
        raise ValueError(f"no arm {', '.join(sorted(unknown))} among {', '.join(arms)}")
    own = {first, second} if own is None else set(own)
    gaps = matrix[list(arms).index(first)] - matrix[list(arms).index(second)]
    elsewhere = {name: float(gap) for name, gap in zip(bins, gaps, strict=True) if name not in own and np.isfinite(gap)}
    signs = {int(np.sign(value)) for value in (overall, *elsewhere.values())}
    return SignCheck(first, second, overall, elsewhere, signs.pop() if elsewhere and len(signs) == 1 else 0)


def signs(check: SignCheck, measure: Measure) -> str:
    pair = f"{check.first} − {check.second} in {measure.title}"
    places = decimals((check.overall, *check.elsewhere.values()), measure)
    overall = f"{number(check.overall, places)} over all held-out problems"
    if not check.elsewhere:
        return capital(f"{pair}: {overall}, but no held-out bin belongs to neither: nothing is claimed.")
    values = ", ".join(f"{name} {number(value, places)}" for name, value in check.elsewhere.items())
    found = f"{pair}: {overall}; in held-out bins that belong to neither, {values}: "
    if not check.sign:
        return capital(f"{found}not the same sign, so that neither counts as better.")
    first = (check.sign > 0) == (measure.better == "higher")
    better = check.first if first else check.second
    return capital(f"{found}the same sign, so that the lead of {better} holds there too (signs, not a test).")


# ---- the pieces of a sentence


def shown(estimate: Estimate, adjusted: float | None = None) -> bool:
    return (estimate.p if adjusted is None else adjusted) < estimate.level


def finding(first: str, estimate: Estimate, measure: Measure, adjusted: float | None) -> str:
    if not shown(estimate, adjusted):
        return f"no difference shown{unadjusted(estimate, adjusted)}"
    way = "higher" if estimate.value > 0 else "lower"
    return f"{measure.name} is {way} for {first}{scope(estimate)}"


def unadjusted(estimate: Estimate, adjusted: float | None) -> str:
    """For a comparison that is lost to the correction, while its interval leaves 0 out."""
    lost = shown(estimate) and not shown(estimate, adjusted)
    return before_holm(estimate.p, estimate.level) if lost else ""


def before_holm(p: float, level: float) -> str:
    return f" (p {p_text(p, level)} before Holm's correction)"


def scope(*estimates: Estimate) -> str:
    """One seed speaks of the sets it drew."""
    return ", with these calibration sets" if any(estimate.method == BOOTSTRAP for estimate in estimates) else ""


def signed(estimate: Estimate, measure: Measure, places: int | None = None) -> str:
    """Value and interval with their signs; the open end of a one-sided interval is infinite."""
    values = (estimate.value, estimate.low, estimate.high)
    places = decimals(values, measure) if places is None else places
    value, low, high = (number(part, places) for part in values)
    left = "(" if np.isinf(estimate.low) else "["
    right = ")" if np.isinf(estimate.high) else "]"
    level = "" if np.isclose(estimate.confidence, 0.95) else f"{100 * estimate.confidence:g} % interval "
    return f"{value} {level}{left}{low}, {high}{right}"


def decimals(values: Sequence[float], measure: Measure) -> int:
    """After the point, the same for a value and its bounds: enough that no bound but 0 reads as 0."""
    sizes = [abs(value) for value in values if np.isfinite(value) and value != 0]
    places = 3 if measure.decimals is None else measure.decimals
    if measure.decimals is None and sizes:
        places = max(0, 2 - int(np.floor(np.log10(max(sizes)))))
    bounds = [abs(value) for value in values[1:] if np.isfinite(value) and value != 0]
    while bounds and places < MOST_DECIMALS and round(min(bounds), places) == 0:
        places += 1
    return places


def number(value: float, places: int) -> str:
    """With a sign, except 0."""
    if np.isinf(value):
        return "∞" if value > 0 else "−∞"
    text = f"{value:+.{places}f}".replace("-", "−")
    return text if float(f"{abs(value):.{places}f}") else text[1:]


def p_value(estimate: Estimate, adjusted: float | None) -> str:
    side = "" if estimate.alternative == "two-sided" else "one-sided "
    p = estimate.p if adjusted is None else adjusted
    return f"{side if adjusted is None else 'Holm-adjusted ' + side}p {p_text(p, estimate.level)}"


def p_text(p: float, level: float) -> str:
    """= 0.23, = 0.042, < 0.001; never rounded across the level of the test."""
    if p < 0.001:
        return "< 0.001"
    places = 2 if p >= 0.1 else 3
    while places < MOST_DECIMALS and (round(p, places) < level) != (p < level):
        places += 1
    return f"= {p:.{places}f}"


def drawn(*estimates: Estimate) -> str:
    """What the numbers rest on: problems, calibration seeds, and the method where it is not the usual one."""
    seeds = tuple(dict.fromkeys(count for estimate in estimates for count in estimate.seeds if count))
    parts = [f"{estimates[0].problems:,} problems"]
    if seeds:
        parts.append(seeds_text(seeds))
    if any(estimate.method == BOOTSTRAP for estimate in estimates):
        parts.append("bootstrap over problems only")
    return ", ".join(parts)


def seeds_text(counts: Sequence[int]) -> str:
    """4 seeds; 4 and 3 seeds; 1 seed."""
    return " and ".join(map(str, counts)) + (" seed" if tuple(counts) == (1,) else " seeds")


def percent(share: float) -> str:
    return "< 1 %" if 0 < share < 0.005 else f"{100 * share:.0f} %"


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]
