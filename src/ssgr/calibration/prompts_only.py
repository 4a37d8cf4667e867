"""Prompts alone, of the whole problem set: what calibration is without any reasoning."""

import numpy as np

from ssgr.calibration import CalibrationRequest, CalibrationSet, source
from ssgr.calibration.budget import fill, token_weights
from ssgr.errors import UserError
from ssgr.traces.selection import draw_order


@source("prompts_only", reads=frozenset({"problems"}))
def prompts_only(request: CalibrationRequest) -> CalibrationSet:
    """Each problem's prompt once, in seeded order; UserError where all prompts together hold too few tokens."""
    problems, config = request.problems(), request.config
    order = draw_order(request.seed, "problems", [problem.problem_id for problem in problems])
    prompts = (np.asarray(request.template.prompt_ids(problems[i].question)) for i in order)
    sequences, held = fill(prompts, config.tokens, config.max_seq_len)
    if held < config.tokens:
        raise UserError(
            f"calibration=prompts_only: the prompts of all {len(problems):,} problems hold {held:,} tokens and "
            f"calibration.tokens needs {config.tokens:,}; more problems or a smaller calibration.tokens would help"
        )
    lengths = [len(sequence) for sequence in sequences]
    weights = token_weights(config.token_weights, lengths, lengths)
    return CalibrationSet(config.name, sequences, weights, [None] * len(sequences), problems=len(sequences))
