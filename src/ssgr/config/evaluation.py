"""Engines that generate, and what is measured of a model."""

from dataclasses import dataclass, fields
from typing import Any

from ssgr.config.bounds import check_at_least_one, check_sampling, check_seed
from ssgr.config.calibration import HubDataset
from ssgr.errors import UserError


@dataclass
class EngineConfig:
    name: str
    batch_size: int | None  # rows of one stored batch; null: 64 on CPU, 1,024 on an accelerator

    def check(self) -> None:
        """UserError for values that make no sense."""
        check_at_least_one(self, "engine", "batch_size")


@dataclass
class VllmConfig(EngineConfig):
    """`batch_size` does not matter here: finished completions are stored as they come."""

    tensor_parallel_size: int  # cards that share one copy of the model
    data_parallel_size: int  # copies of the model, each with its share of the prompts
    replicas_per_card: int  # copies that share a card: small models leave it waiting for the processor
    gpu_memory_utilization: float  # share of a card's memory, for all its copies together; pruning needs the rest
    max_num_seqs: int  # completions at a time
    max_model_len: int | None  # prompt and completion; null: what is asked for
    enforce_eager: bool  # no CUDA graphs: starts faster, runs slower
    repetition_detection: bool  # ends a completion that repeats itself; it is graded wrong

    def check(self) -> None:
        super().check()
        names = ("tensor_parallel_size", "data_parallel_size", "replicas_per_card", "max_num_seqs", "max_model_len")
        check_at_least_one(self, "engine", *names)
        if self.tensor_parallel_size > 1 and self.replicas_per_card > 1:
            raise UserError("engine.replicas_per_card above 1 is for models of one card: engine.tensor_parallel_size=1")
        if not 0 < self.gpu_memory_utilization <= 1:
            raise UserError(f"engine.gpu_memory_utilization={self.gpu_memory_utilization}: must be in (0, 1]")


@dataclass
class EvaluationConfig:
    """What every evaluation has.

    An entry of `also` is the name of an option file, or {name: …, option: value} to change some of its values; behind
    the door (composition.as_object) each is an EvaluationConfig.
    """

    name: str
    also: list[Any]  # more evaluations of the same pruned model
    divergence: bool  # of the pruned model from the dense one, on the dense model's samples

    @property
    def problem_task(self) -> "TaskConfig | None":
        """The task whose problems are put to the dense model; None for an evaluation that has none."""
        return None

    def check(self, where: str = "evaluation") -> None:
        """UserError for values that make no sense; `where` names the evaluation in it."""
        if self.divergence and self.problem_task is None:
            line = f"{where}={self.name} has no samples to measure the divergence on"
            raise UserError(f"{line}: {where}.divergence must be false")


@dataclass
class TaskConfig(EvaluationConfig):
    """Problems that the model answers; what is null of the sampling takes the model option's value."""

    path: str | None  # a local file, also in place of the hub's (a glob pattern too where a set is well known)
    dataset: HubDataset | None
    first: HubDataset | None  # whose problems, a part of the data set's, come before the others
    question_field: str
    answer_field: str | None  # null: `answer`, else the last box of the solution
    solution_field: str | None
    instruction: str | None  # null: the problem set's
    repeats: int
    dense_repeats: int
    temperature: float | None
    top_p: float | None
    max_new_tokens: int | None
    seed: int

    @property
    def problem_task(self) -> "TaskConfig | None":
        return self

    def check(self, where: str = "evaluation") -> None:
        super().check(where)
        check_at_least_one(self, where, "dense_repeats", "repeats", "max_new_tokens")
        check_sampling(self, where, "repeats")
        check_seed(self, where)


@dataclass
class DivergenceConfig(EvaluationConfig):
    """The divergence alone: the pruned model generates nothing. What is null is what the task's option file has."""

    task: str
    path: str | None
    dense_repeats: int | None
    temperature: float | None
    top_p: float | None
    max_new_tokens: int | None
    seed: int | None
    dataset: HubDataset | None
    first: HubDataset | None
    question_field: str | None
    answer_field: str | None
    solution_field: str | None
    instruction: str | None

    @property
    def problem_task(self) -> "TaskConfig | None":
        shared = {field.name for field in fields(TaskConfig)} & {field.name for field in fields(self)}
        values = {name: getattr(self, name) for name in shared} | {"name": self.task, "repeats": self.dense_repeats}
        return TaskConfig(**values)

    def check(self, where: str = "evaluation") -> None:
        if not self.divergence:
            raise UserError(f"{where}.divergence=false: {where}={self.name} measures nothing else")
        self.problem_task.check(where)


@dataclass
class PerplexityConfig(EvaluationConfig):
    path: str | None  # a local txt, jsonl or parquet file (a glob pattern too) in place of the hub's
    dataset: HubDataset
    text_field: str  # of rows
    max_seq_len: int  # tokens of one window

    def check(self, where: str = "evaluation") -> None:
        super().check(where)
        if self.max_seq_len < 2:
            raise UserError(f"{where}.max_seq_len={self.max_seq_len}: must be at least 2")


@dataclass
class LmEvalConfig(EvaluationConfig):
    tasks: list[str]  # tasks, groups or tags of lm-eval
    include_path: str | None  # a folder with more of them
    num_fewshot: int | None  # null: what each task says
    chat_template: (
        bool  # put in the model's own chat prompts, examples as earlier turns; lm-eval's default is plain text
    )
    max_new_tokens: int | None  # at most; each task says its own number
    seed: int

    def check(self, where: str = "evaluation") -> None:
        super().check(where)
        check_at_least_one(self, where, "max_new_tokens")
        check_seed(self, where)
        if not self.tasks:
            raise UserError(f"{where}.tasks is empty: it must name tasks of lm-eval, such as [arc_easy]")
        if self.num_fewshot is not None and self.num_fewshot < 0:
            raise UserError(f"{where}.num_fewshot={self.num_fewshot}: must be at least 0")
