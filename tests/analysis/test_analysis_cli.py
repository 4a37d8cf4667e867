"""python -m analysis: what it prints, what it writes, and one line for whatever is wrong."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from synthetic_studies import ALONE, Problems, write_cell, write_study

from analysis import load_divergence, load_histories, load_runs, load_samples
from analysis.__main__ import main
from analysis.rows import NOT_KEPT

MIXED = "also=[{name:x,path:/b/c.jsonl,url:https://host/d/e},{path: '/b c/d/f g.jsonl'},here/h.jsonl]"
SUFFIXES = ("pdf", "svg", "png", "csv", "md")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli") / "runs"
    write_study(folder, "length_effect", seeds=2)
    write_study(folder, "smoke")
    return folder


def run(capsys, *arguments):
    status = main([str(argument) for argument in arguments])
    said = capsys.readouterr()
    return status, said.out, said.err


def test_the_table_is_what_there_is_without_a_name(runs, capsys):
    status, table, _ = run(capsys, "--runs", runs)
    assert status == 0 and table.startswith("| study | model, task | pruner |")
    assert len(table.splitlines()) == 3 + 8 + 2
    assert run(capsys, "table", "--runs", runs)[1] == table
    only = run(capsys, "table", "--runs", runs, "--study", "smoke")[1]
    assert len(only.splitlines()) == 3 + 2
    some = run(capsys, "--runs", runs, "--where", "length=short", "seed=1")[1]
    assert len(some.splitlines()) == 3 + 1


def test_a_figure_reads_the_study_of_its_name_and_writes_five_files(runs, capsys, tmp_path):
    status, out, err = run(capsys, "length_effect", "--runs", runs, "--out", tmp_path / "new" / "folder")
    assert status == 0 and err == ""
    assert sorted(path.name for path in (tmp_path / "new" / "folder").iterdir()) == sorted(
        f"length_effect.{suffix}" for suffix in SUFFIXES
    )
    first, *found = out.splitlines()
    assert first == f"{tmp_path}/new/folder/length_effect.{{pdf,svg,png,csv,md}}"
    caption = (tmp_path / "new" / "folder" / "length_effect.md").read_text()
    assert found and all(line in caption for line in found)


def test_another_study_and_two_columns(runs, capsys, tmp_path):
    status, *_ = run(
        capsys, "calibration_source", "--runs", runs, "--study", "smoke", "--width", "two", "--out", tmp_path
    )
    assert status == 0 and (tmp_path / "calibration_source.png").is_file()


def test_all_draws_what_the_runs_allow_and_says_what_is_missing(runs, capsys, tmp_path):
    status, out, err = run(capsys, "all", "--runs", runs, "--out", tmp_path)
    drawn = {path.stem for path in tmp_path.iterdir()}
    assert status == 0 and drawn == {"claims", "cost", "length_effect", "smoke"}
    assert "difficulty_effect is not drawn: no finished cell of a study named difficulty_effect" in err.splitlines()
    assert len(err.splitlines()) == 6 and len([line for line in out.splitlines() if line.endswith("csv,md}")]) == 4


def test_all_with_nothing_to_draw_is_an_error(runs, capsys, tmp_path):
    folder = write_cell(tmp_path / "runs", "own", {"seed": "0"})
    (folder / "samples.parquet").unlink()
    status, _, err = run(capsys, "all", "--runs", tmp_path / "runs", "--out", tmp_path / "figures")
    assert status == 2 and "cost is not drawn: own: " in err and "has no samples" in err
    assert not (tmp_path / "figures").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nonsense"], "no figure is named 'nonsense'; choices: calibration_source, claims, cost"),
        (["length_effect", "--study", "other"], "no finished cells of other in "),
        (["sparsity_curve"], "no finished cells of sparsity_curve in "),
        (["--where", "seed"], "--where seed: must be KEY=VALUE"),
        (["--where", "seed=99"], ": seed is 0, 1"),
        (["--where", "study=smoke", "length=short"], ": length is all"),
        (["--where", "length=short", "sparsity=s50"], ": sparsity is 0.5"),
        (["--where", "difficulty.pass_rate=[0,1]"], ": difficulty.pass_rate is null"),
        (["--where", "no.such.option=1"], "no.such.option"),
        (["--width", "three"], "argument --width: invalid choice: 'three'"),
        (["--nothing"], "unrecognized arguments: --nothing"),
        (["calibration_source", "--study", "length_effect"], "length_effect: the cells differ in length"),
    ],
)
def test_what_the_user_can_set_right_is_one_line_and_status_2(runs, capsys, tmp_path, arguments, said):
    status, out, err = run(capsys, *arguments, "--runs", runs, "--out", tmp_path)
    assert status == 2 and out == ""
    assert len(err.splitlines()) == 1 and err.startswith("analysis: ") and said in err
    assert not list(tmp_path.iterdir())


def test_no_runs_at_all(capsys, tmp_path):
    (tmp_path / "empty").mkdir()
    for folder, said in (("empty", "no finished cells"), ("nowhere", "no runs directory")):
        for name in ("table", "all", "cost", "keep"):
            status, out, err = run(capsys, name, "--runs", tmp_path / folder, "--out", tmp_path / "out")
            assert status == 2 and out == "" and said in err and len(err.splitlines()) == 1


def test_a_cell_that_cannot_be_read_is_named_once(capsys, tmp_path):
    write_study(tmp_path / "runs", "length_effect", seeds=2)
    broken, torn = sorted((tmp_path / "runs" / "length_effect").iterdir())[:2]
    (broken / "samples.parquet").write_bytes(b"not a table")
    (torn / "result.json").write_text("{")
    status, out, err = run(capsys, "length_effect", "--runs", tmp_path / "runs", "--out", tmp_path / "out")
    assert status == 2 and out == ""
    assert err.count(str(torn / "result.json")) == 1 and broken.name in err.splitlines()[-1]


@pytest.mark.parametrize("name", ["smoke", "cost", "all", "keep"])
@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_folder_that_cannot_be_written_to_is_one_line_that_names_out(runs, capsys, tmp_path, name, place):
    (tmp_path / "file").write_text("")
    status, out, err = run(capsys, name, "--runs", runs, "--out", tmp_path / place)
    lines = [line for line in err.splitlines() if "is not drawn: no finished cell" not in line]
    assert status == 2 and out == "" and len(lines) == 1
    assert lines[0].startswith(f"analysis: --out {tmp_path / place}: cannot be written to (") and "Errno" not in err


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:100])])
def test_what_keep_cannot_read_is_one_line_and_not_said_of_out(capsys, tmp_path, damage):
    damage(write_cell(tmp_path / "runs", "own", {}) / "samples.parquet")
    status, _, err = run(capsys, "keep", "--runs", tmp_path / "runs", "--out", tmp_path / "kept")
    assert status == 2 and len(err.splitlines()) == 1 and "its samples cannot be read" in err and "--out" not in err


def test_cells_that_a_study_still_lacks_are_said(capsys, tmp_path):
    folders = write_study(tmp_path / "runs", "smoke")
    cells = [{"cell": name, "hash": "", "overrides": []} for name in (folders[0].name, folders[1].name, "one-more")]
    grid = {"schema_version": 1, "study": "smoke", "cells": cells}
    (tmp_path / "runs" / "smoke" / "study.json").write_text(json.dumps(grid))
    (tmp_path / "runs" / "other").mkdir()
    (tmp_path / "runs" / "other" / "study.json").write_text(json.dumps(grid | {"study": "other"}))
    status, _, err = run(capsys, "smoke", "--runs", tmp_path / "runs", "--out", tmp_path / "out")
    assert status == 0 and len(err.splitlines()) == 1 and "one-more (not begun)" in err
    assert len(run(capsys, "table", "--runs", tmp_path / "runs")[2].splitlines()) == 2


def test_two_runs_directories_are_one_source(runs, capsys, tmp_path):
    write_study(tmp_path / "more", "length_effect", seeds=3, keep=lambda cell: cell["seed"] == "2")
    status, _, err = run(capsys, "length_effect", "--runs", runs, "--runs", tmp_path / "more", "--out", tmp_path)
    assert status == 0 and err == "" and "calibration seeds 0, 1, 2" in (tmp_path / "length_effect.md").read_text()


def test_kept_cells_are_small_and_read_as_the_original(capsys, tmp_path):
    about = Problems(1000)
    for seed in ("0", "1"):
        write_cell(tmp_path / "runs", "length_effect", {"length": "short", "seed": seed}, about)
        write_cell(tmp_path / "runs", "other", {"seed": seed}, about)
    grid = {
        "schema_version": 1,
        "study": "length_effect",
        "cells": [{"cell": "x", "overrides": ["runs_dir=/a", "a.path=/b/c", MIXED]}],
    }
    (tmp_path / "runs" / "length_effect" / "study.json").write_text(json.dumps(grid))
    kept = tmp_path / "kept"
    status, out, _ = run(capsys, "keep", "--runs", tmp_path / "runs", "--study", "length_effect", "--out", kept)
    assert status == 0 and out.startswith(f"2 cells in {kept}, ")
    assert [path.name for path in kept.iterdir()] == ["length_effect"]
    for cell in (path for path in (kept / "length_effect").iterdir() if path.is_dir()):
        assert sorted(path.name for path in cell.iterdir()) == ["divergence.parquet", "result.json", "samples.parquet"]
        assert sum(path.stat().st_size for path in cell.iterdir()) <= 18_000
        result = json.loads((cell / "result.json").read_text())
        assert result["model"]["path"] == "model"
        assert result["config"]["runs_dir"] is None and result["config"]["cache_dir"] is None
        assert "somewhere" not in (cell / "result.json").read_text()
    assert json.loads((kept / "length_effect" / "study.json").read_text())["cells"][0]["overrides"] == [
        "a.path=c",
        "also=[{name:x,path:c.jsonl,url:https://host/d/e},{path: 'f g.jsonl'},here/h.jsonl]",
    ]
    same(load_runs, tmp_path, left_out=("folder", "config"))
    same(load_samples, tmp_path)
    same(load_divergence, tmp_path)


def same(load, folder: Path, left_out=()):
    original, copy = (load(folder / name, "length_effect").drop(columns=list(left_out)) for name in ("runs", "kept"))
    assert original.columns.tolist() == copy.columns.tolist() and len(original) == len(copy) > 0
    for column in original:
        if load is load_divergence and column in NOT_KEPT:
            assert copy[column].isna().all(), column
        elif original[column].dtype == float:
            assert np.allclose(original[column], copy[column], rtol=1e-7, atol=0, equal_nan=True), column
        else:
            assert original[column].equals(copy[column]), column


def test_a_box_that_holds_a_text_is_not_kept(capsys, tmp_path):
    folder = write_cell(tmp_path / "runs", "own", {})
    samples = pd.read_parquet(folder / "samples.parquet")
    samples.loc[:2, "answer"] = ["é" * 64, "é" * 65, None]
    samples.to_parquet(folder / "samples.parquet", index=False)
    run(capsys, "keep", "--runs", tmp_path / "runs", "--out", tmp_path / "kept")
    answers = load_samples(tmp_path / "kept")["answer"]
    assert answers.isna().tolist() == [False, True, True] + [False] * (len(samples) - 3)
    assert answers[0] == "é" * 64 and answers[3:].tolist() == samples["answer"][3:].tolist()


def test_kept_cells_of_the_divergence_alone_read_as_the_original(capsys, tmp_path):
    write_study(tmp_path / "runs", "difficulty_effect", **ALONE)
    run(capsys, "keep", "--runs", tmp_path / "runs", "--out", tmp_path / "kept")
    assert not list((tmp_path / "kept").rglob("samples.parquet"))
    _, original, _ = run(capsys, "difficulty_effect", "--runs", tmp_path / "runs", "--out", tmp_path / "a")
    _, copy, err = run(capsys, "difficulty_effect", "--runs", tmp_path / "kept", "--out", tmp_path / "b")
    assert original.splitlines()[1:] == copy.splitlines()[1:] and err == ""
    status, *_ = run(capsys, "keep", "--runs", tmp_path / "kept", "--out", tmp_path / "again")
    assert status == 0 and len(load_divergence(tmp_path / "again")) == 12 * 60


def test_histories_are_kept_when_asked_for(runs, capsys, tmp_path):
    status, *_ = run(capsys, "keep", "--runs", runs, "--study", "smoke", "--histories", "--out", tmp_path)
    assert status == 0 and load_histories(tmp_path).equals(load_histories(runs, "smoke"))


def test_figures_of_kept_cells_say_the_same(runs, capsys, tmp_path):
    run(capsys, "keep", "--runs", runs, "--out", tmp_path / "kept")
    _, original, _ = run(capsys, "length_effect", "--runs", runs, "--out", tmp_path / "a")
    _, copy, _ = run(capsys, "length_effect", "--runs", tmp_path / "kept", "--out", tmp_path / "b")
    assert original.splitlines()[1:] == copy.splitlines()[1:]


def test_a_table_needs_neither_torch_nor_matplotlib_and_a_figure_no_torch(runs, tmp_path):
    code = (
        "import sys; from analysis.__main__ import main; runs, out = sys.argv[1:];"
        "assert main(['--runs', runs]) == 0;"
        "assert not {'torch', 'matplotlib', 'wandb', 'scipy'} & set(sys.modules);"
        "assert main(['smoke', '--runs', runs, '--out', out]) == 0;"
        "assert not {'torch', 'transformers', 'wandb', 'matplotlib.pyplot'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, runs, tmp_path], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
