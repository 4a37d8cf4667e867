"""Traces from files or from another store as a store of their own, batch by batch, with every id as it was."""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

from ssgr.cache import file_hash, write_json
from ssgr.errors import UserError
from ssgr.progress import Bar, track
from ssgr.traces import grading_worker
from ssgr.traces.grading import Grade, grade_all
from ssgr.traces.incoming import Incoming, checked_row, prompt_name, raw_rows, row_files, rows_in, table_rows
from ssgr.traces.interchange import described, manifest_beside
from ssgr.traces.kept import KEPT, kept_manifest, kept_rows
from ssgr.traces.parts import part_files
from ssgr.traces.problems import Problem
from ssgr.traces.prompts import PromptTemplate
from ssgr.traces.questions import Questions
from ssgr.traces.store import Trace, TraceStore

PART_ROWS = 1024


@dataclass(frozen=True)
class Reading:
    """How rows become traces.

    `problems` gives questions and gold answers by id (None: the source's own); `template` decodes ids (None: there is
    no tokenizer, and nothing can be graded); `grade` puts our grader's verdict in the place of the source's.
    """

    problems: dict[str, Problem] | None = None
    template: PromptTemplate | None = None
    tokenizer: str | None = None
    think_end: str | None = None
    grade: bool = False


@dataclass
class Agreement:
    """Our grader beside a column of verdicts: how many rows by (theirs, ours), and each on which they differ."""

    counts: dict[tuple[bool | None, bool], int] = field(default_factory=dict)
    differences: list[dict[str, Any]] = field(default_factory=list)

    def add(self, row: Incoming, name: str, found: Grade, gold: str) -> None:
        pair = (row.correct, found.correct)
        self.counts[pair] = self.counts.get(pair, 0) + 1
        if row.correct is not None and row.correct != found.correct:
            answers = {"answer": found.answer, "gold": gold, "their_answer": row.answer}
            self.differences.append({"trace": name, "theirs": row.correct, "ours": found.correct} | answers)


@dataclass
class Imported:
    """What an import came to. `unmatched`: rows of no known question, which were left ungraded."""

    traces: int = 0
    graded: int = 0
    unmatched: int = 0
    agreement: Agreement = field(default_factory=Agreement)


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A folder that becomes `target` when the block ends without an error; the caller holds the target's lock.

    UserError where the target holds something already.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target} is there already: name a folder that is new or empty")
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        yield partial
        if target.exists():
            target.rmdir()
        os.rename(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def import_traces(source: Path, target: Path, reading: Reading) -> Imported:
    """Makes `target`, whole or not at all, from files of rows, a store or a kept file; the caller holds its lock.

    Raises UserError, with file and row, for the first row that is broken, whose problem is unknown, or that stands
    there twice; for a kept file without problems or template, and for grading where not all ids were kept.
    """
    theirs = TraceStore.open(source) if (source / "manifest.json").is_file() else None
    if theirs is not None and theirs.damage:
        raise UserError(theirs.damage)
    if theirs is not None and reading.problems is None:
        reading = replace(reading, problems={problem.problem_id: problem for problem in theirs.problems})
    kept = kept_manifest(source)
    made = dict(theirs.manifest) if theirs is not None else kept or manifest_beside(source)
    if kept and not (reading.problems and reading.template):
        raise UserError(f"{source} keeps no prompts: --problems FILE and --tokenizer DIR write them again")
    if reading.grade and made.get(KEPT):
        raise UserError(f"--grade: {source} keeps the ids of its correct traces alone, so that only they could change")
    made |= {"imported": contents_of(source)}
    made |= {"path": reading.tokenizer} if reading.tokenizer else {}
    made |= {"think_end": reading.think_end} if reading.think_end or theirs is None else {}
    longest = (made.get("sampling") or {}).get("max_new_tokens")
    if kept:
        checked = kept_rows(source, reading.problems, reading.template)
    elif theirs is not None:
        checked = (replace(checked_row(place, row), tokens=row["tokens"]) for place, row in _stored_rows(theirs))
    else:
        checked = (checked_row(place, row, longest) for place, row in raw_rows(source))
    total = len(theirs.index) if theirs is not None else rows_in(source)
    found = Imported()
    with new_folder(target) as folder, track("importing", total) as bar:
        store = TraceStore.open(folder, made)
        importer = _Importer(store, reading, found, bar)
        while batch := list(islice(checked, PART_ROWS)):
            importer.add(batch)
        if not found.traces:
            raise UserError(f"{source}: no trace in it")
        if importer.sglang:
            write_json(folder / "manifest.json", described(made))
        grading_worker.keep_one()
    return found


def contents_of(path: Path) -> list[str]:
    """What names the contents of a store, or of what `import` reads; UserError where there is nothing of either."""
    path = Path(path).expanduser()
    if (path / "manifest.json").is_file():
        problems = path / "problems.parquet"
        return [*(part.name for part in part_files(path / "traces")), file_hash(problems) if problems.is_file() else ""]
    return [file_hash(file) for file in row_files(path)]


class _Importer:
    """Turns checked rows into traces of a store, and remembers what it has seen."""

    def __init__(self, store: TraceStore, reading: Reading, found: Imported, bar: Bar):
        self.store, self.reading, self.found, self.bar = store, reading, found, bar
        self.places: dict[tuple[str, int], str] = {}
        self.rollouts: dict[str, int] = {}  # of problems whose rows count none themselves
        self.names: dict[str, str] = {}
        self.problems: dict[str, Problem] = {}
        self.sglang = False
        self.questions = Questions(reading.problems.values()) if reading.problems and reading.template else None

    def add(self, rows: Sequence[Incoming]) -> None:
        placed = [self._placed(row) for row in rows]
        self.store.set_problems(self.problems[problem_id] for problem_id, _ in placed)
        grades = self._grades(rows, placed)
        traces = []
        for row, (problem_id, rollout), grade in zip(rows, placed, grades, strict=True):
            verdict = (row.correct, row.answer) if grade is None else (grade.correct, grade.answer)
            ids = (row.prompt_ids, row.output_ids)
            text = self._kept_text(row)
            traces.append(Trace(problem_id, rollout, *ids, row.finish_reason, *verdict, text, row.tokens))
        self.store.append(traces)
        self.found.traces += len(traces)
        self.bar.advance(len(traces))

    def _placed(self, row: Incoming) -> tuple[str, int]:
        """Problem id and rollout of a row; the problem is known from here on."""
        if row.problem_id is None:
            self.sglang = True
            problem_id = self._matched(row)
            rollout = self.rollouts.get(problem_id, 0)
            self.rollouts[problem_id] = rollout + 1
        else:
            problem_id, rollout = row.problem_id, row.rollout
            if problem_id not in self.problems:
                self.problems[problem_id] = self._problem(row)
        first = self.places.setdefault((problem_id, rollout), row.place)
        if first is not row.place:
            raise UserError(f"{row.place}: rollout {rollout} of problem {problem_id!r} stands in {first} already")
        return problem_id, rollout

    def _problem(self, row: Incoming) -> Problem:
        known = self.reading.problems
        if known is None:
            return Problem(row.problem_id, self._prompt_text(row), "")
        if row.problem_id not in known:
            raise UserError(f"{row.place}: problem {row.problem_id!r} is not among the {len(known):,} problems")
        return known[row.problem_id]

    def _matched(self, row: Incoming) -> str:
        """The id of the problem whose question stands in the prompt, else a name made of the prompt's ids."""
        name = prompt_name(row.prompt_ids)
        if name not in self.names:
            if self.reading.problems and self.reading.template is None:
                raise UserError(f"{row.place}: the question of such a row stands in its prompt: --tokenizer decodes it")
            prompt = self._prompt_text(row)
            problem = (self.questions.find(prompt) if self.questions else None) or Problem(name, prompt, "")
            self.names[name] = problem.problem_id
            self.problems[problem.problem_id] = problem
        return self.names[name]

    def _prompt_text(self, row: Incoming) -> str:
        template = self.reading.template
        return template.tokenizer.decode(row.prompt_ids.tolist()) if template else ""

    def _grades(self, rows: Sequence[Incoming], placed: Sequence[tuple[str, int]]) -> list[Grade | None]:
        """Of the rows that are to be graded and whose problem has an answer; None of the others."""
        golds = [self.problems[problem_id].answer for problem_id, _ in placed]
        wanted = [bool(gold) and self._judges(row) for row, gold in zip(rows, golds, strict=True)]
        self.found.unmatched += sum(not gold for gold in golds)
        chosen = [(row, gold) for row, gold, graded in zip(rows, golds, wanted, strict=True) if graded]
        template = self.reading.template
        texts = ((template.completion_text(row.output_ids.tolist()), gold, row.finish_reason) for row, gold in chosen)
        graded = iter(grade_all(texts, template.think_end, more_follow=True)) if chosen else iter(())
        grades = [next(graded) if wants else None for wants in wanted]
        for row, (problem_id, rollout), gold, grade in zip(rows, placed, golds, grades, strict=True):
            if grade is not None:
                self.found.graded += 1
                self.found.agreement.add(row, f"{problem_id}/{rollout}", grade, gold)
        return grades

    def _judges(self, row: Incoming) -> bool:
        """SGLang's rows bring no verdict: they are graded wherever their question is known."""
        return self.reading.grade or row.problem_id is None

    def _kept_text(self, row: Incoming) -> str | None:
        """The text that came with a row, unless the tokenizer makes the same one again."""
        if row.text is None or self.reading.template is None:
            return row.text
        ids = [*row.prompt_ids.tolist(), *row.output_ids.tolist()]
        return None if self.reading.template.tokenizer.decode(ids) == row.text else row.text


def _stored_rows(store: TraceStore) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows in use of every part, in the order in which they were written."""
    rows = {part: group["row"].to_numpy() for part, group in store.index.groupby("part")}
    tables = (store.table(part).take(rows[part]) for part in store.parts if part in rows)
    names = (part for part in store.parts if part in rows)
    return chain.from_iterable(table_rows(table, name) for name, table in zip(names, tables, strict=True))
