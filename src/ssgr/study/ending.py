"""What a person is told when all cells of a call have ended, and the exit status that says whether they stand."""

from collections import Counter
from collections.abc import Sequence
from importlib.util import find_spec
from itertools import takewhile
from pathlib import Path

from rich.table import Table

from ssgr.measured import heads, main_metric, row, tasks
from ssgr.progress import say, written_or_said
from ssgr.resume import Outcome
from ssgr.study.watch import spoken


def conclude(outcomes: Sequence[Outcome]) -> int:
    """Says how each cell ended, what draws them, and returns the exit status of the whole call."""
    several = len(outcomes) > 1 and not all(outcome.status in ("planned", "refused") for outcome in outcomes)
    if several:
        with written_or_said("the cells lie where they should") as output:
            output.print(table(outcomes))
    for line in dict.fromkeys(filter(None, (spoken_outcome(outcome, len(outcomes) == 1) for outcome in outcomes))):
        say(f"ssgr: {line}")
    if several or any(outcome.status == "planned" for outcome in outcomes[1:]):
        counts = Counter(outcome.status for outcome in outcomes)
        say(f"ssgr: {len(outcomes)} cells: " + ", ".join(f"{counts[status]} {status}" for status in sorted(counts)))
    if command := drawing(outcomes):
        say(f"ssgr: a figure of it: {command}")
    return max((outcome.exit_status for outcome in outcomes), default=0)


def spoken_outcome(outcome: Outcome, alone: bool) -> str:
    """What is to be said of one cell, where no table says it."""
    if outcome.status in ("failed", "refused"):
        return f"{outcome.cell}: " * bool(outcome.cell and not alone) + outcome.message + where(outcome)
    return f"{outcome.status} {outcome.cell}: {outcome.message}" if alone and outcome.message else ""


def table(outcomes: Sequence[Outcome]) -> Table:
    """One row per cell: how it ended, and its first task's main figure, divergence and time where it stands."""
    rows = Table()
    results = [outcome.result for outcome in outcomes if outcome.result]
    measured = [main_metric(tasks(result)[0], result["metrics"]) for result in results]
    score, count, *_ = heads(measured or ["accuracy"])
    for column in ("cell", "ended", score, count, "KL/token", "time"):
        rows.add_column(column, justify="left" if column in ("cell", "ended") else "right", overflow="fold")
    for outcome, name in zip(outcomes, short([outcome.cell for outcome in outcomes]), strict=True):
        rows.add_row(name or "?", outcome.status, *numbers(outcome))
    return rows


def short(names: Sequence[str]) -> list[str]:
    """The cells' names without what all of them begin with, and without their hashes."""
    parts = [name.split("-")[:-1] for name in names]
    together = zip(*(part for part in parts if part), strict=False)
    common = len(list(takewhile(lambda column: len(set(column)) == 1, together)))
    return ["-".join(part[common:] or part) for part in parts]


def numbers(outcome: Outcome) -> list[str]:
    if not outcome.result:
        return []
    metrics = outcome.result["metrics"]
    task = tasks(outcome.result)[0]  # the main one's come first
    score, count, *_ = row(task, metrics, main_metric(task, metrics))
    kl = metrics.get(f"{task}/kl")
    return [score, count, "–" if kl is None else f"{kl:.4f}", spoken(outcome.result["seconds"]["total"])]


def where(outcome: Outcome) -> str:
    """Where a failed cell's own words lie."""
    failure, log = Path(outcome.folder, "failure.json"), Path(outcome.folder, "log.txt")
    own = Path(outcome.folder).parent / ".logs" / f"{outcome.cell}.txt"
    found = next((path for path in (log, own, failure) if path.is_file()), None)
    return f" (see {found})" if found and outcome.status == "failed" else ""


def drawing(outcomes: Sequence[Outcome]) -> str | None:
    """The command that draws what stands, None where none can: a study's figure has the study's name."""
    pruned = [one for one in outcomes if one.result and one.result["sparsity"]["pattern"] != "dense"]
    measured = {name.rpartition("/")[2] for one in pruned for name in one.result["metrics"]}
    if not measured & {"repeats", "kl"}:
        return None
    study = Path(pruned[0].folder).parent
    analysis = find_spec("analysis")
    drawn = analysis and Path(analysis.submodule_search_locations[0], "figures", f"{study.name}.py").is_file()
    if not drawn and "repeats" not in measured:
        return None  # `cost` draws answers
    return f"python -m analysis {study.name if drawn else 'cost'} --runs {study.parent}"
