"""dry_run=true of a study: its cells, what the cache holds of them already, and what the rest will cost."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from rich.table import Table

from ssgr.cell import Cell
from ssgr.config import TaskConfig
from ssgr.evaluation.dense import BUNDLED_SAMPLES, dense_key, is_shipped, make_manifest
from ssgr.evaluation.files import load_evaluation_problems
from ssgr.models.files import context_length, resolve_model_dir
from ssgr.progress import written_or_said
from ssgr.resume import COPIED, Outcome
from ssgr.study.ending import short
from ssgr.study.speed import measured
from ssgr.study.watch import spoken
from ssgr.traces import rollouts
from ssgr.traces.problems import problem_set
from ssgr.traces.store import TraceStore


@dataclass(frozen=True)
class Held:
    """Completions that cells share: what they are, where they lie, how many are there of how many needed."""

    what: str
    where: str
    held: int
    needed: int

    @property
    def missing(self) -> int:
        return self.needed - self.held


def show_plan(planned: Sequence[tuple[Cell, Outcome]]) -> None:
    """Prints one line per cell, what the cache holds of what they share, and the sum; writes nothing."""
    table = Table()
    for column in ("cell", "would be", "seconds"):
        table.add_column(column, overflow="fold", justify="right" if column == "seconds" else "left")
    total, unknown, parts, source = 0.0, 0, {}, ""
    for (cell, outcome), name in zip(planned, short([cell.name for cell, _ in planned]), strict=True):
        becomes = fate(outcome)
        if becomes != "run":
            table.add_row(name, becomes, "")
            continue
        shared, speed = [part for part in held_in_cache(cell) if part], measured(cell)
        problems = len(load_evaluation_problems(cell.config.evaluation)[: cell.config.limit])
        generated = sum(part.missing for part in shared if part.where not in parts)
        parts |= {part.where: part for part in shared}
        generated += asked_beside(cell)
        seconds, source = (speed.seconds(cell, problems, generated), speed.source) if speed else (0.0, source)
        total, unknown = total + seconds, unknown + (speed is None)
        table.add_row(name, becomes, f"{seconds:.0f}" if speed else "–")
    with written_or_said("nothing was run") as output:
        output.print(table)
        for part in parts.values():
            output.print(f"{part.what} there already: {part.held:,} of {part.needed:,} completions")
        if source:
            output.print(f"About {spoken(total)} one after another, {source}.")
        if unknown:
            output.print(
                f"{unknown} cells without an estimate: no cell of their model has finished on this device yet."
            )


def asked_beside(cell: Cell) -> int:
    """Completions that evaluation.also asks of the pruned model; how many lm-eval's own tasks ask is not known."""
    tasks = [config for config in cell.config.evaluation.also if isinstance(config, TaskConfig)]
    of_each = (len(load_evaluation_problems(task)[: cell.config.limit]) * task.repeats for task in tasks)
    return 0 if cell.is_dense else sum(of_each)


def fate(outcome: Outcome) -> str:
    """skipped | copied | run."""
    if outcome.status == "skipped":
        return "skipped"
    return "copied" if outcome.message.startswith(COPIED) else "run"


def held_in_cache(cell: Cell) -> list[Held | None]:
    """The rollouts and each task's dense samples; None where the cell needs none, or nothing can be known yet."""
    folder, config = resolve_model_dir(cell.config.model), cell.config
    if folder is None:  # a hub id: its template is not here to be looked up by
        return [None, None]
    loaded = SimpleNamespace(
        name=config.model.name,
        revision=config.model.revision,
        weights_hash=cell.identity["model"]["weights"],
        think_end=config.model.think_end,
        dtype=config.model.dtype,
    )
    engine = SimpleNamespace(identity={"engine": config.engine.name}, batch_size=None)
    model = config.model
    options = (config.problems.instruction, model.think_end, model.enable_thinking)
    template = template_of(folder, model.trust_remote_code, *options)
    context = context_length(folder)
    needed = [held_rollouts(cell, engine, loaded, template, context)]
    for evaluation in config.evaluations:
        if task := evaluation.problem_task:
            needed.append(held_dense(cell, task, engine, loaded, template, context))
    return needed


@cache
def template_of(folder: Path, remote_code: bool, *options: str | bool | None) -> Any:
    """The PromptTemplate of the model in this folder; `options` are what it takes after its tokenizer."""
    from ssgr.models.load import read_tokenizer
    from ssgr.traces.prompts import PromptTemplate

    return PromptTemplate(read_tokenizer(folder, remote_code), *options)


def capped(options: Any, context: int) -> Any:
    """As stages.lower_cap leaves them."""
    return replace(options, max_new_tokens=min(options.max_new_tokens, context))


def held_rollouts(cell: Cell, engine: Any, loaded: Any, template: Any, context: int) -> Held | None:
    if not cell.reads_rollouts:
        return None
    config = capped(cell.config.rollouts, context)
    problems = cell.problems[: config.problems]
    needed = len(problems) * config.k
    if config.name == "bundled":
        return Held("rollouts", "shipped", needed, needed)
    manifest = rollouts.make_manifest(engine, loaded, template, config, problem_set(cell.config.problems))
    folder = rollouts.store_folder(cell.cache, manifest)
    return Held("rollouts", str(folder), rows_in(folder, problems, config.k), needed)


def held_dense(cell: Cell, task: TaskConfig, engine: Any, loaded: Any, template: Any, context: int) -> Held:
    from ssgr.evaluation.parts import task_template

    config, template = capped(task, context), task_template(template, task)
    problems = load_evaluation_problems(config)[: cell.config.limit]
    manifest = make_manifest(engine, loaded, template, config)
    folder = cell.cache / "dense" / dense_key(manifest)
    if not (folder / "manifest.json").is_file() and is_shipped(manifest):
        folder = BUNDLED_SAMPLES
    held = rows_in(folder, problems, config.dense_repeats)
    return Held("dense samples", str(folder), held, len(problems) * config.dense_repeats)


def rows_in(folder: Path, problems: Sequence[Any], k: int) -> int:
    if not (folder / "manifest.json").is_file():
        return 0
    return len(TraceStore.open(folder).view(problems, k).traces)
