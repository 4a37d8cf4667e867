"""Tracking is a view: what it is given, and that whatever happens to it costs no result."""

import json
from types import SimpleNamespace

import pytest
import wandb
from command_line import FAST, QUICK, cells, config_of, ssgr

from ssgr import tracking
from ssgr.cell import describe

OFFLINE = FAST.replace(" tracking=disabled", "")


class FakeRun:
    def __init__(self, broken=False):
        self.logged, self.summary, self.exit_code, self.broken = [], {}, None, broken

    def log(self, point):
        if self.broken:
            raise ConnectionError("the disk of the tracker is full")
        self.logged.append(point)

    def finish(self, exit_code=None):
        self.exit_code = exit_code


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in ("WANDB_MODE", "WANDB_PROJECT", "WANDB_ENTITY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def init(monkeypatch):
    """Stands for wandb.init and keeps what it was given."""
    fake = SimpleNamespace(calls=[], runs=[], broken=False)

    def called(**options):
        fake.calls.append(options)
        fake.runs.append(FakeRun(fake.broken))
        return fake.runs[-1]

    monkeypatch.setattr(wandb, "init", called)
    return fake


def test_each_cell_of_a_sweep_has_one_offline_run_after_a_rerun_too(tmp_path):
    sweep = f"-m {OFFLINE} sparsity=s40,s50 study=tracked"
    assert ssgr(sweep, tmp_path).status == 0
    again = ssgr(f"{OFFLINE} sparsity=s50 study=tracked overwrite=true", tmp_path)
    assert again.status == 0 and "tracking failed" not in again.err
    ids = set()
    for cell in cells(tmp_path, "tracked"):
        (run,) = (cell / "wandb").glob("offline-run-*")
        ids.add(run.name.rpartition("-")[2])
        assert list(run.glob("*.wandb"))
    assert len(ids) == 2 and not (tmp_path / "wandb").exists()
    assert "skipped" in ssgr(sweep, tmp_path).err


def test_a_run_is_given_the_cell_its_history_and_its_result(tmp_path, init):
    done = ssgr(f"{QUICK} tracking=offline study=tracked", tmp_path)
    assert done.status == 0
    (options,), (run,) = init.calls, init.runs
    (cell,) = cells(tmp_path, "tracked")
    result = json.loads((cell / "result.json").read_text())
    assert (options["group"], options["job_type"], options["name"]) == ("tracked", "prune", cell.name)
    assert (options["mode"], options["project"]) == ("offline", "ssgr") and "tracked" in options["tags"]
    assert options["config"] == tracking.with_joined_lists(result["config"]), "resolved, nested, lists as text too"
    assert options["dir"].name == cell.name
    blocks = [point for point in run.logged if "pruning/block" in point]
    assert [point["pruning/block"] for point in blocks] == list(range(6))
    tables = {name: table for point in run.logged for name, table in point.items() if isinstance(table, wandb.Table)}
    assert set(tables) == {"store", "selection", "outcomes", "divergence"}
    assert len(tables["outcomes"].data) == 8 and len(tables["store"].data) == 4
    for name, value in result["metrics"].items():
        assert run.summary[name] == pytest.approx(value)
    assert {f"dense/{name}" for name in result["dense_metrics"]} <= set(run.summary)
    assert run.summary["sparsity/achieved"] == result["sparsity"]["achieved"]
    assert run.summary["calibration/tokens"] == 1024 and run.summary["seconds/total"] > 0
    assert run.exit_code == 0


def started(*overrides):
    cell = describe(config_of("evaluation.max_new_tokens=8", *overrides))
    with tracking.start(cell) as tracker:
        pass
    return tracker


def test_the_id_is_the_cells_in_its_study(init, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for overrides in (
        ("runs_dir=a", "study=one"),
        ("runs_dir=b", "study=one", "tracking=wandb", "overwrite=true"),
        ("runs_dir=a", "study=two"),
        ("runs_dir=a", "study=one", "seed=1"),
        ("runs_dir=a", "study=one", "pruner=none"),
    ):
        started(*overrides)
    first, same, study, seed, dense = (options["id"] for options in init.calls)
    assert first == same and len({first, study, seed, dense}) == 4
    assert [options["mode"] for options in init.calls[:2]] == ["offline", "online"]
    assert init.calls[4]["job_type"] == "dense"


def test_the_environment_wins_over_the_config(init, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    monkeypatch.setenv("WANDB_ENTITY", "us")
    monkeypatch.setenv("WANDB_MODE", "online")
    started("tracking.project=other")
    assert [init.calls[0][name] for name in ("project", "entity", "mode")] == ["mine", "us", "online"]
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert started("tracking=wandb").run is None and len(init.calls) == 1
    monkeypatch.setenv("WANDB_MODE", "dryrun")
    assert tracking.destination(describe(config_of("tracking=wandb")))["mode"] == "offline"
    monkeypatch.delenv("WANDB_MODE")
    assert started("tracking=disabled").run is None and len(init.calls) == 1
    assert not (tmp_path / "runs" / "single" / "wandb").exists()


def test_a_mode_that_w_and_b_does_not_know_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "foo")
    done = ssgr(OFFLINE, tmp_path)
    assert done.status == 2 and done.lines == ["ssgr: WANDB_MODE=foo: choices: offline, online, disabled, dryrun, run"]


def test_a_tracker_that_does_not_start_costs_nothing_and_is_said_once(tmp_path, monkeypatch):
    def refuse(**_):
        raise wandb.errors.UsageError("no API key\nconfigured")

    monkeypatch.setattr(wandb, "init", refuse)
    done = ssgr(f"{OFFLINE} tracking=wandb", tmp_path)
    assert done.status == 0 and (cells(tmp_path)[0] / "result.json").is_file()
    assert [line for line in done.lines if "tracking" in line] == [
        "tracking failed and is left out, the cell goes on: no API key"
    ]


def test_a_tracker_that_breaks_off_costs_nothing_and_is_said_once(tmp_path, init):
    init.broken = True
    done = ssgr(OFFLINE, tmp_path)
    assert done.status == 0 and (cells(tmp_path)[0] / "result.json").is_file()
    assert len([line for line in done.lines if "tracking failed" in line]) == 1


def test_a_cell_that_fails_ends_its_run_as_failed(tmp_path, init, monkeypatch):
    from ssgr import stages

    def broken(*_, **__):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(stages, "prune_with_others", broken)
    assert ssgr(OFFLINE, tmp_path).status == 1
    assert init.runs[0].exit_code == 1


def test_what_could_not_be_sent_is_kept_offline_and_sent_later_without_a_rerun(tmp_path, init, monkeypatch):
    reachable = wandb.init

    def unreachable(**options):
        if options["mode"] == "online":
            raise wandb.errors.CommError("timed out")
        return reachable(**options)

    monkeypatch.setattr(wandb, "init", unreachable)
    sweep = f"-m {OFFLINE} sparsity=s40,s50 tracking=wandb"
    done = ssgr(sweep, tmp_path)
    assert done.status == 0 and done.err.count("W&B cannot be had (timed out)") == 1
    assert [options["mode"] for options in init.calls] == ["offline", "offline"]
    before = [(cell / "result.json").stat().st_mtime_ns for cell in cells(tmp_path)]

    monkeypatch.setattr(wandb, "init", reachable)
    monkeypatch.setattr(tracking, "_unreachable", False)  # as in a process of its own
    for expected in (4, 4):  # and once they are there, nothing is sent again
        done = ssgr(sweep, tmp_path)
        assert done.status == 0 and "2 skipped" in done.err and len(init.calls) == expected
    assert [options["mode"] for options in init.calls[2:]] == ["online", "online"]
    assert [options["id"] for options in init.calls[2:]] == [options["id"] for options in init.calls[:2]]
    assert "tiny_math/accuracy" in init.runs[2].summary
    assert [(cell / "result.json").stat().st_mtime_ns for cell in cells(tmp_path)] == before


def test_lists_are_there_as_text_too():
    config = tracking.with_joined_lists({"length": {"percentile": [33.3, 66.7], "tokens": None}, "levels": [1, 2]})
    assert config["length"] == {"percentile": [33.3, 66.7], "percentile_text": "33.3, 66.7", "tokens": None}
    assert config["levels_text"] == "1, 2"
