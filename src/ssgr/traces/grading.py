"""Is a completion right? Its boxed answer against the gold one: as strings, as numbers, else by math-verify.

math-verify (sympy) can take for ever on an answer such as 9^{9^{9^9}}, and its own time limit, a signal handler,
works neither outside the main thread nor inside one long multiplication. So it runs in a child process that the
system ends after ANSWER_SECONDS; an answer that costs more is wrong.
"""

import atexit
import json
import os
import re
import subprocess
import sys
import threading
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

from ssgr.traces.prompts import answer_text

MAX_ANSWER_CHARS = 1_000
ANSWER_SECONDS = 3

_WORKER = Path(__file__).with_name("math_verify_worker.py")
_NUMBER = r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+"
_PLAIN_NUMBER = re.compile(rf"[+-]?(?:{_NUMBER})")
_RATIO = re.compile(r"(?P<sign>[+-]?)(?:(?P<a>\d+)/(?P<b>\d+)|\\frac\{(?P<c>\d+)\}\{(?P<d>\d+)\})")
_LAST_NUMBER = re.compile(rf"(?<![\w.])[+-]?(?:{_NUMBER})(?:/\d+)?")
_STATED = re.compile(r"(?:answer\s*(?:is|:|=)|####)[\s:*]*([^\n]+)", re.IGNORECASE)
_QUANTITY = re.compile(rf"\\?\$?([+-]?(?:{_NUMBER})(?:/\d+)?)\s+[A-Za-z]")
_WRAPPER = re.compile(r"\\(?:text|textbf|mathrm|mathbf|mbox)\s*\{([^{}]*)\}")
_DROPPED = re.compile(r"\\left(?![a-z])|\\right(?![a-z])|\\[!,;: ]|\\\$|\^\{?\\circ\}?|[\s$]")


@dataclass(frozen=True)
class Grade:
    """`answer` is what the completion gave as its answer, None where it gave none or never finished."""

    correct: bool
    answer: str | None


def grade(completion_text: str, gold: str, think_end: str | None, finish_reason: str) -> Grade:
    """Grades one completion; safe in any thread.

    A truncated or looping completion (finish_reason other than `stop`) is never correct. Where the model has a tag
    that ends its reasoning, only what follows it counts. An answer of more than 1,000 characters is wrong.
    """
    if finish_reason != "stop":
        return Grade(False, None)
    text = answer_text(completion_text, think_end)
    answer = None if text is None else extract_answer(text)
    if answer is None:
        return Grade(False, None)
    if len(answer) > MAX_ANSWER_CHARS:
        return Grade(False, answer[:MAX_ANSWER_CHARS])
    return Grade(equivalent(answer, gold), answer)


def extract_answer(text: str) -> str | None:
    """The last boxed answer; without a box the last one that is stated as such; without that the last number."""
    boxed = last_boxed(text)
    if boxed is not None:
        return boxed.strip() or None
    stated = _STATED.findall(text)
    if stated:
        answer = stated[-1].strip().rstrip(".*").strip()
        quantity = _QUANTITY.match(answer)
        return quantity[1] if quantity else answer or None
    numbers = _LAST_NUMBER.findall(text)
    return numbers[-1] if numbers else None


def last_boxed(text: str) -> str | None:
    r"""The content of the last \boxed{...} whose braces balance (escaped braces are not braces)."""
    end = len(text)
    while (start := text.rfind("\\boxed{", 0, end)) >= 0:
        first = start + len("\\boxed{")
        depth = 1
        # the limit keeps hostile text linear: a longer answer is wrong anyway
        for match in re.compile(r"\\.|[{}]", re.DOTALL).finditer(text, first, first + 4 * MAX_ANSWER_CHARS):
            depth += {"{": 1, "}": -1}.get(match[0], 0)
            if depth == 0:
                return text[first : match.start()]
        end = start
    return None


@lru_cache(maxsize=1 << 16)
def equivalent(answer: str, gold: str) -> bool:
    """Whether two answers are the same mathematical object; wrong where that cannot be told in ANSWER_SECONDS."""
    left, right = _normalised(answer), _normalised(gold)
    if left == right:
        return bool(left)
    exact_left, exact_right = _exact(left), _exact(right)
    if exact_left is not None and exact_right is not None:
        if exact_left == exact_right:
            return True
        if "." not in left + right:  # a rounded decimal may still do
            return False
    return _worker.verify(answer, gold)


def _normalised(answer: str) -> str:
    text = answer.strip().removesuffix(".").replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac")
    text = text.removeprefix("\\(").removesuffix("\\)")
    text = _DROPPED.sub("", _WRAPPER.sub(r"\1", text))
    return text.replace("\\%", "%").replace("{,}", ",").replace("−", "-")


def _exact(text: str) -> Fraction | None:
    """The number that the text writes exactly, None for anything but a plain number or ratio of whole numbers."""
    if _PLAIN_NUMBER.fullmatch(text):
        return Fraction(text.replace(",", ""))
    match = _RATIO.fullmatch(text)
    if match is None:
        return None
    above, below = match["a"] or match["c"], int(match["b"] or match["d"])
    return Fraction(int(match["sign"] + above), below) if below else None


class _Worker:
    """The child process that runs math-verify; started at the first need, and again after it was ended."""

    def __init__(self):
        self._process: subprocess.Popen | None = None
        self._owner = 0
        self._lock = threading.Lock()

    def verify(self, answer: str, gold: str) -> bool:
        request = json.dumps({"answer": answer, "gold": gold, "seconds": ANSWER_SECONDS}) + "\n"
        reply = ""
        with self._lock:
            try:
                process = self._running()
                process.stdin.write(request)
                process.stdin.flush()
                reply = process.stdout.readline()
            except BrokenPipeError:
                pass
            finally:
                if not reply:  # ended by its alarm, or interrupted here: its reply must not answer the next request
                    self.close()
        return reply.strip() == "true"

    def _running(self) -> subprocess.Popen:
        # a forked child must not talk through its parent's pipes
        if self._process is None or self._owner != os.getpid() or self._process.poll() is not None:
            command = [sys.executable, "-P", str(_WORKER)]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
            self._process, self._owner = subprocess.Popen(command, text=True, encoding="utf-8", **pipes), os.getpid()
            if self._process.stdout.readline().strip() != "ready":
                raise RuntimeError(f"math-verify does not start: try {' '.join(command)}")
        return self._process

    def close(self) -> None:
        if self._process is not None and self._owner == os.getpid():
            self._process.kill()
            self._process.communicate()
        self._process = None


_worker = _Worker()
atexit.register(_worker.close)
