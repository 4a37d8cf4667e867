"""What Hydra must find in its own namespace: the sweeper behind -m and the launchers ray_gpu and slurm_gpu.

Hydra imports this module in every program that uses it, so nothing of ours is imported before it is needed.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher

SWEEPER = {"_target_": "hydra_plugins.ssgr_study.StudySweeper", "max_batch_size": None, "params": None}
ConfigStore.instance().store(group="hydra/sweeper", name="study", node=SWEEPER, provider="ssgr")


class StudySweeper(BasicSweeper):
    """Hydra's basic sweeper, but cells that stand are not launched, and no cell's end stops the others."""

    def sweep(self, arguments: list[str]) -> None:
        from ssgr.study.sweep import sweep

        sweep(self, arguments)


class RayLauncher(Launcher):
    """Queues one Ray task per cell; see conf/hydra/launcher/ray_gpu.yaml for its options."""

    def __init__(self, num_gpus: float, num_cpus: float, init: dict[str, Any]):
        self.num_gpus, self.num_cpus, self.init = num_gpus, num_cpus, init

    def setup(self, *, hydra_context: Any, task_function: Any, config: Any) -> None:
        if find_spec("ray") is None:
            from ssgr.errors import UserError

            raise UserError("hydra/launcher=ray_gpu needs ray: pip install 'ssgr[ray]'")
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        from ssgr.study.ray_queue import launch

        return launch(self, job_overrides, initial_job_idx)


class SlurmLauncher(Launcher):
    """Queues one Slurm job per cell with submitit; see conf/hydra/launcher/slurm_gpu.yaml for its options."""

    def __init__(self, **options: Any):
        self.options = options

    def setup(self, *, hydra_context: Any, task_function: Any, config: Any) -> None:
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        from ssgr.study.slurm_queue import launch

        return launch(self, job_overrides, initial_job_idx)
