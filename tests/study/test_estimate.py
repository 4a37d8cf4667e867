"""The plan's numbers: what the cache holds, and what finished cells say of the time that others will take."""

from types import SimpleNamespace

import pytest
from command_line import QUICK, config_of, ssgr

from ssgr.cell import describe
from ssgr.study.estimate import Speed, held_in_cache, measured, speed_of


def result(seconds=(10.0, 20.0), generating=15.0, tokens=1000):
    pruning, evaluation = seconds
    metrics = {"t/tokens_per_second": 400.0, "t/mean_tokens": 60.0, "t/seconds": generating, "t/problems": 100}
    return {
        "config": {"evaluation": {"name": "t"}},
        "metrics": metrics,
        "calibration": {"tokens": tokens},
        "seconds": {"pruning": pruning, "evaluation": evaluation, "rollouts": 3.0, "total": pruning + evaluation + 10},
    }


def test_speed_is_what_the_middle_cell_took():
    speed = speed_of([result(), result(seconds=(30.0, 25.0)), result(seconds=(90.0, 95.0))], "here")
    assert speed.pruning_per_token == 30 / 1000 and speed.evaluation_per_problem == (25 - 15) / 100
    assert speed.overhead == pytest.approx(7.0), "the total less the stages"
    assert (speed.tokens_per_second, speed.mean_tokens) == (400, 60)


def test_a_cell_that_reads_no_calibration_data_says_nothing_of_pruning_with_them():
    without = result(seconds=(30.0, 20.0)) | {"calibration": None}
    assert speed_of([without, result(), without], "here").pruning_per_token == 10 / 1000
    assert speed_of([without], "here").pruning_per_token == 0


def test_a_cells_seconds_add_up():
    speed = Speed(100.0, 50.0, 0.01, 0.02, 5.0, "here")
    config = SimpleNamespace(evaluation=SimpleNamespace(repeats=2), calibration=SimpleNamespace(tokens=300))
    cell = SimpleNamespace(config=config, is_dense=False, reads_calibration=True)
    assert speed.seconds(cell, 10, 0) == pytest.approx(5 + 3 + 0.2 + 20 * 50 / 100)
    assert speed.seconds(cell, 10, 6) == pytest.approx(5 + 3 + 0.2 + 26 * 50 / 100), "shared completions to be made"
    cell.is_dense, cell.reads_calibration = True, False
    assert speed.seconds(cell, 10, 6) == pytest.approx(5 + 0.2 + 6 * 50 / 100)


def test_what_the_cache_holds_is_what_a_cell_left_there(tmp_path, monkeypatch):
    fresh = f"{QUICK} rollouts=fresh rollouts.problems=8 rollouts.k=1 rollouts.max_new_tokens=8"
    line = f"{fresh} selection.correctness=any calibration.tokens=64"
    assert ssgr(line, tmp_path).status == 0
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SSGR_CACHE", str(tmp_path / "cache"))

    def held(*more):
        return [part and (part.held, part.needed) for part in held_in_cache(describe(config_of(*line.split(), *more)))]

    assert held() == [(8, 8), (16, 16)]
    assert held("seed=1", "pruner=wanda") == [(8, 8), (16, 16)]
    assert held("rollouts.problems=12", "rollouts.k=2") == [(8, 24), (16, 16)]
    assert held("rollouts.temperature=0.5", "evaluation.seed=1") == [(0, 8), (0, 16)]
    assert held("limit=10", "evaluation.dense_repeats=3") == [(8, 8), (16, 30)]
    assert held("rollouts=bundled", "rollouts.problems=4000", "rollouts.k=8", "rollouts.max_new_tokens=null") == [
        (32000, 32000),
        (16, 16),
    ]
    assert held("calibration=general_text", "selection.correctness=correct") == [None, (16, 16)]
    cell = describe(config_of(*line.split()))
    assert "1 finished cells" in measured(cell).source


def test_without_any_finished_cell_the_bundled_model_goes_by_its_card(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    speed = measured(describe(config_of("device=cpu")))
    assert speed.tokens_per_second > 0 and speed.source.startswith("going by")
    other = describe(config_of("device=cpu", "model.dtype=float32"))
    other.identity["model"]["weights"] = "another model's"
    assert measured(other) is None
