"""The same study under every launcher, by two processes at once, and in another order: the same results."""

import json
import os
import socket
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from command_line import cells, config_of, ssgr, start
from hydra.core.utils import JobReturn, JobStatus
from joblib import cpu_count

from ssgr import resume
from ssgr.cell import describe
from ssgr.errors import UserError
from ssgr.study import ray_queue, slurm_queue, sweep

CELL = (
    "rollouts=fresh rollouts.problems=16 rollouts.k=2 rollouts.max_new_tokens=40 selection.correctness=any "
    "calibration.tokens=1024 limit=8 evaluation.max_new_tokens=24 evaluation.dense_repeats=2 engine.batch_size=8"
)
GRID = f"-m {CELL} study=grid pruner=wanda,sparsegpt seed=0,1"
PARALLEL = {
    "cores": "hydra/launcher=cores hydra.launcher.n_jobs=2",
    "ray_gpu": "hydra/launcher=ray_gpu hydra.launcher.num_gpus=0 hydra.launcher.init.num_cpus=2",
}
TABLES = ("samples.parquet", "divergence.parquet", "calibration.parquet")


def finished(process):
    _, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    return err


@pytest.fixture(scope="module")
def basic(tmp_path_factory):
    folder = tmp_path_factory.mktemp("basic")
    assert ssgr(GRID, folder).status == 0
    return folder


def numbers(result):
    """What of a result does not depend on the time it took."""
    timed = ("seconds", "tokens_per_second")
    metrics = {name: value for name, value in result["metrics"].items() if not name.endswith(timed)}
    return metrics, result["sparsity"], result["calibration"]


def assert_same(folder: Path, other: Path, found=None):
    expected = {cell.name: cell for cell in cells(other, "grid")}
    found = found or cells(folder, "grid")
    for cell in found:
        twin = expected[cell.name]
        for table in TABLES:
            assert pd.read_parquet(cell / table).equals(pd.read_parquet(twin / table)), (cell.name, table)
        results = [json.loads((path / "result.json").read_text()) for path in (cell, twin)]
        assert numbers(results[0]) == numbers(results[1])
    return found


def run_ids(folder):
    runs = [next(cell.glob("wandb/offline-run-*")).name.rpartition("-")[2] for cell in cells(folder, "grid")]
    assert len(set(runs)) == len(runs)
    return runs


def shared_work(folder):
    """The bytes of what the cells share in the cache."""
    paths = [*folder.glob("cache/traces/*/traces/*"), *folder.glob("cache/dense/*/traces/*")]
    return {path.name: path.read_bytes() for path in paths}


@pytest.fixture(scope="module")
def with_a_workers_threads(tmp_path_factory):
    """The same by as many threads as joblib leaves each of two workers.

    On some processors, as one with AMX, the last digits of bf16 sums, and so what is sampled, depend on them.
    """
    folder, threads = tmp_path_factory.mktemp("threads"), torch.get_num_threads()
    torch.set_num_threads(min(2, max(1, cpu_count() // 2)))  # `start` asks for two at most
    try:
        assert ssgr(GRID, folder).status == 0
    finally:
        torch.set_num_threads(threads)
    return folder


@pytest.mark.parametrize("launcher", PARALLEL)
def test_a_parallel_study_is_the_sequential_one(launcher, request, tmp_path):
    basic = request.getfixturevalue("with_a_workers_threads" if launcher == "cores" else "basic")
    err = finished(start(f"{GRID} {PARALLEL[launcher]}", tmp_path))
    assert "4 cells: 4 finished" in err and "4 are to be run" in err
    assert len(assert_same(tmp_path, basic)) == 4
    assert run_ids(tmp_path) == run_ids(basic)
    assert shared_work(tmp_path) == shared_work(basic), "made once, and the same"
    logs = sorted((tmp_path / "runs" / "grid" / ".logs").iterdir())
    assert [log.stem for log in logs] == [cell.name for cell in cells(tmp_path, "grid")]
    assert "accuracy ± se" in logs[0].read_text()


def test_two_studies_started_at_once_share_the_cells_between_them(basic, tmp_path):
    errors = [finished(process) for process in [start(GRID, tmp_path) for _ in range(2)]]
    assert len(assert_same(tmp_path, basic)) == 4
    assert run_ids(tmp_path) == run_ids(basic)
    assert shared_work(tmp_path) == shared_work(basic)
    done = [err.rpartition("4 cells: ")[2].splitlines()[0] for err in errors]
    assert sum(int(count.split(" finished")[0]) for count in done if "finished" in count) == 4, "no cell was run twice"


def test_the_last_cell_of_a_study_is_what_it_is_alone(basic, tmp_path):
    assert ssgr(f"{CELL} study=grid pruner=sparsegpt seed=1", tmp_path).status == 0
    (alone,) = assert_same(tmp_path, basic)
    assert "sparsegpt" in alone.name and "seed1" in alone.name


# A Slurm of one machine: sbatch runs an array's tasks side by side, srun runs what it is given, sacct knows nothing.
SLURM = {
    "sbatch": """#!/bin/bash
cp "$1" "$FAKE_SLURM/script"
last=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\)%.*/\\1/p' "$1")
export SLURM_JOB_ID=7 SLURM_ARRAY_JOB_ID=7 SLURM_JOB_NUM_NODES=1 SLURM_NTASKS=1
export SLURM_NODEID=0 SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_CPUS_PER_TASK=8
for task in $(seq 0 "$last"); do SLURM_ARRAY_TASK_ID=$task bash "$1" >/dev/null 2>&1 & done
echo Submitted batch job 7
""",
    "srun": """#!/bin/bash
while [[ $1 == -* ]]; do [[ $1 == --unbuffered ]] && shift || shift 2; done
echo "$SRUN_CPUS_PER_TASK" > "$FAKE_SLURM/cores"
exec "$@"
""",
    "sacct": "#!/bin/bash\nexit 1\n",
}


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    folder = tmp_path / "slurm"
    folder.mkdir()
    for name, text in SLURM.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_SLURM", str(folder))
    return folder


def test_a_slurm_study_is_the_sequential_one(basic, slurm, tmp_path):
    err = finished(start(f"-m {CELL} study=grid pruner=wanda seed=0,1 hydra/launcher=slurm_gpu", tmp_path))
    assert "2 cells: 2 finished" in err
    assert len(assert_same(tmp_path, basic)) == 2
    script = (slurm / "script").read_text()
    for option in ("gpus-per-node=1", "cpus-per-task=8", "mem=64GB", "time=240", "signal=USR2@120", "requeue"):
        assert f"#SBATCH --{option}\n" in script, "also on clusters that requeue only on demand"
    assert (slurm / "cores").read_text() == "8\n", "srun gets the job's cores"


def test_a_slurm_that_takes_no_job_is_said_once(slurm, tmp_path):
    (slurm / "sbatch").write_text("#!/bin/bash\necho sbatch: error: invalid partition specified: none >&2\nexit 1\n")
    done = ssgr(f"-m {CELL} pruner=wanda seed=0,1 hydra/launcher=slurm_gpu hydra.launcher.partition=none", tmp_path)
    said = "ssgr: Slurm does not take the jobs: sbatch: error: invalid partition specified: none"
    assert done.status == 2 and done.lines.count(said) == 1


def test_a_slurm_job_that_died_takes_no_other_with_it():
    def die():
        raise RuntimeError("Job 7_0 (task: 0) with path ...\nhas not produced any output (state: OUT_OF_MEMORY)")

    dead = SimpleNamespace(results=die, job_id="7_0", state="OUT_OF_MEMORY", paths=SimpleNamespace(stderr="7_0.err"))
    back = slurm_queue.result_of(dead)
    assert back.status == JobStatus.FAILED
    assert str(back._return_value) == "Slurm job 7_0 ended as OUT_OF_MEMORY, see 7_0.err"


def free_port():
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return opened.getsockname()[1]


@pytest.fixture
def ray(monkeypatch):
    """Stands in for the module: what `init` was given, and one node of 2 cores."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    given = {}
    node = {"Alive": True, "Resources": {"CPU": 2.0}}
    return SimpleNamespace(given=given, init=lambda **options: given.update(options), nodes=lambda: [node])


def test_a_ray_cluster_that_does_not_answer_is_said_at_once(ray, tmp_path, monkeypatch):
    address = f"127.0.0.1:{free_port()}"
    with pytest.raises(UserError, match=f"no Ray cluster answers at {address}: "):
        ray_queue.join(ray, {"address": address})
    (tmp_path / "address").write_text(address + "\n")  # of a cluster that died
    monkeypatch.setattr(ray_queue, "LAST_STARTED", tmp_path / "address")
    with pytest.raises(UserError, match=address):
        ray_queue.join(ray, {"address": "auto"})
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(UserError, match=address):
        ray_queue.join(ray, {"address": None, "num_cpus": None})
    assert not ray.given


def test_ray_joins_no_cluster_that_nobody_named(ray, monkeypatch):
    ray_queue.join(ray, {"address": None, "num_cpus": None})
    assert ray.given["address"] == "local"
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{free_port()}")
    ray_queue.join(ray, {"address": None, "num_cpus": 2})
    assert ray.given["address"] == "local", "the number of cores is for a Ray that is started"


def test_cells_that_no_node_can_take_are_refused_here_and_wait_on_a_cluster(ray, capsys):
    ray_queue.refuse_too_little(ray, {"GPU": 0, "CPU": 2}, here=True)
    with pytest.raises(UserError, match=r"a cell needs 1 GPU and 1 CPU.*num_gpus=0"):
        ray_queue.refuse_too_little(ray, {"GPU": 1, "CPU": 1}, here=True)
    assert not capsys.readouterr().err
    ray_queue.refuse_too_little(ray, {"GPU": 1, "CPU": 1}, here=False)
    assert "the cells wait until one joins it" in capsys.readouterr().err


def test_what_an_earlier_call_left_behind_is_no_death_in_this_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SSGR_CACHE", str(tmp_path / "cache"))
    job = sweep.Job(["seed=0"], describe(config_of("pruner=magnitude")))
    resume.marker(job.cell).parent.mkdir(parents=True)
    resume.marker(job.cell).write_text("{}")  # of a call that was killed
    dead = JobReturn(status=JobStatus.FAILED, _return_value=FileNotFoundError("sbatch: command not found"))
    sweep.launch(SimpleNamespace(launch=lambda overrides, initial_job_idx: [dead]), [job])
    assert job.outcome.message == "it could not be launched: sbatch: command not found"
