"""The stages that main.py calls in order: each asks one room for its part of a cell. Imports torch."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from ssgr.calibration import SOURCES, CalibrationRequest, CalibrationSet
from ssgr.calibration.budget import check_met
from ssgr.cell import Cell
from ssgr.config import PerplexityConfig
from ssgr.engines.base import ENGINES, Engine
from ssgr.errors import CellError, UserError
from ssgr.evaluation.accuracy import no_samples
from ssgr.evaluation.divergence import DenseStates, dense_states, divergence
from ssgr.evaluation.held_out import HeldOut, held_out
from ssgr.evaluation.parts import Examiner, Part, check_data
from ssgr.model_card import card
from ssgr.models import save
from ssgr.models.blocks import model_linears, prunable_parameters
from ssgr.models.load import LoadedModel, load_model, weights_fingerprint
from ssgr.progress import console, say
from ssgr.pruning.allocation import ALLOCATIONS
from ssgr.pruning.base import PRUNERS
from ssgr.pruning.loop import PruneReport, Request
from ssgr.pruning.one_pass import prune_with_others
from ssgr.pruning.sparsity import Sparsity, matrix_quotas
from ssgr.results import Clock, partial_folder
from ssgr.study import together
from ssgr.traces.problems import problem_set
from ssgr.traces.prompts import PromptTemplate
from ssgr.traces.rollouts import collect
from ssgr.traces.tables import render_table
from ssgr.tracking import Tracker


@dataclass
class Subject:
    """The model of a cell and what talks to it. `model` is pruned in place."""

    loaded: LoadedModel
    template: PromptTemplate
    engine: Engine

    def summary(self) -> dict[str, Any]:
        """The `model` entry of result.json."""
        loaded = self.loaded
        return {
            "name": loaded.name,
            "path": loaded.path,  # as it was asked for
            "revision": loaded.revision,  # as it was found
            "weights": loaded.weights_hash,
            "parameters": sum(parameter.numel() for parameter in loaded.model.parameters()),
            "prunable_parameters": prunable_parameters(loaded.model),
            "device": device_name(loaded.device),
        }


@dataclass
class Evaluation:
    """Samples and metrics of one model over all its evaluations, the main one's first.

    The dense model's also hold what the divergence is measured on.
    """

    samples: pd.DataFrame
    metrics: dict[str, float]
    held_out: HeldOut | None = None
    states: DenseStates | None = None
    divergence: pd.DataFrame | None = field(default=None, repr=False)

    @classmethod
    def of(cls, parts: list[Part]) -> "Evaluation":
        samples = [part.samples for part in parts if part.samples is not None]
        metrics = {name: value for part in parts for name, value in part.metrics.items()}
        return cls(pd.concat(samples, ignore_index=True) if samples else no_samples(), metrics)


def load(cell: Cell) -> Subject:
    """Loads the model and checks what only the loaded model can tell; raises UserError before anything is written."""
    config = cell.config
    # Unknown names are refused here rather than in the middle of the cell.
    engine = ENGINES.get(config.engine.name)
    PRUNERS.get(config.pruner.name), ALLOCATIONS.get(config.allocation.name)
    for evaluation in config.evaluations:
        check_data(evaluation)
    loaded = load_model(config.model, choose_device(config.device), cell.cache)
    shapes = {name: tuple(linear.weight.shape) for name, linear in model_linears(loaded.model).items()}
    sparsity = Sparsity.from_config(config.sparsity)
    matrix_quotas(dict.fromkeys(shapes, sparsity.value), shapes, sparsity)  # refuses an n:m that does not divide
    if cell.reads_calibration:
        lower_cap(config.calibration, "calibration.max_seq_len", loaded.context)
    if cell.reads_rollouts:
        lower_cap(config.rollouts, "rollouts.max_new_tokens", loaded.context)
    for evaluation in config.evaluations:
        where = "evaluation" if evaluation is config.evaluation else f"evaluation.also, {evaluation.name}"
        option = "max_seq_len" if isinstance(evaluation, PerplexityConfig) else "max_new_tokens"
        lower_cap(evaluation, f"{where}.{option}", loaded.context)
    template = PromptTemplate(
        loaded.tokenizer, config.problems.instruction, loaded.think_end, config.model.enable_thinking
    )
    longest = max(getattr(options, "max_new_tokens", 0) for options in (config.rollouts, *config.evaluations))
    log_folder = Path(config.runs_dir) / config.study / ".logs"
    return Subject(loaded, template, engine(config.engine, loaded, longest=longest, log_folder=log_folder))


def choose_device(name: str) -> torch.device:
    """The device that the option names; UserError where this machine has none such."""
    cards = torch.cuda.device_count()
    if name == "auto":
        return torch.device("cuda" if cards else "cpu")
    if name.startswith("cuda") and int(name.partition(":")[2] or 0) >= cards:
        raise UserError(f"device={name}: this machine has {cards or 'no'} CUDA devices")
    return torch.device(name)


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu, {torch.get_num_threads()} threads"


def lower_cap(options: Any, option: str, context: int) -> None:
    """A cap beyond the context is lowered, said once and recorded in the config that the cell keeps."""
    name = option.rpartition(".")[2]
    if getattr(options, name) > context:
        say(f"{option}={getattr(options, name)} is lowered to the model's context, {context}")
        setattr(options, name, context)


def calibrate(cell: Cell, subject: Subject, clock: Clock) -> CalibrationSet | None:
    """The calibration set, after generating the rollouts that it needs; None where nothing reads one."""
    if not cell.reads_calibration:
        return None
    config = cell.config

    def rollouts():
        with clock("rollouts"):
            return collect(
                subject.engine,
                subject.loaded,
                subject.template,
                cell.problems,
                config.rollouts,
                cell.cache,
                problem_set(config.problems),
            )

    request = CalibrationRequest(
        config=config.calibration,
        selection=config.selection,
        difficulty=config.difficulty,
        length=config.length,
        seed=config.seed,
        split=config.rollouts.split,
        template=subject.template,
        weights_hash=subject.loaded.weights_hash,
        cache=cell.cache,
        problems=lambda: cell.problems,
        rollouts=rollouts,
    )
    source = SOURCES.get(config.calibration.name)
    with clock("calibration"):
        chosen = source(request)
    check_met(config.calibration, chosen)
    if source.contents(config.calibration) != cell.identity["calibration"]["contents"]:
        line = "what it reads has changed since this cell was named by it; the same command again takes it as it is now"
        raise CellError(f"calibration={config.calibration.name}: {line}")
    if cell.reads_problems:
        chosen.details["contaminated_problems"] = sum(cell.contaminated)
        chosen.notes += contamination_note(cell)
    if chosen.held is not None:
        title = "correct traces · tokens by pass rate and length (↳ taken)"
        console.print(render_table(chosen.held, chosen.selection, title))
    for note in chosen.notes:
        say(note)
    return chosen


def contamination_note(cell: Cell) -> list[str]:
    shared, config = sum(cell.contaminated), cell.config
    if not shared:
        return []
    of = f"{shared:,} of the {len(cell.contaminated):,} problems of problems={config.problems.name}"
    fate = "they are left out" if config.problems.decontaminate else "problems.decontaminate=true leaves them out"
    asked = ", ".join(evaluation.problem_task.name for evaluation in config.evaluations if evaluation.problem_task)
    return [f"{of} share eight words in a row with one of evaluation={asked}: {fate}"]


def evaluate_dense(cell: Cell, subject: Subject, clock: Clock) -> Evaluation:
    """The dense model's evaluations and, for the divergence, its hidden states: from the cache where they are there."""
    config = cell.config
    with clock("dense"):  # apart from what every cell must do again: another cell finds its samples made
        parts = [examiner(cell, subject).before(part, cell.cache) for part in config.evaluations]
        evaluation = Evaluation.of(parts)
        if config.evaluation.divergence and not cell.is_dense:
            evaluation.held_out = held_out(parts[0].dense.accuracy)
            evaluation.states = dense_states(subject.loaded, evaluation.held_out, parts[0].dense.folder)
    return evaluation


def examiner(cell: Cell, subject: Subject) -> Examiner:
    return Examiner(subject.engine, subject.loaded, subject.template, cell.config.limit)


def prune(
    cell: Cell, subject: Subject, calibration: CalibrationSet | None, tracker: Tracker, clock: Clock
) -> PruneReport | None:
    """Prunes the model in place; None for the dense model.

    Under pruner.one_pass the first cell's clock counts the whole pass, and those that it serves next to nothing; each
    report says the cell's own share.
    """
    if cell.is_dense:
        return None
    with clock("pruning"):
        report = prune_with_others(
            subject.loaded,
            calibration.sequences if calibration else None,
            calibration.weights if calibration else None,
            request(cell),
            [request(other) for other in together.after(cell)],
            on_block=tracker.log_block,
        )
    return report


def request(cell: Cell) -> Request:
    """What pruning is asked for."""
    config = cell.config
    return Request(config.pruner, config.allocation, Sparsity.from_config(config.sparsity))


def evaluate_pruned(cell: Cell, subject: Subject, before: Evaluation, clock: Clock) -> Evaluation:
    """The pruned model's evaluations and its divergence from the dense one.

    Samples are stored batch by batch in a folder named by the pruned weights, so that a killed evaluation goes on
    where the same pruning comes out again, and never mixes two models.
    """
    if cell.is_dense:
        return before
    main, *others = cell.config.evaluations
    with clock("evaluation"):
        fingerprint = weights_fingerprint(subject.loaded.model)
        folder, manifest = partial_folder(cell, fingerprint), {"weights": fingerprint, "cell": cell.name}
        asked = [(main, folder), *((other, folder / other.name) for other in others)]
        evaluation = Evaluation.of([examiner(cell, subject).after(*part, manifest) for part in asked])
        if before.held_out is not None:
            measured = divergence(subject.loaded, before.held_out, before.states)
            evaluation.divergence = measured.table
            evaluation.metrics = measured.metrics | evaluation.metrics
            before.metrics = before.metrics | measured.dense_metrics
    return evaluation


def save_checkpoint(cell: Cell, subject: Subject, result: dict[str, Any]) -> None:
    """The model as files, with a card that says what result.json will."""
    if cell.config.save_checkpoint:
        save.save_checkpoint(subject.loaded, cell.folder / "checkpoint", card(result))
