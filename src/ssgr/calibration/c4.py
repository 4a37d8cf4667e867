"""English web text: calibration that knows nothing of the task, as most pruning papers have it."""

from ssgr.calibration import CalibrationRequest, CalibrationSet, source
from ssgr.calibration.documents import data_contents, data_name, drawn_rows, texts
from ssgr.calibration.windows import MORE_FILES, document_windows


@source("c4", contents=data_contents)
def c4(request: CalibrationRequest) -> CalibrationSet:
    """Documents in seeded order, each ended by the end-of-sequence token, joined and cut into windows."""
    field = request.config.text_field
    with drawn_rows(request, [field]) as rows:
        what = f"the documents of {data_name(request.config)} hold"
        return document_windows(request, texts(rows, field), what, MORE_FILES)
