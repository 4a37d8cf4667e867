"""--log-to-wandb: figures as a run that is no cell; offline where that was asked for."""

import subprocess
import sys
from pathlib import Path

import pytest
from synthetic_studies import write_study
from wandb_server import ENTITY, PROJECT, serving

from analysis import load_runs
from analysis.__main__ import main


@pytest.fixture
def server(tmp_path, monkeypatch):
    write_study(tmp_path / "runs", "smoke")
    with serving(tmp_path, monkeypatch) as served:
        yield served


def drawn(*options: str) -> int:
    return main(["smoke", "--runs", "runs", "--out", "figures", "--log-to-wandb", *options])


def check(run: dict) -> None:
    assert (run["jobType"], run["state"], run["displayName"]) == ("analysis", "finished", "smoke")
    assert run["config"]["studies"] == ["smoke"]
    assert {"figures/smoke", "numbers/smoke", "found/smoke"} <= set(run["summary"])
    assert run["summary"]["numbers/smoke"]["nrows"] > 4 and "own traces" in run["summary"]["found/smoke"]
    (picture,) = [data for name, data in run["files"].items() if name.endswith(".png")]
    assert picture == Path("figures/smoke.png").read_bytes()


def test_a_run_of_its_own_holds_the_figure_its_numbers_and_what_was_found(server, capsys):
    assert drawn("--project", f"{ENTITY}/{PROJECT}") == 0
    (run,) = server.runs
    check(run)
    assert f"/{ENTITY}/{PROJECT}/runs/{run['name']}" in capsys.readouterr().out
    assert load_runs(f"{ENTITY}/{PROJECT}").empty, "it is not taken for a cell"


def test_offline_it_stays_beside_the_figures_and_can_be_sent_later(server, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert drawn() == 0 and not server.runs and not server.asked
    (folder,) = Path("figures", "wandb").glob("offline-run-*")
    assert folder.name in capsys.readouterr().out
    monkeypatch.delenv("WANDB_MODE")
    command = [Path(sys.executable).with_name("wandb"), "sync", folder]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    check(server.runs[0])


def test_without_a_login_it_is_one_line_after_the_figures_were_written(server, monkeypatch, capsys):
    monkeypatch.delenv("WANDB_API_KEY")
    assert drawn() == 2
    said = capsys.readouterr()
    lines = [line for line in said.err.splitlines() if line.startswith("analysis: ")]
    assert len(lines) == 1 and "there is no API key" in lines[0] and "WANDB_MODE=offline" in lines[0]
    assert Path("figures/smoke.png").is_file()
