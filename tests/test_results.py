"""What cells leave behind, and what a second request for the same cell does: real cells from the command line."""

import json
import shutil
from io import BytesIO

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from command_line import QUICK, cells, files, ssgr, start
from transformers import AutoModelForCausalLM, AutoTokenizer

from ssgr.model_card import plain

GRID = f"-m {QUICK} pruner=wanda,sparsegpt sparsity=s40,n2m4"
SAMPLES = ["task", "problem_id", "repeat", "correct", "tokens", "finish_reason", "answer", "output_ids"]
DIVERGENCE = ["task", "problem_id", "tokens", "kl", "kl_sum", "nll_dense", "nll", "top1_changed", "correct"]
DIVERGENCE += ["finish_reason", "pass_rate", "difficulty", "length"]
RESULT = ["schema_version", "cell", "study", "status", "config", "model", "calibration", "sparsity", "metrics"]
RESULT += ["dense_metrics", "seconds", "environment"]
LINEAR = {"name", "shape", "target", "achieved", "damping", "damping_over_median_diagonal", "sinks", "seconds"}


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    """Four cells of one sweep, and what the sweep said."""
    folder = tmp_path_factory.mktemp("grid")
    done = ssgr(GRID, folder)
    assert done.status == 0 and "4 cells: 4 finished" in done.err
    return folder


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """One cell with everything on, uncut completions and the shipped dense samples."""
    folder = tmp_path_factory.mktemp("full")
    options = "rollouts=bundled calibration.tokens=3000 limit=8 pruner.measure_error=true save_checkpoint=true"
    done = ssgr(f"{options} evaluation.repeats=2 tracking=disabled study=one", folder)
    assert done.status == 0
    return folder, cells(folder, "one")[0], done


def result_of(cell):
    return json.loads((cell / "result.json").read_text())


def test_a_cell_leaves_the_files_of_the_design_and_nothing_else(full):
    _, cell, _ = full
    expected = {"result.json", "samples.parquet", "divergence.parquet", "calibration.parquet", "prune_report.json"}
    assert {path.name for path in cell.iterdir()} == expected | {"config.yaml", "checkpoint"}
    assert not list(cell.rglob("*.partial"))
    assert pq.read_schema(cell / "samples.parquet").names == SAMPLES
    assert pq.read_schema(cell / "divergence.parquet").names == DIVERGENCE
    assert pq.read_schema(cell / "calibration.parquet").names == ["input_ids", "weights", "trace_id"]


def test_the_result_says_what_was_done(full):
    _, cell, _ = full
    result = result_of(cell)
    assert list(result) == RESULT
    assert (result["status"], result["cell"], result["study"]) == ("finished", cell.name, "one")
    assert result["config"] == yaml.safe_load((cell / "config.yaml").read_text())
    assert result["config"]["calibration"]["max_seq_len"] == 512, "nulls are filled"
    assert {"name", "path", "parameters", "prunable_parameters"} <= set(result["model"])
    assert set(result["seconds"]) == {"rollouts", "calibration", "dense", "pruning", "evaluation", "total"}
    *stages, total = result["seconds"].values()
    assert 0 < sum(stages) <= total
    assert {"git", "versions", "device"} == set(result["environment"])
    names = {"accuracy", "accuracy_se", "mean_tokens", "truncated", "problems", "repeats", "seconds"}
    names |= {"tokens_per_second", "pass_at_k", "maj_at_k", "kl", "kl_se", "kl_balanced", "nll", "top1_changed"}
    assert {f"tiny_math/{name}" for name in names} <= set(result["metrics"])
    dense = result["dense_metrics"]
    assert (dense["tiny_math/problems"], dense["tiny_math/repeats"], dense["tiny_math/kl"]) == (8, 8, 0.0)


def test_the_metrics_are_those_of_the_tables(full):
    _, cell, _ = full
    metrics = result_of(cell)["metrics"]
    samples, divergence = pd.read_parquet(cell / "samples.parquet"), pd.read_parquet(cell / "divergence.parquet")
    assert len(samples) == 16 and len(divergence) == 8
    by_problem = samples.groupby("problem_id")["correct"].mean()
    assert metrics["tiny_math/accuracy"] == pytest.approx(by_problem.mean())
    assert metrics["tiny_math/accuracy_se"] == pytest.approx(by_problem.std(ddof=1) / np.sqrt(8))
    assert metrics["tiny_math/mean_tokens"] == samples["tokens"].mean()
    assert [len(ids) for ids in samples["output_ids"]] == samples["tokens"].tolist()
    assert metrics["tiny_math/kl"] == pytest.approx(divergence["kl"].mean())
    assert (divergence["kl_sum"] / divergence["tokens"]).to_numpy() == pytest.approx(divergence["kl"].to_numpy())


def test_calibration_fills_the_budget_exactly(full):
    _, cell, _ = full
    table, summary = pd.read_parquet(cell / "calibration.parquet"), result_of(cell)["calibration"]
    lengths = table["input_ids"].map(len)
    assert lengths.sum() == 3000 == summary["tokens"]
    assert (table["weights"].map(len) == lengths).all() and table["trace_id"].is_unique
    assert summary["sequences"] == summary["traces"] == summary["problems"] == len(table)
    assert 0 < summary["mean_pass_rate"] <= 1 and summary["source"] == "self_generated"


def test_the_prune_report_and_the_checkpoint_agree(full):
    _, cell, _ = full
    report, result = json.loads((cell / "prune_report.json").read_text()), result_of(cell)
    assert len(report["rows"]) == 42 and all(set(row) >= LINEAR | {"relative_error"} for row in report["rows"])
    assert all(0 < row["relative_error"] < 1 for row in report["rows"])
    model = AutoModelForCausalLM.from_pretrained(cell / "checkpoint", dtype=torch.bfloat16)
    zeros = total = 0
    for row in report["rows"]:
        weight = model.get_submodule(row["name"]).weight
        assert list(weight.shape) == row["shape"] and abs(row["achieved"] - 0.5) < 1e-4
        zeros, total = zeros + int((weight == 0).sum()), total + weight.numel()
        assert not torch.signbit(weight[weight == 0]).any()
    assert total == result["model"]["prunable_parameters"]
    assert abs(result["sparsity"]["achieved"] - result["sparsity"]["target"]) < 1e-4
    assert abs(zeros / total - 0.5) < 1e-3  # a few kept weights are zero by themselves
    assert "sparsity_config" not in json.loads((cell / "checkpoint" / "config.json").read_text())
    assert AutoTokenizer.from_pretrained(cell / "checkpoint").chat_template


def test_the_checkpoints_card_says_what_the_result_says(full):
    _, cell, _ = full
    text, result = (cell / "checkpoint" / "README.md").read_text(encoding="utf-8"), result_of(cell)
    _, front, body = text.split("---\n", 2)
    assert yaml.safe_load(front)["library_name"] == "transformers" and "pruning" in yaml.safe_load(front)["tags"]
    for metrics in (result["dense_metrics"], result["metrics"]):
        task = {name.partition("/")[2]: value for name, value in metrics.items()}
        row = f"{task['accuracy']:.3f} ± {task['accuracy_se']:.3f} | {task['problems']} × {task['repeats']} |"
        assert row in body and f"| {task['kl']:.4f}" in body
    assert f"{result['sparsity']['achieved']:.4%}" in body and "3,000 tokens" in body
    assert plain(result["cell"]) in body and str(cell.parent) not in text


def test_the_closing_report_shows_what_a_newcomer_needs(full):
    _, cell, done = full
    for words in ("accuracy ± se", "8 × 8", "8 × 2", "KL/token", "95 % interval", "calibrated on self_generated"):
        assert words in done.out
    assert "synthetic" in done.out and "before and after" in done.out and cell.name in done.out
    assert "never solved" in done.err, "the table of pass rate x length"


def test_the_patterns_of_a_sweep(grid):
    results = [result_of(cell) for cell in cells(grid)]
    found = sorted((r["config"]["pruner"]["name"], r["sparsity"]["pattern"], r["sparsity"]["target"]) for r in results)
    assert found == [
        ("sparsegpt", "2:4", 0.5),
        ("sparsegpt", "unstructured", 0.4),
        ("wanda", "2:4", 0.5),
        ("wanda", "unstructured", 0.4),
    ]
    assert all(abs(r["sparsity"]["achieved"] - r["sparsity"]["target"]) < 1e-4 for r in results)


def test_the_same_sweep_again_skips_every_cell_without_torch(grid):
    before = {path: path.stat().st_mtime_ns for cell in cells(grid) for path in cell.iterdir()}
    code = "import sys; from ssgr.cli import main; status = main(); print(sorted(sys.modules)); sys.exit(status)"
    shuffled = " ".join(["-m", *reversed(GRID.split()[1:])])  # the order of overrides does not matter
    process = start(shuffled, grid, code)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "4 cells: 4 skipped" in err
    loaded = set(json.loads(out.strip().splitlines()[-1].replace("'", '"')))
    assert "ssgr.cell" in loaded and not loaded & {"torch", "transformers", "lm_eval", "wandb"}
    assert {path: path.stat().st_mtime_ns for cell in cells(grid) for path in cell.iterdir()} == before


def test_only_what_is_missing_or_broken_is_run(grid):
    gone, broken, *_ = cells(grid)
    whole = result_of(broken)
    shutil.rmtree(gone)
    (broken / "result.json").write_text(json.dumps(whole)[:100])
    done = ssgr(GRID, grid)
    assert done.status == 0 and "4 cells: 2 finished, 2 skipped" in done.err
    assert len(cells(grid)) == 4 and (gone / "result.json").is_file()
    assert result_of(broken)["metrics"]["tiny_math/kl"] == whole["metrics"]["tiny_math/kl"]


def test_a_cell_of_another_study_is_copied_and_not_rerun(grid):
    options = GRID.removeprefix("-m ").replace("wanda,sparsegpt", "wanda").replace("s40,n2m4", "s40")
    planned = ssgr(f"{options} study=second sparsity.value=0.4 dry_run=true", grid)
    assert planned.status == 0 and "would be copied from" in planned.err
    assert not (grid / "runs" / "second").exists()  # a dry run writes nothing
    done = ssgr(f"{options} study=second sparsity.value=0.4", grid)
    assert done.status == 0 and "copied from" in done.err
    (copy,) = cells(grid, "second")
    original = grid / "runs" / "single" / copy.name
    config = result_of(original)["config"] | {"study": "second"}
    assert result_of(copy) == result_of(original) | {"study": "second", "config": config}
    assert yaml.safe_load((copy / "config.yaml").read_text()) == config
    assert (copy / "samples.parquet").read_bytes() == (original / "samples.parquet").read_bytes()
    assert files(copy) == files(original)


def options_of(cell):
    pattern = "n2m4" if "n2m4" in cell.name else "s40"
    pruner = "wanda" if "wanda" in cell.name else "sparsegpt"
    return f"{QUICK} pruner={pruner} sparsity={pattern}"


def test_a_finished_cell_that_lacks_a_file_is_run_again(grid):
    cell = next(cell for cell in cells(grid) if "wanda-s40" in cell.name)
    shutil.rmtree(grid / "runs" / "second", ignore_errors=True)
    kept = (cell / "divergence.parquet").read_bytes()
    (cell / "divergence.parquet").unlink()
    # without divergence it is complete as it is
    done = ssgr(f"{options_of(cell)} evaluation.divergence=false", grid)
    assert done.status == 0 and "skipped" in done.err
    done = ssgr(options_of(cell), grid)
    assert done.status == 0 and "lacks divergence.parquet" in done.err
    assert pd.read_parquet(cell / "divergence.parquet").equals(pd.read_parquet(BytesIO(kept)))
    done = ssgr(f"{options_of(cell)} save_checkpoint=true", grid)
    assert done.status == 0 and "lacks checkpoint" in done.err and (cell / "checkpoint" / "config.json").is_file()
    assert "skipped" in ssgr(f"{options_of(cell)} save_checkpoint=true", grid).err


def test_overwrite_runs_a_finished_cell_again(grid):
    cell = next(cell for cell in cells(grid) if "sparsegpt-s40" in cell.name)
    before = cell.joinpath("result.json").stat().st_mtime_ns, pd.read_parquet(cell / "samples.parquet")
    done = ssgr(f"{options_of(cell)} overwrite=true", grid)
    assert done.status == 0 and "skipped" not in done.err
    assert (cell / "result.json").stat().st_mtime_ns > before[0]
    assert pd.read_parquet(cell / "samples.parquet").equals(before[1])


def test_the_dense_cell_evaluates_and_prunes_nothing(tmp_path):
    done = ssgr(f"{QUICK} pruner=none", tmp_path)
    (cell,) = cells(tmp_path)
    assert done.status == 0
    assert {path.name for path in cell.iterdir()} == {"result.json", "samples.parquet", "config.yaml"}
    result = result_of(cell)
    assert result["sparsity"] == {"target": 0.0, "achieved": 0.0, "pattern": "dense"}
    assert result["metrics"] == result["dense_metrics"] and result["calibration"] is None
    for same in ("sparsity=dense", "pruner=wanda sparsity.value=0 calibration=general_text"):
        again = ssgr(f"{QUICK} {same}", tmp_path)
        assert again.status == 0 and "skipped" in again.err
    assert len(cells(tmp_path)) == 1
