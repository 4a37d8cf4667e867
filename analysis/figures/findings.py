"""A figure's comparisons, corrected together (Holm over all of the figure), as the sentences of verdicts.py."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from analysis import stats, verdicts
from analysis.arms import Arm, Arms
from analysis.figures import plotted
from analysis.figures.matrix import HELD_OUT_BINS
from analysis.stats import Estimate
from analysis.verdicts import ACCURACY, KL, Measure, SignCheck

MEASURES = {"accuracy": ACCURACY, "kl": KL}
OWN = ("self_generated", "traces")  # the model's own, from here or from a store
MANY = 6  # arms above which a sentence names only those that differ
FEWEST_RANKED = 8  # cells below which a rank correlation says nothing


class Family:
    """Comparisons in the order in which they are told; `sentences` corrects all of them for how many there are."""

    def __init__(self) -> None:
        self._p: list[float] = []
        self._told: list[tuple[int, Callable[[list[float]], str]]] = []

    def _add(self, p_values: Sequence[float], tell: Callable[[list[float]], str]) -> None:
        self._p += p_values
        self._told.append((len(p_values), tell))

    def against(self, baseline: str, estimates: Mapping[str, Estimate], measure: Measure) -> None:
        """Each of these minus one baseline."""
        names = list(estimates)
        if not names:
            return

        def tell(adjusted: list[float]) -> str:
            corrected = dict(zip(names, adjusted, strict=True))
            if len(names) <= MANY:
                return verdicts.against(baseline, estimates, measure, corrected)
            return many(baseline, estimates, measure, corrected)

        self._add([estimate.p for estimate in estimates.values()], tell)

    def difference(self, first: str, second: str, estimate: Estimate, measure: Measure) -> None:
        self._add([estimate.p], lambda p: verdicts.difference(first, second, estimate, measure, p[0]))

    def trend(self, names: Sequence[str], arms: Sequence[np.ndarray], measure: Measure) -> None:
        estimate = stats.trend(arms)
        self._add([estimate.p], lambda p: verdicts.trend(names, estimate, measure, p[0]))

    def inverted_u(
        self, names: Sequence[str], arms: Sequence[np.ndarray], measure: Measure, elsewhere: bool = True
    ) -> None:
        test = stats.inverted_u(*arms, better=measure.better)
        self._add([test.p], lambda p: verdicts.inverted_u(names, test, measure, p[0], elsewhere))

    def sentences(self) -> list[str]:
        adjusted, sentences = stats.holm(self._p), []
        for count, tell in self._told:
            sentences.append(tell(adjusted[:count]))
            adjusted = adjusted[count:]
        return sentences


def many(baseline: str, estimates: Mapping[str, Estimate], measure: Measure, adjusted: Mapping[str, float]) -> str:
    """Of more arms than a sentence holds: of those that differ the two ends, of the others their names if few."""
    differ = {name: estimate for name, estimate in estimates.items() if verdicts.shown(estimate, adjusted[name])}
    rest = [name for name in estimates if name not in differ]
    told = []
    for way, sign in (("higher", 1), ("lower", -1)):
        alike = [name for name, estimate in differ.items() if np.sign(estimate.value) == sign]
        if alike:
            alike.sort(key=lambda name: differ[name].value)
            ends = {name: differ[name] for name in dict.fromkeys((alike[0], alike[-1]))}
            told.append(f"Arms with a {way} {measure.name} than {baseline}: {len(alike)} of {len(estimates)}.")
            told.append(verdicts.against(baseline, ends, measure, adjusted))
    if rest:
        p = verdicts.p_text(min(adjusted[name] for name in rest), estimates[rest[0]].level)
        named = f": {', '.join(rest)}" if len(rest) <= MANY else ""
        told.append(
            f"No difference from {baseline} shown in {measure.title}: {len(rest)} of {len(estimates)} arms "
            f"(smallest Holm-adjusted p {p}){named}."
        )
    return " ".join(told)


def against_dense(family: Family, arms: Arms, name: Callable[[Arm], str], among: Sequence[Arm] | None = None) -> None:
    """Accuracy of every arm minus the dense model's, problem by problem; nothing where those are not known."""
    if arms.has_accuracy and arms.dense.accuracy is not None:
        dense = arms.dense.accuracy
        estimates = {name(arm): stats.difference(arm.measure("accuracy"), dense) for arm in among or arms}
        family.against("the dense model", estimates, ACCURACY)


def against_arm(
    family: Family,
    arms: Arms,
    baseline: Arm | None,
    baseline_name: str,
    name: Callable[[Arm], str],
    measures: Sequence[str] = ("accuracy", "kl"),
    among: Sequence[Arm] | None = None,
) -> None:
    """Every other arm minus this one; nothing where there is no such arm."""
    if baseline is None:
        return
    others = [arm for arm in among or arms if arm is not baseline]
    for measure in measures:
        if measure in plotted.measures(arms):
            estimates = {name(arm): stats.difference(arm.measure(measure), baseline.measure(measure)) for arm in others}
            family.against(baseline_name, estimates, MEASURES[measure])


def shares(arms: Arms, name: Callable[[Arm], str]) -> list[str]:
    """Where each arm's variance comes from; nothing for a single seed, the extremes for many arms."""
    told = []
    for measure in plotted.measures(arms):
        parts = {name(arm): stats.components(arm.measure(measure)) for arm in arms if len(arm.seeds) > 1}
        if len(parts) > MANY:
            ends = sorted(parts, key=lambda arm: parts[arm].seed_share)
            parts = {arm: parts[arm] for arm in (ends[0], ends[len(ends) // 2], ends[-1])}
            told.append(f"Least, middle and most share of the seeds. {verdicts.shares(parts, MEASURES[measure])}")
        elif parts:
            told.append(verdicts.shares(parts, MEASURES[measure]))
    return told


def home_advantage(arms: Arms, factor: str, first: str, second: str) -> SignCheck | None:
    """Whether first − second in KL has one sign in held-out bins of `factor` that belong to neither; None: no KL."""
    pair = [arms.find(**{factor: name}) for name in (first, second)]
    if not arms.has_kl or None in pair or arms.held_out is None:
        return None
    bins = [name for name in HELD_OUT_BINS[factor] if (arms.held_out[factor] == name).any()]
    inside = [(arms.held_out[factor] == name).to_numpy() for name in bins]
    matrix = np.array([[arm.kl[:, columns].mean() for columns in inside] for arm in pair])
    overall = float(pair[0].kl.mean() - pair[1].kl.mean())
    return verdicts.same_sign(matrix, (first, second), bins, first, second, overall)


def signs(checks: Sequence[SignCheck | None]) -> list[str]:
    return [verdicts.signs(check, KL) for check in checks if check is not None]


def rank_correlation(pairs: Sequence[tuple[float, float]], first: str, second: str, over: str) -> list[str]:
    """Spearman's, without a test: cells that share problems and arms are not independent."""
    values = np.array(pairs, float).reshape(-1, 2)
    values = values[np.isfinite(values).all(1)]
    if len(values) < FEWEST_RANKED or min(np.ptp(values, axis=0)) == 0:
        return []
    rho = spearmanr(*values.T).statistic
    return [f"Rank correlation of {first} and {second} over {len(values)} {over}: {rho:+.2f}.".replace("-", "−")]


def kl_and_accuracy(runs: pd.DataFrame, which: str = "") -> list[str]:
    """Over own-trace cells alone, each once: KL is no judge between sources. `which` says more of the cells."""
    own = runs[runs["calibration"].isin(OWN)].drop_duplicates(["cell", "task"])
    pairs = list(zip(own["kl"], own["accuracy"], strict=True))
    told = rank_correlation(pairs, "KL", "accuracy", f"cells calibrated on own traces{which}")
    return [f"{line} (At −1 a lower KL always goes with a higher accuracy.)" for line in told]
