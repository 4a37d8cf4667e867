"""A fixed English text that the package ships: calibration that knows nothing of the task."""

from pathlib import Path

from ssgr.calibration import CalibrationRequest, CalibrationSet, source
from ssgr.calibration.windows import text_windows
from ssgr.data_files import contents_hash

TEXT = Path(__file__).parents[1] / "bundled" / "general_text.txt"


@source("general_text", contents=lambda config: contents_hash(TEXT))
def general_text(request: CalibrationRequest) -> CalibrationSet:
    """Windows of max_seq_len tokens, one after another from a seeded start and round the end, none twice."""
    what, more = "the shipped text holds", "a longer text (calibration=text)"
    return text_windows(request, lambda: TEXT.read_text(encoding="utf-8"), [contents_hash(TEXT)], what, more)
