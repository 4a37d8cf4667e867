"""The problem set's own solutions behind the model's prompts: correct reasoning that the model did not write."""

from ssgr.calibration import CalibrationRequest, CalibrationSet, source
from ssgr.calibration.budget import Piece, packed_set
from ssgr.calibration.completions import completed
from ssgr.errors import UserError
from ssgr.traces.problems import Problem
from ssgr.traces.prompts import PromptTemplate
from ssgr.traces.selection import draw_order


@source("reference_solutions", reads=frozenset({"problems"}), completions=True)
def reference_solutions(request: CalibrationRequest) -> CalibrationSet:
    """Each problem once in seeded order: prompt, solution, end of sequence; UserError where these hold too little."""
    problems = [problem for problem in request.problems() if problem.solution]
    if not problems:
        raise UserError("calibration=reference_solutions: no problem has a solution (see problems.solution_field)")
    order = draw_order(request.seed, "problems", [problem.problem_id for problem in problems])
    pieces = (solved(problems[i], request.template) for i in order)
    what = f"the {len(problems):,} problems with a solution hold"
    built = packed_set(request.config, pieces, what, "more problems")
    built.problems = len(built.sequences)
    return built


def solved(problem: Problem, template: PromptTemplate) -> Piece:
    """The solution as the model's reasoning; what stands behind its tags is the boxed answer."""
    answer = f"\\boxed{{{problem.answer}}}" if template.think_end else None
    return completed(template, problem.question, problem.solution, answer)
