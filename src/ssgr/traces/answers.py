"""Where a completion's answer stands: in its last box, else where it is stated as the answer, else its last number."""

import re

MAX_ANSWER_CHARS = 1_000
MAX_BOXES = 50  # the last so many are looked at: a text of nothing but open boxes must not cost a second

NUMBER = r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+"
_LAST_NUMBER = re.compile(rf"(?<![\w.])[+-]?(?:{NUMBER})(?:/\d+)?")
_STATED = re.compile(r"(?:answer\s*(?:is|:|=)|####)[\s:*]*([^\n]+)", re.IGNORECASE)
_QUANTITY = re.compile(rf"\\?\$?([+-]?(?:{NUMBER})(?:/\d+)?)\s+[A-Za-z]")
_BOX = re.compile(r"\\(?:boxed|fbox)\s*")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_UNBRACED = re.compile(r"[^\s{}$\\.,;]+")


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
    r"""The content of the last \boxed{...} that is not empty and whose braces balance (escaped braces are not braces).

    `\fbox{...}` and `\boxed 5` are boxes too. An empty string where all boxes are empty, None where there is none.
    """
    found, end = None, len(text)
    for _ in range(MAX_BOXES):
        start = max(text.rfind("\\boxed", 0, end), text.rfind("\\fbox", 0, end))
        if start < 0:
            break
        content = _box_content(text, start)
        if content is not None:
            found = content
            if content.strip():
                break
        end = start
    return found


def _box_content(text: str, start: int) -> str | None:
    first = _BOX.match(text, start).end()
    if text[first : first + 1] != "{":
        bare = _UNBRACED.match(text, first)
        return bare[0] if bare else None
    first, depth = first + 1, 1
    # the limit keeps hostile text linear: a longer answer is wrong anyway
    for match in _BRACE.finditer(text, first, first + 4 * MAX_ANSWER_CHARS):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if depth == 0:
            return text[first : match.start()]
    return None
