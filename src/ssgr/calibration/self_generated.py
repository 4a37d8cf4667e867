"""The model's own traces: selected by correctness, difficulty and length, token for token as they were sampled."""

import numpy as np

from ssgr.calibration import CalibrationRequest, CalibrationSet, source
from ssgr.calibration.budget import token_weights
from ssgr.traces.selection import select, trace_names
from ssgr.traces.tables import selection_table


@source("self_generated", reads=frozenset({"problems", "rollouts"}), completions=True, selects=True)
def self_generated(request: CalibrationRequest) -> CalibrationSet:
    """Prompt and completion of each selected trace; CellError where the bin holds too few tokens."""
    view, config = request.rollouts(), request.config
    chosen = select(
        view,
        request.selection,
        request.difficulty,
        request.length,
        request.seed,
        config.tokens,
        config.max_seq_len,
    )
    rows = chosen.rows
    pairs = zip(view.sequences(rows), rows["kept"], strict=True)
    sequences = [np.concatenate(ids)[:kept].astype(np.int32) for ids, kept in pairs]
    lengths = [len(sequence) for sequence in sequences]
    return CalibrationSet(
        source=config.name,
        sequences=sequences,
        weights=token_weights(config.token_weights, lengths, rows["prompt_tokens"].tolist()),
        trace_ids=trace_names(rows),
        problems=int(rows["problem_id"].nunique()),
        mean_pass_rate=float(rows["problem_id"].map(view.pass_rate).mean()) if len(rows) else None,
        selection=chosen.table,
        held=selection_table(view),
    )
