"""The sweep behind -m and -cn: every cell is composed and looked up once, and only what is missing is launched."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, open_dict, read_write

from ssgr import resume, tracking
from ssgr.cache import read_json
from ssgr.cell import Cell
from ssgr.composition import explain
from ssgr.errors import UserError
from ssgr.job import described
from ssgr.progress import say, track
from ssgr.resume import Outcome
from ssgr.study import together
from ssgr.study.grid import write_grids
from ssgr.study.watch import Watch

LOST = 2  # times that a cell's process may die without a word before the cell counts as failed
POLL = 2.0  # seconds between two looks at cells that another process works on

ended: list[Outcome] = []  # how the cells of this call's sweep ended, in its order


@dataclass
class Job:
    """One cell of the sweep. `outcome` is None for as long as it has to be run."""

    overrides: list[str]
    cell: Cell | None = None
    outcome: Outcome | None = field(default=None, repr=False)


def sweep(sweeper: BasicSweeper, arguments: list[str]) -> None:
    """What StudySweeper.sweep does; how the cells ended goes to `ended`."""
    jobs = compose_all(sweeper, arguments)
    runnable = [job for job in jobs if job.cell]
    if any(job.cell.config.dry_run for job in runnable):
        from ssgr.study.estimate import show_plan

        for job in runnable:
            job.outcome = resume.planned(job.cell)
        show_plan([(job.cell, job.outcome) for job in runnable])
    else:
        write_grids([(job.cell, job.overrides) for job in runnable])
        with Watch([job.cell for job in runnable]) as watch:
            skip_finished(runnable)
            watch.begin([job.cell for job in runnable if job.outcome is None])
            launch(sweeper.launcher, runnable)
    ended.extend(job.outcome for job in jobs)


def compose_all(sweeper: BasicSweeper, arguments: list[str]) -> list[Job]:
    """The cells of the sweep, each once; bad values refuse a cell, unknown options the whole sweep."""
    loader = sweeper.hydra_context.config_loader
    parser = OverridesParser.create(config_loader=loader)
    given = parser.parse_overrides(arguments)
    named = {override.get_key_element() for override in given}
    # What is given takes the place of what the template varies: both together would be every combination of the two.
    template = parser.parse_overrides(sweeper._parse_config())
    kept = [override for override in template if override.get_key_element() not in named]
    (combinations,) = sweeper.split_arguments([*kept, *given], max_batch_size=None)
    jobs: dict[str, Job] = {}
    with track("reading the study's cells", len(combinations)) as bar:
        for number, combination in enumerate(combinations):
            job = compose(loader, sweeper.config, list(combination))
            jobs.setdefault(str(job.cell.folder) if job.cell else f"refused {number}", job)
            bar.advance()
    if len(jobs) < len(combinations):
        say(f"{len(combinations)} combinations of options describe {len(jobs)} cells: each is run once")
    return list(jobs.values())


def compose(loader: ConfigLoader, master: DictConfig, overrides: list[str]) -> Job:
    config = loader.load_sweep_config(master, overrides)
    with read_write(config), open_dict(config):
        del config["hydra"]
    found = described(config)
    return Job(overrides, found) if isinstance(found, Cell) else Job(overrides, outcome=found)


def skip_finished(jobs: Sequence[Job]) -> None:
    """Settles the cells that stand, here or in another study; W&B gets the runs that it lacks of them."""
    for job in jobs:
        if job.outcome is None and (outcome := resume.finished_before(job.cell)):
            tracking.catch_up(job.cell)
            job.outcome = outcome


def launch(launcher: Launcher, jobs: Sequence[Job]) -> None:
    """Runs what is left until every job has its outcome, also those that another process works on meanwhile."""
    deaths: Counter[str] = Counter()
    while left := [job for job in jobs if job.outcome is None]:
        free = [job for job in left if not resume.is_held(resume.lock_path(job.cell))]
        if free:
            # what died comes last and alone: it may have taken the processes of cells beside it with it
            unsuspected = [job for job in free if not deaths[job.cell.name]]
            launch_once(launcher, unsuspected or free[:1], deaths)
        else:
            time.sleep(POLL)
            skip_finished(left)


def launch_once(launcher: Launcher, jobs: Sequence[Job], deaths: Counter[str]) -> None:
    """One launch; `deaths` counts how often the process of each cell ended without an outcome."""
    since, broken, before = time.time(), None, {job.cell.name: begun(job.cell) for job in jobs}
    # the other launchers have processes of their own; by name, since Hydra loads its plugins' modules twice
    here = type(launcher).__name__ == "BasicLauncher"
    if here:
        jobs = together.side_by_side(jobs, lambda job: job.cell)
    try:
        with together.in_this_process([job.cell for job in jobs]) if here else nullcontext():
            returned = launcher.launch([job.overrides for job in jobs], initial_job_idx=0)
    except UserError as error:  # the launcher has nowhere to run them: that is bad input, and no cell's fault
        for job in jobs:
            job.outcome = Outcome("refused", "", "", str(error))
        return
    except Exception as error:  # a pool that broke, a queue that refused: what came of the cells lies on disk
        returned, broken = [JobReturn(status=JobStatus.FAILED)] * len(jobs), error
    lost = []
    for job, back in zip(jobs, returned, strict=True):
        if back.status == JobStatus.COMPLETED:
            job.outcome = None if back.return_value.status == "busy" else back.return_value
        elif not settle(job, since):
            broken = broken or back._return_value
            lost.append(job)
    give_up_or_retry(lost, broken, deaths, before)


def begun(cell: Cell) -> int | None:
    """When the cell was last begun and not ended (nanoseconds); only ever compared with itself."""
    try:
        return resume.marker(cell).stat().st_mtime_ns
    except OSError:
        return None


def give_up_or_retry(
    lost: Sequence[Job], broken: Exception | None, deaths: Counter[str], before: Mapping[str, int | None]
) -> None:
    """Gives the cells whose process died an outcome, or leaves them without one to be launched again.

    `before` says what `begun` was before the launch: what an earlier one left behind is no death in this one.
    """
    died = [job.cell.name for job in lost if begun(job.cell) not in (None, before.get(job.cell.name))]
    deaths.update(died)
    why = explain(broken).partition(". ")[0] if broken else "no reason is known"
    for job in lost:
        if not died:  # nothing was even begun, and the next time would be no better
            job.outcome = resume.outcome("failed", job.cell, f"it could not be launched: {why}")
        elif deaths[job.cell.name] >= LOST:
            message = f"its process died {LOST} times without a word (killed, out of memory?): {why}"
            job.outcome = resume.outcome("failed", job.cell, message)
    if again := sum(job.outcome is None for job in lost):
        say(f"the processes of {len(died)} cells died ({why}): {again} cells are launched again")


def settle(job: Job, since: float) -> bool:
    """Takes a cell's outcome from what it left on disk after `since` (seconds of the epoch); False where it is none."""
    folder = job.cell.folder
    for status, name in (("finished", "result.json"), ("failed", "failure.json")):
        path = folder / name
        if path.is_file() and path.stat().st_mtime >= since:
            found: dict[str, Any] = read_json(path) or {}
            message = "" if status == "finished" else f"{found.get('stage')}: {found.get('error')}"
            job.outcome = resume.outcome(status, job.cell, message, found if status == "finished" else None)
            return True
    return False
