"""The notebook is stored without outputs and runs from top to bottom on the example runs, and on any others."""

import json
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from synthetic_studies import write_study

import analysis

NOTEBOOK = Path(analysis.__file__).parent / "notebooks" / "explore.ipynb"


def executed(tmp_path, source: str | None = None):
    """The notebook after all of its cells ran in an empty folder; `source` in place of its own."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    if source is not None:
        chosen = [cell for cell in notebook.cells if "\nsource = " in cell.source]
        assert len(chosen) == 1, "one variable says where the runs are"
        chosen[0].source += f"\nsource = {source!r}"
    NotebookClient(notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    return notebook


def outputs(notebook) -> list[str]:
    """Of each cell with code, what it printed and displayed."""
    return [json.dumps(cell.outputs) for cell in notebook.cells if cell.cell_type == "code"]


def test_it_is_stored_without_outputs():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None


def test_it_runs_on_the_example_runs(tmp_path):
    first, second, overview, arms, flips, lengths, histories = outputs(executed(tmp_path))
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
    *_, flips, lengths, histories = outputs(executed(tmp_path / "empty", str(tmp_path / "runs")))
    assert "only by self_generated" in flips and "image/png" in lengths and "0.25" in histories
