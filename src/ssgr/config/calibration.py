"""What a model is calibrated on: problems, rollouts, sources, and which traces are chosen."""

from dataclasses import dataclass
from enum import StrEnum


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


@dataclass
class HubDataset:
    """A data set on the hub. Where a local file is named beside it, the hub is not asked."""

    id: str
    config: str | None
    split: str
    revision: str | None  # a commit, tag or branch; null: the newest


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
