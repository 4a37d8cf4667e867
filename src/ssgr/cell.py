"""One cell: its config filled and checked, its name, and the hash of everything that can change its result.

Runs before torch is loaded, so that bad input costs a second and writes nothing.
"""

import os
import re
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ssgr.cache import cache_root, content_hash, file_hash
from ssgr.calibration import SOURCES, check_source
from ssgr.config import Config, EvaluationConfig, check_at_least_one, check_sampling, check_seed
from ssgr.errors import UserError
from ssgr.evaluation.files import check_evaluation, evaluation_identity, load_evaluation_problems
from ssgr.labels import bin_labels, choice_labels, sparsity_label
from ssgr.models.files import check_model_folder, resolve_model_dir, weights_hash
from ssgr.traces.bins import check_bins
from ssgr.traces.contamination import contaminated
from ssgr.traces.problems import Problem, load_problems, problems_hash
from ssgr.traces.rollouts import BUNDLED as BUNDLED_ROLLOUTS
from ssgr.traces.rollouts import check_bundled

FILLED = {  # option: the model option that stands in for its null
    ("calibration", "tokens"): "calibration_tokens",
    ("calibration", "max_seq_len"): "max_seq_len",
    ("rollouts", "temperature"): "rollout_temperature",
    ("rollouts", "top_p"): "rollout_top_p",
    ("rollouts", "max_new_tokens"): "rollout_max_new_tokens",
    ("evaluation", "temperature"): "evaluation_temperature",
    ("evaluation", "top_p"): "evaluation_top_p",
    ("evaluation", "max_new_tokens"): "evaluation_max_new_tokens",
}
MODEL_OPTIONS = ("dtype", "think_end", "enable_thinking")  # what changes tokens, besides the files


@dataclass(frozen=True)
class Cell:
    """A checked config. `identity` holds every value that can change the result, and nothing else."""

    config: Config
    identity: dict[str, Any]

    @cached_property
    def hash(self) -> str:
        return content_hash(self.identity, 10)

    @cached_property
    def name(self) -> str:
        config = self.config
        allocation = [] if config.allocation.is_uniform else [config.allocation.name]
        if self.is_dense:
            parts = [config.model.name, "dense", config.evaluation.name]
        elif not self.reads_calibration:
            parts = [config.model.name, config.pruner.name, *allocation, sparsity_label(config)]
        else:
            parts = [config.model.name, config.calibration.name, *bin_labels(config), *choice_labels(config)]
            parts += [config.pruner.name, *allocation, sparsity_label(config), f"seed{config.seed}"]
        return "-".join([*parts, self.hash])

    @property
    def folder(self) -> Path:
        return Path(self.config.runs_dir) / self.config.study / self.name

    @property
    def is_dense(self) -> bool:
        return is_dense(self.config)

    @property
    def reads_calibration(self) -> bool:
        return reads_calibration(self.config)

    @property
    def reads_rollouts(self) -> bool:
        return self.reads_calibration and "rollouts" in SOURCES.get(self.config.calibration.name).reads

    @property
    def reads_problems(self) -> bool:
        return self.reads_calibration and "problems" in SOURCES.get(self.config.calibration.name).reads

    @cached_property
    def contaminated(self) -> tuple[bool, ...]:
        """Which problems of the set share eight words in a row with a problem of the evaluations."""
        asked = [problem for config in self.config.evaluations for problem in load_evaluation_problems(config)]
        return contaminated(tuple(load_problems(self.config.problems)), tuple(asked))

    @property
    def problems(self) -> list[Problem]:
        """What may be calibrated on: the problem set, under problems.decontaminate=true without the contaminated ones.

        Raises UserError where nothing is left.
        """
        found = load_problems(self.config.problems)
        if self.config.problems.decontaminate:
            found = [problem for problem, drop in zip(found, self.contaminated, strict=True) if not drop]
        if not found:
            raise UserError(
                f"problems.decontaminate=true leaves none of the {len(self.contaminated):,} problems: all share eight "
                f"words in a row with a problem of evaluation={self.config.evaluation.name}"
            )
        return found

    @property
    def cache(self) -> Path:
        return cache_root(self.config.cache_dir)


def describe(config: Config) -> Cell:
    """The cell that a config asks for, with its nulls filled; UserError, one line, for anything wrong with it."""
    fill(config)
    check(config)
    cap_limit(config)
    cell = Cell(config, identity(config))
    if cell.reads_rollouts and config.rollouts.name == "bundled":
        check_bundled(config.model.name, cell.identity["model"]["weights"], cell.problems, config.rollouts)
    return cell


def fill(config: Config) -> None:
    for (group, option), default in FILLED.items():
        if option == "tokens" and config.calibration.sequences is not None:
            continue  # the budget is so many sequences, whatever they hold
        for options in config.evaluations if group == "evaluation" else [getattr(config, group)]:
            if getattr(options, option, default) is None:
                setattr(options, option, getattr(config.model.fallback, default))
    for evaluation in config.evaluations:
        if getattr(evaluation, "temperature", None) == 0:
            evaluation.dense_repeats = 1  # greedy samples of the dense model are all the same
    if config.limit is None:
        config.limit = config.model.fallback.limit


def cap_limit(config: Config) -> None:
    """A limit beyond the problems is their number, so that it names the same cell."""
    if config.limit is not None and all(evaluation.problem_task for evaluation in config.evaluations):
        asked = max(len(load_evaluation_problems(evaluation)) for evaluation in config.evaluations)
        config.limit = min(config.limit, asked)


def is_dense(config: Config) -> bool:
    return config.pruner.name == "none" or (config.sparsity.n is None and config.sparsity.value == 0)


def reads_calibration(config: Config) -> bool:
    return not is_dense(config) and (config.pruner.reads_calibration or config.allocation.reads_calibration)


def check(config: Config) -> None:
    config.sparsity.check()
    config.pruner.check()
    check_allocation(config)
    config.engine.check()
    config.tracking.asked_mode()
    check_numbers(config)
    study_folder(config.runs_dir, config.study)
    check_writable("runs_dir", Path(config.runs_dir))
    check_writable("study", Path(config.runs_dir) / config.study)
    check_writable("cache_dir", cache_root(config.cache_dir))
    check_model_folder(config.model)
    check_evaluations(config.evaluations)
    if not reads_calibration(config):
        return
    check_source(config.calibration, config.difficulty, config.length)
    reads = SOURCES.get(config.calibration.name).reads
    if "rollouts" in reads:
        check_bins(config.rollouts.k, config.difficulty, config.length, config.selection, config.rollouts.split)
    if "problems" in reads:
        load_problems(config.problems)
    elif config.problems.decontaminate and SOURCES.get(config.calibration.name).completions:
        raise UserError(
            f"problems.decontaminate=true does not reach the questions of calibration={config.calibration.name}, which "
            f"come from elsewhere: leave the contaminated ones out of its data"
        )


def check_allocation(config: Config) -> None:
    allocation, sparsity = config.allocation, config.sparsity
    allocation.check()
    if sparsity.n is not None and not allocation.is_uniform and not is_dense(config):
        raise UserError(
            f"allocation={allocation.name} with sparsity={sparsity.n}:{sparsity.m}: n:m masks the same share of every "
            f"matrix, so only allocation=uniform goes with it"
        )


def check_evaluations(evaluations: list[EvaluationConfig]) -> None:
    names = [name for evaluation in evaluations for name in measured_names(evaluation)]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"evaluation={evaluations[0].name} with evaluation.also: {twice} stands there twice")
    main, *others = evaluations
    main.check()
    check_evaluation(main)
    for other in others:
        try:
            other.check()
            check_evaluation(other)
        except UserError as error:
            line = f"evaluation.also has {other.name}, whose options are set as {{name: {other.name}, option: value}}"
            raise UserError(f"{line}: {error}") from error


def measured_names(evaluation: EvaluationConfig) -> list[str]:
    """What its metrics and samples are filed under, together with its own name where that is another."""
    task = evaluation.problem_task
    return sorted({evaluation.name, *([task.name] if task else [])}) + list(getattr(evaluation, "tasks", []))


def check_numbers(config: Config) -> None:
    check_at_least_one(config.rollouts, "rollouts", "problems", "k", "max_new_tokens")
    check_at_least_one(config, "", "limit")
    check_sampling(config.rollouts, "rollouts", "k")
    check_seed(config.rollouts, "rollouts")
    check_seed(config, "")
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", config.device):
        raise UserError(f"device={config.device}: choices: auto, cpu, cuda, cuda:N")


def study_folder(runs_dir: str, study: str) -> str:
    """<runs_dir>/<study>; UserError where that would lie elsewhere."""
    if not study or Path(study).name != study or study.startswith("."):
        raise UserError(f"study={study!r}: must be a plain folder name")
    return str(Path(runs_dir) / study)


def check_writable(option: str, folder: Path) -> None:
    """UserError where nothing can be written to this folder, which need not exist yet; makes nothing."""
    found = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not found.is_dir() or not os.access(found, os.W_OK):
        raise UserError(f"{option}={folder}: {found} is no folder that can be written to")


def identity(config: Config) -> dict[str, Any]:
    """Every value that can change the result, with files by their contents; options without effect are left out."""
    model_dir = resolve_model_dir(config.model)
    weights = (
        weights_hash(model_dir, cache_root(config.cache_dir))
        if model_dir
        else [config.model.path, config.model.revision]
    )
    also = sorted((evaluation_identity(evaluation) for evaluation in config.evaluation.also), key=content_hash)
    found = {
        "model": {"weights": weights} | {name: getattr(config.model, name) for name in MODEL_OPTIONS},
        "instruction": config.problems.instruction,
        "engine": config.engine.name,
        **({"repetition_detection": True} if getattr(config.engine, "repetition_detection", False) else {}),
        "evaluation": evaluation_identity(config.evaluation) | {"limit": config.limit},
        **({"also": also} if also else {}),
    }
    if is_dense(config):
        return found
    found["sparsity"] = without(asdict(config.sparsity), "name")
    if config.sparsity.n is not None:
        found["sparsity"]["value"] = None
    found["allocation"] = asdict(config.allocation)
    if config.pruner.reads_calibration:
        found["pruner"] = without(asdict(config.pruner), "one_pass")
    else:
        found["pruner"] = config.pruner.name  # what else it has only steers what is measured on calibration data
    if not reads_calibration(config):
        return found
    found["seed"] = config.seed
    source = SOURCES.get(config.calibration.name)
    # The files count, not where they lie: a local file stands for the hub's data set, which its contents name.
    calibration = without(asdict(config.calibration), "path", "data_files", "dataset")
    found["calibration"] = calibration | {"contents": source.contents(config.calibration)}
    if "problems" in source.reads:
        problems = without(asdict(config.problems), "name", "path", "dataset")
        found["problems"] = problems | {"contents": problems_hash(config.problems)}
    if source.selects:
        found |= {"selection": asdict(config.selection), "split": config.rollouts.split}
        found["difficulty"] = without(asdict(config.difficulty), "name")
        found["length"] = without(asdict(config.length), "name")
    if "rollouts" in source.reads:
        found["rollouts"] = without(asdict(config.rollouts), "name", "split")
        if config.rollouts.name == "bundled":
            found["rollouts"]["file"] = [file_hash(path) for path in sorted(BUNDLED_ROLLOUTS.rglob("*.parquet"))]
    return found


def without(options: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name not in names}
