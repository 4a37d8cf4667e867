"""The well-known problem sets that a model is evaluated on, from local files or the hub, as problems in our order."""

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from ssgr.cache import content_hash
from ssgr.config import HubDataset
from ssgr.data_files import Row, read_rows
from ssgr.hub_data import download_hub, placed
from ssgr.progress import say
from ssgr.traces.problem_rows import Fields, Problem, text_field, usable_problems

QUESTIONS = ("problem", "question")  # what a question's field is usually called
WRONG_CHOICES = ("Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")  # GPQA's columns, as is Record ID
LETTERS = "ABCD"
OVERRIDE = "evaluation.path=FILE"


def from_files(name: str, fields: Fields, files: Sequence[Path]) -> list[Problem]:
    """The problems of all files, one file after another; MATH's, which come sorted by subject, mixed in each.

    Raises UserError, with the row's place, for what cannot be read; flaws of the set itself are left out and said.
    """
    parts = map(read_rows, files)
    if name == "math":
        parts = (_mixed(part, fields) for part in parts)
    return _problems(name, fields, chain.from_iterable(parts))


def from_hub(name: str, fields: Fields, contents: Sequence[str | None]) -> list[Problem]:
    """The problems of a hub's data set, named by id, config, split and revision.

    Where four more such values follow, that data set's problems come first and are not taken from the other one again;
    each of the two is mixed.
    Raises UserError, one line that names the local way out, where the hub cannot be reached.
    """
    dataset, first = HubDataset(*contents[:4]), contents[4:]
    rows = _hub_rows(dataset)
    if first:
        head = list(_hub_rows(HubDataset(*first)))
        rows = _head_first(head, list(rows), fields, name)
    return _problems(name, fields, rows)


def _hub_rows(dataset: HubDataset) -> Iterator[Row]:
    return placed(dataset, download_hub(dataset, "evaluation.dataset", OVERRIDE))


def _head_first(head: list[Row], rows: list[Row], fields: Fields, name: str) -> list[Row]:
    """The head, then the rows whose question is not in it: two copies of a set differ in white space."""
    asked = {_letters(row, fields) for _, row in head}
    others = [row for row in rows if _letters(row[1], fields) not in asked]
    found = len(rows) - len(others)
    if found < len(asked):
        say(f"evaluation={name}: {len(asked) - found:,} of the first {len(head):,} problems are not in the whole set")
    return _mixed(head, fields) + _mixed(others, fields)


def _mixed(rows: Iterable[Row], fields: Fields) -> list[Row]:
    """In an order that follows from each question alone, so that the first N problems are of every subject."""
    return sorted(rows, key=lambda row: content_hash(_letters(row[1], fields)))


def _letters(row: dict[str, Any], fields: Fields) -> str:
    return re.sub(r"\s+", "", str(_with_question(row, fields).get(fields.question)))


def _problems(name: str, fields: Fields, rows: Iterable[Row]) -> list[Problem]:
    named = ((place, _with_question(row, fields)) for place, row in rows)
    if name != "gpqa_diamond":
        return usable_problems(named, name, fields, "evaluation")
    chosen = ((place, _with_choices(row, fields, place)) for place, row in named)
    return usable_problems(chosen, name, Fields("question", "answer"), "evaluation")


def _with_question(row: dict[str, Any], fields: Fields) -> dict[str, Any]:
    """Copies of the same set call the question by another name."""
    usual = next((field for field in QUESTIONS if field in row), None)
    if fields.question in row or usual is None:
        return row
    return row | {fields.question: row[usual]}


def _with_choices(row: dict[str, Any], fields: Fields, place: str) -> dict[str, Any]:
    """A row of GPQA as a question with four choices, A) to D), and the letter of the right one.

    Their order follows from the problem's id and the choices' texts alone, not from where they stand.
    """
    question = text_field(row, fields.question, "a question", place, "evaluation.question_field")
    right = text_field(row, fields.answer, "an answer", place, "evaluation.answer_field")
    wrong = [text_field(row, field, f"a field {field!r}", place, "its fields are GPQA's") for field in WRONG_CHOICES]
    problem_id = str(row.get("Record ID") or content_hash(question))
    choices = sorted([right, *wrong], key=lambda choice: content_hash([problem_id, choice], 64))
    listed = "\n".join(f"{letter}) {choice}" for letter, choice in zip(LETTERS, choices, strict=True))
    return {
        "problem_id": problem_id,
        "question": f"{question}\n\n{listed}",
        "answer": LETTERS[choices.index(right)],
        "subject": row.get("High-level domain"),
    }
