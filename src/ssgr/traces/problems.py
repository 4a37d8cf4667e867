"""Problem sets: questions with gold answers, from the package's own file or from a JSONL file."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from ssgr.cache import content_hash, file_hash
from ssgr.config import ProblemsConfig
from ssgr.errors import UserError

BUNDLED = Path(__file__).parents[1] / "bundled" / "calibration.parquet"
ID_FIELDS = ("problem_id", "unique_id", "id")


@dataclass(frozen=True)
class Problem:
    """One question with its gold answer. `level` counts upwards in difficulty where the data set carries levels."""

    problem_id: str
    question: str
    answer: str
    solution: str | None = None
    level: int | None = None
    family: str | None = None
    subject: str | None = None

    @property
    def content(self) -> str:
        """A hash of question and gold answer: a trace belongs to these, not only to the id."""
        return content_hash([self.question, self.answer])


@dataclass(frozen=True)
class Fields:
    """Which fields of a JSONL row hold what."""

    question: str
    answer: str
    solution: str | None = None
    level: str | None = None
    subject: str | None = None


def load_problems(config: ProblemsConfig) -> list[Problem]:
    """The whole problem set in the file's order.

    Raises UserError, with file and line, for a missing file, malformed JSON, a problem without a question or an
    answer, and ids that occur twice.
    """
    if config.name == "bundled":
        return read_bundled(_problem_file(config))
    if config.name == "jsonl":
        names = (config.question_field, config.answer_field, config.solution_field)
        fields = Fields(*names, config.level_field, config.subject_field)
        return read_problems(_problem_file(config), "problems", fields)
    raise UserError(f"no problem set is named {config.name!r}; choices: bundled, jsonl")


def problems_hash(config: ProblemsConfig) -> str:
    """A hash of the problem file's bytes, for the names of cells; raises UserError where there is no such file."""
    return file_hash(_problem_file(config))


def problem_set(config: ProblemsConfig) -> str:
    """What names the problem set in a store's key: the option, and of a user's file its contents."""
    return config.name if config.path is None else f"{config.name} {problems_hash(config)}"


def read_jsonl(path: str | Path | None, option: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and object of every line that is not blank.

    `option` is the option that named the file, for the messages: UserError for a missing file or a line that is not
    a JSON object in UTF-8.
    """
    path = jsonl_path(path, option)
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode("utf-8-sig"))
            except UnicodeDecodeError:
                raise UserError(f"{path}:{number}: not UTF-8 text") from None
            except (json.JSONDecodeError, RecursionError) as error:
                reason = getattr(error, "msg", "nested too deeply")
                raise UserError(f"{path}:{number}: malformed JSON ({reason})") from None
            if not isinstance(row, dict):
                raise UserError(f"{path}:{number}: a line must be a JSON object, not {type(row).__name__}")
            yield number, row


def jsonl_path(path: str | Path | None, option: str) -> Path:
    """The file that `option` names; UserError where it names none or the file is not there."""
    if path is None:
        raise UserError(f"{option} is not set: it must name a JSONL file")
    path = Path(path).expanduser()
    if not path.is_file():
        raise UserError(f"{option}={path}: no such file")
    return path


def text_field(row: dict[str, Any], field: str, what: str, place: str, option: str) -> str:
    """The row's field as text (numbers too); UserError `<place>: a problem without <what>` where it is empty."""
    value = row.get(field)
    if isinstance(value, bool | dict | list):
        raise UserError(f"{place}: {field!r} must be text or a number, not {type(value).__name__}")
    text = "" if value is None else str(value).strip()
    if not text:
        raise UserError(f"{place}: a problem without {what} ({option}={field!r})")
    return text


def problem_id_of(row: dict[str, Any], question: str) -> str:
    """The row's own id where it has one, else a hash of the question."""
    for field in ID_FIELDS:
        if row.get(field) not in (None, ""):
            return str(row[field])
    return content_hash(question)


def split_answer(answer: str) -> tuple[str, str | None]:
    """GSM8K writes `solution #### answer` into one field: the answer, and the solution where there is one."""
    solution, mark, final = answer.rpartition("####")
    return (final.strip(), solution.strip() or None) if mark else (answer, None)


def _problem_file(config: ProblemsConfig) -> Path:
    if config.name != "bundled":
        return jsonl_path(config.path, "problems.path")
    if not BUNDLED.is_file():
        raise UserError(f"problems=bundled: this installation lacks the package's own {BUNDLED.name}")
    return BUNDLED


def read_bundled(path: Path) -> list[Problem]:
    """The problems of a parquet file that the package ships."""
    names = Problem.__dataclass_fields__
    return [Problem(**{name: row[name] for name in names if name in row}) for row in pq.read_table(path).to_pylist()]


def read_problems(path: Path, group: str, fields: Fields) -> list[Problem]:
    """Every problem of a JSONL file, in its order; `group` is the config group that named it, for the messages.

    Raises UserError, with file and line, for malformed JSON, a problem without a question or an answer, and ids that
    occur twice.
    """
    problems, lines = [], {}
    for number, row in read_jsonl(path, f"{group}.path"):
        place = f"{path}:{number}"
        problem = _from_row(row, group, fields, place)
        first = lines.setdefault(problem.problem_id, number)
        if first != number:
            raise UserError(f"{place}: problem {problem.problem_id!r} stands on line {first} already")
        problems.append(problem)
    if not problems:
        raise UserError(f"{group}.path={path}: no problems in the file")
    return problems


def _from_row(row: dict[str, Any], group: str, fields: Fields, place: str) -> Problem:
    question = text_field(row, fields.question, "a question", place, f"{group}.question_field")
    answer, solution = split_answer(text_field(row, fields.answer, "an answer", place, f"{group}.answer_field"))
    if not answer:
        raise UserError(f"{place}: a problem without an answer (nothing follows ####)")
    if fields.solution is not None:
        solution = str(row.get(fields.solution) or "").strip() or None
    subject = row.get(fields.subject) if fields.subject else None
    return Problem(
        problem_id=problem_id_of(row, question),
        question=question,
        answer=answer,
        solution=solution,
        level=_level(row.get(fields.level), place) if fields.level else None,
        family=None if row.get("family") is None else str(row["family"]),
        subject=None if subject is None else str(subject),
    )


def _level(value: Any, place: str) -> int | None:
    if value in (None, ""):
        return None
    match = re.fullmatch(r"(?:level\s*)?(\d+)(?:\.0)?", str(value).strip(), re.IGNORECASE)
    if match is None:
        # MATH marks the few problems without a level as "Level ?"
        if "?" in str(value):
            return None
        raise UserError(f"{place}: a level must be a whole number, not {value!r}")
    return int(match[1])
