"""Problems from rows of any kind: JSON lines, parquet, a data set of the hub; and from the package's own files."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from ssgr.cache import content_hash
from ssgr.data_files import Row, existing_file, read_rows
from ssgr.errors import UserError
from ssgr.progress import say
from ssgr.traces.answers import last_boxed

ID_FIELDS = ("problem_id", "unique_id", "id", "uuid")
NAMED_ROWS = 3  # places of left-out rows that are said


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
    """Which fields of a row hold what. Without an answer field it is `answer`, else the last box of the solution."""

    question: str
    answer: str | None
    solution: str | None = None
    level: str | None = None
    subject: str | None = None


class NoAnswer(UserError):
    """A row whose answer is empty."""


def jsonl_path(path: str | Path | None, option: str) -> Path:
    """The file that `option` names; UserError where it names none or the file is not there."""
    if path is None:
        raise UserError(f"{option} is not set: it must name a JSONL file")
    return existing_file(path, option)


def read_bundled(path: Path) -> list[Problem]:
    """The problems of a parquet file that the package ships."""
    names = Problem.__dataclass_fields__
    return [Problem(**{name: row[name] for name in names if name in row}) for row in pq.read_table(path).to_pylist()]


def read_problems(path: Path, group: str, fields: Fields) -> list[Problem]:
    """Every problem of a file of JSON lines or parquet, in its order; `group` is the config group that named it.

    Raises UserError, with file and row, for malformed rows, a problem without a question or an answer, and ids that
    occur twice.
    """
    problems, places = [], {}
    for place, row in read_rows(jsonl_path(path, f"{group}.path")):
        problem = problem_of(row, group, fields, place)
        first = places.setdefault(problem.problem_id, place)
        if first != place:
            raise UserError(f"{place}: problem {problem.problem_id!r} stands on {_row_of(first)} already")
        problems.append(problem)
    if not problems:
        raise UserError(f"{group}.path={path}: no problems in the file")
    return problems


def usable_problems(rows: Iterable[Row], name: str, fields: Fields, group: str = "problems") -> list[Problem]:
    """The problems of a well-known set, whose own flaws are no fault of the user's: they are left out, and said.

    Left out are rows without an answer, and rows whose id or question stood there before. `group` is the config group
    that named the set. Raises UserError, with the row's place, for anything else that is wrong with a row, and where
    no problem is left.
    """
    problems, ids, questions = [], set(), set()
    unanswered: list[str] = []
    repeated: list[str] = []
    for place, row in rows:
        try:
            problem = problem_of(row, group, fields, place)
        except NoAnswer:
            unanswered.append(place)
            continue
        if problem.problem_id in ids or problem.question in questions:
            repeated.append(place)
            continue
        ids.add(problem.problem_id)
        questions.add(problem.question)
        problems.append(problem)
    for places, flaw in ((unanswered, "without an answer"), (repeated, "that repeat an earlier one")):
        if places:
            more = ", …" if len(places) > NAMED_ROWS else ""
            say(f"{group}={name}: {len(places):,} problems {flaw} are left out ({_rows_of(places)}{more})")
    if not problems:
        raise UserError(f"{group}={name}: no row has an answer ({group}.answer_field={fields.answer or 'null'})")
    return problems


def mixed(problems: Iterable[Problem]) -> list[Problem]:
    """In an order that follows from each question alone, as any order that has nothing to do with what is asked.

    MATH comes sorted by subject: its first thousand problems are algebra, and so would be all rollouts.
    """
    return sorted(problems, key=lambda problem: content_hash(problem.question))


def problem_of(row: dict[str, Any], group: str, fields: Fields, place: str) -> Problem:
    """The row as a problem; UserError, with its place, where it is none (NoAnswer where only the answer is empty)."""
    question = text_field(row, fields.question, "a question", place, f"{group}.question_field")
    solution = str(row.get(fields.solution) or "").strip() or None if fields.solution is not None else None
    answer, before = split_answer(_answer(row, solution, group, fields, place))
    if not answer:
        raise NoAnswer(f"{place}: a problem without an answer (nothing follows ####)")
    # where the named field is another data set's, its usual name may do
    subject = row.get(fields.subject, row.get("subject")) if fields.subject else None
    return Problem(
        problem_id=problem_id_of(row, question),
        question=question,
        answer=answer,
        solution=solution if fields.solution is not None else before,
        level=_level(row.get(fields.level), place) if fields.level else None,
        family=None if row.get("family") is None else str(row["family"]),
        subject=None if subject is None else str(subject),
    )


def text_field(
    row: dict[str, Any], field: str, what: str, place: str, option: str, empty: type[UserError] = UserError
) -> str:
    """The row's field as text (numbers too); UserError `<place>: a problem without <what>` where it is empty."""
    value = row.get(field)
    if isinstance(value, bool | dict | list):
        raise UserError(f"{place}: {field!r} must be text or a number, not {type(value).__name__}")
    text = "" if value is None else str(value).strip()
    if not text:
        raise empty(f"{place}: a problem without {what} ({option}={field!r})")
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


def _answer(row: dict[str, Any], solution: str | None, group: str, fields: Fields, place: str) -> str:
    option = f"{group}.answer_field"
    if fields.answer is not None:
        return text_field(row, fields.answer, "an answer", place, option, NoAnswer)
    if row.get("answer") not in (None, ""):
        return text_field(row, "answer", "an answer", place, option, NoAnswer)
    boxed = (last_boxed(solution or "") or "").strip()
    if not boxed:
        raise NoAnswer(f"{place}: a problem without an answer ({option}=null, and its solution has no box)")
    return boxed


def _row_of(place: str) -> str:
    """`line 3` or `row 3` of a place."""
    _, _, line = place.rpartition(":")
    return f"line {line}" if line.isdigit() else f"row {place.rpartition(' ')[2]}"


def _rows_of(places: list[str]) -> str:
    """`lines 3, 5` or `rows 3, 5` of the first places."""
    kinds, numbers = zip(*(_row_of(place).split() for place in places[:NAMED_ROWS]), strict=True)
    return f"{kinds[0]}{'s' * (len(places) > 1)} {', '.join(numbers)}"


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
