"""The contrasts that were fixed beforehand, from whatever studies hold their arms, matched and unmatched.

A cell is matched where its config says so (`selection.balance`), whatever its study is called.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis import equivalence, stats
from analysis.arms import Arms, Data, gather
from analysis.comparable import SAID_BY, balanced_by, config_of, pruned_alike
from analysis.equivalence import Equivalence
from analysis.figures import findings, plotted
from analysis.rows import options
from analysis.stats import Estimate
from analysis.style import ORDERED
from analysis.verdicts import Measure
from ssgr.errors import UserError

ASKED = (("difficulty", "hard", "easy"), ("length", "moderate", "short"), ("length", "moderate", "long"))
ACCURACY_MARGIN = 0.015
KL_MARGIN = 0.03  # of the yardstick


class Yardstick(NamedTuple):
    """The KL that the margin of KL is a share of, and what it is the mean of."""

    kl: float
    of: str


@dataclass(frozen=True)
class Group:
    """The arms of one axis, of one model and task, matched by `balance`; unmatched where that is empty."""

    model: str  # and task
    axis: str
    balance: str
    arms: Arms
    yardstick: Yardstick | None = None  # None where there is no KL

    @property
    def which(self) -> str:
        return f"matched by {self.balance}" if self.balance else "unmatched"

    def margin(self, measure: str) -> float:
        return ACCURACY_MARGIN if measure == "accuracy" else KL_MARGIN * self.yardstick.kl


@dataclass(frozen=True)
class Contrast:
    """first − second in one measure; `adjusted` is its p by Holm's correction over all that were found together."""

    group: Group
    measure: str
    first: str
    second: str
    estimate: Estimate
    test: Equivalence
    adjusted: float

    @property
    def name(self) -> str:
        return f"{self.first} − {self.second}"

    @property
    def measured(self) -> Measure:
        return findings.MEASURES[self.measure]

    @property
    def verdict(self) -> str:
        return equivalence.verdict(self.estimate, self.test, self.measured, self.adjusted)


def contrasts(groups: Sequence[Group]) -> list[Contrast]:
    """All that these groups allow: by model and task, in the order of ASKED, matched before unmatched."""
    models = dict.fromkeys(group.model for group in groups)
    asked = [(model, *contrast) for model in models for contrast in ASKED]
    found = [
        contrast
        for model, axis, first, second in asked
        for group in groups
        if (group.model, group.axis) == (model, axis)
        for contrast in of_group(group, first, second)
    ]
    adjusted = stats.holm([contrast.estimate.p for contrast in found])
    return [replace(contrast, adjusted=p) for contrast, p in zip(found, adjusted, strict=True)]


def of_group(group: Group, first: str, second: str) -> Iterator[Contrast]:
    """One contrast in accuracy and in KL, as far as the group holds them; not corrected yet."""
    pair = [group.arms.find(**{group.axis: name}) for name in (first, second)]
    for measure in plotted.measures(group.arms) if None not in pair else ():
        one, other = (arm.measure(measure) for arm in pair)
        test = equivalence.equivalence(one, other, group.margin(measure))
        yield Contrast(group, measure, first, second, stats.difference(one, other), test, float("nan"))


def gather_groups(data: Data) -> tuple[list[Group], list[str]]:
    """The groups of every model and task, matched before unmatched, and a line for each that cannot be compared.

    A cell that several studies hold is counted once.
    """
    runs = data.runs[data.runs["correctness"].notna()]  # calibrated on chosen traces
    runs = runs.assign(balance=[balanced_by(options(text)) for text in runs["config"]])
    found, left_out = [], []
    for (model, task), every in runs.groupby(["model", "task"]):
        groups = []
        for axis, names in ORDERED.items():
            (other,) = ORDERED.keys() - {axis}
            inside = every[every[axis].isin(names) & (every[other] == "all")].drop_duplicates("cell")
            for balance in sorted(inside["balance"].unique(), key=lambda text: (text == "", text)):
                part = with_contrasts(inside[inside["balance"] == balance], axis)
                for measured in by_measure(data.only(part), axis):
                    try:
                        arms = measured()
                    except UserError as error:
                        left_out.append(str(error))
                    else:
                        groups.append(Group(f"{model}, {task}", axis, balance, arms))
        found += [replace(group, yardstick=yardstick(group.axis, groups, every)) for group in groups]
    return found, left_out


def with_contrasts(runs: pd.DataFrame, axis: str) -> pd.DataFrame:
    """Those of these runs that, alike in all but the axis, hold a contrast (all, where none do), so that what another
    study varies is not mixed in; without arms that no contrast needs and that lack a seed of those that one does."""
    pairs = [{one, other} for which, one, other in ASKED if which == axis]
    setting = [setting_beside(axis, text) for text in runs["config"]]
    alike = runs.groupby([setting, "problems", "dense_repeats"], dropna=False)[axis]
    holds = alike.transform(lambda names: any(pair <= set(names) for pair in pairs)).astype(bool)
    runs = runs[holds] if holds.any() else runs
    seeds = runs.groupby(axis)["seed"].agg(set)
    needed = seeds[seeds.index.isin(set.union(*pairs))]
    shared = set.intersection(*needed) if len(needed) else set()
    return runs[runs[axis].isin(seeds.index[[arm in needed.index or shared <= seeds[arm] for arm in seeds.index]])]


def setting_beside(axis: str, config: str) -> str:
    return json.dumps(config_of(config, SAID_BY[axis]), sort_keys=True)


def by_measure(data: Data, axis: str) -> list[Callable[[], Arms]]:
    """What gathers the arms along the axis; where some cells measured the divergence alone, apart: of those with
    answers for accuracy, of all for KL, of an arm's seed that has both the cell with answers."""
    answered = data.runs["accuracy"].notna()
    if answered.all() or not answered.any():
        return [lambda: gather(data, (axis,))]

    def accuracy() -> Arms:
        arms = gather(data.only(data.runs[answered]), (axis,))
        return replace(arms, arms=[replace(arm, kl=None) for arm in arms])

    def kl() -> Arms:
        diverged = data.runs[data.runs["kl"].notna()]
        places, both = diverged.set_index([axis, "seed"]).index, diverged["accuracy"].notna()
        diverged = diverged[both | ~places.isin(places[both])]
        return gather(data.only(diverged.assign(accuracy=np.nan, repeats=np.nan)), (axis,))

    return [accuracy, kl]


def yardstick(axis: str, groups: Sequence[Group], runs: pd.DataFrame) -> Yardstick | None:
    """Of this axis: the mean KL of the `all` arm among these runs, which are all of the groups' model and task.

    Of several that were pruned alike, of the one in the studies of all groups, and at their budget, if there is such.
    Without an `all` arm, the mean over the axis' arms. None where there is no KL.
    """
    measured = [group for group in groups if group.arms.has_kl]
    arms = [arm for group in measured if group.axis == axis for arm in group.arms]
    if not arms:
        return None
    like = arms[0].runs.iloc[0]
    alls = runs[(runs["difficulty"] == "all") & (runs["length"] == "all") & runs["kl"].notna()]
    for column in ("calibration", "correctness", "token_weights"):
        alls = alls[alls[column] == like[column]]
    alls = alls.loc[[pruned_alike(run, like) for _, run in alls.iterrows()]]
    studies = {study for group in measured for study in group.arms.runs["study"]}
    for column, wanted in (("study", studies), ("budget", {like["budget"]})):
        nearer = alls[alls[column].isin(wanted)]
        alls = nearer if len(nearer) else alls
    if len(alls):
        return Yardstick(float(alls.drop_duplicates("cell")["kl"].mean()), "the `all` arm")
    names = ", ".join(dict.fromkeys(arm.values[axis] for arm in arms))
    mean = sum(float(arm.kl.mean()) for arm in arms) / len(arms)
    return Yardstick(mean, f"the arms {names}, as there is no `all` arm")
