"""Slurm as the queue of a study: submitit's jobs, of which one that died is that cell's end alone."""

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus

from ssgr.composition import explain
from ssgr.errors import UserError
from ssgr.progress import say

if TYPE_CHECKING:
    from hydra_plugins.ssgr_study import SlurmLauncher


def launch(launcher: "SlurmLauncher", job_overrides: Sequence[Sequence[str]], first: int) -> list[JobReturn]:
    """Submits the jobs as one array and waits for them; a job that died gives a failed JobReturn and stops no other."""
    from hydra_plugins.hydra_submitit_launcher.submitit_launcher import SlurmLauncher as Submitit

    one = Submitit(**launcher.options)  # it runs a single job in the node, and queues it again
    one.setup(hydra_context=launcher.hydra_context, task_function=launcher.task_function, config=launcher.config)
    Path(str(launcher.config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
    arguments = [
        (list(overrides), "hydra.sweep.dir", first + number, f"job_id_for_{first + number}", Singleton.get_state())
        for number, overrides in enumerate(job_overrides)
    ]
    try:
        jobs = executor_of(one.params).map_array(one, *zip(*arguments, strict=True))
    except Exception as error:  # no sbatch, or one that refuses a partition, an account, a card
        raise UserError(f"Slurm does not take the jobs: {explain(error)}") from error
    try:
        return [result_of(job) for job in jobs]
    except KeyboardInterrupt:
        say(f"the Slurm jobs go on (scancel {jobs[0].job_id.partition('_')[0]} ends them)")
        raise


def executor_of(options: dict[str, Any]) -> Any:
    """submitit's executor with the launcher's options."""
    import submitit
    from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf

    common = {field.name for field in fields(BaseQueueConf)}  # the others are Slurm's own, and get its name before them
    options = dict(options)
    folder, timeouts = options.pop("submitit_folder"), options.pop("max_num_timeout")
    executor = submitit.AutoExecutor(folder=folder, cluster="slurm", slurm_max_num_timeout=timeouts)
    named = {name if name in common else f"slurm_{name}": value for name, value in options.items()}
    executor.update_parameters(**named)
    return executor


def result_of(job: Any) -> JobReturn:
    try:
        return job.results()[0]
    except Exception:  # submitit's message spans a page
        reason = RuntimeError(f"Slurm job {job.job_id} ended as {job.state}, see {job.paths.stderr}")
        return JobReturn(status=JobStatus.FAILED, _return_value=reason)
