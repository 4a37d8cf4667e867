"""What is wrong with a table of runs is said, in one line each, and nothing else is."""

import json

import pandas as pd
import pytest
from stored_cells import config_of, write_stored_cell

from analysis import load_runs
from analysis.reports import problems


def ask_for(runs, study, names):
    cells = [{"cell": name, "hash": name, "overrides": []} for name in names]
    (runs / study / "study.json").write_text(json.dumps({"schema_version": 1, "study": study, "cells": cells}))


def test_a_whole_study_has_no_problems(tmp_path):
    for seed in range(3):
        write_stored_cell(tmp_path, "a", f"cell{seed}", seed=seed)
    write_stored_cell(tmp_path, "a", "dense", is_dense=True)
    write_stored_cell(tmp_path, "b", "cell0")  # the same arm and seed, in another study
    ask_for(tmp_path, "a", ["cell0", "cell1", "cell2", "dense"])
    assert problems(load_runs(tmp_path), tmp_path) == []


def test_two_cells_of_one_arm_and_seed_are_named_with_what_differs(tmp_path):
    write_stored_cell(tmp_path, "a", "first", limit=6)
    evaluation = config_of()["evaluation"] | {"repeats": 3}
    write_stored_cell(tmp_path, "a", "second", limit=12, evaluation=evaluation, runs_dir="/other", device="cuda")
    write_stored_cell(tmp_path, "a", "third", seed=1)
    runs = load_runs(tmp_path)
    (line,) = problems(runs)
    assert line == (
        "study a holds 2 cells of one arm and seed, first, second: they differ in evaluation.repeats (2 | 3), "
        "limit (6 | 12)"
    )
    assert runs["cell"].tolist() == ["first", "second", "third"], "none is dropped"
    for seed, name in ((2, "fourth"), (2, "fifth"), (3, "sixth"), (3, "seventh")):
        damping = {"damping": 0.1 if name in ("fifth", "seventh") else 0.01}
        write_stored_cell(tmp_path, "b", name, seed=seed, pruner=config_of()["pruner"] | damping)
    (_, line) = problems(load_runs(tmp_path))
    assert line.startswith("study b holds 2 cells of one arm and seed, 2 times, fifth, fourth: they differ in pruner")
    assert problems(load_runs(tmp_path, where={"limit": "12"})) == []


def test_bins_and_budgets_make_arms(tmp_path):
    write_stored_cell(tmp_path, "a", "hard")
    write_stored_cell(tmp_path, "a", "all", difficulty={"name": "all", "pass_rate": None, "level": None})
    write_stored_cell(tmp_path, "a", "large", calibration=config_of()["calibration"] | {"tokens": 8192})
    assert problems(load_runs(tmp_path), tmp_path) == []


def test_cells_that_a_study_was_asked_for_and_did_not_finish_are_named(tmp_path):
    write_stored_cell(tmp_path, "a", "done")
    (tmp_path / "a" / "failed").mkdir()
    failure = {"stage": "pruning", "error": "no memory", "log": "log.txt"}
    (tmp_path / "a" / "failed" / "failure.json").write_text(json.dumps(failure))
    (tmp_path / "a" / "killed").mkdir()
    write_stored_cell(tmp_path, "b", "only")
    ask_for(tmp_path, "a", ["done", "failed", "killed", *(f"later{place}" for place in range(4))])
    ask_for(tmp_path, "b", ["only"])
    (line,) = problems(load_runs(tmp_path), [tmp_path])
    assert line == (
        "study a: 6 of 7 cells are not finished: failed (failed in pruning: no memory), killed (begun), "
        "later0 (not begun), later1 (not begun), later2 (not begun) and 1 more"
    )


def test_a_study_of_which_nothing_is_finished_is_named_too(tmp_path):
    (tmp_path / "a").mkdir()
    ask_for(tmp_path, "a", ["first"])
    assert problems(load_runs(tmp_path), tmp_path) == ["study a: 1 of 1 cells are not finished: first (not begun)"]


def test_files_that_could_not_be_read_are_named(tmp_path):
    write_stored_cell(tmp_path, "a", "good")
    torn = write_stored_cell(tmp_path, "a", "torn") / "result.json"
    torn.write_text('{"schema')
    (tmp_path / "a" / "study.json").write_text("[]")
    lines = problems(load_runs(tmp_path), tmp_path)
    assert len(lines) == 2 and str(torn) in lines[0] and str(tmp_path / "a" / "study.json") in lines[1]


def test_schema_versions_that_meet_in_one_study_are_named(tmp_path):
    write_stored_cell(tmp_path, "a", "first", seed=0)
    write_stored_cell(tmp_path, "a", "second", seed=1)
    runs = load_runs(tmp_path)
    runs.loc[1, "schema_version"] = 2
    assert problems(runs) == ["study a mixes schema versions 1, 2: run its older cells again (overwrite=true)"]


@pytest.mark.parametrize("source", ["us/ssgr", "wandb:us/ssgr"])
def test_of_a_w_and_b_project_nothing_more_is_asked(tmp_path, source):
    write_stored_cell(tmp_path, "a", "first")
    assert problems(load_runs(tmp_path), source) == []
    assert isinstance(problems(pd.DataFrame(load_runs(tmp_path, "nothing")), None), list)
