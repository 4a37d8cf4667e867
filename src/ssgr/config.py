"""What a user can say: the schema of every config group. Types live here, values in conf/.

Nothing here imports torch or transformers: a config is checked before they are. Fields without a default are
filled by the option files; a field that is null there takes the model option's value (see `fill`).
"""

from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any

from hydra.core.config_store import ConfigStore

from ssgr.errors import UserError


class Correctness(StrEnum):
    correct = "correct"
    incorrect = "incorrect"
    any = "any"


class TokenWeights(StrEnum):
    all = "all"
    decode = "decode"
    per_trace = "per_trace"


class Within(StrEnum):
    store = "store"
    difficulty = "difficulty"


class Pick(StrEnum):
    shortest = "shortest"
    longest = "longest"


class Balance(StrEnum):
    family = "family"
    level = "level"
    subject = "subject"
    length = "length"
    difficulty = "difficulty"


class Sinks(StrEnum):
    keep = "keep"
    undamped = "undamped"
    exclude = "exclude"


class Propagation(StrEnum):
    pruned = "pruned"
    dense = "dense"


class TrackingMode(StrEnum):
    offline = "offline"
    online = "online"
    disabled = "disabled"


@dataclass
class Fallback:
    """What the other groups take from the model where they say null."""

    calibration_tokens: int
    max_seq_len: int
    rollout_temperature: float
    rollout_top_p: float
    rollout_max_new_tokens: int
    evaluation_temperature: float
    evaluation_top_p: float
    evaluation_max_new_tokens: int
    limit: int | None  # problems to evaluate


@dataclass
class HubDataset:
    """A data set on the hub. Where a local file is named beside it, the hub is not asked."""

    id: str
    config: str | None
    split: str
    revision: str | None  # a commit, tag or branch; null: the newest


@dataclass
class ModelConfig:
    name: str
    path: str | None  # hub id or local folder; null: the bundled model
    revision: str | None
    dtype: str
    think_end: str | None  # the tag that ends the reasoning; null for models that reason in plain text
    enable_thinking: bool | None  # for chat templates that know it (Qwen3); null: the template's own default
    trust_remote_code: bool
    fallback: Fallback


@dataclass
class ProblemsConfig:
    name: str
    path: str | None  # a local file, also in place of the hub's
    dataset: HubDataset | None
    question_field: str
    answer_field: str | None  # null: the last box of the solution
    solution_field: str | None
    level_field: str | None
    subject_field: str | None
    instruction: str  # appended to every question, in calibration and evaluation alike
    decontaminate: bool  # drop problems that share an 8-gram of words with a problem of the evaluation


@dataclass
class RolloutsConfig:
    name: str
    problems: int
    k: int
    temperature: float | None
    top_p: float | None
    max_new_tokens: int | None
    seed: int
    split: bool  # bins from the first half of each problem's rollouts, traces from the second


@dataclass
class SelectionConfig:
    correctness: Correctness
    max_traces_per_problem: int
    balance: list[Balance]  # held still while another axis varies
    matched: bool  # only problems with both a correct and a wrong trace, the same ones for either


@dataclass
class CalibrationConfig:
    """The budget is `tokens` tokens, or `sequences` sequences (traces, or windows of max_seq_len)."""

    name: str
    tokens: int | None
    sequences: int | None
    max_seq_len: int | None
    token_weights: TokenWeights


@dataclass
class TextConfig(CalibrationConfig):
    path: str | None  # a txt, jsonl or parquet file
    text_field: str  # of jsonl and parquet rows


@dataclass
class TracesConfig(CalibrationConfig):
    path: str | None  # the folder of a store


@dataclass
class HubTextConfig(CalibrationConfig):
    data_files: str | None  # local txt, jsonl or parquet files (a glob pattern too) in place of the hub's
    dataset: HubDataset
    text_field: str


@dataclass
class OffPolicyConfig(CalibrationConfig):
    data_files: str | None
    dataset: HubDataset
    messages_field: str  # chat messages; rows without them are read by the three fields below
    question_field: str
    reasoning_field: str
    answer_field: str


@dataclass
class DifficultyConfig:
    name: str
    pass_rate: list[float] | None  # (lo, hi]
    level: list[int] | None  # [lo, hi], where the data set carries levels


@dataclass
class LengthConfig:
    name: str
    percentile: list[float] | None  # [lo, hi]
    within: Within
    tokens: list[int] | None  # [lo, hi]
    pick: Pick | None  # each problem's shortest or longest trace: same problems, other lengths


@dataclass
class PrunerConfig:
    """Options that every pruner has. `reads_calibration` tells whether it looks at the calibration set at all."""

    name: str

    @property
    def reads_calibration(self) -> bool:
        return False

    def check(self) -> None:
        """UserError for values that make no sense."""


@dataclass
class MagnitudeConfig(PrunerConfig):
    propagation: Propagation  # matters only for measure_error
    measure_error: bool

    @property
    def reads_calibration(self) -> bool:
        return self.measure_error


@dataclass
class WandaConfig(PrunerConfig):
    propagation: Propagation
    measure_error: bool
    sinks: Sinks

    @property
    def reads_calibration(self) -> bool:
        return True


@dataclass
class SparseGPTConfig(WandaConfig):
    damping: float  # share of the mean of the Gram matrix' diagonal
    block_size: int  # columns per comparison group

    def check(self) -> None:
        if not self.damping > 0:
            raise UserError(f"pruner.damping={self.damping}: must be above 0")
        if self.block_size < 1:
            raise UserError(f"pruner.block_size={self.block_size}: must be at least 1")


@dataclass
class AllocationConfig:
    name: str


@dataclass
class SparsityConfig:
    name: str
    value: float | None  # share of the prunable weights that is masked
    n: int | None  # n:m keeps n of every m inputs
    m: int | None

    def check(self) -> None:
        """UserError for a value outside [0, 1), for n without m, and for a value that contradicts n:m."""
        value, n, m = self.value, self.n, self.m
        if (n is None) != (m is None):
            raise UserError("sparsity.n and sparsity.m belong together: set both, or neither")
        if n is not None and not 0 < n < m:
            raise UserError(f"sparsity.n={n}, sparsity.m={m}: n:m keeps n of every m inputs, 0 < n < m")
        if n is not None and value is not None and abs(value - (1 - n / m)) > 1e-9:
            masked = f"{n}:{m}, which masks {1 - n / m:g}"
            raise UserError(f"sparsity.value={value} contradicts {masked}: set sparsity.value=null")
        if n is None and (value is None or not 0 <= value < 1):
            raise UserError(f"sparsity.value={value}: must be a share of the weights, at least 0 and below 1")


@dataclass
class EngineConfig:
    name: str
    batch_size: int | None  # rows of one stored batch; null: 64 on CPU, 1,024 on an accelerator

    def check(self) -> None:
        """UserError for values that make no sense."""
        if self.batch_size is not None and self.batch_size < 1:
            raise UserError(f"engine.batch_size={self.batch_size}: must be at least 1")


@dataclass
class VllmConfig(EngineConfig):
    """`batch_size` does not matter here: finished completions are stored as they come."""

    tensor_parallel_size: int  # cards that share one copy of the model
    data_parallel_size: int  # copies of the model, each with its share of the prompts
    gpu_memory_utilization: float  # share of a card's memory; pruning needs the rest
    max_num_seqs: int  # completions at a time
    max_model_len: int | None  # prompt and completion; null: what is asked for
    enforce_eager: bool  # no CUDA graphs: starts faster, runs slower
    repetition_detection: bool  # ends a completion that repeats itself; it is graded wrong

    def check(self) -> None:
        super().check()
        for option in ("tensor_parallel_size", "data_parallel_size", "max_num_seqs", "max_model_len"):
            value = getattr(self, option)
            if value is not None and value < 1:
                raise UserError(f"engine.{option}={value}: must be at least 1")
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
        _at_least_one(self, where, "dense_repeats", "repeats", "max_new_tokens")
        check_sampling(self, where)


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
    max_new_tokens: int | None  # at most; each task says its own number
    seed: int

    def check(self, where: str = "evaluation") -> None:
        super().check(where)
        _at_least_one(self, where, "max_new_tokens")
        if not self.tasks:
            raise UserError(f"{where}.tasks is empty: it must name tasks of lm-eval, such as [arc_easy]")
        if self.num_fewshot is not None and self.num_fewshot < 0:
            raise UserError(f"{where}.num_fewshot={self.num_fewshot}: must be at least 0")


def check_sampling(options: Any, where: str) -> None:
    """UserError for a temperature or top_p (filled by now) that nothing can be drawn with."""
    if options.temperature < 0:
        raise UserError(f"{where}.temperature={options.temperature}: must be at least 0 (0 is greedy)")
    if not 0 < options.top_p <= 1:
        raise UserError(f"{where}.top_p={options.top_p}: must be above 0 and at most 1")


def _at_least_one(options: Any, where: str, *names: str) -> None:
    for name in names:
        if getattr(options, name) < 1:
            raise UserError(f"{where}.{name}={getattr(options, name)}: must be at least 1")


@dataclass
class TrackingConfig:
    name: str
    mode: TrackingMode
    project: str
    entity: str | None


@dataclass
class Config:
    """One cell, or under -m the cells of a study."""

    model: ModelConfig
    problems: ProblemsConfig
    rollouts: RolloutsConfig
    selection: SelectionConfig
    calibration: CalibrationConfig
    difficulty: DifficultyConfig
    length: LengthConfig
    pruner: PrunerConfig
    allocation: AllocationConfig
    sparsity: SparsityConfig
    engine: EngineConfig
    evaluation: EvaluationConfig
    tracking: TrackingConfig
    seed: int
    study: str
    limit: int | None
    device: str
    overwrite: bool
    save_checkpoint: bool
    dry_run: bool
    runs_dir: str
    cache_dir: str | None

    @property
    def evaluations(self) -> list[EvaluationConfig]:
        """The main one, on which the divergence is measured, and those beside it."""
        return [self.evaluation, *self.evaluation.also]


SCHEMAS = {
    "model": ModelConfig,
    "problems": ProblemsConfig,
    "rollouts": RolloutsConfig,
    "calibration": CalibrationConfig,
    "calibration/text": TextConfig,
    "calibration/traces": TracesConfig,
    "calibration/hub_text": HubTextConfig,
    "calibration/off_policy": OffPolicyConfig,
    "difficulty": DifficultyConfig,
    "length": LengthConfig,
    "pruner/none": PrunerConfig,
    "pruner/magnitude": MagnitudeConfig,
    "pruner/wanda": WandaConfig,
    "pruner/sparsegpt": SparseGPTConfig,
    "allocation": AllocationConfig,
    "sparsity": SparsityConfig,
    "engine": EngineConfig,
    "engine/vllm": VllmConfig,
    "evaluation/task": TaskConfig,
    "evaluation/divergence": DivergenceConfig,
    "evaluation/perplexity": PerplexityConfig,
    "evaluation/lm_eval": LmEvalConfig,
    "tracking": TrackingConfig,
}


def register_schemas() -> None:
    """Makes every schema known to Hydra as /schema/<group>; an option file's first line names its schema."""
    store = ConfigStore.instance()
    store.store(group="schema", name="root", node=Config)
    for name, schema in SCHEMAS.items():
        group, _, option = f"schema/{name}".rpartition("/")
        store.store(group=group, name=option, node=schema)
