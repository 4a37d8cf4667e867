"""Finished cells as one tidy table."""

import json
import sys
from pathlib import Path
from typing import Any

import pandas as pd

from ssgr.cell import difficulty_labels, length_labels

SCHEMA_VERSIONS = (1,)
METRICS = (
    "accuracy",
    "accuracy_se",
    "problems",
    "repeats",
    "mean_tokens",
    "truncated",
    "seconds",
    "kl",
    "kl_se",
    "kl_balanced",
    "nll",
    "top1_changed",
)


def load_runs(source: str | Path, study: str | None = None) -> pd.DataFrame:
    """One row per finished cell and task below a runs directory, sorted by study and cell.

    Columns: what the cell was (study, cell, model, pruner, sparsity, pattern, calibration, difficulty, length,
    correctness, token_weights, seed, tokens), METRICS of the pruned model, `dense_<metric>` of the dense one, and the
    folder. Bins are named by their bounds, whatever option they were asked for with; what a cell did not use is None.
    Raises FileNotFoundError where there is no such directory. Files that cannot be read and schema versions that are
    not known are said on standard error and left out.
    """
    source = Path(source)
    if not source.is_dir():
        raise FileNotFoundError(f"no runs directory {source}")
    rows = []
    for path in sorted(source.glob(f"{study or '*'}/*/result.json")):
        try:
            result = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            print(f"{path} is left out: {error}", file=sys.stderr)
            continue
        if result.get("schema_version") not in SCHEMA_VERSIONS:
            print(f"{path} is left out: schema version {result.get('schema_version')}", file=sys.stderr)
            continue
        rows += _rows(result, path.parent)
    return pd.DataFrame(rows)


def _rows(result: dict[str, Any], folder: Path) -> list[dict[str, Any]]:
    config, calibration = result["config"], result["calibration"]
    sparsity = result["sparsity"]
    about = {
        "study": result["study"],
        "cell": result["cell"],
        "model": result["model"]["name"],
        "pruner": config["pruner"]["name"],
        "sparsity": sparsity["achieved"],
        "pattern": sparsity["pattern"],
        "calibration": calibration["source"] if calibration else None,
        "difficulty": "-".join(difficulty_labels(config["difficulty"])) or "all",
        "length": "-".join(length_labels(config["length"])) or "all",
        "correctness": config["selection"]["correctness"] if calibration and calibration["traces"] else None,
        "token_weights": config["calibration"]["token_weights"] if calibration else None,
        "seed": config["seed"] if calibration else None,
        "tokens": calibration["tokens"] if calibration else None,
        "folder": str(folder),
    }
    tasks = sorted({name.partition("/")[0] for name in result["metrics"]})
    return [about | {"task": task} | _metrics(result, task) for task in tasks]


def _metrics(result: dict[str, Any], task: str) -> dict[str, Any]:
    pruned = {metric: result["metrics"].get(f"{task}/{metric}") for metric in METRICS}
    dense = {f"dense_{metric}": result["dense_metrics"].get(f"{task}/{metric}") for metric in METRICS}
    return pruned | dense
