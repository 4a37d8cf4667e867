"""Calibration problems that an evaluation also asks: those that share eight words in a row with one of its problems."""

import unicodedata
from functools import lru_cache

from ssgr.traces.problems import Problem

GRAM = 8  # words, as open-r1's decontamination has it


@lru_cache(maxsize=4)  # every cell of a study asks the same
def contaminated(problems: tuple[Problem, ...], evaluation: tuple[Problem, ...]) -> tuple[bool, ...]:
    """Whether each problem's question shares an 8-gram of words with any question of `evaluation`.

    Words are what stands between spaces, in lower case. A question of fewer than eight words counts as one gram.
    """
    asked = {gram for problem in evaluation for gram in _grams(problem.question)}
    return tuple(not asked.isdisjoint(_grams(problem.question)) for problem in problems)


def _grams(text: str) -> set[tuple[str, ...]]:
    words = unicodedata.normalize("NFKC", text).lower().split()
    return {tuple(words[i : i + GRAM]) for i in range(max(len(words) - GRAM + 1, 1))}
