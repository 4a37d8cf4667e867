"""The Python side of the YAML tasks: problems as lm-eval documents, and grading of all k completions of one."""

from dataclasses import asdict
from typing import Any

from datasets import Dataset

from ssgr.config import EvaluationConfig
from ssgr.evaluation.files import load_evaluation_problems
from ssgr.traces.grading import grade


def documents(evaluation: EvaluationConfig, **_: Any) -> dict[str, Dataset]:
    """The task's data set, in memory; `evaluation` comes through the task manager's metadata."""
    return {"test": Dataset.from_list([asdict(problem) for problem in load_evaluation_problems(evaluation)])}


def question(document: dict[str, Any]) -> str:
    return document["question"]


def answer(document: dict[str, Any]) -> str:
    return document["answer"]


def keep_all(responses: list[list[str]], documents: list[dict[str, Any]]) -> list[list[str]]:
    """The filter that lm-eval lacks: its own default keeps the first of k repeats."""
    return responses


def score(document: dict[str, Any], responses: list[list[str]]) -> dict[str, float]:
    """avg@k of one problem. A completion that carries its grade (they are graded as they are stored) keeps it."""
    (completions,) = responses
    correct = [_is_correct(completion, document["answer"]) for completion in completions]
    return {"accuracy": sum(correct) / len(correct)}


def _is_correct(completion: str, gold: str) -> bool:
    carried = getattr(completion, "correct", None)
    return grade(completion, gold, None, "stop").correct if carried is None else carried
