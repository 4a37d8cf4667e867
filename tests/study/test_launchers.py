"""The same study under every launcher, by two processes at once, and in another order: the same results."""

import json
from pathlib import Path

import pandas as pd
import pytest
from command_line import cells, ssgr, start

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
    _, err = process.communicate(timeout=240)
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


@pytest.mark.parametrize("launcher", PARALLEL)
def test_a_parallel_study_is_the_sequential_one(launcher, basic, tmp_path):
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
