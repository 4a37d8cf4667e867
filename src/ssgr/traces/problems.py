"""Problem sets: questions with gold answers, from the package, a local file, or a data set of the hub."""

from functools import lru_cache
from pathlib import Path

from ssgr.config import HubDataset, ProblemsConfig
from ssgr.data_files import contents_hash, file_state, read_rows
from ssgr.errors import UserError
from ssgr.hub_data import download_hub, hub_contents, hub_name, placed
from ssgr.traces.problem_rows import (
    Fields,
    Problem,
    jsonl_path,
    mixed,
    problem_id_of,
    read_bundled,
    read_problems,
    split_answer,
    text_field,
    usable_problems,
)

__all__ = [
    "Fields",
    "Problem",
    "jsonl_path",
    "load_problems",
    "problem_id_of",
    "problem_set",
    "problems_hash",
    "read_bundled",
    "read_problems",
    "split_answer",
    "text_field",
]

BUNDLED = Path(__file__).parents[1] / "bundled" / "calibration.parquet"
NAMED_SETS = ("gsm8k_train", "math_train", "openr1_math")  # well known, and known to have flaws
NAMES = ("bundled", "jsonl", *NAMED_SETS)


def load_problems(config: ProblemsConfig) -> list[Problem]:
    """The whole problem set; cheap to ask for again in the same process.

    The well-known sets come in a mixed order that follows from each question, so that a part of one is a sample of it;
    the others in their own.

    problems.path reads a local file, else problems.dataset is downloaded. Raises UserError, with file and row, for a
    missing file, a malformed row, a problem without a question or an answer, and ids that occur twice; of the
    well-known sets, problems without an answer and repeated ones are left out instead, and said. Raises UserError
    too where the hub cannot be reached.
    """
    if config.name not in NAMES:
        raise UserError(f"no problem set is named {config.name!r}; choices: {', '.join(NAMES)}")
    names = (config.question_field, config.answer_field, config.solution_field)
    fields = Fields(*names, config.level_field, config.subject_field)
    path = _problem_file(config)
    if path is not None:
        return list(_from_file(config.name, fields, *file_state(path)))
    return list(_from_hub(config.name, fields, *hub_contents(config.dataset)))


def problems_hash(config: ProblemsConfig) -> str | list[str | None]:
    """For the names of cells: a hash of the problem file's bytes, or what names the hub's data set.

    A well-known set in a file says so beside the hash: jsonl would keep or refuse the flawed rows that it leaves out,
    and keep the file's order.
    Raises UserError where there is no such file.
    """
    path = _problem_file(config)
    if path is None:
        return hub_contents(config.dataset)
    return [contents_hash(path), "flaws left out, mixed"] if config.name in NAMED_SETS else contents_hash(path)


def problem_set(config: ProblemsConfig) -> str:
    """What names the problem set in a store's key: the option, and of a user's file its contents."""
    if config.name == "bundled":
        return config.name
    path = _problem_file(config)
    return f"{config.name} {hub_name(config.dataset) if path is None else contents_hash(path)}"


def _problem_file(config: ProblemsConfig) -> Path | None:
    """None where the hub's data set is meant; UserError where a file is and is not there."""
    if config.name == "bundled":
        if not BUNDLED.is_file():
            raise UserError(f"problems=bundled: this installation lacks the package's own {BUNDLED.name}")
        return BUNDLED
    if config.path is None and config.dataset is not None:
        return None
    return jsonl_path(config.path, "problems.path")


@lru_cache(maxsize=8)  # a study asks for the same set once a cell, and each cell asks several times
def _from_file(name: str, fields: Fields, path: Path, size: int, changed: int) -> tuple[Problem, ...]:
    if name == "bundled":
        return tuple(read_bundled(path))
    if name in NAMED_SETS:
        return tuple(mixed(usable_problems(read_rows(path), name, fields)))
    return tuple(read_problems(path, "problems", fields))


@lru_cache(maxsize=8)
def _from_hub(name: str, fields: Fields, *dataset: str | None) -> tuple[Problem, ...]:
    source = HubDataset(*dataset)
    rows = download_hub(source, "problems.dataset", "problems.path=FILE")
    return tuple(mixed(usable_problems(placed(source, rows), name, fields)))
