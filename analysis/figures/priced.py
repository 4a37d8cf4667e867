"""The arms of any runs, whatever they differ in: each with its dense model, and with a name of its own."""

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np
import pandas as pd

from analysis.arms import Arm, Arms, Data, gather
from analysis.comparable import config_of, rank, setting, unusual
from analysis.rows import options
from analysis.style import label, sparsity_label
from ssgr.errors import UserError

ORDER = ("model", "task", "pruner", "pattern", "sparsity")
THEN = ("calibration", "difficulty", "length", "tokens", "problems")  # after how sparsity is allocated


@dataclass(frozen=True)
class Priced:
    """One arm with the dense model that it was compared with, on one model and task."""

    arms: Arms
    arm: Arm
    tells_tokens: bool  # where budgets differ
    tells_problems: bool = False  # where some arms were measured on other problems than others
    mark: str = ""  # what tells arms apart that are alike in everything that is named

    @cached_property  # asked for by everything that tells of an arm
    def run(self) -> pd.Series:
        return self.arm.runs.iloc[0]

    @property
    def row(self) -> str:
        name = f"{self.run['model']}, {self.run['task']}"
        return name + f", n {count_of(self.run)}" * self.tells_problems

    @property
    def kind(self) -> str:
        """What the colour means: the source, else the pruner that needs no calibration."""
        return self.run["calibration"] if pd.notna(self.run["calibration"]) else self.run["pruner"]

    @property
    def name(self) -> str:
        """SparseGPT 50 % on own traces (hard, 16,384 tokens); what all arms share is left out."""
        return self.pruned + (f" on {self.source}" if pd.notna(self.run["calibration"]) else self.mark)

    @property
    def pruned(self) -> str:
        """SparseGPT 50 %; SparseGPT 60 %, owl"""
        name = f"{label(self.run['pruner'])} {sparsity_label(self.run['sparsity'], self.run['pattern'])}"
        allocation = options(self.run["config"]).get("allocation.name") or "uniform"
        return name if allocation == "uniform" else f"{name}, {allocation}"

    @property
    def source(self) -> str:
        """own traces (hard, 16,384 tokens)"""
        if pd.isna(self.run["calibration"]):
            return label(None) + self.mark
        parts = unusual(self.run) + [f"{self.run['tokens']:,.0f} tokens"] * self.tells_tokens
        return label(self.run["calibration"]) + (f" ({', '.join(parts)})" if parts else "") + self.mark

    def seconds(self) -> np.ndarray:
        """[seeds], per 1,000 answers."""
        runs = self.arm.runs
        return (1000 * runs["seconds"] / (runs["problems"] * runs["repeats"])).to_numpy(float)


def count_of(run: pd.Series, model: str = "") -> str:
    """n × k; n alone where nothing was generated. `model`: dense_ for the dense one's."""
    count, repeats = f"{run[f'{model}problems']:,.0f}", run[f"{model}repeats"]
    return count if pd.isna(repeats) else f"{count} × {repeats:.0f}"


@lru_cache(maxsize=2)  # a page asks for them once for each of its parts
def every_arm(data: Data, generating: bool = True) -> tuple[list[Priced], list[str]]:
    """All arms of all studies, a cell that several studies hold counted once; arms need not be comparable.

    Also one line for each cell without samples and for each arm that cannot be drawn. Raises UserError where none can.
    `generating`: without the cells of evaluation=divergence, whose arms have no accuracy.
    """
    pruned = data.runs[data.runs["pattern"] != "dense"]
    alone = pruned["accuracy"].isna() & pruned["kl"].notna()
    runs, left_out = with_rows(pruned[~alone], data.samples, "samples")
    if generating:
        count = pruned.loc[alone, "cell"].nunique()
        left_out += [f"{count} cells measured the divergence alone"] * bool(count)
    else:
        more, lines = with_rows(pruned[alone], data.divergence, "divergence table")
        runs, left_out = pd.concat([runs, more]), left_out + lines
    if runs.empty:
        raise UserError("; ".join(left_out) or "no pruned cell that is finished")
    runs = runs.assign(setting=runs.apply(setting, axis=1))
    # cells that look alike but are not, such as those of two versions of the weights, are arms of their own
    runs = runs.assign(copy=runs.groupby(["setting", "seed"], dropna=False).cumcount())
    about = runs.groupby(["model", "task"])
    counts = {name: about[name].transform("nunique") for name in ("tokens", "problems", "repeats")}
    runs = runs.assign(several=counts["tokens"] > 1, measured=(counts["problems"] > 1) | (counts["repeats"] > 1))
    found = []
    for _, group in runs.groupby(["setting", "copy"], sort=False):
        try:
            arms = gather(data.only(group), ())
        except UserError as error:
            left_out.append(str(error))
            continue
        first = group.iloc[0]
        found.append(Priced(arms, arms.arms[0], bool(first["several"]), bool(first["measured"])))
    if not found:
        raise UserError("; ".join(left_out))
    return told_apart(sorted(found, key=place_of)), left_out


def place_of(one: Priced) -> tuple:
    first, then = ([rank(column, one.run[column]) for column in columns] for columns in (ORDER, THEN))
    return first, one.pruned, then


def with_rows(runs: pd.DataFrame, table: pd.DataFrame, name: str) -> tuple[pd.DataFrame, list[str]]:
    """The runs whose rows of the table were read, each cell and task once, and a line for each that has none anywhere.

    One seed that cannot be read leaves its arm the others.
    """
    read = set(zip(table["study"], table["cell"], table["task"], strict=True)) if len(table) else set()
    keys = zip(runs["study"], runs["cell"], runs["task"], strict=True)
    has = np.array([key in read for key in keys], bool)
    kept = runs[has].drop_duplicates(["cell", "task"])
    known = set(zip(kept["cell"], kept["task"], strict=True))
    lacking = runs[~has].drop_duplicates(["cell", "task"])
    return kept, [
        f"{run['study']}: {run['cell']} has no {name} that can be read"
        for _, run in lacking.iterrows()
        if (run["cell"], run["task"]) not in known
    ]


def told_apart(priced: list[Priced]) -> list[Priced]:
    """The same arms; those that would have one name in one row are named by what they differ in, too."""
    alike = defaultdict(list)
    for one in priced:
        alike[one.row, one.name].append(one)
    marks = {}
    for group in alike.values():
        if len(group) > 1:
            texts = next(texts for texts in differences(group) if len(set(texts)) == len(group))
            marks |= {id(one): f" [{text}]" for one, text in zip(group, texts, strict=True)}
    return [replace(one, mark=marks.get(id(one), "")) for one in priced]


def differences(alike: list[Priced]) -> Iterator[list[str]]:
    """What may tell these arms apart, a text for each: an option, all of them, the study; at last a number."""
    configs = [config_of(one.run["config"]) if pd.notna(one.run["calibration"]) else {} for one in alike]
    differing = {}
    for option in sorted({option for config in configs for option in config}):
        values = [json.dumps(config.get(option), ensure_ascii=False).strip('"') for config in configs]
        if len(set(values)) > 1:
            differing[option] = [f"{option} {value}" for value in values]
    yield from differing.values()
    studies = [f"study {', '.join(sorted(one.arm.runs['study'].unique()))}" for one in alike]
    numbers = [f"#{count}" for count in range(1, len(alike) + 1)]
    columns = list(differing.values())
    for more in ([], [studies], [numbers]):
        yield [", ".join(texts) for texts in zip(*columns, *more, strict=True)]
