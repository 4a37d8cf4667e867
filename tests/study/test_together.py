"""Cells of one sweep that share a calibration pass: which they are, and that nothing but the time is another."""

import json
import signal
import time

import pandas as pd
from command_line import QUICK, cells, config_of, ssgr, start

from ssgr import stages
from ssgr.cell import describe
from ssgr.errors import CellError
from ssgr.pruning import one_pass
from ssgr.study.together import after, family, in_this_process, side_by_side

SHARED = "pruner.propagation=dense pruner.one_pass=true"
STUDY = f"-m {QUICK} pruner=sparsegpt,wanda sparsity=s30,s50 pruner.propagation=dense"


def cell(*overrides):
    return describe(config_of(*overrides))


def shared(*overrides):
    return cell(*SHARED.split(), *overrides)


def test_a_family_is_all_that_one_calibration_pass_can_serve():
    own = family(shared())
    for same in (["sparsity=s60"], ["pruner=wanda"], ["pruner.damping=0.1"], ["sparsity=n2m4", "pruner.block_size=64"]):
        assert family(shared(*same)) == own is not None
    others = ["seed=1", "calibration=general_text", "calibration.token_weights=decode", "pruner.sinks=exclude"]
    others += ["calibration.tokens=999", "device=cpu", "length=short"]
    assert len({family(shared(other)) for other in others} | {own}) == len(others) + 1
    for alone in (
        cell("pruner.propagation=dense"),
        cell("pruner=none"),
        shared("sparsity=dense"),
        shared("pruner=magnitude"),
    ):
        assert family(alone) is None
    assert family(shared("pruner=magnitude", "pruner.measure_error=true")) == own


def test_the_option_does_not_enter_the_hash_and_wants_dense_propagation(tmp_path):
    assert shared().name == cell("pruner.propagation=dense").name != cell().name
    for pruner in ("magnitude", "wanda", "sparsegpt"):
        done = ssgr(f"pruner={pruner} pruner.one_pass=true", tmp_path)
        assert done.status == 2 and len(done.lines) == 1
        assert "pruner.one_pass=true" in done.err and "pruner.propagation=dense" in done.err
    assert not list(tmp_path.iterdir())


def test_cells_of_a_family_follow_one_another_and_know_who_comes_after():
    one, two = ([shared(f"seed={seed}", f"sparsity={size}") for size in ("s30", "s50")] for seed in (0, 1))
    plain = [cell(f"sparsity={size}") for size in ("s30", "s50")]
    mixed = [one[0], plain[0], two[0], one[1], plain[1], two[1]]
    ordered = side_by_side(mixed, lambda cell: cell)
    assert ordered == [one[0], one[1], plain[0], two[0], two[1], plain[1]]
    with in_this_process(ordered):
        assert after(shared("sparsity=s30")) == [one[1]] and after(two[0]) == [two[1]]
        assert after(one[1]) == after(plain[0]) == after(shared("sparsity=s70")) == []
    assert after(one[0]) == []


def test_a_sweep_calibrates_once_and_leaves_what_it_leaves_cell_by_cell(tmp_path, passes):
    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        folder.mkdir()
    assert ssgr(STUDY, one).status == 0 and len(passes) == 4
    passes.clear()
    done = ssgr(f"{STUDY} pruner.one_pass=true", other)
    assert done.status == 0 and "one calibration pass for 4 cells" in done.err.replace("\n", " ")
    assert passes == [["diagonal", "gram"]] and not one_pass.latest.answers
    pairs = list(zip(cells(one), cells(other), strict=True))
    assert len(pairs) == 4
    for expected, found in pairs:
        assert expected.name == found.name
        for name in ("samples.parquet", "divergence.parquet", "calibration.parquet"):
            pd.testing.assert_frame_equal(pd.read_parquet(found / name), pd.read_parquet(expected / name))
        rows = [json.loads((folder / "prune_report.json").read_text())["rows"] for folder in (expected, found)]
        for row in rows[0] + rows[1]:
            assert row.pop("seconds") > 0
        assert rows[0] == rows[1]


def test_a_cell_that_fails_costs_no_other_its_answer(tmp_path, passes, monkeypatch):
    real = stages.evaluate_pruned

    def fails(cell, *arguments):
        if cell.config.sparsity.name == "s30":
            raise CellError("no luck")
        return real(cell, *arguments)

    line = f"-m {QUICK} {SHARED} pruner=wanda sparsity=s30,s50,s60"
    monkeypatch.setattr(stages, "evaluate_pruned", fails)
    assert ssgr(line, tmp_path).status == 1 and passes == [["diagonal"]]
    monkeypatch.setattr(stages, "evaluate_pruned", real)
    assert ssgr(line, tmp_path).status == 0 and len(passes) == 2, "it is pruned by itself"
    assert ssgr(f"{line} overwrite=true", tmp_path).status == 0 and len(passes) == 3
    assert len(cells(tmp_path)) == 3


def test_a_killed_sweep_loses_its_answers_and_nothing_else(tmp_path, passes):
    line = f"-m {QUICK} {SHARED} pruner=wanda sparsity=s30,s40,s50,s60"
    process = start(line, tmp_path)
    end = time.monotonic() + 90
    while not list(tmp_path.glob("runs/single/*/result.json")):
        assert process.poll() is None and time.monotonic() < end, process.communicate()[1]
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    finished = {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/single/*/result.json")}
    assert 1 <= len(finished) < 4
    assert ssgr(line, tmp_path).status == 0 and passes == [["diagonal"]], "once for all that was missing"
    assert len(cells(tmp_path)) == 4 and all(path.stat().st_mtime_ns == when for path, when in finished.items())
