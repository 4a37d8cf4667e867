"""kill -9 in every stage, each followed by the same command: it finishes, goes on from what was stored, and ends
with what an undisturbed run leaves."""

import signal
import time

import pytest
from command_line import cells, config_of, ssgr, start

from ssgr.cell import describe
from ssgr.engines.hf import HfEngine
from ssgr.results import partial_folder

# Traces and completions are cut early, so that each batch of 8 takes a moment only; four batches of each kind.
CELL = (
    "rollouts.problems=16 rollouts.k=2 rollouts.max_new_tokens=40 calibration.tokens=1024 selection.correctness=any "
    "limit=16 evaluation.repeats=2 evaluation.dense_repeats=2 evaluation.max_new_tokens=40 engine.batch_size=8 "
    "save_checkpoint=true tracking=disabled"
)
LATEST = 90  # seconds until a stage must have been reached


def kill_when(line, folder, reached):
    """Runs the command and kills it as soon as `reached(folder)` holds."""
    process = start(line, folder)
    end = time.monotonic() + LATEST
    while not reached(folder):
        assert process.poll() is None and time.monotonic() < end, process.communicate()[1]
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    process.communicate()


def parts(folder, pattern):
    return {path: path.stat().st_mtime_ns for path in folder.glob(f"{pattern}/traces/part-*.parquet")}


def rollouts(folder):
    return parts(folder, "cache/traces/*")


def samples(folder):
    return parts(folder, "runs/single/*/partial/*")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    done = ssgr(CELL, folder)
    assert done.status == 0
    return folder


@pytest.fixture
def generated(monkeypatch):
    """How many rows each batch of the engine had."""
    rows, stream = [], HfEngine.stream

    def counted(self, prompts, *options, **more):
        for numbers, made in stream(self, prompts, *options, **more):
            rows.append(len(numbers))
            yield numbers, made

    monkeypatch.setattr(HfEngine, "stream", counted)
    return rows


def test_a_cell_that_is_killed_three_times_equals_an_undisturbed_one(tmp_path, undisturbed, generated):
    kill_when(CELL, tmp_path, lambda folder: len(rollouts(folder)) >= 2)
    first = rollouts(tmp_path)
    assert 2 <= len(first) < 4 and not cells(tmp_path)

    kill_when(CELL, tmp_path, lambda folder: list(folder.glob("runs/single/*/calibration.parquet")))
    (cell,) = cells(tmp_path)
    second, dense = rollouts(tmp_path), parts(tmp_path, "cache/dense/*")
    assert len(second) == 4 and first.items() <= second.items(), "finished batches are not generated again"
    assert not (cell / "partial").exists() and not (cell / "result.json").exists()

    kill_when(CELL, tmp_path, lambda folder: len(samples(folder)) >= 2)
    third = samples(tmp_path)
    assert 2 <= len(third) < 4 and not (cell / "result.json").exists()
    (cell / ".config.yaml.left.partial").write_text("of a process that was killed while it wrote")

    done = ssgr(CELL, tmp_path)
    assert done.status == 0
    assert rollouts(tmp_path) == second and parts(tmp_path, "cache/dense/*") == dense
    assert not [path for path in tmp_path.rglob("*") if "partial" in path.name]
    assert generated == [8] * (4 - len(third)), "only the samples that were missing"

    (other,) = cells(undisturbed)
    assert cell.name == other.name
    assert {path.name for path in cell.iterdir()} == {path.name for path in other.iterdir()}
    same = ["samples.parquet", "calibration.parquet", "divergence.parquet", "config.yaml"]
    for name in [*same, "checkpoint/model.safetensors"]:
        assert (cell / name).read_bytes() == (other / name).read_bytes(), name
    pairs = zip(sorted(rollouts(tmp_path)), sorted(rollouts(undisturbed)), strict=True)
    assert all(one.read_bytes() == two.read_bytes() for one, two in pairs)


def test_stored_samples_are_those_of_the_same_weights_only(undisturbed, tmp_path):
    """Samples left by other weights, such as of an older version of a pruner, are removed rather than mixed in."""
    cell = describe(config_of(f"runs_dir={tmp_path}", f"cache_dir={undisturbed}/cache"))
    one = partial_folder(cell, "one")
    one.mkdir(parents=True)
    assert partial_folder(cell, "one") == one and one.is_dir()
    assert partial_folder(cell, "two") != one and not one.exists()
