"""Models: where one comes from, and what the other groups take from it where they say null."""

from dataclasses import dataclass


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
class ModelConfig:
    name: str
    path: str | None  # hub id or local folder; null: the bundled model
    revision: str | None
    dtype: str
    offload: bool  # decoder blocks wait in host memory and come to the accelerator one at a time
    think_end: str | None  # the tag that ends the reasoning; null for models that reason in plain text
    enable_thinking: bool | None  # for chat templates that know it (Qwen3); null: the template's own default
    trust_remote_code: bool
    fallback: Fallback
