"""`python -m analysis --against KEY=VALUE`: what every arm keeps and costs, beside one of them, as tables.

For any runs: one row per arm (its calibration seeds together), the dense model first, the columns of every task; of a
task that nothing but the divergence was measured on, the KL alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pandas as pd

from analysis import stats, verdicts
from analysis.arms import Data
from analysis.baseline import EXAMPLE, KEYS, baseline_of, column_of, has, named, same_dense, value_of
from analysis.comparable import rank
from analysis.figures.priced import Priced, count_of, every_arm
from analysis.rows import options
from analysis.style import label
from ssgr.errors import UserError

MEASURES = {"accuracy": verdicts.ACCURACY, "kl": verdicts.KL}

Table = dict[str, Priced]  # one arm, by task
Baselines = dict[int, Priced | None]  # of each arm, by its id


@dataclass(frozen=True)
class Shown:
    """Which columns a task has, and the count that its heads say."""

    accuracy: bool
    kl: bool
    kl_difference: bool
    usual: str

    @property
    def width(self) -> int:
        return 3 * self.accuracy + self.kl + self.kl_difference

    def heads(self, task: str, value: str) -> list[str]:
        minus = f"− {label(value)} [95 %]"
        if not self.accuracy:
            return [f"{task}: KL/token ({self.usual})", minus]
        return [
            *(f"{task} ({self.usual})", minus),
            *["KL/token"] * self.kl,
            *[f"KL {minus}"] * self.kl_difference,
            "tokens (cut)",
        ]


class ModelTable(NamedTuple):
    """The arms of one model: the texts of each row, below `heads`."""

    model: str
    heads: list[str]
    rows: list[list[str]]


def markdown(data: Data, key: str, value: str) -> tuple[str, list[str]]:
    """The tables with what their columns are below them, and a line for each cell that is not in them."""
    found, told, left_out = tables(data, key, value)
    parts = []
    for one in found:
        rows = [one.heads, ["---"] * len(one.heads), *one.rows]
        parts.append(f"{one.model}:\n\n" + "\n".join(f"| {' | '.join(row)} |" for row in rows))
    return "\n\n".join([*parts, told]), left_out


def tables(data: Data, key: str, value: str) -> tuple[list[ModelTable], str, list[str]]:
    """A table for each model, what the columns are, and a line for each cell that is not in them.

    `key` is one of baseline.KEYS, or an option of the config (`pruner.sinks`). A difference is the arm minus the arm
    that has `value` in it and is like it in all else, paired by problem, with its 95 % interval (`stats.difference`);
    empty for that arm itself and where there is none. Raises UserError for an unknown key, for a value that no arm has,
    and where several arms could be the one.
    """
    key = column_of(key)
    priced, left_out = every_arm(data, generating=False)
    if key not in KEYS and not any(key in options(one.run["config"]) for one in priced):
        raise UserError(f"--against {key}={value}: no config has such an option ({EXAMPLE} is one)")
    if not any(has(one, key, value) for one in priced):
        values = {named(one, key): value_of(one, key) for one in priced}
        choices = ", ".join(sorted(values, key=lambda text: rank(key, values[text])))
        raise UserError(f"--against {key}={value}: no arm has it; {key} is {choices}")
    baselines = {id(one): baseline_of(one, priced, key, value) for one in priced}
    found, methods = [], []
    for model in dict.fromkeys(one.run["model"] for one in priced):
        some = [one for one in priced if one.run["model"] == model]
        found.append(ModelTable(model, *heads_and_rows(some, baselines, key, value, methods)))
    generates = any(one.arm.accuracy is not None for one in priced)
    return found, legend(key, value, methods, generates), [*left_out, *apart(priced, baselines, value)]


def apart(priced: Sequence[Priced], baselines: Baselines, value: str) -> list[str]:
    """A line for each arm whose KL is not compared, since its baseline's was measured on other dense answers."""
    pairs = [(one, baselines[id(one)]) for one in priced]
    return [
        f"KL − {label(value)} of {one.name}: the two were measured on different dense answers"
        for one, other in pairs
        if other is not None and one.arm.kl is not None and other.arm.kl is not None and not same_dense(one, other)
    ]


def heads_and_rows(
    priced: Sequence[Priced], baselines: Baselines, key: str, value: str, methods: list[str]
) -> tuple[list[str], list[list[str]]]:
    """The table of one model; how its intervals were made is added to `methods`."""
    by_task: dict[str, list[Priced]] = {}
    for one in priced:
        by_task.setdefault(one.run["task"], []).append(one)
    tasks = {task: columns_of(some, key) for task, some in by_task.items()}
    tasks = dict(sorted(tasks.items(), key=lambda item: (not item[1].kl, item[0])))
    arms: dict[tuple, Table] = {}
    for one in priced:
        arms.setdefault((one.pruned, one.source, one.arm.cells), {})[one.run["task"]] = one
    several = any(len(one.arm.seeds) > 1 for one in priced)
    heads = ["pruned", "calibrated on", *["seeds"] * several]
    for task, shows in tasks.items():
        heads += shows.heads(task, value)
    generates = any(shows.accuracy for shows in tasks.values())
    rows = dense_rows(priced, tasks, several) if generates else []
    for (pruned, source, cells), arm in arms.items():
        row = [pruned, source, *[str(len(cells))] * several]
        for task, shows in tasks.items():
            row += columns(arm.get(task), baselines, shows, methods)
        about = next(iter(arm.values())).arm.runs
        row.append(plain(about["seconds_pruning"].mean(), ".1f"))
        generating = pd.Series([one.arm.runs["seconds"].mean() for one in arm.values()]).sum(min_count=1)
        rows.append([*row, *[plain(generating, ".0f")] * generates])
    return [*heads, "pruning s", *["generating s"] * generates], rows


def columns_of(some: Sequence[Priced], key: str) -> Shown:
    """Of one task. KL is no judge between sources: there its differences are shown only where it is all there is."""
    accuracy, kl = (any(one.arm.measure(name) is not None for one in some) for name in ("accuracy", "kl"))
    counted = [one for one in some if one.arm.accuracy is not None] or some
    usual = pd.Series([count_of(one.run) for one in counted]).mode()[0]
    return Shown(accuracy, kl, kl and not (accuracy and key == "calibration"), usual)


def columns(one: Priced | None, baselines: Baselines, shows: Shown, methods: list[str]) -> list[str]:
    """Accuracy, difference, KL and its difference, tokens; empty where the arm was not evaluated on the task."""
    if one is None:
        return [""] * shows.width
    baseline = baselines[id(one)]
    count = "" if count_of(one.run) == shows.usual else f" ({count_of(one.run)})"
    accuracy, kl = with_error(one, "accuracy", ".3f"), with_error(one, "kl", ".4f")
    found = []
    if shows.accuracy:
        found += [accuracy + count * bool(accuracy), difference(one, baseline, "accuracy", methods)]
    if shows.kl:
        found.append(kl + count * bool(kl and not accuracy))
    if shows.kl_difference:
        comparable = baseline is not None and same_dense(one, baseline)
        found.append(difference(one, baseline if comparable else None, "kl", methods))
    if shows.accuracy:
        found.append(with_cut(one.arm.runs["mean_tokens"].mean(), one.arm.runs["truncated"].mean()))
    return found


def difference(one: Priced, baseline: Priced | None, name: str, methods: list[str]) -> str:
    """With its interval; empty where one of the two was not measured so."""
    arms = [each.arm.measure(name) for each in (one, baseline) if each is not None]
    if len(arms) < 2 or any(values is None for values in arms):
        return ""
    estimate = stats.difference(*arms)
    methods.append(estimate.method)
    return verdicts.signed(estimate, MEASURES[name])


def dense_rows(priced: Sequence[Priced], tasks: dict[str, Shown], several: bool) -> list[list[str]]:
    """One row; more where a task's arms were compared with several dense evaluations."""
    found = {task: {} for task in tasks}
    for one in priced:
        found[one.run["task"]].setdefault((one.arms.dense.value, one.run["dense_problems"]), one)
    rows = []
    for place in range(max(len(dense) for dense in found.values())):
        row, seconds = ["dense", "", *[""] * several], []
        for task, shows in tasks.items():
            here = list(found[task].values())[place : place + 1]
            row += dense_columns(here[0], shows) if here and shows.accuracy else [""] * shows.width
            seconds += [one.run["dense_seconds"] for one in here]
        rows.append([*row, "", plain(pd.Series(seconds).sum(min_count=1), ".0f")])
    return rows


def dense_columns(one: Priced, shows: Shown) -> list[str]:
    dense, count = one.arms.dense, count_of(one.run, "dense_")
    accuracy = f"{dense.value:.3f} ± {dense.se:.3f}" + (f" ({count})" if count != shows.usual else "")
    return [accuracy, *[""] * (shows.width - 2), with_cut(dense.mean_tokens, dense.truncated)]


def with_error(one: Priced, measure: str, form: str) -> str:
    """Mean ± standard error: over problems and seeds, or over problems as the cell itself says it where it is alone."""
    values = one.arm.measure(measure)
    if values is None:
        return ""
    error = one.run[f"{measure}_se"] if len(one.arm.seeds) == 1 else stats.mean(values).se
    return f"{values.mean():{form}} ± {error:{form}}"


def with_cut(tokens: float, share: float) -> str:
    return "" if pd.isna(tokens) else f"{tokens:,.0f} ({share:.1%})"


def plain(value: float, form: str) -> str:
    return "" if pd.isna(value) else f"{value:{form}}"


def legend(key: str, value: str, methods: Sequence[str], accuracy: bool) -> str:
    """`accuracy`: whether any arm has one."""
    how = {
        stats.COMPONENTS: "from variance components over problems and calibration seeds",
        stats.BOOTSTRAP: "from a bootstrap over problems (one seed): what another seed would change is not in it",
    }
    used = "; ".join(how[method] for method in dict.fromkeys(methods)) or "(none could be made)"
    parts = [
        "accuracy ± standard error (n × k, where it is not the column's)",
        f"− {label(value)}: the arm minus the one with {key}={value}, paired by problem, its 95 % interval {used}, not "
        "corrected for how many there are",
        "KL/token ± standard error: from the dense model, on its answers, in nats, lower is better, no judge between a "
        "model's own traces and other text",
        "tokens: generated, a mean (share cut at the cap)",
        "generating s: of the engine, for all answers of the row",
    ]
    return "; ".join(parts if accuracy else parts[1:3]) + "."
