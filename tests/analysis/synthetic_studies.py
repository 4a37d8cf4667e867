"""Finished cells of a template's whole grid, without running anything: what a study leaves, with known effects."""

import json
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from ssgr.evaluation.held_out import difficulty_bin
from ssgr.labels import difficulty_labels, length_labels

ROOT = Path(__file__).parents[2]
EFFECTS = {  # on the logit of being right
    "prompts_only": -2.5,
    "general_text": -4.5,
    "reference_solutions": -0.1,
    "easy": -0.4,
    "medium": 0.1,
    "hard": 0.3,
    "short": -0.3,
    "moderate": 0.3,
    "long": -0.2,
    "wanda": -0.5,
}
ALONE = {"evaluation": "divergence", "evaluation__task": "tiny_math"}  # `more` of write_study: no answers, only KL
MEASURED_ALONE = ("kl", "kl_se", "problems")  # by evaluation=divergence
BOUNDS = (180, 240)  # tokens of the dense samples: short up to, moderate up to


def template_names() -> list[str]:
    return sorted(path.stem for path in (ROOT / "multirun_templates").glob("*.yaml"))


def option(group: str, name: str) -> dict:
    values = yaml.safe_load((ROOT / "conf" / group / f"{name}.yaml").read_text())
    return {key: value for key, value in values.items() if key != "defaults"}


def grid(template: str, seeds: int) -> list[dict[str, str]]:
    """The overrides of every cell of the template, its calibration seeds replaced by 0..seeds−1."""
    params = yaml.safe_load((ROOT / "multirun_templates" / f"{template}.yaml").read_text())["hydra"]["sweeper"][
        "params"
    ]
    choices = {name: [value.strip() for value in str(values).split(",")] for name, values in params.items()}
    if "seed" in choices:
        choices["seed"] = [str(seed) for seed in range(seeds)]
    return [dict(zip(choices, values, strict=True)) for values in product(*choices.values())]


def config_of(overrides: dict[str, str], study: str) -> dict:
    chosen = {"model": "tiny_reasoner", "rollouts": "bundled", "calibration": "self_generated", "difficulty": "all"}
    chosen |= {
        "length": "all",
        "pruner": "sparsegpt",
        "sparsity": "s50",
        "evaluation": "tiny_math",
        "problems": "bundled",
    }
    chosen |= {"allocation": "uniform", "engine": "hf", "tracking": "disabled"}
    values = {key: value for key, value in overrides.items() if key not in chosen}
    chosen |= {key: value for key, value in overrides.items() if key in chosen}
    config = {group: option(group, name) for group, name in chosen.items()}
    config["selection"] = {"correctness": "correct", "max_traces_per_problem": 1, "balance": []}
    config["calibration"] |= {"tokens": 16384, "max_seq_len": 512}
    config |= {"seed": 0, "study": study, "limit": 60, "device": "cpu", "overwrite": False, "save_checkpoint": False}
    config |= {"dry_run": False, "runs_dir": "/somewhere/runs", "cache_dir": "/somewhere/cache"}
    for key, value in values.items():
        *path, last = key.split(".")
        target = config
        for part in path:
            target = target[part]
        target[last] = yaml.safe_load(value)
    if task := config["evaluation"].get("task"):  # a run's config has the task's values in place of null
        of_task = option("evaluation", task)
        filled = {key: of_task.get(key) for key, value in config["evaluation"].items() if value is None}
        config["evaluation"] |= filled
    return config


class Problems:
    """Problems with their difficulty for the dense model, the same for every cell."""

    def __init__(self, count: int = 60):
        rng = np.random.default_rng(5)
        self.ids = [f"e{index:04d}" for index in range(count)]
        self.logits = rng.normal(1.5, 1.5, count)
        right = rng.random((count, 8)) < 1 / (1 + np.exp(-self.logits[:, None]))
        self.pass_rate, self.correct = right.mean(1), right[:, 0]
        self.tokens = rng.integers(120, 330, count)
        self.difficulty = [difficulty_bin(rate) for rate in self.pass_rate]
        self.length = np.array(["short", "moderate", "long"])[np.searchsorted(BOUNDS, self.tokens)]


def write_study(
    runs: Path, template: str, seeds: int = 3, problems: int = 60, keep=lambda overrides: True, study: str = "", **more
) -> list[Path]:
    """All cells of a template below `runs`/`template`, or those that `keep` says yes to; returns their folders.

    `study` is another name for it, `more` are overrides of every cell (with __ for the dot of an option).
    """
    about = Problems(problems)
    more = {name.replace("__", "."): value for name, value in more.items()}
    cells = [overrides | more for overrides in grid(template, seeds) if keep(overrides)]
    return [write_cell(runs, study or template, overrides, about) for overrides in cells]


def write_matched(runs: Path, difficulty: str = "difficulty_matched", length: str = "length_matched", **more) -> None:
    """Two studies of these names without `all`: one axis varies, the other is held still."""
    for axis, other, study in (("difficulty", "length", difficulty), ("length", "difficulty", length)):
        options = more | {"selection__balance": f"[{other}]"}
        options |= {"length__within": "difficulty"} if axis == "length" else {}
        write_study(runs, f"{axis}_effect", keep=lambda cell, axis=axis: cell[axis] != "all", study=study, **options)


def write_cell(runs: Path, study: str, overrides: dict[str, str], problems: Problems | None = None, **changes) -> Path:
    """One finished cell: result.json, samples.parquet, divergence.parquet, prune_report.json."""
    problems = problems or Problems()
    config = config_of(overrides, study)
    sparsity = config["sparsity"]["value"] or 0.5
    identity = hash_of(config | {"study": None})
    rng = np.random.default_rng(identity)
    bins = [*difficulty_labels(config["difficulty"]), *length_labels(config["length"])]
    parts = [config["calibration"]["name"], *bins, config["pruner"]["name"], config["sparsity"]["name"]]
    cell = "-".join(["tiny_reasoner", *parts, f"seed{config['seed']}", f"{identity:010x}"])
    effect = sum(EFFECTS.get(name, 0.0) for name in (config["calibration"]["name"], *bins, config["pruner"]["name"]))
    effect += 0.3 * np.log2(config["calibration"]["tokens"] / 16384) - 9 * (sparsity - 0.4) + rng.normal(0, 0.15)
    samples = samples_of(problems, effect, rng)
    divergence = divergence_of(problems, effect, rng)
    result = result_of(config, study, cell, bins, samples, divergence, problems, sparsity) | changes
    if config["evaluation"]["name"] == "divergence":  # the pruned model generates nothing
        samples = samples.iloc[:0]
        result["metrics"] = {f"tiny_math/{name}": result["metrics"][f"tiny_math/{name}"] for name in MEASURED_ALONE}
    home = runs / study / cell
    home.mkdir(parents=True)
    samples.to_parquet(home / "samples.parquet", index=False)
    divergence.to_parquet(home / "divergence.parquet", index=False)
    blocks = [{"block": block, "seconds": 0.25, "relative_error": None} for block in range(6)]
    report = {"target": sparsity, "achieved": sparsity, "pattern": "unstructured", "seconds": 1.5, "blocks": blocks}
    rows = [{"name": f"model.layers.{block}.mlp.up_proj", "seconds": 0.25} for block in range(6)]
    (home / "prune_report.json").write_text(json.dumps(report | {"rows": rows}))
    (home / "result.json").write_text(json.dumps(result))
    return home


def hash_of(config: dict) -> int:
    """The same in every process and in every study."""
    return int.from_bytes(json.dumps(config, sort_keys=True).encode(), "big") % 1099511627689


def samples_of(problems: Problems, effect: float, rng) -> pd.DataFrame:
    count = len(problems.ids)
    right = rng.random(count) < 1 / (1 + np.exp(-(problems.logits + effect)))
    rambles = rng.random(count) < 0.4 / (1 + np.exp(effect + 2))
    return pd.DataFrame(
        {
            "task": "tiny_math",
            "problem_id": problems.ids,
            "repeat": 0,
            "correct": right & ~rambles,
            "tokens": np.where(rambles, 512, problems.tokens + rng.integers(-20, 20, count)),
            "finish_reason": np.where(rambles, "length", "stop"),
            "answer": [str(value) for value in rng.integers(0, 99, count)],
            "output_ids": [rng.integers(0, 1536, 40).astype("int32") for _ in range(count)],
        }
    )


def divergence_of(problems: Problems, effect: float, rng) -> pd.DataFrame:
    kl = np.exp(rng.normal(-4 - 0.7 * effect - 0.1 * problems.logits, 0.2))
    return pd.DataFrame(
        {
            "task": "tiny_math",
            "problem_id": problems.ids,
            "tokens": problems.tokens,
            "kl": kl,
            "kl_sum": kl * problems.tokens,
            "nll_dense": 0.016,
            "nll": 0.016 + kl,
            "top1_changed": np.minimum(kl / 4, 1),
            "correct": problems.correct,
            "finish_reason": "stop",
            "pass_rate": problems.pass_rate,
            "difficulty": problems.difficulty,
            "length": problems.length,
        }
    )


def result_of(config, study, cell, bins, samples, divergence, problems, sparsity) -> dict:
    count, traces = len(problems.ids), 0 if config["calibration"]["name"] == "general_text" else 53
    n, m = config["sparsity"].get("n"), config["sparsity"].get("m")
    error = lambda values: float(np.std(values, ddof=1) / np.sqrt(count))  # noqa: E731
    metrics = {
        "accuracy": float(samples["correct"].mean()),
        "accuracy_se": error(samples["correct"]),
        "mean_tokens": float(samples["tokens"].mean()),
        "truncated": float((samples["finish_reason"] == "length").mean()),
        "problems": count,
        "repeats": 1,
        "seconds": float(samples["tokens"].sum() / 5000),
        "kl": float(divergence["kl"].mean()),
        "kl_se": error(divergence["kl"]),
    }
    dense = {
        "accuracy": float(problems.pass_rate.mean()),
        "accuracy_se": error(problems.pass_rate),
        "mean_tokens": float(problems.tokens.mean()),
        "truncated": 0.0,
        "problems": count,
        "repeats": 8,
        "kl": 0.0,
    }
    return {
        "schema_version": 1,
        "cell": cell,
        "study": study,
        "status": "finished",
        "config": config,
        "model": {"name": "tiny_reasoner", "path": "/somewhere/bundled/model", "parameters": 4823296},
        "calibration": {
            "source": config["calibration"]["name"],
            "tokens": config["calibration"]["tokens"],
            "sequences": 53,
            "traces": traces,
            "problems": traces,
            "mean_trace_tokens": 309.0 if traces else None,
            "mean_pass_rate": 0.8 if traces else None,
        },
        "sparsity": {"target": sparsity, "achieved": sparsity, "pattern": f"{n}:{m}" if n else "unstructured"},
        "metrics": {f"tiny_math/{name}": value for name, value in metrics.items()},
        "dense_metrics": {f"tiny_math/{name}": value for name, value in dense.items()},
        "seconds": {
            "rollouts": 0.0,
            "calibration": 0.5,
            "dense": 0.0,
            "pruning": 1.9,
            "evaluation": 9.5,
            "total": 12.1,
        },
        "environment": {"git": None, "versions": {}, "device": "cpu"},
    }
