"""What a user can say: the schema of every config group. Types live here, values in conf/.

Nothing here imports torch or transformers: a config is checked before they are. Fields without a default are
filled by the option files; a field that is null there takes the model option's value (see `fill`).
"""

import os
from dataclasses import dataclass
from enum import StrEnum

from hydra.core.config_store import ConfigStore

from ssgr.config.bounds import SEEDS, check_at_least_one, check_sampling, check_seed
from ssgr.config.calibration import (
    Balance,
    CalibrationConfig,
    Correctness,
    DifficultyConfig,
    HubDataset,
    HubTextConfig,
    LengthConfig,
    OffPolicyConfig,
    Pick,
    ProblemsConfig,
    RolloutsConfig,
    SelectionConfig,
    TextConfig,
    TokenWeights,
    TracesConfig,
    Within,
)
from ssgr.config.evaluation import (
    DivergenceConfig,
    EngineConfig,
    EvaluationConfig,
    LmEvalConfig,
    PerplexityConfig,
    TaskConfig,
    VllmConfig,
)
from ssgr.config.model import Fallback, ModelConfig
from ssgr.config.pruning import (
    AllocationConfig,
    AlphaPruningConfig,
    ALPSConfig,
    DampingBasis,
    MagnitudeConfig,
    OwlConfig,
    Propagation,
    PrunerConfig,
    RIAConfig,
    Sinks,
    SparseGPTConfig,
    SparsityConfig,
    Tail,
    WandaConfig,
)
from ssgr.errors import UserError

__all__ = [
    "SCHEMAS",
    "SEEDS",
    "ALPSConfig",
    "AllocationConfig",
    "AlphaPruningConfig",
    "Balance",
    "CalibrationConfig",
    "Config",
    "Correctness",
    "DampingBasis",
    "DifficultyConfig",
    "DivergenceConfig",
    "EngineConfig",
    "EvaluationConfig",
    "Fallback",
    "HubDataset",
    "HubTextConfig",
    "LengthConfig",
    "LmEvalConfig",
    "MagnitudeConfig",
    "ModelConfig",
    "OffPolicyConfig",
    "OwlConfig",
    "PerplexityConfig",
    "Pick",
    "ProblemsConfig",
    "Propagation",
    "PrunerConfig",
    "RIAConfig",
    "RolloutsConfig",
    "SelectionConfig",
    "Sinks",
    "SparseGPTConfig",
    "SparsityConfig",
    "Tail",
    "TaskConfig",
    "TextConfig",
    "TokenWeights",
    "TracesConfig",
    "TrackingConfig",
    "TrackingMode",
    "VllmConfig",
    "WandaConfig",
    "Within",
    "check_at_least_one",
    "check_sampling",
    "check_seed",
    "register_schemas",
]


class TrackingMode(StrEnum):
    offline = "offline"
    online = "online"
    disabled = "disabled"


MODES = {mode.value: mode for mode in TrackingMode}
MODES |= {"dryrun": TrackingMode.offline, "run": TrackingMode.online}  # W&B's older names


@dataclass
class TrackingConfig:
    name: str
    mode: TrackingMode
    project: str
    entity: str | None

    def asked_mode(self) -> TrackingMode:
        """What WANDB_MODE says, else `mode`; UserError for what W&B does not know."""
        said = os.environ.get("WANDB_MODE") or self.mode
        if said not in MODES:
            raise UserError(f"WANDB_MODE={said}: choices: {', '.join(MODES)}")
        return MODES[said]


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
    "pruner/ria": RIAConfig,
    "pruner/sparsegpt": SparseGPTConfig,
    "pruner/alps": ALPSConfig,
    "allocation": AllocationConfig,
    "allocation/owl": OwlConfig,
    "allocation/alphapruning": AlphaPruningConfig,
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
