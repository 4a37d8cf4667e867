"""tests/benchmarks/evidence.py: its commands are ssgr's, and its processes share out the cells and finish them."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import QUICK, ssgr

EVIDENCE = Path(__file__).parents[1] / "benchmarks" / "evidence.py"
BUNDLED = "--task tiny_math --prefix tiny_ rollouts=bundled tracking=disabled calibration.tokens=16384"


def evidence(words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, EVIDENCE, *shlex.split(words)], cwd=folder, capture_output=True, text=True)


def test_every_study_lists_commands_that_plan_one_cell_each(tmp_path):
    done = evidence(f"--list {BUNDLED} --hard problems.jsonl --wrong self_generated", tmp_path)
    lines = [line.removeprefix("ssgr ") for line in done.stdout.splitlines()]
    assert len(lines) == len(set(lines)) and done.stderr == ""
    first = {line.split("study=")[1].split()[0]: line for line in reversed(lines)}
    assert len(first) > 10 and {"tiny_axes", "tiny_grid", "tiny_sinks_exclude"} <= first.keys()
    for line in first.values():
        planned = ssgr(f"{line} calibration.max_seq_len=512 dry_run=true", tmp_path)
        assert planned.status == 0 and planned.lines[-1].startswith("ssgr: planned "), planned.err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("nothing", "no study nothing: difficulty_matched, "),
        ("pick:one", "pick:one: seeds are numbers, as in pick:0,1"),
        ("hard_reference", "hard_reference needs --hard"),
    ],
)
def test_what_cannot_be_listed_is_said(words, said, tmp_path):
    done = evidence(f"{words} --list", tmp_path)
    assert done.returncode == 2 and said in done.stderr and done.stdout == ""


def test_two_processes_finish_all_cells_skip_what_is_finished_and_say_what_failed(tmp_path):
    words = f"pick:0 {BUNDLED} {QUICK} cache_dir=cache device=cpu"
    done = evidence(f"{words} --processes 1 --kl-processes 1", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    ended = [line.split(":")[0].split() for line in done.stdout.splitlines()]
    assert [line[0] for line in ended] == ["1/2", "2/2"]
    assert len(list((tmp_path / "runs").glob("tiny_pick/*/result.json"))) == 2
    again = evidence(f"pick:1 {BUNDLED} difficulty.pass_rate=[0.2,0.1] cache_dir=cache", tmp_path)
    assert again.returncode == 1 and "status 2" in again.stdout
