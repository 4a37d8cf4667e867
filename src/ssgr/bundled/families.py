"""The eight families of the bundled problems: what each asks, and how a solution is worked out line by line.

A family takes a `Script` (ordinary steps and look-ups in random order) and returns the question and a function from the
look-ups' values to (lines of the solution, answer). Its steps never hide a wrong digit, except that a calendar cannot
tell digits apart that are seven days from each other.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

EASY_OPERATORS = ("amber", "birch", "cedar", "delta", "ember", "fjord")
HARD_OPERATORS = ("blick", "drome", "gorse", "plume", "quill", "wharf")
LOOKUPS = 3  # look-ups in every problem
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


@dataclass(frozen=True)
class Line:
    """One line of a solution and the check that may follow it."""

    text: str
    check: str


class Script:
    """A draw of ordinary steps and look-ups in random order; families turn each into words and into arithmetic."""

    def __init__(self, rng: random.Random, steps: int, level: int):
        operators = [rng.choice(HARD_OPERATORS if index < level else EASY_OPERATORS) for index in range(LOOKUPS)]
        rng.shuffle(operators)
        self.lookups = tuple((operator, rng.randrange(10)) for operator in operators)
        self.words = [f"{operator} {digit}" for operator, digit in self.lookups]
        order = [None] * steps + list(range(LOOKUPS))
        rng.shuffle(order)
        self.order: list[int | None] = order  # None: an ordinary step; a number: that look-up


def _sum_line(word: str, value: int, before: int, suffix: str = "") -> Line:
    after = before + value
    return Line(
        f"{word} = {value}. {before} + {value} = {after}{suffix}", f"Check: {after} - {value} = {before}. Good."
    )


def modular_chain(rng: random.Random, script: Script) -> tuple[str, Callable]:
    modulus, start = rng.choice((11, 13, 17, 19, 23)), rng.randrange(2, 11)
    moves = [(rng.choice(("add", "subtract", "double", "triple")), rng.randrange(2, 10)) for _ in script.order]
    phrases = []
    for slot, (move, amount) in zip(script.order, moves, strict=True):
        if slot is not None:
            phrases.append(f"add {script.words[slot]}")
        else:
            phrases.append(f"{move} {amount}" if move in ("add", "subtract") else f"{move} it")
    question = f"Work modulo {modulus}. Start with {start}, then {', '.join(phrases)}. What is the result?"

    def solve(values):
        lines, x = [], start
        for slot, (move, amount) in zip(script.order, moves, strict=True):
            if slot is not None:
                line = _sum_line(script.words[slot], values[slot], x)
                raw, text, check = x + values[slot], line.text, line.check
            elif move in ("add", "subtract"):
                sign, inverse = ("+", "-") if move == "add" else ("-", "+")
                raw = x + amount if move == "add" else x - amount
                text, check = f"{x} {sign} {amount} = {raw}", f"Check: {raw} {inverse} {amount} = {x}. Good."
            else:
                factor = 2 if move == "double" else 3
                raw = x * factor
                text, check = f"{x} * {factor} = {raw}", f"Check: {raw} / {factor} = {x}. Good."
            x = raw % modulus
            lines.append(Line(f"{text}, mod {modulus} it is {x}.", check))
        return lines, str(x)

    return question, solve


def linear_equations(rng: random.Random, script: Script) -> tuple[str, Callable]:
    names = "abcdefghijklmnop"
    start = rng.randrange(30, 80)
    forms = [(rng.choice(("plus", "minus", "given_plus", "given_minus")), rng.randrange(2, 10)) for _ in script.order]
    clauses = []
    for index, (slot, (form, amount)) in enumerate(zip(script.order, forms, strict=True)):
        old, new = names[index], names[index + 1]
        if slot is not None:
            clauses.append(f"{new} = {old} + {script.words[slot]}")
        else:
            clauses.append(
                {
                    "plus": f"{new} = {old} + {amount}",
                    "minus": f"{new} = {old} - {amount}",
                    "given_plus": f"{new} + {amount} = {old}",
                    "given_minus": f"{new} - {amount} = {old}",
                }[form]
            )
    question = f"Let a = {start}, {', '.join(clauses)}. Find {names[len(script.order)]}."

    def solve(values):
        lines, x = [], start
        for index, (slot, (form, amount)) in enumerate(zip(script.order, forms, strict=True)):
            new = names[index + 1]
            if slot is not None:
                line = _sum_line(script.words[slot], values[slot], x, f", so {new} = {x + values[slot]}.")
                lines.append(line)
                x += values[slot]
                continue
            plus = form in ("plus", "given_minus")
            after = x + amount if plus else x - amount
            sign, inverse = ("+", "-") if plus else ("-", "+")
            text = f"{x} {sign} {amount} = {after}, so {new} = {after}."
            lines.append(Line(text, f"Check: {after} {inverse} {amount} = {x}. Good."))
            x = after
        return lines, str(x)

    return question, solve


def base_conversion(rng: random.Random, script: Script) -> tuple[str, Callable]:
    base, start = rng.randrange(3, 9), rng.randrange(40, 70)
    amounts = [rng.choice((-1, 1)) * rng.randrange(2, 6) for _ in script.order]  # the result stays positive
    phrases = [
        f"add {script.words[slot]}" if slot is not None else f"{'add' if amount > 0 else 'subtract'} {abs(amount)}"
        for slot, amount in zip(script.order, amounts, strict=True)
    ]
    question = f"Start with {start}, then {', '.join(phrases)}. Write the result in base {base}."

    def solve(values):
        lines, x = [], start
        for slot, amount in zip(script.order, amounts, strict=True):
            if slot is not None:
                lines.append(_sum_line(script.words[slot], values[slot], x, "."))
                x += values[slot]
                continue
            after, sign, inverse = x + amount, *(("+", "-") if amount > 0 else ("-", "+"))
            text = f"{x} {sign} {abs(amount)} = {after}."
            lines.append(Line(text, f"Check: {after} {inverse} {abs(amount)} = {x}. Good."))
            x = after
        digits = ""
        quotient = x
        while quotient > 0 or not digits:
            after, digit = divmod(quotient, base)
            digits = str(digit) + digits
            text = f"{quotient} / {base} = {after} rest {digit}, digits {' '.join(digits)}."
            lines.append(Line(text, f"Check: {after} * {base} + {digit} = {quotient}. Good."))
            quotient = after
        return lines, digits

    return question, solve


def string_rewriting(rng: random.Random, script: Script) -> tuple[str, Callable]:
    start = [rng.randrange(10) for _ in range(rng.randrange(3, 5))]
    moves = [rng.choice(("reverse", "rotate", "swap")) for _ in script.order]
    names = {"reverse": "reverse it", "rotate": "move the first digit to the end", "swap": "swap the first two digits"}
    phrases = [
        f"append {script.words[slot]}" if slot is not None else names[move]
        for slot, move in zip(script.order, moves, strict=True)
    ]
    question = f"Take the string {' '.join(map(str, start))}. Then {', '.join(phrases)}. What is the string?"

    def solve(values):
        lines, digits = [], list(start)
        for slot, move in zip(script.order, moves, strict=True):
            if slot is not None:
                digits = [*digits, values[slot]]
                head = f"{script.words[slot]} = {values[slot]}. Append"
            else:
                digits = {
                    "reverse": digits[::-1],
                    "rotate": digits[1:] + digits[:1],
                    "swap": digits[1::-1] + digits[2:],
                }[move]
                head = move.capitalize()
            text = f"{head}: {' '.join(map(str, digits))}."
            lines.append(Line(text, f"Check: it ends in {digits[-1]} and starts with {digits[0]}. Good."))
        return lines, "".join(map(str, digits))

    return question, solve


def graph_walk(rng: random.Random, script: Script) -> tuple[str, Callable]:
    cycle = rng.sample(range(10), 10)  # one cycle: no walk gets stuck, no two walks merge
    target = {node: cycle[(index + 1) % 10] for index, node in enumerate(cycle)}
    start = rng.randrange(10)
    edges = ", ".join(f"{node} to {target[node]}" for node in range(10))
    phrases = [f"add {script.words[slot]}" if slot is not None else "follow the edge" for slot in script.order]
    question = f"Edges: {edges}. Start at {start}, then {', '.join(phrases)}, modulo 10. Where does it end?"

    def solve(values):
        lines, node = [], start
        for slot in script.order:
            before = node
            if slot is not None:
                line = _sum_line(script.words[slot], values[slot], node)
                node = (node + values[slot]) % 10
                lines.append(Line(f"{line.text}, mod 10 it is {node}.", line.check))
            else:
                node = target[node]
                lines.append(
                    Line(f"The edge of {before} goes to {node}.", f"Check: {before} to {node} is listed. Good.")
                )
        return lines, str(node)

    return question, solve


def sorting(rng: random.Random, script: Script) -> tuple[str, Callable]:
    steps = min(script.order.count(None), 5)  # selecting is quadratic in the list's length
    order = list(range(LOOKUPS)) + [None] * steps
    rng.shuffle(order)
    items = [rng.randrange(10) for _ in order]
    words = [script.words[slot] if slot is not None else str(item) for slot, item in zip(order, items, strict=True)]
    question = f"Sort the digits {', '.join(words)} in ascending order."

    def solve(values):
        lines = [
            Line(f"{word} = {value}.", f"Check: {word} is {value}. Good.")
            for word, value in zip(script.words, values, strict=True)
        ]
        left = [values[slot] if slot is not None else item for slot, item in zip(order, items, strict=True)]
        lines.append(Line(f"The list is {' '.join(map(str, left))}.", f"Check: {len(left)} digits. Good."))
        done: list[int] = []
        while left:
            smallest = min(left)
            left.remove(smallest)
            done.append(smallest)
            rest = f"left {' '.join(map(str, left))}" if left else "none left"
            lines.append(Line(f"Take {smallest}, {rest}.", f"Check: sorted so far {' '.join(map(str, done))}. Good."))
        return lines, "".join(map(str, done))

    return question, solve


def calendar(rng: random.Random, script: Script) -> tuple[str, Callable]:
    start = rng.randrange(7)
    amounts = [rng.choice((-1, 1)) * rng.randrange(1, 20) for _ in script.order]
    phrases = [
        f"{script.words[slot]} days forward"
        if slot is not None
        else f"{abs(amount)} days {'forward' if amount > 0 else 'back'}"
        for slot, amount in zip(script.order, amounts, strict=True)
    ]
    question = f"Today is {WEEKDAYS[start]}. Go {', '.join(phrases)}. Which weekday is it?"

    def solve(values):
        lines, day = [], start
        for slot, amount in zip(script.order, amounts, strict=True):
            before = day
            days = values[slot] if slot is not None else amount
            head = f"{script.words[slot]} = {days}. " if slot is not None else ""
            day = (day + days) % 7
            way, back = ("forward", "back") if days >= 0 else ("back", "forward")
            rest = abs(days) % 7
            text = f"{head}{abs(days)} mod 7 = {rest}, {rest} {way} is {WEEKDAYS[day]}."
            lines.append(Line(text, f"Check: {rest} {back} is {WEEKDAYS[before]}. Good."))
        return lines, WEEKDAYS[day]

    return question, solve


def register_machine(rng: random.Random, script: Script) -> tuple[str, Callable]:
    start = {name: rng.randrange(1, 10) for name in "ABC"}
    moves = []
    copies = 0
    for _ in script.order:
        register = rng.choice("ABC")
        if copies < 3 and rng.random() < 0.4:
            copies += 1
            moves.append((register, rng.choice([name for name in "ABC" if name != register])))
        else:
            moves.append((register, rng.randrange(2, 10)))
    phrases = [
        f"{register} += {script.words[slot]}" if slot is not None else f"{register} += {source}"
        for slot, (register, source) in zip(script.order, moves, strict=True)
    ]
    registers = ", ".join(f"{name} = {value}" for name, value in start.items())
    question = f"Registers: {registers}. Run: {'; '.join(phrases)}. What is A + B + C?"

    def solve(values):
        lines, state = [], dict(start)
        for slot, (register, source) in zip(script.order, moves, strict=True):
            before = state[register]
            if slot is not None:
                amount, head = values[slot], f"{script.words[slot]} = {values[slot]}. "
            else:
                amount, head = state.get(source, source), ""
            state[register] = after = before + amount
            # The state stands in every line: a small model cannot look for each register's last change.
            text = f"{head}{register} = {before} + {amount} = {after}, now {' '.join(map(str, state.values()))}."
            lines.append(Line(text, f"Check: {after} - {amount} = {before}. Good."))
        a, b, c = state.values()
        lines.append(Line(f"A + B is {a} + {b} = {a + b}.", f"Check: {a + b} - {b} = {a}. Good."))
        lines.append(Line(f"A + B + C is {a + b} + {c} = {a + b + c}.", f"Check: {a + b + c} - {c} = {a + b}. Good."))
        return lines, str(a + b + c)

    return question, solve


FAMILIES: dict[str, Callable[[random.Random, Script], tuple[str, Callable]]] = {
    family.__name__: family
    for family in (
        modular_chain,
        linear_equations,
        base_conversion,
        string_rewriting,
        graph_walk,
        sorting,
        calendar,
        register_machine,
    )
}
