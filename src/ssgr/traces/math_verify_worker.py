"""Run by grading_worker.py as a child process: writes ready, then true or false for each {answer, gold, ...} line.

The timers have no handler, so the system ends this process when one answer takes too long, whatever it computes.
"""

import contextlib
import json
import logging
import os
import resource
import signal
import sys

MEMORY_BYTES = 1 << 30
LARGEST_ERROR = 1e-5  # relative, of a decimal that stands for an exact number


def main() -> None:
    replies = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what a library prints is no reply
    from math_verify import parse

    parse("$1$", parsing_timeout=None)  # its first parse builds tables; no answer should pay for them
    logging.disable(logging.CRITICAL)
    print("ready", file=replies, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        # processor time, so that a busy machine grades as an idle one does; the clock is for what never computes
        signal.setitimer(signal.ITIMER_PROF, request["seconds"])
        signal.setitimer(signal.ITIMER_REAL, 10 * request["seconds"])
        correct = same(request["answer"], request["gold"])
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(json.dumps(correct), file=replies, flush=True)


def same(answer: str, gold: str) -> bool:
    """What math-verify says, without its equalities of small decimals (it rounds to six places: 1e-7 is no 0)."""
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse, verify

    # units are taken off before; here 5m is a product. And a number is not fished out of what cannot be parsed
    normal = NormalizationConfig(units=False, malformed_operators=True, nits=True, boxed="none")
    latex = [LatexExtractionConfig(boxed_match_priority=-1, normalization_config=normal)]
    try:
        golds, answers = (parse(f"${text}$", latex, parsing_timeout=None) for text in (gold, answer))
        if not (golds and answers and verify(golds, answers, timeout_seconds=None, allow_set_relation_comp=True)):
            return False
        return not _far(golds[0], answers[0])
    except Exception:  # of sympy, of any kind: an answer that it cannot compute is wrong
        return False


def _far(gold: object, answer: object) -> bool:
    """Whether two numbers, equal to so many decimal places, are two all the same."""
    from sympy import Expr, Float, simplify

    if not (isinstance(gold, Expr) and isinstance(answer, Expr)) or not (gold.is_number and answer.is_number):
        return False
    if "%" in str(gold) + str(answer) or gold == answer:
        return False
    left, right = gold.evalf(15), answer.evalf(15)
    percents = (left, 100 * left, left / 100)
    if any(abs(scaled - right) <= LARGEST_ERROR * max(abs(scaled), abs(right)) for scaled in percents):
        return False
    return gold.has(Float) or answer.has(Float) or simplify(gold - answer) != 0


if __name__ == "__main__":
    with contextlib.suppress(ValueError, OSError):  # a lower limit may stand already
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    main()
