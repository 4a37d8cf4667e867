"""Traces of a view, selected by correctness, difficulty and length: what every source that has traces calls."""

import numpy as np

from ssgr.calibration import CalibrationRequest, CalibrationSet
from ssgr.calibration.budget import token_weights
from ssgr.traces.balance import balance_note
from ssgr.traces.bins import check_bins
from ssgr.traces.profile import overlap_note, pass_rate_reliability, profile, profile_lines
from ssgr.traces.selection import Draw, trace_names
from ssgr.traces.store import StoreView
from ssgr.traces.tables import selection_table


def selected_traces(request: CalibrationRequest, view: StoreView) -> CalibrationSet:
    """Prompt and completion of each selected trace, ids as they were sampled.

    `details` says what was selected on every axis: profile, pass_rate_reliability, seed_overlap and balance.
    Errors as those of selection.select; UserError too for bins that the view's rollouts cannot populate.
    """
    config, chosen = request.config, (request.selection, request.difficulty, request.length)
    check_bins(view.k, request.difficulty, request.length, request.selection, view.split)
    draw = Draw(view, *chosen, config.tokens, config.max_seq_len, config.sequences)
    selection = draw.select(request.seed)
    rows = selection.rows
    details = {
        "profile": profile(view, rows, config.max_seq_len),
        "pass_rate_reliability": pass_rate_reliability(view),
        "seed_overlap": draw.seed_overlap(request.seed),
        "balance": selection.balance,
    }
    pairs = zip(view.sequences(rows), rows["kept"], strict=True)
    sequences = [np.concatenate(ids)[:kept].astype(np.int32) for ids, kept in pairs]
    lengths = [len(sequence) for sequence in sequences]
    notes = profile_lines(details["profile"], details["pass_rate_reliability"], view.graded)
    notes += [overlap_note(details["seed_overlap"])] if details["seed_overlap"] is not None else []
    return CalibrationSet(
        source=config.name,
        sequences=sequences,
        weights=token_weights(config.token_weights, lengths, rows["prompt_tokens"].tolist()),
        trace_ids=trace_names(rows),
        problems=int(rows["problem_id"].nunique()),
        mean_pass_rate=float(rows["problem_id"].map(view.pass_rate).mean()) if len(rows) else None,
        selection=selection.table,
        held=selection_table(view),
        details=details,
        notes=notes + ([balance_note(selection.balance, view.more)] if selection.balance else []),
    )
