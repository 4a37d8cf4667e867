"""Which cells may stand in one figure: what they are told apart by, what must be the same, and in which order."""

import json
import re
from collections.abc import Sequence
from typing import Any

import pandas as pd

from analysis.rows import ARM, options
from ssgr.errors import UserError
from ssgr.labels import LABELS

SETTINGS = ("task", *ARM, "sparsity", "tokens")  # columns that make an arm, besides the calibration seed
EVALUATED = ("problems", "repeats", "dense_repeats")  # columns that say on what accuracy was measured
SAID_BY = {  # parts of a config that a column says already, or that follow from what it says
    "model": ("model.", "problems.instruction"),
    "task": ("evaluation.",),
    "pruner": ("pruner.",),
    "sparsity": ("sparsity.",),
    "pattern": ("sparsity.",),
    "calibration": ("calibration.", "selection.", "rollouts.", "problems."),
    "difficulty": ("difficulty.",),
    "length": ("length.",),
    "tokens": ("calibration.tokens",),
    "correctness": ("selection.correctness",),
    "token_weights": ("calibration.token_weights",),
}
WITHOUT_EFFECT = (  # on what is measured
    "seed",
    "study",
    "device",
    "limit",  # `problems` is what came of it
    "evaluation.repeats",  # as `repeats`; the divergence knows none
    "evaluation.task",  # of the divergence; `task` says it
    "overwrite",
    "save_checkpoint",
    "dry_run",
    "runs_dir",
    "cache_dir",
    "tracking.",
    "engine.batch_size",
    "engine.gpu_memory_utilization",
    "engine.max_num_seqs",
    "engine.replicas_per_card",
    "engine.data_parallel_size",
    "engine.tensor_parallel_size",
    "engine.enforce_eager",
    "model.offload",
    "evaluation.divergence",
    "pruner.measure_error",
    "pruner.one_pass",
)
PRUNING = ("pruner.", "allocation.", "sparsity.")
NAMES_AND_PLACES = re.compile(r".*\.(name|path|.*_field|fallback\..*)")
CORRECTNESS = {"any": "right or wrong", "incorrect": "wrong"}
PICKED = {"shortest": -1.0, "longest": 201.0}  # outside every bin's middle: twice a percentile from 0 to 100
ORDER = {  # nominal values, in the order in which they are drawn
    "calibration": (
        "self_generated",
        "traces",
        "off_policy",
        "reference_solutions",
        "prompts_only",
        "c4_chat",
        "c4",
        "wikitext",
        "general_text",
        "text",
    ),
    "pruner": ("magnitude", "wanda", "ria", "sparsegpt", "alps"),
    "pattern": ("unstructured", "4:8", "2:4"),
}


def groups(runs: pd.DataFrame, by: Sequence[str]) -> list[pd.DataFrame]:
    """The runs of each arm, arms in drawing order, seeds ascending."""
    if not by:
        return [runs.sort_values("seed")]
    found = [group.sort_values("seed") for _, group in runs.groupby(list(by), dropna=False)]
    return sorted(found, key=lambda group: [rank(column, group[column].iloc[0]) for column in by])


def refuse_mixtures(runs: pd.DataFrame, study: str, by: Sequence[str]) -> None:
    """UserError where cells differ in anything but `by` and the seed, columns first, then options of the config."""
    for column in (*SETTINGS, *EVALUATED):
        if column not in by:
            # a budget of so many sequences holds other tokens with every seed
            asked = runs[runs["budget"].notna()] if column == "tokens" else runs
            refuse_several(study, column, asked[column].dropna().unique())
    said = tuple(part for column in by for part in SAID_BY.get(column, ()))
    calibrated = runs[runs["calibration"].notna()]  # magnitude ignores what it was told of calibration
    found = [config_of(text, said) for text in calibrated["config"].unique()]
    for option in sorted({option for config in found for option in config}):
        values = {json.dumps(config.get(option)) for config in found}
        refuse_several(study, option, [json.loads(value) for value in values])


def refuse_several(study: str, name: str, values: Sequence[Any]) -> None:
    if len(values) > 1:
        values = sorted(values, key=lambda value: rank(name, value))
        shown = [f"{value:g}" if isinstance(value, float) else str(value) for value in values]
        raise UserError(
            f"{study}: the cells differ in {name} ({', '.join(shown)}): choose with --where {name}={shown[-1]}"
        )


def config_of(text: str, said: tuple[str, ...] = ()) -> dict[str, Any]:
    """The options of a config that can change what is measured, without those that start with one of `said`."""
    return {
        option: value
        for option, value in options(text).items()
        if not option.startswith((*WITHOUT_EFFECT, *said)) and not NAMES_AND_PLACES.fullmatch(option)
    }


def setting(run: pd.Series) -> str:
    """Everything that makes a run's arm as one text: two runs of one arm differ in their seed alone."""
    budget = "tokens" if pd.notna(run["budget"]) else "sequences"
    columns = [str(run[budget if column == "tokens" else column]) for column in (*SETTINGS, *EVALUATED)]
    config = config_of(run["config"]) if pd.notna(run["calibration"]) else {}
    return json.dumps([columns, config], sort_keys=True)


def unusual(run: pd.Series) -> list[str]:
    """What of its source a run was calibrated on, where that is not the default: its bins, other traces, weights."""
    parts = [run[name] for name in ("difficulty", "length") if run[name] != "all"]
    parts += [CORRECTNESS[run["correctness"]]] if run["correctness"] in CORRECTNESS else []
    parts += [f"weights {run['token_weights']}"] if run["token_weights"] != "all" else []
    return parts + held_still(options(run["config"]))


def held_still(config: dict[str, Any]) -> list[str]:
    """How a selection keeps other things out of what it compares; nothing for the usual one."""
    balanced = balanced_by(config)
    said = {
        f"balanced by {balanced}": balanced,
        "matched by problem": config.get("selection.matched"),
        "bins from other rollouts": config.get("rollouts.split"),
        f"{config.get('calibration.sequences')} sequences": config.get("calibration.sequences"),
    }
    return [words for words, applies in said.items() if applies]


def balanced_by(config: dict[str, Any]) -> str:
    """The axes on which every bin's selection comes near the same target, `length and level`; empty for none."""
    return " and ".join(config.get("selection.balance") or [])


def pruned_alike(run: pd.Series, other: pd.Series) -> bool:
    """Whether two runs differ in nothing but what calibrated and what evaluated them.

    An option that only one of their configs knows is one that came later, at a default that changes nothing.
    """
    if any(run[column] != other[column] for column in ("model", "pruner", "pattern")):
        return False
    if round(run["sparsity"], 3) != round(other["sparsity"], 3):
        return False
    one, two = options(run["config"]), options(other["config"])
    shared = [name for name in one.keys() & two.keys() if name.startswith(PRUNING)]
    return all(one[name] == two[name] for name in shared if not name.startswith(WITHOUT_EFFECT))


def refuse_duplicates(runs: pd.DataFrame, study: str, by: Sequence[str]) -> None:
    repeated = runs[runs.duplicated([*by, "seed"], keep=False)]
    if len(repeated):
        cells = repeated.groupby([*by, "seed"], dropna=False)["cell"].agg(list).iloc[0]
        raise UserError(f"{study}: these cells are the same arm and seed, but not the same cell: {', '.join(cells)}")


def common_seeds(runs: pd.DataFrame, study: str, by: Sequence[str], notes: list[str]) -> pd.DataFrame:
    """The runs of the calibration seeds that every calibrated arm has; notes which ones an arm lacks."""
    seeds = {tuple(group[column].iloc[0] for column in by): set(group["seed"].dropna()) for group in groups(runs, by)}
    seeds = {arm: found for arm, found in seeds.items() if found}  # magnitude has none
    if not seeds:
        return runs
    every, shared = set.union(*seeds.values()), set.intersection(*seeds.values())
    if not shared:
        raise UserError(f"{study}: the arms have no calibration seed in common")
    if every == shared:
        return runs
    lacking = [f"{named(by, arm)} lacks seed {listed(every - found)}" for arm, found in seeds.items() if every - found]
    notes.append(f"{'; '.join(lacking)}: only what every arm has is drawn, seed {listed(shared)}")
    return runs[runs["seed"].isna() | runs["seed"].isin(shared)]


def named(by: Sequence[str], arm: tuple) -> str:
    return ", ".join(f"{column} {value}" for column, value in zip(by, arm, strict=True))


def listed(seeds: set) -> str:
    return ", ".join(f"{seed:.0f}" for seed in sorted(seeds))


def rank(column: str, value: Any) -> tuple:
    """Where a value stands among its like: `all` first, easy to hard, short to long, small to large."""
    if not isinstance(value, str):
        return (1, float(value), "") if isinstance(value, int | float) and value == value else (2, 0.0, str(value))
    if value == "all":
        return (0, 0.0, "")
    if value in ORDER.get(column, ()):
        return (1, ORDER[column].index(value), "")
    middle = middle_of(column, value)
    return (2, 0.0, value) if middle is None else (1, middle, "")


def shown(value: Any) -> str:
    """As it may be asked for by --where and --against."""
    if isinstance(value, list):
        return json.dumps(value)
    if pd.isna(value):
        return "null"
    return f"{value:g}" if isinstance(value, float) else str(value)


def middle_of(column: str, label: str) -> float | None:
    """The middle of a bin, larger for harder and longer ones; None for what is no bin."""
    for edges, name in LABELS.get(column, {}).items():
        if name == label:
            return -sum(edges) if column == "difficulty" else sum(edges)
    if label in PICKED:
        return PICKED[label]
    found = re.fullmatch(r"(pass|level|length|tokens)([\d.]+)to([\d.]+)", label)
    if found is None:
        return None
    middle = float(found[2]) + float(found[3])
    return -middle if found[1] == "pass" else middle
