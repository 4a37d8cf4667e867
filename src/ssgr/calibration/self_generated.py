"""The model's own traces: selected by correctness, difficulty and length, token for token as they were sampled."""

from ssgr.calibration import CalibrationRequest, CalibrationSet, source
from ssgr.calibration.selected import selected_traces


@source("self_generated", reads=frozenset({"problems", "rollouts"}), completions=True, selects=True)
def self_generated(request: CalibrationRequest) -> CalibrationSet:
    """Prompt and completion of each selected trace; CellError where the bin holds too few tokens."""
    return selected_traces(request, request.rollouts())
