"""Ray as the queue of a study: one task per cell, on the cards of one machine or of a cluster."""

import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from omegaconf import OmegaConf, open_dict

from ssgr.errors import UserError
from ssgr.progress import say

if TYPE_CHECKING:
    from hydra_plugins.ssgr_study import RayLauncher

# What a worker on another machine must know to find the same files. API keys are not among them: `wandb login` there.
CARRIED = ("SSGR_", "HF_H", "WANDB_MODE", "WANDB_PROJECT", "WANDB_ENTITY", "WANDB_BASE_URL")
ANSWER = 10.0  # seconds within which a cluster must take a connection
# where `ray start` leaves the address of the cluster that it started or joined
LAST_STARTED = Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp", "ray", "ray_current_cluster")


def launch(launcher: "RayLauncher", job_overrides: Sequence[Sequence[str]], first: int) -> list[JobReturn]:
    """Queues the jobs and waits for them; a worker that died gives a failed JobReturn and stops no other."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    setup_globals()
    init = OmegaConf.to_container(OmegaConf.create(launcher.init))
    join(ray, init)
    try:
        refuse_too_little(ray, {"GPU": launcher.num_gpus, "CPU": launcher.num_cpus}, init["address"] == "local")
        # a worker is a process of its own: Hydra's registries, the folder and the environment go with every job
        task = ray.remote(run_one).options(num_gpus=launcher.num_gpus, num_cpus=launcher.num_cpus, max_retries=0)
        state = Singleton.get_state()
        environment = {name: value for name, value in os.environ.items() if name.startswith(CARRIED)}
        here = (launcher.hydra_context, launcher.config, launcher.task_function, state, os.getcwd(), environment)
        shared = ray.put(here)
        waiting = [task.remote(shared, first + number, list(job)) for number, job in enumerate(job_overrides)]
        return [result_of(ray, reference) for reference in waiting]
    finally:
        ray.shutdown()


def join(ray: Any, init: dict[str, Any]) -> None:
    """Starts a Ray on this machine, or joins the cluster that `init` or RAY_ADDRESS names; UserError if it cannot."""
    if init.get("address") is None and (init.get("num_cpus") is not None or not os.environ.get("RAY_ADDRESS")):
        init["address"] = "local"  # Ray itself would join whatever it finds on this machine
    refuse_silence(init.get("address"))
    options = {"log_to_driver": False, "include_dashboard": False, "logging_level": "error"}
    try:
        ray.init(**options, **init, ignore_reinit_error=True)
    except ConnectionError as error:
        if init["address"] == "auto" and not error.__cause__:
            message = "no Ray cluster was found from this machine: ray start, or hydra.launcher.init.address=HOST:PORT"
            raise UserError(message) from error
        reason = str(error.__cause__ or "").strip().rpartition("\n")[2]  # the end of a traceback
        raise UserError(f"{error}: {reason}" if reason else str(error)) from error


def refuse_silence(address: str | None) -> None:
    """UserError where nobody listens at the address that Ray will go to: Ray itself asks for a quarter of an hour."""
    if address in (None, "auto"):
        address = os.environ.get("RAY_ADDRESS") or address
    if address == "auto" and LAST_STARTED.is_file():
        address = LAST_STARTED.read_text(encoding="utf-8").strip()
    host, colon, port = (address or "").rpartition(":")
    if not colon or "://" in host or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=ANSWER).close()
    except OSError as error:
        raise UserError(f"no Ray cluster answers at {address}: {error.strerror or error}") from error


def refuse_too_little(ray: Any, needed: dict[str, float], here: bool) -> None:
    """UserError where no node has what a cell needs, since Ray would wait for one; a cluster may yet grow one."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if any(all(node.get(name, 0) >= count for name, count in needed.items()) for node in nodes):
        return
    wanted = " and ".join(f"{count:g} {name}" for name, count in needed.items() if count)
    if here:
        raise UserError(f"a cell needs {wanted}, which this machine lacks (no card: hydra.launcher.num_gpus=0)")
    say(f"a cell needs {wanted}, which no node of this Ray cluster has: the cells wait until one joins it")


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
