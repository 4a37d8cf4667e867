"""The table of finished cells: what is loaded, what is said and left out, and that torch is never needed."""

import json
import subprocess
import sys

import pytest

from analysis import load_runs
from analysis.__main__ import markdown


def write_cell(runs, study, cell, accuracy=0.5, pattern="unstructured", **changes):
    folder = runs / study / cell
    folder.mkdir(parents=True)
    metrics = {"accuracy": accuracy, "accuracy_se": 0.01, "problems": 100, "repeats": 1}
    metrics |= {"mean_tokens": 200.4, "truncated": 0.25, "kl": 0.0123, "kl_se": None}
    config = {
        "pruner": {"name": "wanda"},
        "difficulty": {"name": "hard", "pass_rate": [0.0, 1 / 3], "level": None},
        "length": {"name": "all", "percentile": None, "tokens": None},
        "selection": {"correctness": "correct"},
        "calibration": {"token_weights": "all"},
        "seed": 3,
    }
    result = {
        "schema_version": 1,
        "cell": cell,
        "study": study,
        "config": config | changes.pop("config", {}),
        "model": {"name": "tiny_reasoner"},
        "calibration": {"source": "self_generated", "tokens": 16384, "traces": 50},
        "sparsity": {"achieved": 0.4, "pattern": pattern},
        "metrics": {f"tiny_math/{name}": value for name, value in metrics.items()},
        "dense_metrics": {f"tiny_math/{name}": value for name, value in (metrics | {"accuracy": 0.9}).items()},
    } | changes
    (folder / "result.json").write_text(json.dumps(result))
    return folder


def test_one_row_per_finished_cell(tmp_path):
    write_cell(tmp_path, "a", "first")
    write_cell(tmp_path, "b", "second", accuracy=0.25)
    (tmp_path / "b" / "unfinished").mkdir()
    runs = load_runs(tmp_path)
    assert runs["cell"].tolist() == ["first", "second"]
    assert runs["accuracy"].tolist() == [0.5, 0.25]
    assert runs["dense_accuracy"].tolist() == [0.9, 0.9]
    assert runs.loc[0, ["task", "pruner", "difficulty", "seed"]].tolist() == ["tiny_math", "wanda", "hard", 3]
    assert load_runs(tmp_path, "b")["cell"].tolist() == ["second"]


def test_broken_and_unknown_results_are_said_and_left_out(tmp_path, capsys):
    write_cell(tmp_path, "a", "good")
    write_cell(tmp_path, "a", "newer", schema_version=99)
    (write_cell(tmp_path, "a", "torn") / "result.json").write_text('{"schema')
    assert load_runs(tmp_path)["cell"].tolist() == ["good"]
    said = capsys.readouterr().err
    assert "torn" in said and "schema version 99" in said


@pytest.mark.parametrize("odd", [{"seed": 10**20}, {"seed": 1.5}, {"seed": "x"}, {"limit": 10**400}], ids=str)
def test_a_number_that_no_table_holds_leaves_its_cell_out(odd, tmp_path, capsys):
    write_cell(tmp_path, "a", "good")
    write_cell(tmp_path, "a", "odd", config=odd)
    assert load_runs(tmp_path)["cell"].tolist() == ["good"]
    (line,) = capsys.readouterr().err.splitlines()
    assert "odd is left out" in line


def test_a_missing_directory_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="no runs directory"):
        load_runs(tmp_path / "nowhere")


def test_the_table_gives_every_accuracy_its_error_n_and_k(tmp_path):
    write_cell(tmp_path, "a", "first")
    lines = markdown(load_runs(tmp_path)).splitlines()
    assert len(lines) == 4  # two of heading, dense, pruned
    assert lines[2].startswith("|  | tiny_reasoner, tiny_math | dense |") and lines[3].startswith("| a | tiny_reasoner")
    assert "| dense |" in lines[2] and "0.900 ± 0.010 | 100 × 1" in lines[2]
    assert (
        "wanda 40% | self_generated, hard | 16,384 | 3 | 0.500 ± 0.010 | 100 × 1 | 200 | 25.0% | 0.0123 |" in lines[3]
    )


def test_the_table_says_the_study_of_rows_that_are_alike_and_the_dense_model_once(tmp_path):
    write_cell(tmp_path, "a", "same")
    write_cell(tmp_path, "b", "same")
    fewer = {"accuracy": 0.9, "accuracy_se": 0.01, "problems": 50, "repeats": 1, "mean_tokens": 9.0, "truncated": 0.25}
    dense = {f"tiny_math/{name}": value for name, value in fewer.items()}
    write_cell(tmp_path, "b", "few", accuracy=0.25, dense_metrics=dense)
    lines = markdown(load_runs(tmp_path)).splitlines()[2:]
    assert len(set(lines)) == len(lines) == 5
    assert [line.split(" | ")[0].strip("| ") for line in lines] == ["", "b", "", "a", "b"]
    assert "| 50 × 1 |" in lines[0] and "| 100 × 1 |" in lines[2]


def test_the_table_tells_cells_apart_that_differ_in_more_than_the_option_names(tmp_path):
    """Bounds that were set by hand, traces right or wrong, token weights; and no seed where nothing was calibrated."""
    bounds = {"name": "all", "pass_rate": [0.2, 0.5], "level": None}
    write_cell(tmp_path, "a", "bounds", config={"difficulty": bounds})
    write_cell(tmp_path, "a", "any", config={"selection": {"correctness": "any"}})
    write_cell(tmp_path, "a", "decode", config={"calibration": {"token_weights": "decode"}})
    write_cell(tmp_path, "a", "nothing", calibration=None)
    table = markdown(load_runs(tmp_path))
    assert "self_generated, pass0.2to0.5 |" in table
    assert "self_generated, hard, right or wrong |" in table
    assert "self_generated, hard, weights decode |" in table
    assert "| nothing |  |  | 0.500" in table


def test_the_command_needs_no_torch_and_says_what_is_missing(tmp_path):
    code = (
        "import sys; from analysis.__main__ import main; sys.argv = ['analysis', '--runs', sys.argv[1]];"
        "status = main(); assert 'torch' not in sys.modules; sys.exit(status)"
    )
    write_cell(tmp_path, "a", "first")
    for folder, status in ((tmp_path, 0), (tmp_path / "a", 2), (tmp_path / "nowhere", 2)):
        done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True)
        assert done.returncode == status, done.stderr
        assert "Traceback" not in done.stderr
