"""The columns of every table that is loaded, with their types, and how a result becomes rows of one."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

from ssgr.config import SEEDS
from ssgr.labels import difficulty_labels, length_labels

SCHEMA_VERSIONS = (1,)  # of result.json, that are understood
METRICS = (
    "accuracy",
    "accuracy_se",
    "problems",
    "repeats",
    "mean_tokens",
    "truncated",
    "seconds",
    "tokens_per_second",
    "pass_at_k",
    "maj_at_k",
    "perplexity",
    "kl",
    "kl_se",
    "kl_balanced",
    "nll",
    "top1_changed",
)
# columns of RUNS that say what an arm is, besides its task, its sparsity and its token budget
ARM = ("model", "pruner", "pattern", "calibration", "difficulty", "length", "correctness", "token_weights")
STAGES = ("rollouts", "calibration", "dense", "pruning", "evaluation", "total")
TEXT, WHOLE, REAL, FLAG = pa.string(), pa.int64(), pa.float64(), pa.bool_()

RUNS = pa.schema(
    {
        "study": TEXT,
        "cell": TEXT,
        "task": TEXT,
        "schema_version": WHOLE,
        "model": TEXT,
        "pruner": TEXT,
        "sparsity": REAL,  # as counted
        "sparsity_target": REAL,
        "pattern": TEXT,  # unstructured | n:m | dense
        "calibration": TEXT,  # the source; this and what follows is missing where nothing was calibrated
        "difficulty": TEXT,
        "length": TEXT,
        "correctness": TEXT,
        "token_weights": TEXT,
        "seed": REAL,
        "tokens": REAL,
        "budget": REAL,  # the tokens that were asked for
        "sequences": REAL,
        "traces": REAL,
        "mean_trace_tokens": REAL,
        "mean_pass_rate": REAL,
        "limit": REAL,
        "device": TEXT,
        "git": TEXT,
        **{metric: REAL for metric in METRICS},
        **{f"dense_{metric}": REAL for metric in METRICS},
        **{f"seconds_{stage}": REAL for stage in STAGES},
        "config": TEXT,  # JSON
        "folder": TEXT,  # or wandb:entity/project/run
    }
)
SAMPLES = pa.schema(
    {
        "task": TEXT,
        "problem_id": TEXT,
        "repeat": WHOLE,
        "correct": FLAG,
        "tokens": WHOLE,
        "finish_reason": TEXT,
        "answer": TEXT,
    }
)
DIVERGENCE = pa.schema(
    {
        "task": TEXT,
        "problem_id": TEXT,
        "tokens": WHOLE,
        "kl": REAL,
        "kl_sum": REAL,
        "nll_dense": REAL,
        "nll": REAL,
        "top1_changed": REAL,
        "correct": FLAG,
        "finish_reason": TEXT,
        "pass_rate": REAL,
        "difficulty": TEXT,
        "length": TEXT,
    }
)
# by `keep`: no figure reads more of them than their means, which result.json has
NOT_KEPT = ("kl_sum", "nll_dense", "nll", "top1_changed")
HISTORY = pa.schema({"block": WHOLE, "seconds": REAL, "relative_error": REAL})
ORDER = ("task", "problem_id", "repeat")  # of rows, whatever wrote them; sorted ids take less room in `keep`'s files
NAMES_OF_NUMBERS = {"NaN": None, "Infinity": float("inf"), "-Infinity": float("-inf")}  # W&B's JSON


def run_rows(result: Mapping[str, Any], place: str) -> list[dict[str, Any]]:
    """The rows of RUNS of one result, one for each task; KeyError or TypeError where the result is not whole."""
    config, calibration, sparsity = result["config"], result["calibration"] or {}, result["sparsity"]
    if calibration and calibration["source"] is None:
        raise ValueError("what it was calibrated on has no name")
    if calibration and not (abs(config["seed"]) < SEEDS and float(config["seed"]).is_integer()):
        raise ValueError(f"seed {config['seed']} is no whole number below 2**53")
    selects = calibration.get("traces")
    environment, seconds = result.get("environment", {}), result.get("seconds", {})
    about = {
        "study": result["study"],
        "cell": result["cell"],
        "schema_version": result["schema_version"],
        "model": result["model"]["name"],
        "pruner": config["pruner"]["name"],
        "sparsity": sparsity["achieved"],
        "sparsity_target": sparsity.get("target"),
        "pattern": sparsity["pattern"],
        "calibration": calibration.get("source"),
        "difficulty": "-".join(difficulty_labels(config["difficulty"])) or "all",
        "length": "-".join(length_labels(config["length"])) or "all",
        "correctness": config["selection"]["correctness"] if selects else None,
        "token_weights": config["calibration"]["token_weights"] if calibration else None,
        "seed": config["seed"] if calibration else None,
        "budget": config["calibration"].get("tokens") if calibration else None,
        "limit": config.get("limit"),
        "device": environment.get("device"),
        "git": environment.get("git"),
        "config": config_text(config),
        "folder": place,
    }
    about |= {name: calibration.get(name) for name in ("tokens", "sequences", "traces")}
    about |= {name: calibration.get(name) for name in ("mean_trace_tokens", "mean_pass_rate")}
    about |= {f"seconds_{stage}": seconds.get(stage) for stage in STAGES}
    rows = [about | {"task": task} | _metrics(result, task) for task in tasks(result)]
    return [{name: number(row[name]) if RUNS.field(name).type == REAL else row[name] for name in row} for row in rows]


def tasks(result: Mapping[str, Any]) -> list[str]:
    return sorted({name.partition("/")[0] for name in result["metrics"]})


def _metrics(result: Mapping[str, Any], task: str) -> dict[str, Any]:
    pruned = {metric: result["metrics"].get(f"{task}/{metric}") for metric in METRICS}
    dense = {f"dense_{metric}": result["dense_metrics"].get(f"{task}/{metric}") for metric in METRICS}
    return pruned | dense


def number(value: Any) -> float | None:
    """A number as it stands in JSON, where NaN may be null or text."""
    value = NAMES_OF_NUMBERS.get(value, value) if isinstance(value, str) else value
    return None if value is None else float(value)


def config_text(config: Mapping[str, Any]) -> str:
    """The config as JSON that does not depend on where it was kept: sorted keys, whole floats as integers."""
    return json.dumps(_whole(config), sort_keys=True, ensure_ascii=False)


def _whole(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _whole(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_whole(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def options(text: str) -> dict[str, Any]:
    """A config's JSON text as {dotted option: value}; lists are values."""

    def walk(node: Mapping[str, Any], prefix: str) -> Iterable[tuple[str, Any]]:
        for name, value in node.items():
            if isinstance(value, Mapping):
                yield from walk(value, f"{prefix}{name}.")
            else:
                yield f"{prefix}{name}", value

    return dict(walk(json.loads(text), ""))


def table_of(rows: pa.Table | list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    """The columns of the schema, in its order and types, rows by task, problem and repeat.

    Raises ValueError where a column is missing or of another kind. Real numbers and text may be
    missing in places, and columns that only measuring fills, or that `keep` leaves out, may be missing as a whole.
    """
    may_lack, columns = {"relative_error", *NOT_KEPT}, []
    names = set(rows.column_names) if isinstance(rows, pa.Table) else {name for row in rows for name in row}
    for field in schema:
        if field.name not in names and field.name not in may_lack and len(rows):
            raise ValueError(f"no column {field.name}")
        if isinstance(rows, pa.Table) and field.name not in names:
            column = pa.nulls(len(rows), field.type)
        elif isinstance(rows, pa.Table):
            column = rows.column(field.name).cast(field.type)
        else:
            column = _column([row.get(field.name) for row in rows], field.type)
        if column.null_count and field.type in (WHOLE, FLAG):
            raise ValueError(f"column {field.name} has gaps")
        columns.append(column)
    order = [(name, "ascending") for name in ORDER if name in schema.names]
    table = pa.table(columns, schema=schema)
    return table.sort_by(order) if order else table


def _column(values: list[Any], kind: pa.DataType) -> pa.Array:
    if kind == TEXT:
        values = [None if value is None or value != value else str(value) for value in values]  # NaN is none too
    elif kind == REAL:
        values = [number(value) for value in values]
    try:
        return pa.array(values, kind)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise ValueError(str(error)) from error
