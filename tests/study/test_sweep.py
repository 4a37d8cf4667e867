"""What a sweep does with its cells: each once, only what is missing, whatever becomes of their processes."""

import json
import threading
import time
from collections import Counter

import pytest
from command_line import FAST, QUICK, cells, config_of, files, ssgr
from hydra.core.utils import JobReturn, JobStatus

from ssgr import resume
from ssgr.cache import locked
from ssgr.cell import describe
from ssgr.errors import UserError
from ssgr.resume import Outcome
from ssgr.study import sweep
from ssgr.study.grid import read_grid
from ssgr.study.sweep import Job, launch


def test_cells_that_are_the_same_run_once(tmp_path):
    done = ssgr(f"-m {FAST} seed=0,1,2", tmp_path)  # magnitude reads no traces, so no seed
    assert done.status == 0 and "3 combinations of options describe 1 cells" in done.err
    assert len(cells(tmp_path)) == 1


def test_the_grid_says_what_was_asked_for_and_a_part_of_it_changes_nothing(tmp_path):
    for line, count in (
        ("sparsity=s40,s50", 2),
        ("sparsity=choice(s40)", 2),
        ("sparsity=s40,s60", 3),
        ("sparsity=s30,s40,s60", 4),
    ):
        assert ssgr(f"-m {FAST} study=asked {line}", tmp_path).status == 0
        grid = read_grid(tmp_path / "runs" / "asked")
        assert len(grid) == count and all((tmp_path / "runs" / "asked" / entry["cell"]).is_dir() for entry in grid)
        assert all(entry["cell"].endswith(entry["hash"]) for entry in grid)
    assert {override for entry in grid for override in entry["overrides"]} >= {"sparsity=s30", "sparsity=s60"}


def test_what_was_asked_for_once_and_never_finished_is_not_asked_for_for_ever(tmp_path):
    line = f"-m {FAST} study=asked calibration.tokens=1024,999999999 pruner=wanda"
    assert ssgr(line, tmp_path).status == 1
    (finished,) = [path.parent.name for path in (tmp_path / "runs" / "asked").glob("*/result.json")]
    assert len(read_grid(tmp_path / "runs" / "asked")) == 2
    assert ssgr(f"-m {FAST} study=asked sparsity=choice(s40)", tmp_path).status == 0
    grid = read_grid(tmp_path / "runs" / "asked")
    assert len(grid) == 2 and grid[0]["cell"] == finished and grid[1]["overrides"][-1] == "sparsity=s40"


def test_a_dry_run_of_a_study_writes_nothing_and_says_what_is_to_be_done(tmp_path):
    assert ssgr(f"{FAST} study=other", tmp_path).status == 0
    before = files(tmp_path)
    done = ssgr(f"-m {FAST} study=planned sparsity=s40,s50 dry_run=true", tmp_path)
    assert done.status == 0 and "2 cells: 2 planned" in done.err and files(tmp_path) == before
    assert "copied" in done.out and "dense samples there already: 16 of 16" in done.out
    assert "going by 1 finished cells of this model" in done.out


def test_a_result_of_another_schema_is_said_and_made_again(tmp_path):
    assert ssgr(FAST, tmp_path).status == 0
    (cell,) = cells(tmp_path)
    path = cell / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": 0}))
    done = ssgr(FAST, tmp_path)
    assert done.status == 0 and "schema version 1 (it has 0)" in done.err.replace("\n", " ")
    assert json.loads(path.read_text())["schema_version"] == 1


def test_the_ending_names_every_cell_and_what_draws_them(tmp_path):
    done = ssgr(f"-m {QUICK} study=length_effect pruner=wanda length=short,moderate", tmp_path)
    assert done.status == 0
    for words in ("short-1024tokens", "moderate-1024tokens", "finished", "8 × 1"):
        assert words in done.out
    assert done.lines[-1] == "ssgr: a figure of it: python -m analysis length_effect --runs runs"
    assert "python -m analysis cost --runs runs" in ssgr(FAST, tmp_path).lines[-1]
    assert "a figure of it" not in ssgr(f"{FAST} pruner=none", tmp_path).err, "there is no pruned cell to draw"


def test_a_copy_of_another_study_gets_its_own_run(tmp_path):
    tracked = FAST.replace(" tracking=disabled", "")
    for study in ("one", "two"):
        assert ssgr(f"-m {tracked} study={study} sparsity=choice(s40)", tmp_path).status == 0
    runs = [next(cells(tmp_path, study)[0].glob("wandb/offline-run-*")).name for study in ("one", "two")]
    assert runs[0].rpartition("-")[2] != runs[1].rpartition("-")[2]
    assert "copied" in (ssgr(f"-m {tracked} study=three sparsity=choice(s40) dry_run=true", tmp_path).out)


@pytest.fixture
def jobs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SSGR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sweep, "POLL", 0.02)
    names = (f"sparsity.value=0.{digit}" for digit in (3, 4, 5))
    return [Job([name], describe(config_of("pruner=magnitude", name))) for name in names]


class FakeLauncher:
    """Plays one scene per launch: a function of the jobs that it is given, by their overrides."""

    def __init__(self, jobs, *scenes):
        self.jobs, self.scenes, self.launched = {job.overrides[0]: job for job in jobs}, list(scenes), []

    def launch(self, overrides, initial_job_idx):
        names = [names[0] for names in overrides]
        self.launched.append(names)
        return self.scenes.pop(0)([self.jobs[name] for name in names])


def finish(job):
    job.cell.folder.mkdir(parents=True, exist_ok=True)
    (job.cell.folder / "result.json").write_text('{"status": "finished"}')
    return JobReturn(status=JobStatus.COMPLETED, _return_value=Outcome("finished", job.cell.name, str(job.cell.folder)))


def begin(job):
    resume.marker(job.cell).parent.mkdir(parents=True, exist_ok=True)
    resume.marker(job.cell).write_text("{}")


def statuses(jobs):
    return [job.outcome.status for job in jobs]


def test_a_pool_that_breaks_costs_no_finished_cell_and_the_others_go_on(jobs, capsys):
    def breaks(given):
        finish(given[0])
        begin(given[1])  # and given[2] had not begun
        raise RuntimeError("A worker process was terminated")

    fake = FakeLauncher(jobs, breaks, *[lambda given: [finish(job) for job in given]] * 2)
    launch(fake, jobs)
    assert statuses(jobs) == ["finished"] * 3
    first, second, third = (job.overrides[0] for job in jobs)
    assert fake.launched == [[first, second, third], [third], [second]], "what died comes last, and alone"
    assert "launched again" in capsys.readouterr().err


def test_a_cell_whose_process_dies_twice_has_failed(jobs):
    def dies(given):
        for job in given:
            (finish if job is not jobs[1] else begin)(job)
        raise RuntimeError("A worker process was terminated")

    launch(FakeLauncher(jobs, dies, dies), jobs)
    assert statuses(jobs) == ["finished", "failed", "finished"]
    assert "died 2 times without a word" in jobs[1].outcome.message and "terminated" in jobs[1].outcome.message


def test_cells_beside_one_that_dies_are_not_blamed(jobs):
    def all_go_with_it(given):
        for job in given:
            begin(job)
        raise RuntimeError("A worker process was terminated")

    def alone(given):
        (job,) = given
        return all_go_with_it(given) if job is jobs[1] else [finish(job)]

    launch(FakeLauncher(jobs, all_go_with_it, alone, alone, alone), jobs)
    assert statuses(jobs) == ["finished", "failed", "finished"]


def test_a_launcher_without_anywhere_to_run_is_bad_input_said_once(jobs):
    def nowhere(_):
        raise UserError("no Ray cluster answers at here:1")

    launch(FakeLauncher(jobs, nowhere), jobs)
    assert statuses(jobs) == ["refused"] * 3 and len({job.outcome.message for job in jobs}) == 1


def test_one_dead_worker_of_a_queue_is_that_cell_alone(jobs):
    def one_dies(given):
        begin(given[0])
        dead = JobReturn(status=JobStatus.FAILED, _return_value=RuntimeError("the worker died"))
        return [dead, *(finish(job) for job in given[1:])]

    launch(FakeLauncher(jobs, one_dies, lambda given: [finish(job) for job in given]), jobs)
    assert statuses(jobs) == ["finished"] * 3


def test_a_launcher_that_cannot_launch_is_said_once_for_every_cell(jobs):
    def refuses(_):
        raise FileNotFoundError("sbatch: command not found")

    launch(FakeLauncher(jobs, refuses), jobs)
    assert statuses(jobs) == ["failed"] * 3
    assert all("could not be launched: sbatch: command not found" in job.outcome.message for job in jobs)


def test_cells_of_another_process_are_left_until_it_is_done_with_them(jobs):
    held = threading.Event()

    def other_process():
        with locked(resume.lock_path(jobs[0].cell)):
            held.set()
            time.sleep(0.3)
            finish(jobs[0])

    def run(given):
        assert jobs[0] not in given or not resume.is_held(resume.lock_path(jobs[0].cell))
        return [finish(job) for job in given]

    thread = threading.Thread(target=other_process)
    thread.start()
    held.wait()
    fake = FakeLauncher(jobs, run, run)
    launch(fake, jobs)
    thread.join()
    assert statuses(jobs) == ["finished"] * 3
    assert fake.launched[0] == [job.overrides[0] for job in jobs[1:]], "the free ones first"


def test_busy_cells_are_asked_again(jobs):
    busy = JobReturn(status=JobStatus.COMPLETED, _return_value=Outcome("busy", "", ""))
    fake = FakeLauncher(
        jobs, lambda given: [busy, *map(finish, given[1:])], lambda given: [finish(job) for job in given]
    )
    launch(fake, jobs)
    assert statuses(jobs) == ["finished"] * 3 and fake.launched[1] == [jobs[0].overrides[0]]


def test_deaths_are_counted_by_cell(jobs):
    deaths = Counter()
    begin(jobs[0])
    sweep.give_up_or_retry(jobs, RuntimeError("gone"), deaths, before={})
    assert deaths == {jobs[0].cell.name: 1} and all(job.outcome is None for job in jobs)
