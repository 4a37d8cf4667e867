"""All traces of a store graded again by today's grader, part by part."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from ssgr.progress import track
from ssgr.traces import grading_worker
from ssgr.traces.grading import Grade, grade_all
from ssgr.traces.parts import id_arrays, part_files
from ssgr.traces.problems import Problem
from ssgr.traces.prompts import PromptTemplate
from ssgr.traces.store import TraceStore


@dataclass
class Regraded:
    """What a regrading came to. `changed` are the traces whose verdict changed: name, before, after, answer, gold."""

    traces: int = 0
    ungraded: int = 0  # of problems without a gold answer
    other_answers: int = 0  # the same verdict on an answer that is read otherwise
    changed: list[dict[str, Any]] = field(default_factory=list)


def regrade(store: TraceStore, template: PromptTemplate) -> Regraded:
    """Grades every trace that belongs to a problem of the store; the caller holds the store's lock.

    A part in which anything changes is written anew and takes the old one's place; killed in between, the new one
    counts already, and the next regrading removes what is left.
    """
    for path in part_files(store.folder / "traces"):
        if path.name not in store.parts and path not in store.damaged:
            path.unlink()  # a part that was graded again before a kill
    found = Regraded()
    problems = {problem.problem_id: problem for problem in store.problems}
    with track("regrading", len(store.index)) as bar:
        for part in store.parts:
            table = store.table(part)
            golds = _golds(table, problems)
            grades = _grades(table, golds, template)
            if _compare(table, golds, grades, found):
                store.replace(part, _with_grades(table, grades))
            bar.advance(table.num_rows)
    grading_worker.keep_one()
    return found


def _golds(table: pa.Table, problems: dict[str, Problem]) -> list[str | None]:
    """Each row's gold answer; None for rows of a problem that has changed since, or has none."""
    rows = zip(table.column("problem_id").to_pylist(), table.column("content").to_pylist(), strict=True)
    known = ((problems.get(problem_id), content) for problem_id, content in rows)
    return [problem.answer or None if problem and problem.content == content else None for problem, content in known]


def _grades(table: pa.Table, golds: list[str | None], template: PromptTemplate) -> dict[int, Grade]:
    """By row, of the rows with a gold answer."""
    chosen = [row for row, gold in enumerate(golds) if gold is not None]
    outputs, reasons = id_arrays(table, "output_ids"), table.column("finish_reason").to_pylist()

    def rows() -> Iterator[tuple[str, str, str]]:
        for row in chosen:
            yield template.completion_text(outputs[row].tolist()), golds[row], reasons[row]

    return dict(zip(chosen, grade_all(rows(), template.think_end, more_follow=True), strict=True))


def _compare(table: pa.Table, golds: list[str | None], grades: dict[int, Grade], found: Regraded) -> bool:
    """Counts what is new, and returns whether anything is."""
    names = ("problem_id", "rollout", "correct", "answer")
    rows = zip(*(table.column(name).to_pylist() for name in names), strict=True)
    changed = False
    for row, (problem_id, rollout, correct, answer) in enumerate(rows):
        grade = grades.get(row)
        found.traces += 1
        if grade is None:
            found.ungraded += 1
        elif grade.correct != correct:
            name = f"{problem_id}/{rollout}"
            verdicts = {"before": correct, "after": grade.correct}
            found.changed.append({"trace": name} | verdicts | {"answer": grade.answer, "gold": golds[row]})
            changed = True
        elif grade.answer != answer:
            found.other_answers += 1
            changed = True
    return changed


def _with_grades(table: pa.Table, grades: dict[int, Grade]) -> pa.Table:
    """The rows with today's `correct` and `answer`; those that were not graded keep what they had."""
    for name in ("correct", "answer"):
        values = np.array(table.column(name).to_pylist(), dtype=object)
        for row, grade in grades.items():
            values[row] = getattr(grade, name)
        column = pa.array(values.tolist(), table.schema.field(name).type)
        table = table.set_column(table.schema.get_field_index(name), table.schema.field(name), column)
    return table
