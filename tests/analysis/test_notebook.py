"""The notebooks are stored without outputs and run from top to bottom on the example runs, and on any others."""

import json
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from synthetic_studies import ALONE, write_matched, write_study

import analysis

NOTEBOOKS = Path(analysis.__file__).parent / "notebooks"
WHERE = re.compile(r"^(?:source|RUNS) = .*$", re.MULTILINE)


def executed(name: str, tmp_path, source: str | None = None):
    """The notebook after all of its cells ran in an empty folder; `source` in place of its own."""
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    if source is not None:
        lines = [(cell, line) for cell in notebook.cells for line in WHERE.findall(cell.source)]
        assert len(lines) == 1, "one variable says where the runs are"
        (cell, line), variable = lines[0], lines[0][1].split(" = ")[0]
        cell.source = cell.source.replace(line, f"{variable} = {source!r}")
    NotebookClient(notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    return notebook


def outputs(notebook) -> list[str]:
    """Of each cell with code, what it printed and displayed."""
    return [json.dumps(cell.outputs) for cell in notebook.cells if cell.cell_type == "code"]


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_it_is_stored_without_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None


def test_it_runs_on_the_example_runs(tmp_path):
    first, second, overview, arms, flips, lengths, histories = outputs(executed("explore", tmp_path))
    assert first == "[]" and "complaint" in second
    assert "length_effect" in overview and "| sparsegpt" in overview
    assert "image/png" in arms and "n = 1,000 problems" in arms
    assert "solved by both" in flips and "image/png" in lengths and "stderr" not in first + overview + arms
    assert histories != "[]"
    assert not list(tmp_path.iterdir()), "exploring writes nothing"


@pytest.mark.parametrize("template", ["smoke"])
def test_it_runs_on_other_runs_with_one_variable_changed(tmp_path, template):
    write_study(tmp_path / "runs", template)
    (tmp_path / "empty").mkdir()
    *_, flips, lengths, histories = outputs(executed("explore", tmp_path / "empty", str(tmp_path / "runs")))
    assert "only by self_generated" in flips and "image/png" in lengths and "0.25" in histories


def test_the_findings_are_drawn_anew_from_the_example_runs(tmp_path):
    chosen, said, claims, table, difficulty, length = outputs(executed("findings", tmp_path))
    assert said == "[]" and chosen != "[]"
    assert "image/png" in claims and "Contrasts that were fixed beforehand" in claims
    assert all(word in table for word in ("half width", r"moderate \u2212 short", "verdict"))
    for shown, axis in ((difficulty, "Difficulty of the problems"), (length, "Length of the traces")):
        assert "image/png" in shown and axis in shown and "by the held-out problem" in shown
    assert not list(tmp_path.iterdir()), "reading writes nothing"


def test_the_findings_are_those_of_the_real_studies_where_they_are_there(tmp_path):
    runs = tmp_path / "runs"
    write_matched(runs, "real_difficulty_matched", "real_length_matched")
    write_study(runs, "length_effect", study="real_axes", **ALONE)
    write_study(runs, "difficulty_effect", keep=lambda cell: cell["difficulty"] != "all", study="real_axes", **ALONE)
    write_study(runs, "length_effect")
    (tmp_path / "empty").mkdir()
    chosen, _, claims, table, difficulty, length = outputs(executed("findings", tmp_path / "empty", str(runs)))
    assert "real_difficulty_matched, real_length_matched, real_axes" in chosen
    assert "matched by length" in claims and "unmatched" in claims and table.count("kl") > 5
    assert difficulty.count("image/png") == length.count("image/png") == 2
