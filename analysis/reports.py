"""What is wrong with a table of runs, in one line each: nothing of it is dropped, or averaged away, in silence."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from analysis import wandb_source
from analysis.rows import ARM, options
from ssgr.cache import read_json

# what a figure tells cells apart by, besides the task; here as asked for, so that a cell's own counts tell nothing
ARM_AND_SEED = ["study", *ARM, "sparsity_target", "budget", "seed"]
NOT_SCIENCE = ("runs_dir", "cache_dir", "tracking", "study", "device", "overwrite", "save_checkpoint", "dry_run")
NAMED = 5  # cells that one line names


def problems(runs: pd.DataFrame, source: str | Path | Sequence[str | Path] | None = None) -> list[str]:
    """One line for each: cells that a figure could not tell apart, schema versions that meet in one study, what was
    left out when `runs` were loaded, and per study of `source` the cells that were asked for and are not finished.

    `source` is what `runs` were loaded from; of a W&B project nobody knows which cells were asked for.
    """
    lines = list(runs.attrs.get("left_out", []))
    lines += duplicates(runs)
    for study, group in runs.groupby("study"):
        if group["schema_version"].nunique() > 1:
            versions = ", ".join(map(str, sorted(group["schema_version"].unique())))
            lines.append(f"study {study} mixes schema versions {versions}: run its older cells again (overwrite=true)")
    sources = [] if source is None else [source] if isinstance(source, str | Path) else source
    for one in sources:
        if not wandb_source.is_project(one):
            lines += missing(Path(one))
    return lines


def duplicates(runs: pd.DataFrame) -> list[str]:
    """Cells of one arm and seed, with the options in which they differ: one line for all that differ alike."""
    alike: dict[tuple[str, str, int], list[pd.DataFrame]] = {}
    cells = runs.drop_duplicates(["study", "cell"])
    for (study, *_), group in cells.groupby(ARM_AND_SEED, dropna=False):
        if len(group) > 1:
            alike.setdefault((study, differences(group), len(group)), []).append(group)
    lines = []
    for (study, what, count), groups in alike.items():
        first = groups[0]["cell"]
        times = f", {len(groups)} times" * (len(groups) > 1)
        lines.append(
            f"study {study} holds {count} cells of one arm and seed{times}, {', '.join(sorted(first))}: {what}"
        )
    return lines


def differences(group: pd.DataFrame) -> str:
    """The options in which these cells differ, with their values in the cells' order."""
    configs = [options(text) for text in group.sort_values("cell")["config"]]
    names = sorted({name for config in configs for name in config})
    found = []
    for name in names:
        values = [json.dumps(config.get(name)) for config in configs]
        if len(set(values)) > 1 and name.split(".")[0] not in NOT_SCIENCE:
            found.append(f"{name} ({' | '.join(values)})")
    return f"they differ in {', '.join(found)}" if found else "their configs are the same, what they read is not"


def missing(runs_dir: Path) -> Iterator[str]:
    """A line for each study of a runs directory whose study.json names cells that are not finished."""
    for path in sorted(runs_dir.glob("*/study.json")):
        try:
            asked = [cell["cell"] for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            yield f"{path} is left out: {error!r}"
            continue
        open_cells = [name for name in asked if not is_finished(path.parent / name)]
        if open_cells:
            named = ", ".join(f"{name} ({state(path.parent / name)})" for name in open_cells[:NAMED])
            more = f" and {len(open_cells) - NAMED} more" if len(open_cells) > NAMED else ""
            count = f"{len(open_cells)} of {len(asked)} cells are not finished"
            yield f"study {path.parent.name}: {count}: {named}{more}"


def is_finished(folder: Path) -> bool:
    return (read_json(folder / "result.json") or {}).get("status") == "finished"


def state(folder: Path) -> str:
    """How a cell that is not finished stands."""
    failure = read_json(folder / "failure.json") or {}
    if {"stage", "error"} <= failure.keys():
        return f"failed in {failure['stage']}: {failure['error']}"
    return "begun" if folder.is_dir() else "not begun"
