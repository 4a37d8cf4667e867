"""The plan's numbers: what the cache holds, and what finished cells say of the time that others will take."""

from types import SimpleNamespace

import pytest
from command_line import QUICK, config_of, ssgr

from ssgr.cell import describe
from ssgr.study.estimate import held_in_cache
from ssgr.study.speed import Speed, fixed_and_rate, measured, speed_of


def result(problems=300, made=False, fixed=3.0, tokens=1000, rate=0.01):
    """A cell of a machine that prunes 100 tokens and answers 2 problems of 100 tokens a second, dense ones alike.

    Each evaluation takes `fixed` seconds more; measuring takes `rate` for each problem, the rest of the cell 7 seconds.
    """

    def answers(repeats):
        seconds = fixed + problems * repeats / 2
        about = {"problems": problems, "repeats": repeats, "mean_tokens": 100.0, "seconds": seconds}
        return {f"t/{name}": value for name, value in about.items()}

    seconds = {"rollouts": 3.0, "pruning": tokens / 100, "dense": made * answers(8)["t/seconds"] + rate * problems}
    seconds["evaluation"] = answers(1)["t/seconds"]
    return {
        "metrics": answers(1),
        "dense_metrics": answers(8),
        "calibration": {"tokens": tokens},
        "seconds": seconds | {"total": sum(seconds.values()) + 7},
    }


def known(speed):
    return speed.tokens_per_second, speed.mean_tokens, speed.pruning_per_token, speed.evaluation_per_problem


def test_dense_answers_of_one_cell_are_no_cost_of_the_next():
    """Nor where an earlier version booked them as evaluation."""
    speed = speed_of([result(made=True, fixed=0)], "here")
    assert known(speed) == pytest.approx((200, 100, 0.01, 0.01)) and speed.overhead == pytest.approx(7)
    old = result(made=True, fixed=0)
    old["seconds"]["evaluation"] += old["seconds"].pop("dense")
    assert known(speed_of([old], "here")) == pytest.approx(known(speed))


def test_fixed_costs_are_told_from_rates_by_cells_of_different_sizes():
    speed = speed_of([result(), result(problems=4), result(problems=40, made=True)], "here")
    assert known(speed) == pytest.approx((200, 100, 0.01, 0.01)) and speed.overhead == pytest.approx(7 + 3)
    alike = speed_of([result(tokens=900), result(tokens=1100), result(tokens=1000)], "here")
    assert alike.overhead == pytest.approx(7) and alike.tokens_per_second < 200, "all of it seems to grow"


def test_what_small_cells_cannot_say_is_the_cards():
    card = Speed(200.0, 80.0, 0.02, 0.01, 1.0, "card")
    small = [result(problems=4), result(problems=4)]
    speed = speed_of(small, "here", card)
    assert known(speed) == pytest.approx((200, 100, 0.01, 0.01)) and speed.overhead == pytest.approx(7 + 3)
    assert speed.source == "here (of at most 4 problems) and by its card"
    slow = speed_of([*small, result(problems=4, made=True)], "here", Speed(9e9, 80.0, 0.02, 0.01, 1.0, "card"))
    assert known(slow) == pytest.approx((200, 100, 0.01, 0.01)), "dense answers are eight times as many"
    assert speed_of(small, "here").tokens_per_second == pytest.approx(400 / 5), "an upper bound"
    assert speed_of([*small, result()], "here", Speed(9, 9, 9, 9, 9, "card")).tokens_per_second == pytest.approx(200)


def test_cells_that_let_nobody_answer_leave_generating_to_the_dense_model_or_the_card():
    alone = result(fixed=0) | {"metrics": {"t/kl": 0.1, "t/problems": 300}}
    assert known(speed_of([alone], "here"))[:2] == pytest.approx((200, 100)), "what the dense answers took"
    shipped = alone | {"dense_metrics": {"t/problems": 300, "t/repeats": 8}}
    assert known(speed_of([shipped], "here", Speed(50.0, 80.0, 0.02, 0.01, 1.0, "card")))[:2] == (50, 80)


def test_a_slope_that_falls_is_no_rate():
    assert fixed_and_rate([(100, 10), (1000, 9)]) == pytest.approx((0, 19 / 1100))
    assert fixed_and_rate([(100, 10), (1000, 9)], 0.001) == pytest.approx((9.5 - 0.55, 0.001))


def test_a_cell_that_reads_no_calibration_data_says_nothing_of_pruning_with_them():
    without = result() | {"calibration": None}
    assert speed_of([without, result(), without], "here").pruning_per_token == pytest.approx(0.01)
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
    assert held("calibration=general_text") == [None, (16, 16)]
    cell = describe(config_of(*line.split()))
    assert "1 finished cells" in measured(cell).source


def test_without_any_finished_cell_the_bundled_model_goes_by_its_card(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    speed = measured(describe(config_of("device=cpu")))
    assert speed.tokens_per_second > 0 and speed.source.startswith("going by")
    other = describe(config_of("device=cpu", "model.dtype=float32"))
    other.identity["model"]["weights"] = "another model's"
    assert measured(other) is None
