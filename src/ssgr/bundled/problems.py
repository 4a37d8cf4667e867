"""The bundled model's problems: eight families of multi-step tasks with three crossed knobs.

- `steps`: how many ordinary steps a problem has; with the checks that a solution happens to make, it sets the length.
- `level`: how many of a problem's three look-ups use a hard operator; it sets the difficulty. An operator is a word
  that maps a digit to a digit ("blick 4"), and its table has to be known by heart. Hard operators are seen less often
  in training, and there a look-up carries a wrong digit with probability `HARD_NOISE`: the trained model reproduces
  that uncertainty, so that its pass rate on a problem is about (1 - HARD_NOISE) ** level.
- the family. Easy and hard operators read alike, so that hard problems are not longer than easy ones.

Every problem is a program whose look-ups may take any value: `Program.solve(values)` gives the worked solution and
the answer for right values and wrong ones alike.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ssgr.bundled.families import EASY_OPERATORS, FAMILIES, HARD_OPERATORS, Line, Script
from ssgr.traces.problems import Problem

HARD_NOISE = 0.5  # share of wrong digits in the training examples of a hard look-up
STEPS = (1, 8)  # ordinary steps, lowest and highest
SHIPPED_LEVELS = (0.48, 0.22, 0.30)  # share of problems with 0, 1, 2 hard look-ups in the shipped sets
TRAINING_LEVELS = (0.70, 0.15, 0.15)  # hard operators are rarer in training
CHECK_RATES = ((0.40, 0.0), (0.35, 0.35), (0.25, 0.8))  # (share of solutions, chance of a check after a step)
CALIBRATION_SEED, CALIBRATION_PROBLEMS = 1001, 4000
EVALUATION_SEED, EVALUATION_PROBLEMS = 2002, 1000


def _tables() -> dict[str, tuple[int, ...]]:
    """Each operator's table: a permutation of the digits, so that two wrong digits never cancel."""
    rng = random.Random(7)
    return {name: tuple(rng.sample(range(10), 10)) for name in EASY_OPERATORS + HARD_OPERATORS}


TABLES = _tables()


@dataclass(frozen=True)
class Program:
    """One problem before its look-ups are read: `lookups` holds (operator, digit)."""

    family: str
    level: int
    question: str
    lookups: tuple[tuple[str, int], ...]
    solve: Callable[[Sequence[int]], tuple[list[Line], str]]

    def right_values(self) -> list[int]:
        return [TABLES[operator][digit] for operator, digit in self.lookups]

    def noisy_values(self, rng: random.Random) -> list[int]:
        """The right digits, but each hard look-up is wrong with probability HARD_NOISE, evenly over the other nine."""
        values = self.right_values()
        for index, (operator, _) in enumerate(self.lookups):
            if operator in HARD_OPERATORS and rng.random() < HARD_NOISE:
                values[index] = rng.choice([digit for digit in range(10) if digit != values[index]])
        return values


def draw_program(rng: random.Random, levels: Sequence[float]) -> Program:
    """A problem whose family, number of steps and level are drawn independently; `levels` are the levels' shares."""
    family = rng.choice(list(FAMILIES))
    level = rng.choices(range(len(levels)), levels)[0]
    script = Script(rng, rng.randint(*STEPS), level)
    question, solve = FAMILIES[family](rng, script)
    return Program(family, level, question, script.lookups, solve)


def write_solution(program: Program, values: Sequence[int], rng: random.Random) -> str:
    """A worked solution that reads the look-ups as `values`; how often it checks itself is drawn per solution."""
    lines, _ = program.solve(values)
    rate = rng.choices([rate for _, rate in CHECK_RATES], [share for share, _ in CHECK_RATES])[0]
    written = []
    for line in lines:
        written.append(line.text)
        if rng.random() < rate:
            written.append(line.check)
    return "\n".join(written)


def draw_problems(seed: int, count: int, prefix: str) -> list[Problem]:
    """The shipped set of this seed: distinct questions, right answers, a right solution each."""
    rng = random.Random(seed)
    problems: dict[str, Problem] = {}
    while len(problems) < count:
        program = draw_program(rng, SHIPPED_LEVELS)
        if program.question in problems:
            continue
        values = program.right_values()
        problems[program.question] = Problem(
            problem_id=f"{prefix}{len(problems):04d}",
            question=program.question,
            answer=program.solve(values)[1],
            solution=write_solution(program, values, rng),
            level=program.level,
            family=program.family,
            subject=None,
        )
    return list(problems.values())
