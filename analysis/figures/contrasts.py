"""The contrasts that were fixed beforehand, from whatever studies hold their arms, matched and unmatched.

A cell is matched where its config says so (`selection.balance`), whatever its study is called.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import pandas as pd

from analysis import equivalence, stats
from analysis.arms import Arms, Data, gather
from analysis.comparable import balanced_by, pruned_alike
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
        for axis, names in ORDERED.items():
            (other,) = ORDERED.keys() - {axis}
            inside = every[every[axis].isin(names) & (every[other] == "all")].drop_duplicates("cell")
            some = []
            for _, part in inside.groupby(inside["balance"] == ""):
                try:
                    arms = gather(data.only(part), (axis,))
                except UserError as error:
                    left_out.append(str(error))
                else:
                    some.append(Group(f"{model}, {task}", axis, part["balance"].iloc[0], arms))
            stick = yardstick(some, every)
            found += [replace(group, yardstick=stick) for group in some]
    return found, left_out


def yardstick(groups: Sequence[Group], runs: pd.DataFrame) -> Yardstick | None:
    """Of the groups of one axis: the mean KL of the `all` arm among these runs, of their model and task.

    Of several that were pruned alike, of the one in the groups' own studies, and at their budget, if there is such.
    Without an `all` arm, the mean over the groups' arms. None where there is no KL.
    """
    measured = [arm for group in groups for arm in group.arms if group.arms.has_kl]
    if not measured:
        return None
    like = measured[0].runs.iloc[0]
    alls = runs[(runs["difficulty"] == "all") & (runs["length"] == "all") & runs["kl"].notna()]
    for column in ("calibration", "correctness", "token_weights"):
        alls = alls[alls[column] == like[column]]
    alls = alls.loc[[pruned_alike(run, like) for _, run in alls.iterrows()]]
    studies = {study for arm in measured for study in arm.runs["study"]}
    for column, wanted in (("study", studies), ("budget", {like["budget"]})):
        nearer = alls[alls[column].isin(wanted)]
        alls = nearer if len(nearer) else alls
    if len(alls):
        return Yardstick(float(alls.drop_duplicates("cell")["kl"].mean()), "the `all` arm")
    names = ", ".join(dict.fromkeys(arm.values[groups[0].axis] for arm in measured))
    mean = sum(float(arm.kl.mean()) for arm in measured) / len(measured)
    return Yardstick(mean, f"the arms {names}, as there is no `all` arm")
