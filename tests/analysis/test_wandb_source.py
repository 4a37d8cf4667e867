"""Cells from W&B, served on the loopback: the same tables as from disk, kept once, and one line where it fails."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import wandb
from command_line import QUICK, ssgr
from stored_cells import write_stored_cell
from wandb_server import ENTITY, KEY, PROJECT, WandbServer

from analysis import load_divergence, load_histories, load_runs, load_samples, wandb_project
from ssgr import tracking
from ssgr.errors import UserError

SOURCE = f"{ENTITY}/{PROJECT}"
LOADERS = (load_runs, load_samples, load_divergence, load_histories)


@pytest.fixture
def own_session():
    """wandb keeps a process' first server and login for all its runs: not those of other tests, not for other tests."""
    wandb.teardown()
    yield
    wandb.teardown()


@pytest.fixture(scope="module", autouse=True)
def no_session():
    wandb.teardown()
    yield
    wandb.teardown()


@pytest.fixture
def server(tmp_path, monkeypatch):
    served = WandbServer()
    for name in ("WANDB_MODE", "WANDB_PROJECT", "WANDB_ENTITY", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_BASE_URL", served.url)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "wandb"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "home" / ".netrc"))
    monkeypatch.setenv("SSGR_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    yield served
    served.close()


@pytest.fixture
def runs(tmp_path):
    """Two pruned cells and a dense one of study `a`, one cell of study `b`."""
    folder = tmp_path / "runs"
    write_stored_cell(folder, "a", "first", seed=0)
    write_stored_cell(folder, "a", "second", seed=1)
    write_stored_cell(folder, "a", "third", is_dense=True)
    write_stored_cell(folder, "b", "fourth")
    return folder


@pytest.fixture
def served(server, runs):
    for path in sorted(runs.glob("*/*")):
        server.add(path)
    return server


def asked_since(server, count):
    return [name for name in server.asked[count:] if name not in ("Viewer", "GetDefaultEntity")]


@pytest.mark.parametrize("study", [None, "a"])
@pytest.mark.parametrize("load", LOADERS)
def test_w_and_b_gives_what_the_directory_gives(served, runs, load, study):
    here, there = load(runs, study), load(SOURCE, study)
    assert len(here) > 0 and len(here.columns) > 4
    if load is load_runs:
        assert there["folder"].str.startswith(f"wandb:{SOURCE}/id00").all()
        here, there = here.drop(columns="folder"), there.drop(columns="folder")
    pd.testing.assert_frame_equal(here, there)


def test_what_cells_send_to_w_and_b_comes_back_as_what_they_left_on_disk(own_session, server, tmp_path, monkeypatch):
    monkeypatch.setattr(tracking, "_unreachable", False)
    options = f"{QUICK} study=sent".replace("tracking=disabled", "tracking=wandb")
    for line in (f"{options} pruner=sparsegpt pruner.measure_error=true", f"{options} pruner=none"):
        assert ssgr(line, tmp_path).status == 0
    assert [run["state"] for run in server.runs] == ["finished"] * 2
    for load in LOADERS:
        here, there = load(tmp_path / "runs"), load(SOURCE)
        here, there = (frame.drop(columns="folder", errors="ignore") for frame in (here, there))
        assert here["cell"].nunique() == (2 if load in (load_runs, load_samples) else 1)
        pd.testing.assert_frame_equal(here, there)


def test_offline_runs_are_sent_by_the_documented_command(own_session, server, tmp_path):
    documented = Path(__file__).parents[2].joinpath("docs", "cluster.md").read_text()
    (command,) = re.findall(r"^wandb sync .*$", documented, re.M)
    options = f"{QUICK} study=sent".replace("tracking=disabled", "tracking=offline")
    assert ssgr(f"-m {options} pruner=wanda seed=0,1", tmp_path).status == 0 and not server.runs
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    options = {"shell": True, "cwd": tmp_path, "env": environment, "capture_output": True, "text": True}
    done = subprocess.run(command, **options, timeout=120)
    assert done.returncode == 0, done.stderr
    for load in LOADERS:
        here, there = load(tmp_path / "runs"), load(SOURCE)
        here, there = (frame.drop(columns="folder", errors="ignore") for frame in (here, there))
        assert here["cell"].nunique() == 2
        pd.testing.assert_frame_equal(here, there)


def test_nothing_is_said_and_the_process_keeps_its_settings(served, capfd):
    patience = ("x_graphql_retry_max", "x_graphql_timeout_seconds", "x_file_transfer_retry_max", "silent")
    before = [getattr(wandb.setup().settings, name) for name in patience]
    load_runs(SOURCE)
    load_samples(SOURCE)
    assert [getattr(wandb.setup().settings, name) for name in patience] == before
    said = capfd.readouterr()
    assert said.err == "" and said.out == ""


def test_only_what_was_asked_for_is_fetched_and_only_once(served, tmp_path):
    load_runs(SOURCE, "a")
    assert asked_since(served, 0) == ["Runs", "Runs"]  # the list, then all configs and summaries
    kept = tmp_path / "cache" / "wandb" / ENTITY / PROJECT
    assert sorted(path.name for path in kept.iterdir()) == ["id000", "id001", "id002"]
    assert sorted(path.name for path in (kept / "id000").iterdir()) == ["manifest.json", "run.json"]

    count = len(served.asked)
    load_samples(SOURCE, "a")
    fetched = asked_since(served, count)
    assert fetched[0] == "Runs" and fetched.count("Runs") == 1 and fetched.count("RunFiles") == 3
    assert sum(name.startswith("media/table/outcomes") for name in fetched) == 3 and len(fetched) == 7

    load_divergence(SOURCE, "a")
    load_histories(SOURCE, "a")
    count = len(served.asked)
    for load in LOADERS:
        load(SOURCE, "a")
    assert asked_since(served, count) == ["Runs"] * len(LOADERS)


def test_refresh_fetches_everything_anew(served):
    load_samples(SOURCE, "a")
    served.runs[0]["summary"]["tiny_math/accuracy"] = 0.75
    assert load_runs(SOURCE, "a").loc[0, "accuracy"] != 0.75
    assert load_runs(SOURCE, "a", refresh=True).loc[0, "accuracy"] == 0.75
    count = len(served.asked)
    load_samples(SOURCE, "a")
    assert asked_since(served, count).count("RunFiles") == 3


def test_a_run_that_was_updated_since_is_fetched_again(served):
    load_runs(SOURCE)
    served.runs[1]["summary"]["tiny_math/accuracy"] = 0.75
    served.runs[1]["heartbeatAt"] = "2025-11-25T08:00:00"
    count = len(served.asked)
    runs = load_runs(SOURCE).set_index("cell")
    assert runs.loc["second", "accuracy"] == 0.75
    assert asked_since(served, count) == ["Runs", "Runs"]


def test_a_large_project_is_read_page_by_page(served, runs, monkeypatch):
    monkeypatch.setattr(wandb_project, "PER_PAGE", 2)
    monkeypatch.setattr(wandb_project, "BATCH", 3)
    write_stored_cell(runs, "a", "fifth")
    served.add(runs / "a" / "fifth")
    assert sorted(load_runs(SOURCE)["cell"]) == ["fifth", "first", "fourth", "second", "third"]
    assert asked_since(served, 0) == ["Runs"] * 5  # 2 + 2 + 1 listed, 3 + 2 with config and summary


def test_a_running_run_is_loaded_if_it_has_a_result_and_never_kept(served, runs, tmp_path, capsys):
    served.runs[0]["state"] = "running"
    served.runs[1]["state"] = "running"
    served.runs[1]["summary"] = {"pruning/block": 2, "_step": 2}
    served.runs[2]["state"] = "crashed"
    loaded = load_runs(SOURCE)
    assert loaded["cell"].tolist() == ["first", "fourth"]
    left_out = [
        f"third (wandb:{SOURCE}/id002) is left out: the state of its run is crashed",
        f"second (wandb:{SOURCE}/id001) is left out: it is still running",
    ]
    assert loaded.attrs["left_out"] == left_out and capsys.readouterr().err.splitlines() == left_out
    pd.testing.assert_frame_equal(load_samples(SOURCE, "a"), load_samples(runs, "a").query("cell == 'first'"))
    assert not (tmp_path / "cache" / "wandb" / ENTITY / PROJECT / "id000").exists()
    count = len(served.asked)
    load_samples(SOURCE, "a")
    assert asked_since(served, count)[:3] == ["Runs", "Runs", "RunFiles"]


def test_runs_without_a_result_or_of_an_unknown_version_are_said(served, capsys):
    del served.runs[0]["summary"]["status"]
    served.runs[1]["summary"]["schema_version"] = 99
    assert load_runs(SOURCE)["cell"].tolist() == ["third", "fourth"]
    said = capsys.readouterr().err
    assert f"first (wandb:{SOURCE}/id000) is left out: its run holds no finished result" in said
    assert f"second (wandb:{SOURCE}/id001) is left out: schema version 99" in said


@pytest.mark.parametrize("name", ["run.json", "samples.json", "manifest.json"])
def test_a_damaged_file_of_the_cache_is_fetched_anew(served, tmp_path, capsys, name):
    before = load_runs(SOURCE), load_samples(SOURCE)
    (tmp_path / "cache" / "wandb" / ENTITY / PROJECT / "id001" / name).write_text('{"config": {}')
    count = len(served.asked)
    after = load_runs(SOURCE), load_samples(SOURCE)
    for one, other in zip(before, after, strict=True):
        pd.testing.assert_frame_equal(one, other)
    assert len(asked_since(served, count)) > 2
    assert ("is damaged and is fetched anew" in capsys.readouterr().err) == (name != "manifest.json")
    count = len(served.asked)
    load_samples(SOURCE)
    assert asked_since(served, count) == ["Runs"]


def test_a_cache_that_cannot_be_written_costs_only_the_next_time(served, runs, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("SSGR_CACHE", str(tmp_path / "file"))
    pd.testing.assert_frame_equal(load_samples(SOURCE, "b"), load_samples(runs, "b"))
    assert "cannot be kept" in capsys.readouterr().err


def test_tables_that_are_cut_missing_or_damaged_are_said_and_left_out(served, runs, capsys):
    first, second, _, fourth = served.runs
    outcomes = pd.read_parquet(runs / "a" / "first" / "samples.parquet").drop(columns="output_ids")
    served.replace_table(first, "outcomes", outcomes.head(11))
    del second["summary"]["outcomes"]
    fourth["files"][fourth["summary"]["outcomes"]["path"]] += b" "
    assert load_samples(SOURCE)["cell"].unique().tolist() == ["third"]
    said = capsys.readouterr().err
    assert "first" in said and "holds 11 of 12 outcomes" in said
    assert "its run has no table outcomes" in said and "that is whole" in said


def test_a_file_that_is_gone_costs_its_own_cell_only(served, runs, capsys):
    gone, file = served.runs[0]["summary"]["outcomes"]["path"], served.file
    served.file = lambda path: None if path.endswith(gone) else file(path)
    pd.testing.assert_frame_equal(
        load_samples(SOURCE), load_samples(runs).query("cell != 'first'").reset_index(drop=True)
    )
    assert f"no file {gone}" in capsys.readouterr().err


def test_of_a_run_that_was_pruned_twice_the_last_history_counts(served, runs):
    again = [row | {"pruning/seconds": 7.5} for row in served.runs[0]["history"] if "pruning/block" in row]
    served.runs[0]["history"] += again
    loaded = load_histories(SOURCE, "a").query("cell == 'first'")
    assert loaded["block"].tolist() == [0, 1, 2] and loaded["seconds"].tolist() == [7.5] * 3


def test_of_both_sources_the_directory_wins(served, runs, tmp_path, capsys):
    write_stored_cell(tmp_path / "elsewhere", "a", "fifth")
    served.add(tmp_path / "elsewhere" / "a" / "fifth")
    served.runs[0]["summary"]["tiny_math/accuracy"] = 0.75
    both = load_runs([SOURCE, runs]).set_index("cell")
    assert sorted(both.index) == ["fifth", "first", "fourth", "second", "third"]
    assert both.loc["first", "folder"] == str(runs / "a" / "first") and both.loc["first", "accuracy"] != 0.75
    assert both.loc["fifth", "folder"] == f"wandb:{SOURCE}/id004"
    samples = load_samples([SOURCE, runs])
    assert (samples.groupby("cell").size() == 12).all() and samples["cell"].nunique() == 5
    assert capsys.readouterr().err == ""


def one_line(source):
    with pytest.raises(UserError) as raised:
        load_runs(source)
    line = str(raised.value)
    assert "\n" not in line and KEY not in line and len(line) < 400
    return line


def test_an_expired_login_is_one_line(served):
    served.status = 401
    assert "this login is refused" in one_line(SOURCE)
    served.status, served.errors = 200, {"Viewer": "user is not logged in"}
    assert "this login is refused" in one_line(SOURCE)


def test_a_login_that_expires_on_the_way_is_one_line(served):
    load_runs(SOURCE)
    served.errors["RunFiles"] = "permission denied"
    with pytest.raises(UserError, match="this login is refused"):
        load_samples(SOURCE)
    served.errors["Runs"] = "user is not logged in"
    assert "this login is refused" in one_line(SOURCE)


def test_an_unknown_project_is_one_line(served):
    assert f"{ENTITY}/unknown" in one_line(f"{ENTITY}/unknown") and "no such project" in one_line(f"{ENTITY}/unknown")


def test_no_key_is_one_line_and_nobody_is_asked_for_one(served, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY")
    assert "run `wandb login`, or set WANDB_API_KEY" in one_line(SOURCE)
    assert served.asked == []


def test_what_is_no_key_is_one_line(served, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "my secret!")
    assert "WANDB_API_KEY holds no API key" in one_line(SOURCE)
    assert "my secret!" not in one_line(SOURCE) and served.asked == []


def test_a_key_that_the_server_repeats_is_not_printed(served):
    served.errors["Viewer"] = f"something is odd about {KEY}"
    assert "something is odd about …" in one_line(SOURCE)


def test_no_network_is_one_line(served, monkeypatch):
    served.close()
    assert "cannot be reached" in one_line(SOURCE)


def test_a_server_that_does_not_answer_is_one_line(served, monkeypatch):
    monkeypatch.setattr(wandb_project, "TIMEOUT", 1)
    served.stalls = True
    assert "cannot be reached" in one_line(SOURCE)


def test_what_looks_like_neither_is_one_line(served):
    assert "wandb:entity/project" in one_line("wandb:ssgr")
    assert "wandb:entity/project" in one_line("wandb:us/ssgr/id000")
    assert "no runs directory" in one_line("./us/ssgr")
    assert "no runs directory" in one_line("runs_of_nobody")
    assert served.asked == []
