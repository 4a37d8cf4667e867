"""The progress line, from what cells leave on disk."""

import os
import time

import pytest
from command_line import config_of

from ssgr import resume
from ssgr.cell import describe
from ssgr.study import watch
from ssgr.study.watch import Watch, spoken


@pytest.fixture
def cells(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SSGR_CACHE", str(tmp_path / "cache"))
    return [describe(config_of("pruner=magnitude", f"sparsity.value=0.{digit}")) for digit in range(1, 6)]


def leave(path, age=0.0):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{}")
    os.utime(path, (time.time() - age,) * 2)


def test_the_line_counts_what_stood_ended_runs_and_waits(cells):
    watched = Watch(cells)
    watched.begin(cells[1:2])  # a single cell needs no line of its own
    watched.left, watched.since = cells[1:], time.time() - 10
    leave(cells[0].folder / "result.json", age=1000)
    leave(cells[1].folder / "result.json")
    leave(cells[2].folder / "failure.json")
    leave(resume.marker(cells[3]))
    leave(resume.marker(cells[4]), age=1000)  # of a process that was killed before this study began
    line = watched.line(done=2)
    assert line.startswith("3 of 5 cells done, 1 running, 1 waiting, about ") and line.endswith(" left")
    assert "10 s" in line, "two of four in ten seconds"


def test_a_line_is_said_when_a_cell_ends(cells, monkeypatch, capsys):
    monkeypatch.setattr(watch, "EVERY", 0.01)
    with Watch(cells) as watched:
        watched.begin(cells)
        leave(cells[0].folder / "result.json", age=-1)
        end = time.monotonic() + 10
        said = ""
        while "1 of 5 cells done" not in said and time.monotonic() < end:
            time.sleep(0.02)
            said += capsys.readouterr().err
    assert "5 cells: 0 stand, 5 are to be run" in said and "1 of 5 cells done, 0 running, 4 waiting" in said


def test_times_are_spoken():
    assert [spoken(seconds) for seconds in (5, 89, 600, 7200)] == ["5 s", "89 s", "10 min", "2.0 h"]
