"""Prompts alone, of the whole problem set: what calibration is without any reasoning."""

from ssgr.calibration import CalibrationRequest, CalibrationSet, source
from ssgr.calibration.budget import packed_set
from ssgr.traces.selection import draw_order


@source("prompts_only", reads=frozenset({"problems"}))
def prompts_only(request: CalibrationRequest) -> CalibrationSet:
    """Each problem's prompt once, in seeded order; UserError where all prompts together hold too little."""
    problems = request.problems()
    order = draw_order(request.seed, "problems", [problem.problem_id for problem in problems])
    prompts = (request.template.prompt_ids(problems[i].question) for i in order)
    pieces = ((prompt, len(prompt)) for prompt in prompts)
    what = f"the prompts of all {len(problems):,} problems hold"
    built = packed_set(request.config, pieces, what, "more problems")
    built.problems = len(built.sequences)
    return built
