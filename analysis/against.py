"""`python -m analysis --against KEY=VALUE`: what every arm keeps and costs, beside one of them, as tables.

For any runs: one row per arm (its calibration seeds together), the dense model first, the columns of every task.
"""

from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd

from analysis import stats, verdicts
from analysis.arms import Data
from analysis.comparable import rank, shown
from analysis.figures.priced import Priced, every_arm
from analysis.rows import ARM
from analysis.style import label
from ssgr.errors import UserError

KEYS = (*ARM[1:], "sparsity", "budget")  # what arms of one model and task are told apart by
OF_TRACES = ("difficulty", "length", "correctness")  # what traces are chosen by, and nothing else is

Table = dict[str, Priced]  # one arm, by task


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

    A difference is the arm minus the arm that has `value` in `key` and is like it in all else, paired by problem, with
    its 95 % interval (`stats.difference`); empty for that arm itself and where there is none. Raises UserError for an
    unknown key, for a value that no arm has, and where several arms could be the one.
    """
    if key not in KEYS:
        raise UserError(f"--against {key}={value}: the key must be one of {', '.join(KEYS)}")
    priced, left_out = every_arm(data)
    values = {asked(one, key): one.run[key] for one in priced}
    if value not in values:
        choices = ", ".join(sorted(values, key=lambda text: rank(key, values[text])))
        raise UserError(f"--against {key}={value}: no arm has it; {key} is {choices}")
    found, methods = [], []
    for model in dict.fromkeys(one.run["model"] for one in priced):
        some = [one for one in priced if one.run["model"] == model]
        found.append(ModelTable(model, *heads_and_rows(some, key, value, methods)))
    return found, legend(key, value, methods), left_out


def heads_and_rows(
    priced: Sequence[Priced], key: str, value: str, methods: list[str]
) -> tuple[list[str], list[list[str]]]:
    """The table of one model; how its intervals were made is added to `methods`."""
    tasks = sorted({one.run["task"] for one in priced}, key=lambda task: (not any_kl(priced, task), task))
    arms: dict[tuple, Table] = {}
    for one in priced:
        arms.setdefault((one.pruned, one.source, one.arm.cells), {})[one.run["task"]] = one
    usual = {task: usual_count([arm[task] for arm in arms.values() if task in arm]) for task in tasks}
    heads = ["pruned", "calibrated on"]
    for task in tasks:
        heads += [f"{task} ({usual[task]})", f"− {label(value)} [95 %]"]
        heads += ["KL/token"] * any_kl(priced, task) + ["tokens (cut)"]
    rows = dense_rows(priced, tasks, usual)
    for (pruned, source, _), arm in arms.items():
        row = [pruned, source]
        for task in tasks:
            row += columns(arm.get(task), priced, (key, value), usual[task], any_kl(priced, task), methods)
        about = next(iter(arm.values())).arm.runs
        generating = sum(one.arm.runs["seconds"].mean() for one in arm.values())
        rows.append([*row, plain(about["seconds_pruning"].mean(), ".1f"), plain(generating, ".0f")])
    return [*heads, "pruning s", "generating s"], rows


def columns(
    one: Priced | None, priced: Sequence[Priced], against: tuple[str, str], usual: str, kl: bool, methods: list[str]
) -> list[str]:
    """Accuracy, difference, KL where the task has one, tokens; empty where the arm was not evaluated on it."""
    if one is None:
        return [""] * (3 + kl)
    baseline = baseline_of(one, priced, *against)
    difference = ""
    if baseline is not None:
        estimate = stats.difference(one.arm.measure("accuracy"), baseline.arm.measure("accuracy"))
        methods.append(estimate.method)
        difference = verdicts.signed(estimate, verdicts.ACCURACY)
    runs, divergence = one.arm.runs, []
    if kl:
        divergence = [with_error(one, "kl", ".4f") if one.arm.kl is not None else ""]
    count = "" if count_of(one.run) == usual else f" ({count_of(one.run)})"
    tokens = with_cut(runs["mean_tokens"].mean(), runs["truncated"].mean())
    return [with_error(one, "accuracy", ".3f") + count, difference, *divergence, tokens]


def dense_rows(priced: Sequence[Priced], tasks: Sequence[str], usual: dict[str, str]) -> list[list[str]]:
    """One row; more where a task's arms were compared with several dense evaluations."""
    found = {task: {} for task in tasks}
    for one in priced:
        found[one.run["task"]].setdefault((one.arms.dense.value, one.run["dense_problems"]), one)
    rows = []
    for place in range(max(len(dense) for dense in found.values())):
        row, seconds = ["dense", ""], []
        for task in tasks:
            kl, here = any_kl(priced, task), list(found[task].values())[place : place + 1]
            row += dense_columns(here[0], usual[task], kl) if here else [""] * (3 + kl)
            seconds += [one.run["dense_seconds"] for one in here]
        rows.append([*row, "", plain(sum(seconds), ".0f")])
    return rows


def dense_columns(one: Priced, usual: str, kl: bool) -> list[str]:
    dense, count = one.arms.dense, count_of(one.run, "dense_")
    accuracy = f"{dense.value:.3f} ± {dense.se:.3f}" + (f" ({count})" if count != usual else "")
    return [accuracy, "", *[""] * kl, with_cut(dense.mean_tokens, dense.truncated)]


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
    if len(found) > 1:
        named = ", ".join(other.name for other in found)
        raise UserError(f"--against {key}={value}: several arms are like {one.name}: {named}; choose with --where")
    return found[0] if found else None


def shared(one: Priced, other: Priced) -> list[str]:
    """What can be compared of these two."""
    both_select = pd.notna(one.run["correctness"]) and pd.notna(other.run["correctness"])
    return [name for name in KEYS if name not in OF_TRACES or both_select]


def with_error(one: Priced, measure: str, form: str) -> str:
    """Mean ± standard error: over problems and seeds, or over problems as the cell itself says it where it is alone."""
    estimate = stats.mean(one.arm.measure(measure))
    alone = one.run[f"{measure}_se"] if len(one.arm.seeds) == 1 else estimate.se
    return f"{estimate.value:{form}} ± {alone:{form}}"


def usual_count(some: Sequence[Priced]) -> str:
    return pd.Series([count_of(one.run) for one in some]).mode()[0]


def count_of(run: pd.Series, model: str = "") -> str:
    """n × k."""
    return f"{run[f'{model}problems']:,.0f} × {run[f'{model}repeats']:.0f}"


def any_kl(priced: Sequence[Priced], task: str) -> bool:
    return any(one.arm.kl is not None for one in priced if one.run["task"] == task)


def with_cut(tokens: float, share: float) -> str:
    return "" if pd.isna(tokens) else f"{tokens:,.0f} ({share:.1%})"


def plain(value: float, form: str) -> str:
    return "" if pd.isna(value) else f"{value:{form}}"


def asked(one: Priced, key: str) -> str:
    """What it has in this key, as --against may name it; sparsity is counted: 0.54998 for 0.55."""
    return shown(round(one.run[key], 3) if key == "sparsity" else one.run[key])


def legend(key: str, value: str, methods: Sequence[str]) -> str:
    how = {
        stats.COMPONENTS: "from variance components over problems and calibration seeds",
        stats.BOOTSTRAP: "from a bootstrap over problems (one seed): what another seed would change is not in it",
    }
    used = "; ".join(how[method] for method in dict.fromkeys(methods)) or "(none could be made)"
    return (
        f"accuracy ± standard error (n × k, where it is not the column's); − {label(value)}: the arm minus the one "
        f"with {key}={value}, paired by problem, its 95 % interval {used}, not corrected for how many there are; "
        "KL/token: from the dense model, on its answers, in nats; tokens: generated, a mean (share cut at the cap); "
        "generating s: of the engine, for all answers of the row."
    )
