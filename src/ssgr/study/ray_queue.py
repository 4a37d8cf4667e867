"""Ray as the queue of a study: one task per cell, on the cards of one machine or of a cluster."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from omegaconf import OmegaConf, open_dict

from ssgr.errors import UserError

if TYPE_CHECKING:
    from hydra_plugins.ssgr_study import RayLauncher

# What a worker on another machine must know to find the same files. API keys are not among them: `wandb login` there.
CARRIED = ("SSGR_", "HF_H", "WANDB_MODE", "WANDB_PROJECT", "WANDB_ENTITY", "WANDB_BASE_URL")


def launch(launcher: "RayLauncher", job_overrides: Sequence[Sequence[str]], first: int) -> list[JobReturn]:
    """Queues the jobs and waits for them; a worker that died gives a failed JobReturn and stops no other."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise UserError("hydra/launcher=ray_gpu needs ray: pip install 'ssgr[ray]'") from error
    setup_globals()
    options = {"log_to_driver": False, "include_dashboard": False, "logging_level": "error"}
    ray.init(**options, **OmegaConf.to_container(OmegaConf.create(launcher.init)), ignore_reinit_error=True)
    try:
        # The workers' ssgr may be another installation: everything is handed over by value that Hydra's state needs.
        task = ray.remote(run_one).options(num_gpus=launcher.num_gpus, num_cpus=launcher.num_cpus, max_retries=0)
        state = Singleton.get_state()
        environment = {name: value for name, value in os.environ.items() if name.startswith(CARRIED)}
        here = (launcher.hydra_context, launcher.config, launcher.task_function, state, os.getcwd(), environment)
        shared = ray.put(here)
        waiting = [task.remote(shared, first + number, list(job)) for number, job in enumerate(job_overrides)]
        return [result_of(ray, reference) for reference in waiting]
    finally:
        ray.shutdown()


def result_of(ray: Any, reference: Any) -> JobReturn:
    try:
        return ray.get(reference)
    except ray.exceptions.RayError as error:
        return JobReturn(status=JobStatus.FAILED, _return_value=error)


def run_one(shared: tuple[Any, ...], number: int, overrides: list[str]) -> JobReturn:
    """In the worker: the job as Hydra's own launchers run it, in the folder that the study was started from."""
    context, config, task_function, state, folder, environment = shared
    os.environ.update(environment)
    os.chdir(folder)
    setup_globals()
    Singleton.set_state(state)
    composed = context.config_loader.load_sweep_config(config, overrides)
    with open_dict(composed):
        composed.hydra.job.id, composed.hydra.job.num = f"ray_{number}", number
    return run_job(
        hydra_context=context,
        config=composed,
        task_function=task_function,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )
