"""`python -m analysis --against KEY=VALUE`: what every arm keeps and costs, beside one of them, as tables.

For any runs: one row per arm (its calibration seeds together), the dense model first, the columns of every task; of a
task that nothing but the divergence was measured on, the KL alone.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import pandas as pd

from analysis import stats, verdicts
from analysis.arms import Data
from analysis.comparable import PRUNING, SAID_BY, config_of, rank, shown
from analysis.figures.priced import Priced, count_of, every_arm
from analysis.rows import ARM, options
from analysis.style import label
from ssgr.errors import UserError

KEYS = (*ARM[1:], "sparsity", "budget")  # what arms of one model and task are told apart by
EXAMPLE = "pruner.sinks"  # of a key that is an option
MEASURES = {"accuracy": verdicts.ACCURACY, "kl": verdicts.KL}
OF_TRACES = ("difficulty", "length", "correctness")  # what traces are chosen by, and nothing else is

Table = dict[str, Priced]  # one arm, by task


class Shown(NamedTuple):
    """Which columns a task has, and the count that its heads say."""

    accuracy: bool
    kl: bool
    kl_difference: bool
    usual: str

    def __len__(self) -> int:
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

    `key` is one of KEYS, or an option of the config (`pruner.sinks`). A difference is the arm minus the arm that has
    `value` in it and is like it in all else, paired by problem, with its 95 % interval (`stats.difference`); empty for
    that arm itself and where there is none. Raises UserError for an unknown key, for a value that no arm has, and where
    several arms could be the one.
    """
    if key not in KEYS and "." not in key:
        raise UserError(f"--against {key}={value}: the key must be one of {', '.join(KEYS)}, or an option: {EXAMPLE}")
    priced, left_out = every_arm(data, generating=False)
    if key not in KEYS and not any(key in options(one.run["config"]) for one in priced):
        raise UserError(f"--against {key}={value}: no config has such an option ({EXAMPLE} is one)")
    values = {asked(one, key): value_of(one, key) for one in priced}
    if value not in values:
        choices = ", ".join(sorted(values, key=lambda text: rank(key, values[text])))
        raise UserError(f"--against {key}={value}: no arm has it; {key} is {choices}")
    found, methods = [], []
    for model in dict.fromkeys(one.run["model"] for one in priced):
        some = [one for one in priced if one.run["model"] == model]
        found.append(ModelTable(model, *heads_and_rows(some, key, value, methods)))
    return found, legend(key, value, methods, any(one.arm.accuracy is not None for one in priced)), left_out


def heads_and_rows(
    priced: Sequence[Priced], key: str, value: str, methods: list[str]
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
    rows = dense_rows(priced, tasks, several)
    for (pruned, source, cells), arm in arms.items():
        row = [pruned, source, *[str(len(cells))] * several]
        for task, shows in tasks.items():
            row += columns(arm.get(task), priced, (key, value), shows, methods)
        about = next(iter(arm.values())).arm.runs
        generating = sum(one.arm.runs["seconds"].mean() for one in arm.values())
        rows.append([*row, plain(about["seconds_pruning"].mean(), ".1f"), plain(generating, ".0f")])
    return [*heads, "pruning s", "generating s"], rows


def columns_of(some: Sequence[Priced], key: str) -> Shown:
    """Of one task. KL is no judge between sources: there its differences are shown only where it is all there is."""
    accuracy, kl = (any(one.arm.measure(name) is not None for one in some) for name in ("accuracy", "kl"))
    usual = pd.Series([count_of(one.run) for one in some]).mode()[0]
    return Shown(accuracy, kl, kl and not (accuracy and key == "calibration"), usual)


def columns(
    one: Priced | None, priced: Sequence[Priced], against: tuple[str, str], shows: Shown, methods: list[str]
) -> list[str]:
    """Accuracy, difference, KL and its difference, tokens; empty where the arm was not evaluated on the task."""
    if one is None:
        return [""] * len(shows)
    baseline = baseline_of(one, priced, *against)
    count = "" if count_of(one.run) == shows.usual else f" ({count_of(one.run)})"
    found = {}
    for name, form in (("accuracy", ".3f"), ("kl", ".4f")):
        found[name] = with_error(one, name, form), difference(one, baseline, name, methods)
        if found[name][0]:
            found[name], count = (found[name][0] + count, found[name][1]), ""
    tokens = with_cut(one.arm.runs["mean_tokens"].mean(), one.arm.runs["truncated"].mean())
    kl = found["kl"][: shows.kl + shows.kl_difference]
    return [*found["accuracy"], *kl, tokens] if shows.accuracy else [*kl]


def difference(one: Priced, baseline: Priced | None, name: str, methods: list[str]) -> str:
    """With its interval; empty where one of the two was not measured so."""
    arms = [each and each.arm.measure(name) for each in (one, baseline)]
    if any(values is None for values in arms):
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
            row += dense_columns(here[0], shows) if here and shows.accuracy else [""] * len(shows)
            seconds += [one.run["dense_seconds"] for one in here]
        rows.append([*row, "", plain(sum(seconds), ".0f")])
    return rows


def dense_columns(one: Priced, shows: Shown) -> list[str]:
    dense, count = one.arms.dense, count_of(one.run, "dense_")
    accuracy = f"{dense.value:.3f} ± {dense.se:.3f}" + (f" ({count})" if count != shows.usual else "")
    return [accuracy, *[""] * (len(shows) - 2), with_cut(dense.mean_tokens, dense.truncated)]


def baseline_of(one: Priced, priced: Sequence[Priced], key: str, value: str) -> Priced | None:
    """The arm with `value` in `key`, on the same problems, that has nothing else which this one has not.

    None where there is none, and for an arm that has the value itself.
    """
    if asked(one, key) == value:
        return None
    found = [
        other
        for other in priced
        if other.row == one.row
        and asked(other, key) == value
        and other.arms.problems.equals(one.arms.problems)
        and all(asked(other, name) in ("null", asked(one, name)) for name in shared(one, other) if name != key)
    ]
    if key not in KEYS or len(found) > 1:
        alike = [other for other in found if same_options(one, other, key)]
        found = alike if key not in KEYS else alike or found
    if len(found) > 1:
        named = ", ".join(other.name for other in found)
        raise UserError(f"--against {key}={value}: several arms are like {one.name}: {named}; choose with --where")
    return found[0] if found else None


def shared(one: Priced, other: Priced) -> list[str]:
    """What can be compared of these two."""
    both_select = pd.notna(one.run["correctness"]) and pd.notna(other.run["correctness"])
    return [name for name in KEYS if name not in OF_TRACES or both_select]


def same_options(one: Priced, other: Priced, key: str) -> bool:
    """Whether their configs differ in nothing but what `key` says; where one selects no traces, in no pruning."""
    said = SAID_BY.get(key, (key.removesuffix("name"),))  # a group's options come with its choice
    configs = [config_of(each.run["config"], said) for each in (one, other)]
    if pd.isna(one.run["correctness"]) or pd.isna(other.run["correctness"]):
        configs = [{name: text for name, text in each.items() if name.startswith(PRUNING)} for each in configs]
    return configs[0] == configs[1]


def with_error(one: Priced, measure: str, form: str) -> str:
    """Mean ± standard error: over problems and seeds, or over problems as the cell itself says it where it is alone."""
    values = one.arm.measure(measure)
    if values is None:
        return ""
    estimate = stats.mean(values)
    alone = one.run[f"{measure}_se"] if len(one.arm.seeds) == 1 else estimate.se
    return f"{estimate.value:{form}} ± {alone:{form}}"


def with_cut(tokens: float, share: float) -> str:
    return "" if pd.isna(tokens) else f"{tokens:,.0f} ({share:.1%})"


def plain(value: float, form: str) -> str:
    return "" if pd.isna(value) else f"{value:{form}}"


def value_of(one: Priced, key: str) -> Any:
    """What it has in this key; sparsity is counted: 0.54998 for 0.55."""
    if key not in KEYS:
        return options(one.run["config"]).get(key)
    return round(one.run[key], 3) if key == "sparsity" else one.run[key]


def asked(one: Priced, key: str) -> str:
    """The same as --against may name it."""
    value = value_of(one, key)
    return str(value).lower() if isinstance(value, bool) else shown(value)


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
