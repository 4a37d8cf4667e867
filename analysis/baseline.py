"""Which arm another one is compared with: the one that has a certain value, and is like it in all else."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import pandas as pd
import yaml

from analysis.comparable import NAMES_AND_PLACES, SAID_BY, WITHOUT_EFFECT, config_of, shown
from analysis.figures.priced import Priced
from analysis.rows import ARM, options
from ssgr.composition import folder
from ssgr.errors import UserError

KEYS = (*ARM[1:], "sparsity", "budget")  # what arms of one model and task are told apart by
EXAMPLE = "pruner.sinks"  # of a key that is an option
ALIASES = {  # options that a column says
    "pruner.name": "pruner",
    "sparsity.value": "sparsity",
    "calibration.name": "calibration",
    "calibration.tokens": "budget",
    "calibration.token_weights": "token_weights",
    "difficulty.name": "difficulty",
    "length.name": "length",
    "selection.correctness": "correctness",
}
SAID = SAID_BY | {"budget": ("calibration.tokens",)}
CHOICES = ("allocation.name",)  # names that change what is measured, with options of their own
OF_TRACES = ("difficulty", "length", "correctness")  # what traces are chosen by, and nothing else is
OF_CALIBRATION = ("calibration.", "selection.", "rollouts.", "problems.", "difficulty.", "length.")


def column_of(key: str) -> str:
    """The key as it is looked up: a column where one says it, else the option.

    Raises UserError for what tells no arms apart.
    """
    key = ALIASES.get(key, key)
    part = key.partition(".")[0]
    if key in KEYS or key in CHOICES or key == "length.within":
        return key
    if "." not in key:
        raise UserError(f"--against {key}: must be one of {', '.join(KEYS)}, or an option such as {EXAMPLE}")
    if part in ("difficulty", "length", "sparsity"):
        raise UserError(f"--against {key}: is a part of {part}, which is to be named instead")
    if key.startswith(WITHOUT_EFFECT) or NAMES_AND_PLACES.fullmatch(key):
        raise UserError(f"--against {key}: does not tell arms apart")
    return key


def value_of(one: Priced, key: str) -> Any:
    """What it has in this key; sparsity is counted: 0.54998 for 0.55."""
    if key not in KEYS:
        return options(one.run["config"]).get(key)
    return round(one.run[key], 3) if key == "sparsity" else one.run[key]


def named(one: Priced, key: str) -> str:
    """The same as it may be asked for."""
    value = value_of(one, key)
    return str(value).lower() if isinstance(value, bool) else shown(value)


def has(one: Priced, key: str, value: str) -> bool:
    """Whether this is its value, as it is shown or as YAML reads it."""
    if named(one, key) == value:
        return True
    try:
        wanted = yaml.safe_load(value)
    except yaml.YAMLError:
        return False
    found = value_of(one, key)
    return (
        isinstance(wanted, (int, float, list))
        and isinstance(wanted, bool) == isinstance(found, bool)
        and found == wanted
    )


def baseline_of(one: Priced, priced: Sequence[Priced], key: str, value: str) -> Priced | None:
    """The arm with `value` in `key`, on the same problems, that has nothing else which this one has not.

    None where there is none, and for an arm that has the value itself. Raises UserError where several could be the one.
    """
    if has(one, key, value):
        return None
    found = [
        other
        for other in priced
        if (other.run["model"], other.run["task"]) == (one.run["model"], one.run["task"])
        and has(other, key, value)
        and other.arms.problems.equals(one.arms.problems)
        and all(named(other, name) in ("null", named(one, name)) for name in compared(one, other) if name != key)
        and same_options(one, other, key)
    ]
    # by KL, cells that measured nothing else may stand beside cells that did
    alone = [other for other in found if one.arm.accuracy is None or other.arm.accuracy is None]
    found = [other for other in found if other.row == one.row] or alone
    if len(found) > 1:
        names = ", ".join(other.name for other in found)
        raise UserError(f"--against {key}={value}: several arms are like {one.name}: {names}; choose with --where")
    return found[0] if found else None


def compared(one: Priced, other: Priced) -> list[str]:
    """The columns in which these two can be compared."""
    both_select = selects(one) and selects(other)
    return [name for name in KEYS if name not in OF_TRACES or both_select]


def selects(one: Priced) -> bool:
    """Whether it was calibrated on traces that were selected."""
    return pd.notna(one.run["correctness"])


def same_options(one: Priced, other: Priced, key: str) -> bool:
    """Whether their configs agree but for what `key` says; of calibration, where they are of one kind.

    An option that only one of them knows came later: there it must be at its default, which changes nothing.
    """
    said = SAID.get(key, (key.removesuffix("name"),))  # a group's options come with its choice
    if selects(one) != selects(other) or pd.isna(one.run["calibration"]) or pd.isna(other.run["calibration"]):
        said += OF_CALIBRATION
    if one.arm.accuracy is None or other.arm.accuracy is None:
        said += ("evaluation.",)  # KL alone is compared, on the same dense answers
    mine, its = (config_of(each.run["config"], said) | chosen(each, key) for each in (one, other))
    if any(mine[name] != its[name] for name in mine.keys() & its.keys()):
        return False
    alone = [
        (each, name)
        for each, known in ((one, mine), (other, its))
        for name in known.keys() - (mine.keys() & its.keys())
    ]
    return all(value_of(each, name) == default(name, choice_of(each, name)) for each, name in alone)


def chosen(one: Priced, key: str) -> dict[str, Any]:
    """The names that change what is measured, but for the one that is asked for."""
    return {name: value_of(one, name) for name in CHOICES if name != key}


def choice_of(one: Priced, option: str) -> str:
    """What was chosen in the group of the option, such as sparsegpt."""
    return str(value_of(one, f"{option.partition('.')[0]}.name"))


@cache
def default(option: str, choice: str) -> Any:
    """What the option is where nobody says anything; None for one that is no more."""
    group, _, name = option.partition(".")
    for path, names in ((f"{group}/{choice}.yaml", [name]), ("config.yaml", [group, name])):
        file = folder("conf") / path
        found = yaml.safe_load(file.read_text(encoding="utf-8")) if file.is_file() else {}
        for part in names:
            found = found.get(part) if isinstance(found, dict) else None
        if found is not None:
            return found
    return None


def same_dense(one: Priced, other: Priced) -> bool:
    """Whether the KL of both was measured on the same dense answers, seed by seed."""
    found = []
    for each in (one, other):
        about = each.arm.runs[["dense_accuracy", "dense_mean_tokens"]].fillna(-1.0).itertuples(index=False, name=None)
        found.append(dict(zip(each.arm.seeds, about, strict=True)))
    return found[0] == found[1] or len({*found[0].values(), *found[1].values()}) == 1
