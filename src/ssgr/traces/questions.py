"""Questions and gold answers for traces from outside, also for those that come without the name of their problem."""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from ssgr.data_files import existing_file, read_rows
from ssgr.errors import UserError
from ssgr.progress import say
from ssgr.traces.problem_rows import Fields, NoAnswer, Problem, problem_of

KEY = 24  # characters of a question that are looked up; shorter questions are searched for one by one


class Questions:
    """Finds questions in prompts by their beginnings: one look-up per character, however many problems there are."""

    def __init__(self, problems: Iterable[Problem]):
        self._by_key: dict[str, list[Problem]] = defaultdict(list)
        self._short: list[Problem] = []
        for problem in problems:
            question = problem.question.strip()
            if len(question) >= KEY:
                self._by_key[question[:KEY]].append(problem)
            elif question:
                self._short.append(problem)

    def find(self, prompt: str) -> Problem | None:
        """The problem whose question stands in the prompt: the longest one where there are several."""
        found = [problem for problem in self._short if problem.question.strip() in prompt]
        for start in range(len(prompt) - KEY + 1):
            for problem in self._by_key.get(prompt[start : start + KEY], ()):
                if prompt.startswith(problem.question.strip(), start):
                    found.append(problem)
        return max(found, key=lambda problem: len(problem.question), default=None)


def read_questions(path: Path, fields: Fields) -> dict[str, Problem]:
    """The problems of a file of JSON lines or parquet by id; those without an answer are left out, and said.

    Raises UserError, with --problems and the row, for malformed rows and for an id that occurs twice.
    """
    problems: dict[str, Problem] = {}
    unanswered = []
    try:
        for place, row in read_rows(existing_file(path, "FILE")):
            try:
                problem = problem_of(row, "problems", fields, place)
            except NoAnswer:
                unanswered.append(place)
                continue
            if problems.setdefault(problem.problem_id, problem) is not problem:
                raise UserError(f"{place}: problem {problem.problem_id!r} stands there twice")
    except UserError as error:
        raise UserError(f"--problems: {_own_options(str(error))}") from None
    if unanswered:
        say(f"--problems: {len(unanswered):,} without an answer are left out (the first: {unanswered[0]})")
    return problems


def _own_options(message: str) -> str:
    """problems.answer_field and the like as the command line calls them."""
    for name in ("question", "answer", "solution", "level", "subject"):
        message = message.replace(f"problems.{name}_field", f"--{name}-field")
    return message
