"""Questions and completions as text, without torch: only from files that are at hand, the hub is never asked."""

from collections.abc import Collection, Mapping
from dataclasses import fields
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from analysis.load import DiskCell, StoredCell
from ssgr.config import TaskConfig
from ssgr.errors import UserError
from ssgr.evaluation.files import load_evaluation_problems
from ssgr.models.files import BUNDLED_MODEL, local_model
from ssgr.traces.problems import Problem

if TYPE_CHECKING:
    from tokenizers import Tokenizer

BUNDLED = ("tiny_math", "tiny_reasoner")  # the package's own problems and model


class NoText(UserError):
    """Why there is no text, in a few words."""


def asked_problems(evaluation: Mapping[str, Any], task: str) -> dict[str, Problem]:
    """The problems of a task of this evaluation by their ids; empty where they are not at hand."""
    parts = [part for part in (evaluation, *(evaluation.get("also") or [])) if isinstance(part, Mapping)]
    asked = next((part for part in parts if part.get("name") == task), None)
    if asked is None or (task != BUNDLED[0] and asked.get("path") is None):
        return {}
    try:
        config = TaskConfig(**{field.name: asked.get(field.name) for field in fields(TaskConfig)})
        return {problem.problem_id: problem for problem in load_evaluation_problems(config)}
    except (UserError, OSError, TypeError, AttributeError):  # the last two: a config that is not whole
        return {}


def completions(cell: StoredCell, task: str, problem_ids: Collection[str]) -> dict[str, str]:
    """problem_id -> what the pruned model wrote first, exactly as sampled; NoText where that cannot be known."""
    if not isinstance(cell, DiskCell):
        raise NoText("W&B keeps no completions")
    wanted = [("task", "=", task), ("repeat", "=", 0), ("problem_id", "in", list(problem_ids))]
    path = cell.folder / "samples.parquet"
    try:
        if "output_ids" not in pq.read_schema(path).names:
            raise NoText("this copy of the run holds no completions")
        rows = pq.read_table(path, columns=["problem_id", "output_ids"], filters=wanted)
    except (OSError, pa.ArrowException) as error:
        raise NoText("its samples cannot be read") from error
    tokenizer = tokenizer_of(cell.result)
    try:
        return {
            row["problem_id"]: tokenizer.decode(row["output_ids"], skip_special_tokens=False)
            for row in rows.to_pylist()
        }
    except (TypeError, OverflowError) as error:
        raise NoText("its completions are no token ids of this model") from error


def tokenizer_of(result: Mapping[str, Any]) -> "Tokenizer":
    """The tokenizer of a cell's model; NoText where its file is not on this machine."""
    model = result["config"].get("model")
    about = [model.get(name) for name in ("name", "path", "revision")] if isinstance(model, Mapping) else [0]
    is_whole = all(part is None or isinstance(part, str) for part in about)
    file = tokenizer_file(*about) if is_whole else None
    if file is None:
        raise NoText("the model's tokenizer.json is not at hand")
    return read_tokenizer(file)


@lru_cache(maxsize=8)
def tokenizer_file(name: str | None, path: str | None, revision: str | None) -> Path | None:
    if path is None:
        return BUNDLED_MODEL / "tokenizer.json" if name == BUNDLED[1] else None
    folder = local_model(path)
    if folder is not None:
        file = folder / "tokenizer.json"
        return file if file.is_file() else None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(path, "tokenizer.json", revision=revision)
    return Path(found) if isinstance(found, str) else None


@lru_cache(maxsize=8)
def read_tokenizer(file: Path) -> "Tokenizer":
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises nothing narrower
        raise NoText("the model's tokenizer.json cannot be read") from error
