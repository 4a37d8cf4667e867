"""Traces of a view, selected by correctness, difficulty and length: what every source that has traces calls."""

import numpy as np

from ssgr.calibration import CalibrationRequest, CalibrationSet
from ssgr.calibration.budget import token_weights
from ssgr.traces.selection import select, trace_names
from ssgr.traces.store import StoreView
from ssgr.traces.tables import selection_table


def selected_traces(request: CalibrationRequest, view: StoreView) -> CalibrationSet:
    """Prompt and completion of each selected trace, ids as they were sampled; CellError where the bin holds too few."""
    config = request.config
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
