"""Writes finished cells as `ssgr` leaves them, small and quick, for tests of what reads them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

PROBLEMS, REPEATS, BLOCKS = 6, 2, 3


def config_of(**changes: Any) -> dict[str, Any]:
    """A resolved config, shortened; `changes` replace whole groups or top-level values."""
    config = {
        "model": {"name": "tiny_reasoner", "path": None},
        "rollouts": {"name": "bundled", "k": 8, "temperature": 1.0},
        "selection": {"correctness": "correct"},
        "calibration": {"name": "self_generated", "tokens": 4096, "token_weights": "all"},
        "difficulty": {"name": "hard", "pass_rate": [0.0, 1 / 3], "level": None},
        "length": {"name": "all", "percentile": None, "tokens": None},
        "pruner": {"name": "wanda"},
        "sparsity": {"name": "s40", "value": 0.4},
        "evaluation": {"name": "tiny_math", "repeats": REPEATS, "divergence": True},
        "tracking": {"name": "offline", "mode": "offline"},
        "seed": 0,
        "limit": PROBLEMS,
        "device": "auto",
        "runs_dir": "runs",
        "cache_dir": None,
    }
    return config | changes


def write_stored_cell(
    runs: Path, study: str, cell: str, *, is_dense: bool = False, result: dict[str, Any] | None = None, **changes: Any
) -> Path:
    """A whole cell folder; `changes` go into its config, `result` into result.json. Numbers follow from the name."""
    folder = runs / study / cell
    folder.mkdir(parents=True)
    rng = np.random.default_rng(sum(map(ord, study + cell)))
    samples = _samples(rng)
    samples.to_parquet(folder / "samples.parquet", index=False)
    metrics = {
        "tiny_math/accuracy": float(samples["correct"].mean()),
        "tiny_math/accuracy_se": 0.0625,
        "tiny_math/problems": PROBLEMS,
        "tiny_math/repeats": REPEATS,
        "tiny_math/mean_tokens": float(samples["tokens"].mean()),
        "tiny_math/truncated": 0.0,
    }
    dense_metrics = metrics | {"tiny_math/accuracy": 1.0, "tiny_math/kl": 0.0}
    calibration = {"source": "self_generated", "tokens": 4096, "sequences": 20, "traces": 20, "problems": 20}
    calibration |= {"mean_trace_tokens": 204.8, "mean_pass_rate": float(rng.random()), "grid": None}
    if not is_dense:
        _divergence(rng).to_parquet(folder / "divergence.parquet", index=False)
        metrics |= {"tiny_math/kl": float(rng.random()), "tiny_math/kl_se": None}
        blocks = [{"block": block, "seconds": float(rng.random()), "relative_error": None} for block in range(BLOCKS)]
        blocks[-1]["relative_error"] = 0.125
        (folder / "prune_report.json").write_text(json.dumps({"rows": [], "blocks": blocks}))
    written = {
        "schema_version": 1,
        "cell": cell,
        "study": study,
        "status": "finished",
        "config": config_of(study=study, **changes),
        "model": {"name": "tiny_reasoner", "parameters": 100, "device": "cpu"},
        "calibration": None if is_dense else calibration,
        "sparsity": {"target": 0.4, "achieved": 0.4, "pattern": "dense" if is_dense else "unstructured"},
        "metrics": metrics,
        "dense_metrics": dense_metrics,
        "seconds": {"rollouts": 0.0, "calibration": 0.5, "pruning": 1.0, "evaluation": 2.5, "total": 4.25},
        "environment": {"git": "abc1234", "versions": {"python": "3.11"}, "device": "cpu"},
    }
    (folder / "result.json").write_text(json.dumps(written | (result or {})))
    return folder


def _samples(rng: np.random.Generator) -> pd.DataFrame:
    rows = PROBLEMS * REPEATS
    table = pd.DataFrame({"task": "tiny_math", "problem_id": [f"p{row // REPEATS}" for row in range(rows)]})
    table["repeat"] = [row % REPEATS for row in range(rows)]
    table["correct"] = rng.random(rows) < 0.5
    table["tokens"] = rng.integers(10, 500, rows)
    table["finish_reason"] = "stop"
    table["answer"] = [None if row == 0 else str(row) for row in range(rows)]
    table["output_ids"] = [rng.integers(0, 100, 50) for _ in range(rows)]
    return table


def _divergence(rng: np.random.Generator) -> pd.DataFrame:
    table = pd.DataFrame({"task": "tiny_math", "problem_id": [f"p{row}" for row in range(PROBLEMS)]})
    table["tokens"] = rng.integers(10, 500, PROBLEMS)
    for name in ("kl", "kl_sum", "nll_dense", "nll", "top1_changed"):
        table[name] = rng.random(PROBLEMS)
    table["correct"] = rng.random(PROBLEMS) < 0.5
    table["finish_reason"] = "stop"
    table["pass_rate"] = [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]
    table["difficulty"] = ["never", "hard", "medium", "easy", "easy", "easy"]
    table["length"] = ["truncated", "short", "moderate", "long", "long", "short"]
    return table
