"""Whole cells with other evaluations than the default one: what they measure, leave behind, share and show."""

import json

import pandas as pd
import pytest
from command_line import QUICK, cells, ssgr
from lm_eval.tasks import TaskManager
from lm_eval_tasks import write_tasks

from analysis import load_runs
from analysis.load import load_divergence, load_samples
from analysis.table import markdown
from ssgr import stages
from ssgr.engines.hf import HfEngine
from ssgr.evaluation import harness

WITHOUT_TASK = (
    "limit=8 tracking=disabled engine.batch_size=8"  # what makes a cell quick whose evaluation has no problems
)
TEXT = "The quick brown fox jumps over the lazy dog. " * 60


@pytest.fixture
def folder(tmp_path):
    rows = [{"question": f"What is {n} + 1?", "answer": f"Add.\n#### {n + 1}"} for n in range(5)]
    (tmp_path / "gsm8k.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "text.txt").write_text(TEXT)
    return tmp_path


@pytest.fixture
def generated(monkeypatch):
    """How many completions the engine was asked for, call by call."""
    rows, stream = [], HfEngine.stream

    def counted(self, prompts, *options, **more):
        rows.append(len(prompts))
        yield from stream(self, prompts, *options, **more)

    monkeypatch.setattr(HfEngine, "stream", counted)
    return rows


def run(line, folder, status=0, quick=QUICK):
    done = ssgr(f"{line} {quick}", folder)
    assert done.status == status, done.err
    return done


def result_of(folder, study):
    (cell,) = cells(folder, study)
    return cell, json.loads((cell / "result.json").read_text())


def test_several_evaluations_of_one_pruned_model(folder, generated):
    also = "[{name: gsm8k, path: gsm8k.jsonl, max_new_tokens: 9, repeats: 2}, {name: perplexity, path: text.txt}]"
    line = f'"evaluation.also={also}" pruner=magnitude'
    done = run(f"{line} study=one", folder)
    assert generated == [16, 5, 8, 10], "dense and pruned: tiny_math, then gsm8k"
    cell, result = result_of(folder, "one")
    samples = pd.read_parquet(cell / "samples.parquet")
    assert samples.groupby("task", sort=False).size().to_dict() == {"tiny_math": 8, "gsm8k": 10}
    for metrics in (result["metrics"], result["dense_metrics"]):
        assert {"tiny_math/accuracy", "tiny_math/kl", "gsm8k/accuracy", "perplexity/perplexity"} <= set(metrics)
        assert "gsm8k/kl" not in metrics, "the divergence is the main evaluation's"
    assert result["metrics"]["gsm8k/problems"] == 5 and result["metrics"]["gsm8k/repeats"] == 2
    assert result["metrics"]["perplexity/perplexity"] > result["dense_metrics"]["perplexity/perplexity"] > 1
    assert set(pd.read_parquet(cell / "divergence.parquet")["task"]) == {"tiny_math"}
    assert done.out.count("│ dense ") == done.out.count("│ pruned ") == 3
    for words in ("│ tiny_math ", "│ gsm8k ", "│ perplexity ", "gsm8k, pruned − dense: ", "5 × 2"):
        assert words in done.out
    assert not (cell / "partial").exists()
    # another cell of the same model takes everything dense from the cache
    generated.clear()
    run(f"{line} sparsity=s40 study=two", folder)
    assert generated == [8, 10]
    assert result_of(folder, "two")[1]["dense_metrics"] == result["dense_metrics"]
    assert "skipped" in run(f"{line} study=one", folder).err
    runs = load_runs(folder / "runs")
    assert sorted(runs["task"]) == sorted(2 * ["tiny_math", "gsm8k", "perplexity"])
    assert "perplexity" in markdown(runs) and len(load_samples(folder / "runs")) == 36


def test_the_divergence_alone_is_that_of_the_whole_evaluation(folder, generated):
    run("pruner=magnitude study=whole", folder)
    generated.clear()
    done = run("pruner=magnitude study=alone evaluation=divergence evaluation.task=tiny_math", folder)
    assert generated == [], "the dense samples are in the cache, and the pruned model says nothing"
    (_, whole), (cell, alone) = result_of(folder, "whole"), result_of(folder, "alone")
    names = {f"tiny_math/{name}" for name in ("kl", "kl_se", "kl_balanced", "nll", "top1_changed", "problems")}
    assert alone["metrics"] == {name: whole["metrics"][name] for name in whole["metrics"] if name in names}
    assert alone["dense_metrics"] == whole["dense_metrics"]
    tables = [pd.read_parquet(cells(folder, study)[0] / "divergence.parquet") for study in ("whole", "alone")]
    pd.testing.assert_frame_equal(*tables)
    assert len(pd.read_parquet(cell / "samples.parquet")) == 0
    assert "pruned − dense" not in done.out and f"{alone['metrics']['tiny_math/kl']:.4f}" in done.out
    runs = load_runs(folder / "runs").set_index("study")
    assert runs.loc["alone", "kl"] == runs.loc["whole", "kl"] and pd.isna(runs.loc["alone", "accuracy"])
    assert runs.loc["alone", "dense_accuracy"] == runs.loc["whole", "accuracy"] or "alone" in markdown(
        runs.reset_index()
    )
    assert len(load_samples(folder / "runs", "alone")) == 0 and len(load_divergence(folder / "runs", "alone")) == 8


def test_perplexity_alone_and_of_the_dense_model(folder, generated):
    line = "evaluation=perplexity evaluation.path=text.txt evaluation.max_seq_len=64"
    run(f"{line} pruner=magnitude study=one", folder, quick=WITHOUT_TASK)
    done = run(f"{line} pruner=none study=two", folder, quick=WITHOUT_TASK)
    (_, one), (cell, two) = result_of(folder, "one"), result_of(folder, "two")
    assert one["dense_metrics"] == two["metrics"] == two["dense_metrics"] and generated == []
    assert two["metrics"]["perplexity/problems"] == 8, "limit counts windows"
    assert cell.name.startswith("tiny_reasoner-dense-perplexity-")
    assert f"{two['metrics']['perplexity/perplexity']:.4g}" in done.out
    assert "accuracy" not in done.out and "a figure of it" not in done.err
    both = run(f"-m {line} pruner=magnitude,none study=one,two", folder, quick=WITHOUT_TASK)
    assert "accuracy" not in both.out and f"{one['metrics']['perplexity/perplexity']:.4g}" in both.out
    assert "a figure of it" not in both.err, "`cost` would find no answers"
    assert "perplexity" in markdown(load_runs(folder / "runs"))


def test_tasks_of_lm_eval_in_a_cell(folder, monkeypatch):
    harness.task_manager.cache_clear()
    quick = {"include_defaults": False}
    monkeypatch.setattr(harness, "TaskManager", lambda **options: TaskManager(**options | quick))
    (folder / "tasks").mkdir()
    write_tasks(folder / "tasks")
    line = "evaluation=lm_eval evaluation.tasks=[chosen,written,rolled] evaluation.include_path=tasks pruner=magnitude"
    done = run(line, folder, quick=WITHOUT_TASK)
    cell, result = result_of(folder, "single")
    for metrics in (result["metrics"], result["dense_metrics"]):
        found = {"chosen/acc", "chosen/acc_se", "written/exact_match", "rolled/word_perplexity", "chosen/problems"}
        assert found <= set(metrics)
    assert result["metrics"]["rolled/word_perplexity"] > result["dense_metrics"]["rolled/word_perplexity"]
    assert len(pd.read_parquet(cell / "samples.parquet")) == 0 and not (cell / "divergence.parquet").exists()
    assert "│ chosen, acc " in done.out and "│ word_perplexity " in done.out
    assert sorted(load_runs(folder / "runs")["task"]) == ["chosen", "rolled", "written"]
    monkeypatch.setattr(stages, "load_model", None)  # what comes first costs least: it is not reached
    bad = run(line.replace("chosen", "choosen"), folder, status=2, quick=WITHOUT_TASK)
    assert "lm-eval has no task 'choosen'; did you mean chosen?" in bad.lines[-1]


def test_a_text_that_cannot_be_had_is_said_before_anything_is_generated(folder, monkeypatch):
    monkeypatch.setattr(stages, "load_model", None)
    (folder / "rows.jsonl").write_text('{"words": "none under its usual name"}\n')
    line = "evaluation=perplexity evaluation.path=rows.jsonl"
    assert "no text in 'text' (evaluation.text_field)" in run(line, folder, status=2, quick=WITHOUT_TASK).lines[-1]


def test_a_plan_counts_what_every_evaluation_needs(folder):
    also = "[{name: gsm8k, path: gsm8k.jsonl, dense_repeats: 3}, {name: perplexity, path: text.txt}]"
    done = run(f'-m "evaluation.also={also}" pruner=magnitude,wanda dry_run=true', folder)
    assert "dense samples there already: 0 of 16 completions" in done.out
    assert "dense samples there already: 0 of 15 completions" in done.out
