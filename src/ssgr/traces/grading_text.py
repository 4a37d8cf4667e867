r"""Answers as they are written: one form for all spellings of LaTeX, and what can be decided without mathematics.

Most answers are decided here, as strings, exact numbers or words. Words are compared as words: math-verify reads
them as products of variables, and so takes Tuesday for Tuesday1.
"""

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from ssgr.traces.answers import MAX_ANSWER_CHARS, NUMBER
from ssgr.traces.grading_units import known_unit, units_agree

# what stands for other things while an answer is read: the ends of \text{...}, and \{ and \}, which are no groups
_OPEN, _CLOSE, _LEFT_BRACE, _RIGHT_BRACE = "\x02", "\x03", "\x04", "\x05"
_CHARACTERS = str.maketrans(
    {"−": "-", "–": "-", "∞": "\\infty ", "π": "\\pi ", "≤": "\\le ", "≥": "\\ge ", "×": "\\times ", "·": "\\cdot "}
    | {"°": "^\\circ ", "∪": "\\cup ", "\xa0": " ", "√": "\\sqrt "}
    | {chr(code): " " for code in range(32)}
)
_TEXT = re.compile(
    r"\\(?:text(?:bf|it|rm|sf|tt|normal|up)?|math(?:rm|bf|sf|it)|[mh]box|emph|operatorname\*?)\s*\{([^{}]*)\}"
)
_DELIMITERS = re.compile(r"(?<!\\)(?:\$|\\[()\[\]])")
_THIN = re.compile(r"\s*\\!\s*")
_SPACING = re.compile(
    r"(?<!\\)\\(?:[,;:> ]|q?quad(?![a-z])|hspace\*?\{[^{}]*\}|displaystyle)|\\phantom\s*(?:\{[^{}]*\}|.)|~"
)
_ROW_GAP = re.compile(r"\\\\\s*\[[^\]]*\]")
_SIZES = re.compile(r"\\(?:left|right|[bB]igg?[lr]?)(?![a-zA-Z])")
_DEGREES = re.compile(r"\s*\^\s*(?:\\circ|\{\s*\\circ\s*\})|\\degrees?(?![a-z])")
_FRACTION = re.compile(r"\\[dtc]?frac\s*")
_SHORT_ROOT = re.compile(r"\\sqrt\s*(\d+|[a-z](?![a-z]))")
_SHORT_FRACTION = re.compile(r"\\frac\s*(\{[^{}]*\}|\d|\\pi)\s*(\{[^{}]*\}|\d|\\pi)")
_MARKED_LINK = re.compile(rf"{_OPEN}[ ,]*(?:and|or)\s*{_CLOSE}")
_LINK = re.compile(r"(?:\s*,)?\s+(?:and|or)\s+")
_MARKED_UNIT = re.compile(rf"(.*[^\s{_CLOSE}])\s*{_OPEN}([^{_CLOSE}]*){_CLOSE}\s*(\^\s*\{{?\s*[23]\s*\}}?)?", re.DOTALL)
_PLAIN_UNIT = re.compile(r"(.*[\d})%])(\s*)([A-Za-z][A-Za-z.\s]*)(\^\s*\{?\s*[23]\s*\}?)?", re.DOTALL)
_QUANTITY = re.compile(r"[\d})\]]|\\pi\s*$")
_LETTER = re.compile(r"\s*\(?[A-Z]\)?\s*")
_TIME = re.compile(r"(\d{1,2})(?::(\d\d))?(?::(\d\d))?\s*([ap])\.?\s*m\.?", re.IGNORECASE)
_LEFT_SIDE = re.compile(r"\s*(?:[a-zA-Z]|\\[a-z]+)(?:_\{?\w+\}?)?(?:\([a-z]\))?\s*(?:=|\\in(?![a-z]))\s*")
_CHOICE = re.compile(r"\(?([A-Z])(?:[).:](?=\s|$)|$)")
_LABEL = re.compile(r"\([A-Z]\)\s*(.+)", re.DOTALL)
_PUNCTUATION = re.compile(r"[\s.,;:!?'\"*(){}\[\]]+|(?<=[a-z])-")
_LETTERS = re.compile(r"[A-Za-z](?:,[A-Za-z])+")
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{4,}")
_FUNCTIONS = {"sqrt", "arcsin", "arccos", "arctan", "sinh", "cosh", "tanh", "frac"}
_SMALL = "zero one two three four five six seven eight nine ten eleven twelve"
_NUMBER_WORDS = {word: str(number) for number, word in enumerate(_SMALL.split())}
_PLAIN_WORDS = {"yes", "no", "odd", "even", "true", "false", "none", *_NUMBER_WORDS}

_PLAIN_NUMBER = re.compile(rf"[+-]?(?:{NUMBER})")
_RATIO = re.compile(r"([+-]?)(\d+)/(\d+)")
_LATEX_RATIO = re.compile(r"([+-]?)\\frac\{([+-]?\d+)\}\{([+-]?\d+)\}")
_MIXED = re.compile(r"([+-]?)(\d+)(?:\s+|\s*(?=\\frac))(?:(\d+)/(\d+)|\\frac\{(\d+)\}\{(\d+)\})")
_BASED = re.compile(r"\(?([0-9A-Za-z]+)\)?_\{?\s*(\w+)\s*\}?")
_TRAILING_DIGITS = re.compile(r"(?!.*\\log).*(?:[})]|\\pi)\s*\d+", re.DOTALL)  # a product that nobody writes
_GROUPED = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")
_SPACED = re.compile(r"(?<![\d.,])\d{1,3}(?: \d{3})+(?![\d,])")


@dataclass(frozen=True)
class Written:
    """An answer taken apart. `words`: it is language, not mathematics; `unit`: the words behind a quantity."""

    body: str
    unit: str | None
    words: bool
    listed: str  # as written but for spaces: 81,256 may be two answers

    @property
    def bare(self) -> str:
        """Without the spaces that say nothing; a mixed number's says something."""
        return re.sub(r"(?<!\d)\s+|\s+(?!\d)", "", self.body)


def decide(answer: str, gold: str) -> bool | None:
    """Whether the two say the same; None where only mathematics can tell."""
    if max(len(answer), len(gold)) > MAX_ANSWER_CHARS:
        return False
    left, right = _aligned(answer, gold)
    if not left.body or not right.body or not units_agree(left.unit, right.unit):
        return False
    if left.bare == right.bare or left.listed == right.listed:
        return True
    if (same := _same_choice(left.body, right.body)) is not None:
        return same
    if left.words and not right.words and (label := _LABEL.fullmatch(left.body)):
        return decide(label[1], gold)
    if right.words or left.words:
        return _same_words(left, right)
    if "\\approx" in right.body:
        verdicts = [decide(answer, side) for side in right.body.split("\\approx") if side.strip()]
        return True if True in verdicts else None if None in verdicts else False
    if (verdict := _same_base(left.bare, right.bare)) is not None:
        return verdict
    if _TRAILING_DIGITS.fullmatch(left.body):
        return False
    if {left.body[:1], right.body[:1]} == {"(", "\\"} and {left.body[:2], right.body[:2]} & {"\\{"}:
        return False  # a tuple is no set
    entries = _entries(left.body), _entries(right.body)
    if 0 not in entries and entries[0] != entries[1]:  # math-verify takes lists for sets
        return False
    if "=" not in left.bare + right.bare or ("=" in left.bare) != ("=" in right.bare):
        numbers = exact(left.body), exact(right.body)
        if None not in numbers:
            return _same_numbers(*numbers, left, right)
    return None


def mathematics(answer: str, gold: str) -> tuple[str, str]:
    """Both as math-verify gets them: without units, words and odd spellings."""
    left, right = _aligned(answer, gold)
    return _indexed(left.body), _indexed(right.body)


def _aligned(answer: str, gold: str) -> tuple[Written, Written]:
    r"""Both without `x =` or `x \in` where only one of them has it."""
    answer, gold = (text.strip().removeprefix("\\(").lstrip("$ ") for text in (answer, gold))
    sides = _LEFT_SIDE.match(answer), _LEFT_SIDE.match(gold)
    if sides[0] and not re.search(r"=|\\in(?![a-z])", gold):
        answer = answer[sides[0].end() :]
    if sides[1] and not re.search(r"=|\\in(?![a-z])", answer):
        gold = gold[sides[1].end() :]
    return written(answer), written(gold)


def _indexed(text: str) -> str:
    """Digits behind a letter are its index; math-verify multiplies by them."""
    return re.sub(r"(?<![\\A-Za-z])([A-Za-z]+)(\d+)", r"\1_{\2}", text.split("\\approx")[0])


def _entries(text: str) -> int:
    """How many answers a list without brackets has; 0 where that cannot be said."""
    depth = entries = 0
    if "\\pm" in text or re.match(r"[(\[]|\\\{", text):
        return 0
    for match in re.finditer(r"[(\[{]|[)\]}]|,", text):
        depth += 1 if match[0] in "([{" else -1 if match[0] in ")]}" else 0
        entries += match[0] == "," and depth == 0
    return entries + 1


def exact(text: str) -> Fraction | None:
    """The number that the text writes exactly: plain, ratio of whole numbers or mixed; None for anything else."""
    text = text.strip().removesuffix("%").strip()
    if _PLAIN_NUMBER.fullmatch(text):
        return Fraction(text.replace(",", ""))
    if match := _RATIO.fullmatch(text) or _LATEX_RATIO.fullmatch(text):
        sign, above, below = match[1], int(match[2]), int(match[3])
        return (Fraction(above, below) * (-1 if sign == "-" else 1)) if below else None
    if match := _MIXED.fullmatch(text):
        above, below = int(match[3] or match[5]), int(match[4] or match[6])
        if 0 < above < below:
            return (int(match[2]) + Fraction(above, below)) * (-1 if match[1] == "-" else 1)
    return None


@lru_cache(maxsize=1 << 12)
def written(answer: str) -> Written:
    """The answer in the one spelling that all are compared in."""
    text = _latex(answer)
    if match := _TIME.fullmatch(text.replace(_OPEN, "").replace(_CLOSE, "").strip()):
        clock = f"{int(match[1])}:{match[2] or '00'}:{match[3] or '00'}"
        return Written(clock.removesuffix(":00").removesuffix(":00"), f"{match[4]}m", False, clock)
    text, unit = _unit(text)
    marked = any(character.isalpha() for inside in re.findall(f"{_OPEN}([^{_CLOSE}]*)", text) for character in inside)
    text = text.replace(_OPEN, "").replace(_CLOSE, "").strip()
    if match := re.fullmatch(r"\\\$\s*(.*)|(.*?)\s*\\\$", text):
        text, unit = (match[1] or match[2] or "").strip(), unit or "dollar"
    text = text.replace("\\$", "")
    based = _BASED.fullmatch(text) and re.search(r"_\{?\s*\d", text)
    words = (marked and not based) or _is_language(text)
    listed = re.sub(r",\s+", ",", text.strip())
    text = re.sub(r"\s+", " ", text) if words else _mathematical(text)
    return Written(text.strip(), unit, words, listed)


def _latex(answer: str) -> str:
    text = _THIN.sub("", answer).replace("{,}", ",").translate(_CHARACTERS)
    text = _DELIMITERS.sub("", _ROW_GAP.sub(r"\\\\", text.strip().strip("*")))
    text = text.replace("\\%", "%").replace("\\{", _LEFT_BRACE).replace("\\}", _RIGHT_BRACE)
    text = _SIZES.sub("", _SPACING.sub(" ", text))
    for _ in range(3):  # nested as deep
        text, count = _TEXT.subn(rf"{_OPEN}\1{_CLOSE}", text)
        if not count:
            break
    text = _SHORT_ROOT.sub(r"\\sqrt{\1}", text)
    text = _SHORT_FRACTION.sub(_braced, _FRACTION.sub(r"\\frac", text))
    text = _LINK.sub(", ", _MARKED_LINK.sub(", ", text))
    text = re.sub(r",(?:\s*,)+", ",", text)  # of `6, 8, and 10`
    return text.strip().rstrip(".,;").strip()


def _braced(fraction: re.Match) -> str:
    above, below = (part.strip("{}") for part in fraction.groups())
    return f"\\frac{{{above}}}{{{below}}}"


def _unit(text: str) -> tuple[str, str | None]:
    degrees = _DEGREES.sub("", text)
    unit = None
    if degrees != text and not re.search(r"\\(?:sin|cos|tan|cot|sec|csc)", text):
        text, unit = _DEGREES.sub("", re.sub(rf"(?:{_DEGREES.pattern})\s*,", ", ", text)).strip(), "degree"
    match = _MARKED_UNIT.fullmatch(text)
    if match and _QUANTITY.search(match[1]) and _OPEN not in match[1] and not _LETTER.fullmatch(match[2]):
        return match[1].strip(), unit or match[2] + _power(match[3])
    if (match := _PLAIN_UNIT.fullmatch(text)) and _OPEN not in text:
        words = match[3].strip()
        first = words.split()[0].rstrip(".")
        known = known_unit(words) is not None and len(first) > 1
        if known or (match[2] and len(first) >= 4 and re.search("[aeiou]", first)):
            return match[1].strip(), unit or words + _power(match[4])
    return text, unit


def _power(text: str | None) -> str:
    return " ^" + re.sub(r"\D", "", text) if text else ""


def _mathematical(text: str) -> str:
    text = re.sub(r"\s*,\s*", ", " if re.search(r",\s", text) else ",", text).strip()
    text = _SPACED.sub(lambda match: match[0].replace(" ", ""), text)
    if not re.search(r"[(\[\x04]\s*-?\d+,\d{3}\s*[)\]\x05]|, ", text):  # (1,234) has two entries
        text = _GROUPED.sub(lambda match: match[0].replace(",", ""), text)
    text = text.replace(_LEFT_BRACE, "\\{").replace(_RIGHT_BRACE, "\\}")
    text = text.replace("\\varnothing", "\\emptyset")
    return text


def _is_language(text: str) -> bool:
    words = [word for word in _WORD.findall(text) if word.lower() not in _FUNCTIONS]
    in_environment = re.findall(r"\\(?:begin|end)\s*\{([a-zA-Z]+)\*?\}", text)
    return any(word not in in_environment for word in words) or text.lower().strip() in _PLAIN_WORDS


def _same_choice(left: str, right: str) -> bool | None:
    """`B`, `(B)`, `B. 17`, `(B) 17` for the gold letter B; None where the gold or the answer is no choice letter."""
    right = _CHOICE.fullmatch(right)
    left = _CHOICE.match(left.upper() if len(left) <= 3 else left)
    return left[1] == right[1] if left and right else None


def _same_words(left: Written, right: Written) -> bool:
    if _spoken(left.body) == _spoken(right.body):
        return True
    letters = [re.sub(r"[\s()]", "", side.body) for side in (left, right)]
    if all(_LETTERS.fullmatch(side) for side in letters):
        return sorted(letters[0].upper().split(",")) == sorted(letters[1].upper().split(","))
    return False


def _spoken(text: str) -> str:
    text = re.sub(r"^(?:an?|the)\s+", "", text.lower().strip())
    text = re.sub(r"\s+" if re.search(r"\d", text) else _PUNCTUATION, "", text)
    return _NUMBER_WORDS.get(text, text)


def _same_base(left: str, right: str) -> bool | None:
    """Digits in a base: an answer may leave the base out, but not state another. None where the gold has none."""
    left_match, right_match = _BASED.fullmatch(left), _BASED.fullmatch(right)
    if right_match is None or not right_match[2].isdigit() or not re.search(r"\d", right_match[1]):
        return False if left_match and re.search(r"\d", left_match[1]) and exact(right) is not None else None
    if left_match is None:
        return left.upper() == right_match[1].upper()
    return left_match.groups() == right_match.groups()


def _same_numbers(left_value: Fraction, right_value: Fraction, left: Written, right: Written) -> bool:
    """Equal, or a decimal of six places or more that rounds to the other; 50 % is 50 as well as 1/2."""
    percent = left.body.endswith("%"), right.body.endswith("%")
    scales = (1,) if percent[0] == percent[1] else (1, Fraction(1, 100) if percent[0] else 100)
    places = [len(side.body.removesuffix("%").partition(".")[2].strip()) for side in (left, right)]
    for scale in scales:
        error = abs(left_value * scale - right_value)
        if error == 0:
            return True
        close = max(places) >= 6 and error <= Fraction(1, 10 ** max(places))
        if close and error <= Fraction(1, 100_000) * min(abs(left_value * scale), abs(right_value)):
            return True
    return False
