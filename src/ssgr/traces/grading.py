"""Is a completion right? Its boxed answer against the gold one: as strings, words and numbers, else by math-verify."""

import operator
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache

from ssgr.progress import Bar, track
from ssgr.traces import grading_worker
from ssgr.traces.answers import MAX_ANSWER_CHARS, extract_answer
from ssgr.traces.grading_text import decide, mathematics
from ssgr.traces.prompts import answer_text

PAIRS_PER_WORKER = 50  # a second worker starts as long as it takes to check so many


@dataclass(frozen=True)
class Grade:
    """`answer` is what the completion gave as its answer, None where it gave none or never finished."""

    correct: bool
    answer: str | None


def grade(completion_text: str, gold: str, think_end: str | None, finish_reason: str) -> Grade:
    """Grades one completion; safe in any thread and in forked processes.

    A truncated or looping completion (finish_reason other than `stop`) is never correct. Where the model has a tag
    that ends its reasoning, only what follows it counts. An answer of more than 1,000 characters is wrong.
    """
    answer = _answer(completion_text, think_end, finish_reason)
    if answer is None or len(answer) > MAX_ANSWER_CHARS:
        return Grade(False, answer and answer[:MAX_ANSWER_CHARS])
    return Grade(equivalent(answer, gold), answer)


def grade_all(
    rows: Iterable[tuple[str, str, str]], think_end: str | None, workers: int | None = None, more_follow: bool = False
) -> list[Grade]:
    """`grade` of each (completion text, gold answer, finish reason), in their order.

    Each pair of answers that needs math-verify is checked once, by up to `workers` child processes at a time (as many
    as there are processors by default). Rows are read once and their texts are not kept. more_follow=True is for a
    batch of many: it shows no bar of its own, and its child processes wait for the next (end them by keep_one).
    """
    grades: list[Grade | None] = []
    waiting: dict[tuple[str, str], list[int]] = {}
    total = operator.length_hint(rows)
    with nullcontext(Bar("grading", total, None)) if more_follow else track("grading", total) as bar:
        for completion_text, gold, finish_reason in rows:
            answer = _answer(completion_text, think_end, finish_reason)
            known = answer is not None and len(answer) <= MAX_ANSWER_CHARS
            verdict = decide(answer, gold) if known else False
            if verdict is None:
                waiting.setdefault((answer, gold), []).append(len(grades))
            else:
                bar.advance()
            grades.append(None if verdict is None else Grade(verdict, answer and answer[:MAX_ANSWER_CHARS]))
        workers = max(1, min(workers or grading_worker.cores(), -(-len(waiting) // PAIRS_PER_WORKER)))
        with ThreadPoolExecutor(workers) if waiting else nullcontext() as pool:
            verdicts = pool.map(lambda pair: equivalent(*pair), waiting) if waiting else ()
            for pair, verdict in zip(waiting, verdicts, strict=True):
                for row in waiting[pair]:
                    grades[row] = Grade(verdict, pair[0])
                bar.advance(len(waiting[pair]))
    if not more_follow:
        grading_worker.keep_one()
    return grades


@lru_cache(maxsize=1 << 14)
def equivalent(answer: str, gold: str) -> bool:
    """Whether two answers are the same; wrong where that cannot be told within the worker's limits."""
    verdict = decide(answer, gold)
    return grading_worker.verify(*mathematics(answer, gold)) if verdict is None else verdict


def _answer(completion_text: str, think_end: str | None, finish_reason: str) -> str | None:
    if finish_reason != "stop":
        return None
    text = answer_text(completion_text, think_end)
    return None if text is None else extract_answer(text)
