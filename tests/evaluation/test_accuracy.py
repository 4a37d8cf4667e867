"""Accuracy through lm-eval: oracles, resumption, and the statistics against numbers worked out by hand."""

import math
import random
import shutil
from itertools import combinations
from pathlib import Path

import datasets
import huggingface_hub
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from evaluation_fixtures import (
    THINK_END,
    ReplayEngine,
    make_config,
    make_loaded,
    make_template,
    oracle,
    solution_text,
    write_problems,
)
from scipy import stats

from ssgr.engines.base import Sampling
from ssgr.evaluation.accuracy import evaluate, majority_is_correct, paired_difference, pass_at, summarise
from ssgr.evaluation.dense import dense
from ssgr.evaluation.parts import task_template
from ssgr.traces.store import TraceStore

SAMPLE_COLUMNS = ["task", "problem_id", "repeat", "correct", "tokens", "finish_reason", "answer", "output_ids"]


@pytest.fixture
def task(tmp_path):
    template = make_template()
    rows = write_problems(tmp_path / "problems.jsonl", 10)
    config = make_config(tmp_path / "problems.jsonl")
    store = TraceStore.open(tmp_path / "store", {})

    def run(engine, repeats=1, limit=None, store=store):
        return evaluate(engine, make_loaded(template), template, config, repeats=repeats, limit=limit, store=store)

    return template, rows, config, run


def test_an_oracle_scores_one_through_the_whole_path(task):
    template, rows, _, run = task
    engine = oracle(template, rows)
    result = run(engine, repeats=3)
    assert result.metrics["jsonl/accuracy"] == 1.0
    assert (result.metrics["jsonl/problems"], result.metrics["jsonl/repeats"]) == (10, 3)
    assert list(result.samples.columns) == SAMPLE_COLUMNS
    assert engine.sampling == Sampling(0.6, 0.95, 64)
    assert len(set(engine.seeds)) == 30
    row = result.samples.iloc[4]
    assert row["output_ids"] == template.completion_ids(solution_text(row["answer"]))
    assert row["tokens"] == len(row["output_ids"])


def test_an_oracle_shifted_by_one_problem_scores_nothing(task):
    template, rows, _, run = task
    assert run(oracle(template, rows, shift=1)).metrics["jsonl/accuracy"] == 0.0


def test_truncated_or_unfinished_reasoning_is_never_right(task):
    template, rows, _, run = task
    replies = {
        0: lambda gold: (solution_text(gold), "length"),
        1: lambda gold: (f"\\boxed{{{gold}}}", "stop"),
        2: lambda gold: (f"\\boxed{{{gold}}}{THINK_END} \\boxed{{1}}", "stop"),
        3: lambda gold: (f"\\boxed{{1}}{THINK_END} \\boxed{{{gold}}}", "stop"),
    }
    engine = ReplayEngine(template, rows, lambda number, seed: replies[number](rows[number]["gold"]))
    result = run(engine, limit=4)
    assert result.samples["correct"].tolist() == [False, False, False, True]
    assert result.metrics["jsonl/truncated"] == 0.5, "one was cut, one never ended its reasoning"


def test_a_killed_evaluation_goes_on(task, tmp_path):
    template, rows, _, run = task

    def reply(number, seed):
        return solution_text(rows[number]["gold"] if seed % 3 else "nothing"), "stop"

    undisturbed = ReplayEngine(template, rows, reply)
    expected = run(undisturbed, repeats=2, store=TraceStore.open(tmp_path / "other", {}))
    assert 0 < expected.metrics["jsonl/accuracy"] < 1
    killed = ReplayEngine(template, rows, reply, fail_at_call=2)
    with pytest.raises(KeyboardInterrupt):
        run(killed, repeats=2, store=TraceStore.open(tmp_path / "store", {}))
    resumed = ReplayEngine(template, rows, reply)
    result = run(resumed, repeats=2, store=TraceStore.open(tmp_path / "store", {}))
    assert killed.calls + resumed.calls == undisturbed.calls
    pd.testing.assert_frame_equal(result.samples, expected.samples)
    timed = ("jsonl/seconds", "jsonl/tokens_per_second")
    assert {k: v for k, v in result.metrics.items() if k not in timed} == {
        k: v for k, v in expected.metrics.items() if k not in timed
    }
    again = run(resumed, repeats=2, store=TraceStore.open(tmp_path / "store", {}))
    assert again.metrics["jsonl/seconds"] == pytest.approx(2.0 * len(undisturbed.calls)), "of both processes"
    assert again.metrics["jsonl/tokens_per_second"] == result.metrics["jsonl/tokens_per_second"] > 0
    assert len(resumed.calls) == 3


def seed_everything():
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)


def test_global_random_state_and_the_hub_caches_are_left_alone(task):
    template, rows, _, run = task
    caches = [Path(datasets.config.HF_DATASETS_CACHE), Path(huggingface_hub.constants.HF_HUB_CACHE)]
    before = [sorted(cache.glob("*")) for cache in caches]
    seed_everything()
    expected = random.random(), np.random.rand(), torch.rand(1).item()
    seed_everything()
    run(oracle(template, rows))
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == expected
    assert [sorted(cache.glob("*")) for cache in caches] == before


def test_nothing_is_printed(task, capfd):
    template, rows, _, run = task
    run(oracle(template, rows))
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_stored_samples_are_not_graded_again(task, monkeypatch):
    template, rows, _, run = task
    run(oracle(template, rows))
    for name in ("ssgr.evaluation.lm.graded_traces", "ssgr.evaluation.tasks.math_problems.grade"):
        monkeypatch.setattr(name, lambda *arguments: pytest.fail("graded again"))
    assert run(oracle(template, rows)).metrics["jsonl/accuracy"] == 1.0


def test_a_changed_question_is_asked_anew(task, tmp_path):
    template, rows, _, run = task
    run(oracle(template, rows))
    path = tmp_path / "problems.jsonl"
    path.write_text(path.read_text().replace("What is 3 plus", "How much is 3 plus"))
    rows[3]["problem"] = rows[3]["problem"].replace("What", "How much")
    engine = oracle(template, rows)
    assert run(engine).metrics["jsonl/accuracy"] == 1.0
    assert engine.calls == [[3]]


def test_the_dense_evaluation_is_made_once_and_only_added_to(task, tmp_path):
    template, rows, config, _ = task
    engine = oracle(template, rows)
    loaded, cache = make_loaded(template), tmp_path / "cache"
    first = dense(engine, loaded, template, config, 5, cache)
    assert first.accuracy.metrics["jsonl/problems"] == 5 and sum(map(len, engine.calls)) == 10
    again = dense(oracle(template, rows, fail_at_call=0), loaded, template, config, 5, cache)
    pd.testing.assert_frame_equal(again.accuracy.samples, first.accuracy.samples)
    config.dense_repeats = 3
    more = dense(engine, loaded, template, config, None, cache)
    assert more.folder == first.folder and sum(map(len, engine.calls)) == 30
    loaded.weights_hash = "w1"
    assert dense(engine, loaded, template, config, None, cache).folder != first.folder


def test_what_is_known_of_the_dense_model_is_read_again_and_nobody_can_spoil_it(task, tmp_path, monkeypatch):
    template, rows, config, _ = task
    engine, loaded = oracle(template, rows), make_loaded(template)

    def ask(limit=5):
        return dense(engine, loaded, template, config, limit, tmp_path / "cache").accuracy

    first = ask()
    expected = first.samples.copy(), dict(first.metrics), first.view.traces.copy()
    other = ask(3)
    monkeypatch.setattr("ssgr.evaluation.dense.evaluate", lambda *_, **__: pytest.fail("evaluated again"))
    for _ in range(2):
        again = ask()
        pd.testing.assert_frame_equal(again.samples, expected[0])
        pd.testing.assert_frame_equal(again.view.traces, expected[2])
        assert again.metrics == expected[1] and again.unanswered == first.unanswered
        again.samples.loc[:, "correct"] = False
        again.samples["output_ids"].iloc[0].append(1)
        again.view.traces["tokens"] = 0
        again.metrics.clear()
    assert ask(3).metrics == other.metrics != expected[1]


def test_rows_that_another_process_changed_or_added_are_noticed(task, tmp_path):
    template, rows, config, _ = task
    engine, loaded, cache = oracle(template, rows), make_loaded(template), tmp_path / "cache"

    def ask(limit=4):
        return dense(engine, loaded, template, config, limit, cache)

    folder = ask().folder
    theirs = TraceStore.open(folder, {})
    part = theirs.parts[0]
    table = theirs.table(part)
    wrong = pa.array([False] * len(table))
    theirs.replace(part, table.set_column(table.column_names.index("correct"), "correct", wrong))
    assert ask().accuracy.metrics["jsonl/accuracy"] == 0.5, "one part of two"
    shutil.rmtree(folder)
    calls = len(engine.calls)
    assert ask().accuracy.metrics["jsonl/accuracy"] == 1.0 and len(engine.calls) == calls + 2


def test_shipped_samples_are_used_where_they_are_this_models(task, tmp_path, monkeypatch):
    template, rows, config, _ = task
    loaded, shipped = make_loaded(template), tmp_path / "shipped"
    dense(oracle(template, rows), loaded, template, config, None, tmp_path / "made").folder.rename(shipped)
    monkeypatch.setattr("ssgr.evaluation.dense.BUNDLED_SAMPLES", shipped)
    before = {path: path.stat().st_mtime_ns for path in shipped.rglob("*")}
    never = oracle(template, rows, fail_at_call=0)
    used = dense(never, loaded, template, config, 4, tmp_path / "cache")
    assert used.accuracy.metrics["jsonl/accuracy"] == 1.0
    config.dense_repeats = 3
    engine = oracle(template, rows)
    assert dense(engine, loaded, template, config, None, tmp_path / "cache").accuracy.metrics["jsonl/repeats"] == 3
    assert sum(map(len, engine.calls)) == 10
    assert {path: path.stat().st_mtime_ns for path in shipped.rglob("*")} == before
    loaded.weights_hash = "w1"
    dense(engine, loaded, template, config, None, tmp_path / "cache")
    assert sum(map(len, engine.calls)) == 40


def make_samples(table: dict[str, list[tuple[bool, str | None]]]) -> pd.DataFrame:
    rows = [
        {"problem_id": name, "repeat": repeat, "correct": correct, "answer": answer, "tokens": 10}
        for name, samples in table.items()
        for repeat, (correct, answer) in enumerate(samples)
    ]
    return pd.DataFrame(rows).assign(finish_reason="stop")


def test_metrics_by_hand():
    samples = make_samples(
        {
            "a": [(True, "1"), (True, "1"), (False, "2"), (False, None)],
            "b": [(True, "5"), (False, "4"), (False, "4"), (False, "3")],
            "c": [(False, None)] * 4,
        }
    )
    metrics = summarise(samples, "t")
    assert metrics["t/accuracy"] == pytest.approx((0.5 + 0.25 + 0) / 3)
    assert metrics["t/accuracy_se"] == pytest.approx(np.std([0.5, 0.25, 0], ddof=1) / math.sqrt(3))
    assert metrics["t/pass_at_k"] == pytest.approx(2 / 3)
    assert metrics["t/maj_at_k"] == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("votes", "right"),
    [
        ([(False, "1/3"), (True, "0.5"), (True, "\\frac{1}{2}"), (False, "2"), (False, "3")], True),  # one answer
        ([(True, "7"), (False, "1/2"), (False, "0.5")], False),  # two spellings of one wrong answer
        ([(True, "7"), (False, "8"), (True, "7"), (False, "8")], True),  # a tie goes to the first
        ([(False, "8"), (True, "7"), (True, "7"), (False, "8")], False),
        ([(False, None), (False, None), (True, "7")], True),  # no answer is no vote
        ([(False, None)], False),
    ],
)
def test_a_majority_is_of_answers_that_mean_the_same(votes, right):
    assert majority_is_correct((*vote, "stop") for vote in votes) is right


def test_a_cut_completion_has_no_vote():
    samples = make_samples({"a": [(False, "8"), (False, "8"), (True, "7")]})
    assert summarise(samples, "t")["t/maj_at_k"] == 0.0
    samples.loc[:1, "finish_reason"] = ["length", "repetition"]
    assert summarise(samples, "t")["t/maj_at_k"] == 1.0


def test_completions_need_not_stand_together_nor_be_as_many():
    samples = make_samples({"a": [(False, "8"), (True, "7"), (True, "7")], "b": [(False, "1")], "c": [(True, "2")] * 2})
    mixed = samples.iloc[[3, 0, 4, 1, 5, 2]]
    assert summarise(mixed, "t") == pytest.approx(summarise(samples, "t"))
    assert summarise(mixed, "t")["t/maj_at_k"] == pytest.approx(2 / 3)
    assert summarise(mixed, "t")["t/repeats"] == 3


@pytest.mark.parametrize(("k", "n", "correct"), [(1, 4, 1), (2, 5, 2), (3, 3, 1), (4, 6, 0), (2, 6, 5), (5, 3, 1)])
def test_pass_at_k_is_the_share_of_draws_with_a_right_one(k, n, correct):
    draws = list(combinations([True] * correct + [False] * (n - correct), min(k, n)))
    assert pass_at(k, n, correct) == pytest.approx(sum(map(any, draws)) / len(draws))


def test_reasoning_that_never_ended_counts_as_cut():
    samples = make_samples({"a": [(True, "1"), (False, None)], "b": [(False, "2"), (False, None)]})
    samples.loc[3, "finish_reason"] = "length"
    assert summarise(samples, "t")["t/truncated"] == 0.25
    assert summarise(samples, "t", {("a", 1), ("b", 1)})["t/truncated"] == 0.5


def test_a_task_with_an_instruction_of_its_own_puts_that_one(task):
    template, _, config, _ = task
    config.instruction = "The letter, please."
    other = task_template(template, config)
    assert other.instruction == "The letter, please." and other.think_end == template.think_end
    assert other.prompt_ids("x") != template.prompt_ids("x")
    config.instruction = None
    assert task_template(template, config) is template


def test_paired_difference_is_a_paired_t_interval():
    generator = np.random.default_rng(0)
    dense_means, pruned_means = generator.integers(0, 2, (2, 40))
    tables = [
        make_samples({f"p{i}": [(bool(x), "1")] * repeats for i, x in enumerate(means)})
        for means, repeats in ((dense_means, 4), (pruned_means, 1))
    ]
    difference, error, low, high = paired_difference(*tables)
    interval = stats.ttest_rel(pruned_means, dense_means).confidence_interval(0.95)
    assert (low, high) == pytest.approx((interval.low, interval.high))
    assert difference == pytest.approx((pruned_means - dense_means).mean()) and error > 0
