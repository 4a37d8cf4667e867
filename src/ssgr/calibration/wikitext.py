"""WikiText: one long text of articles, as papers on quantisation and pruning evaluate and calibrate on it."""

from ssgr.calibration import CalibrationRequest, CalibrationSet, source
from ssgr.calibration.documents import data_contents, data_name, file_rows, local_files, stream_rows, text_of
from ssgr.calibration.windows import MORE_FILES, text_windows
from ssgr.config import HubTextConfig


@source("wikitext", contents=data_contents)
def wikitext(request: CalibrationRequest) -> CalibrationSet:
    """Windows of the whole text, from a seeded start and round the end."""
    config = request.config
    contents = [data_contents(config), config.text_field]
    what = f"the text of {data_name(config)} holds"
    return text_windows(request, lambda: joined_text(config), contents, what, MORE_FILES)


def joined_text(config: HubTextConfig) -> str:
    """All rows in their order, each a line of its own, as in the text that the rows were made from."""
    files = local_files(config)
    if files is None:
        rows = stream_rows(config, None)
    else:
        rows = (row for file in files for row in file_rows(file, config.text_field))
    lines = (text_of(row, config.text_field, place, "calibration.text_field") for place, row in rows)
    return "".join(line if line.endswith("\n") else f"{line}\n" for line in lines)
