"""The problem set's own solutions behind the model's prompts: correct reasoning that the model did not write."""

import numpy as np

from ssgr.calibration import CalibrationRequest, CalibrationSet, source
from ssgr.calibration.budget import fill, token_weights
from ssgr.errors import UserError
from ssgr.traces.problems import Problem
from ssgr.traces.prompts import PromptTemplate
from ssgr.traces.selection import draw_order


@source("reference_solutions", reads=frozenset({"problems"}), completions=True)
def reference_solutions(request: CalibrationRequest) -> CalibrationSet:
    """Each problem once in seeded order: prompt, solution, end of sequence; UserError where these hold too little."""
    config, template = request.config, request.template
    problems = [problem for problem in request.problems() if problem.solution]
    if not problems:
        raise UserError("calibration=reference_solutions: no problem has a solution (see problems.solution_field)")
    order = draw_order(request.seed, "problems", [problem.problem_id for problem in problems])
    prompt_lengths = []

    def sequences():
        for i in order:
            prompt = template.prompt_ids(problems[i].question)
            prompt_lengths.append(len(prompt))
            yield np.asarray([*prompt, *template.completion_ids(completion(problems[i], template))])

    packed, held = fill(sequences(), config.tokens, config.max_seq_len)
    if held < config.tokens:
        raise UserError(
            f"calibration=reference_solutions: the {len(problems):,} problems with a solution hold {held:,} tokens and "
            f"calibration.tokens needs {config.tokens:,}; more problems or a smaller calibration.tokens would help"
        )
    lengths = [len(sequence) for sequence in packed]
    weights = token_weights(config.token_weights, lengths, prompt_lengths[: len(packed)])
    return CalibrationSet(config.name, packed, weights, [None] * len(packed), problems=len(packed))


def completion(problem: Problem, template: PromptTemplate) -> str:
    """The solution as this model would write it: inside its reasoning tags where it has them, then the boxed answer.

    The opening tag is written only where the prompt does not end with it.
    """
    end = template.think_end
    if end is None:
        return problem.solution
    text = f"{problem.solution}\n{end}\n\n\\boxed{{{problem.answer}}}"
    start = end.replace("</", "<", 1)
    opened = start == end or template.prompt_text(problem.question).rstrip().endswith(start)
    return text if opened else f"{start}\n{text}"
