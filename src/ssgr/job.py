"""One Hydra job is one cell, in whichever process a launcher runs it."""

import traceback
from contextlib import nullcontext

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ssgr import resume
from ssgr.cell import Cell, describe, study_folder
from ssgr.composition import as_object, explain
from ssgr.errors import UserError
from ssgr.main import run
from ssgr.progress import say
from ssgr.resume import Outcome

# Here too, since a worker process imports this module and nothing else of the command line.
OmegaConf.register_new_resolver("study_folder", study_folder, replace=True)

ended: list[Outcome] = []  # how the cell of a call without a sweep ended; a sweep keeps its own account


def job(config: DictConfig) -> Outcome:
    """Runs the cell that a config describes. Nothing is raised, so that the other jobs of a sweep go on."""
    found = described(config)
    if isinstance(found, Cell):
        found = run_in_sweep(found) if HydraConfig.get().mode == RunMode.MULTIRUN else run(found)
    ended.append(found)
    return found


def described(config: DictConfig) -> Cell | Outcome:
    """The cell, or the outcome of a config that describes none."""
    try:
        return describe(as_object(config))
    except (OmegaConfBaseException, UserError) as error:
        return Outcome("refused", "", "", explain(error))
    except Exception as error:  # a bug of ours: one line would not do
        say(traceback.format_exc())
        return Outcome("failed", "", "", f"setup: {explain(error)}")


def run_in_sweep(cell: Cell) -> Outcome:
    """A cell beside others: it shows that it runs, waits for no other process, and speaks to its log if in parallel."""
    parallel = not HydraConfig.get().launcher["_target_"].endswith(".BasicLauncher")
    with resume.running(cell), resume.logged(cell) if parallel else nullcontext():
        return run(cell, wait=False)
