"""The README's two tables of pruners hold what the kept cells say."""

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAMES = {"alps": "ALPS", "sparsegpt": "SparseGPT", "wanda": "Wanda", "ria": "RIA", "magnitude": "magnitude"}
COLUMNS = ["s40", "s50", "s60", "n2m4"]


def entries(study, task):
    """{pruner and allocation as the README names them: {sparsity: what its cell says}}"""
    found = {}
    for path in (ROOT / "analysis" / "example").glob("*/*/result.json"):
        if not path.parts[-3].startswith(study):  # each allocation is a study of its own
            continue
        result = json.loads(path.read_text(encoding="utf-8"))
        config, metrics = result["config"], result["metrics"]
        name, allocation = NAMES[config["pruner"]["name"]], config["allocation"]
        if allocation["name"] != "uniform":
            name += f", `{allocation['name']}`"
        if allocation.get("tail") == "median":
            name += ", `tail=median`"
        accuracy = f"{metrics[f'{task}/accuracy']:.3f} ± {metrics[f'{task}/accuracy_se']:.3f}"
        found.setdefault(name, {})[config["sparsity"]["name"]] = f"{accuracy} · {metrics[f'{task}/kl']:.4f}"
    return found


@pytest.mark.parametrize(
    ("study", "task", "before"),
    [("real_pruners", "math500", "**Qwen2.5-Coder-1.5B-Instruct**"), ("pruners", "tiny_math", "**The bundled model**")],
)
def test_the_readme_shows_every_cell_that_is_kept(study, task, before):
    section = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Pruners, patterns and speed")[2]
    lines = section.partition(before)[2].strip().splitlines()
    table = [line for line in lines[: lines.index("", 2)] if line.startswith("| ")][1:]
    shown = {}
    for line in table:
        name, *cells = [cell.strip() for cell in line.strip("|").split("|")]
        shown[name] = {column: cell for column, cell in zip(COLUMNS, cells, strict=True) if cell}
    assert shown == entries(study, task) and len(shown) >= 9
