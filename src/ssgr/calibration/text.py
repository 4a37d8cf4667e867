"""Any text of the user's own."""

from pathlib import Path

from ssgr.calibration import CalibrationRequest, CalibrationSet, source
from ssgr.calibration.documents import seeded_rows, texts
from ssgr.calibration.windows import document_windows, text_windows
from ssgr.config import TextConfig
from ssgr.data_files import contents_hash, data_files, is_text, read_text


def text_files(config: TextConfig) -> list[Path]:
    return data_files(config.path, "calibration.path")


def text_contents(config: TextConfig) -> list[str]:
    return [contents_hash(file) for file in text_files(config)]


@source("text", contents=text_contents)
def text(request: CalibrationRequest) -> CalibrationSet:
    """Windows of one text file, from a seeded start and round the end; or of the documents of several, or of rows."""
    config = request.config
    files = text_files(config)
    if len(files) == 1 and is_text(files[0]):
        what = f"{config.path} holds"
        return text_windows(request, lambda: read_text(files[0]), text_contents(config), what, "more text")
    documents = texts(seeded_rows(files, request.seed, config.text_field), config.text_field)
    return document_windows(request, documents, f"the documents of {config.path} hold", "more of them")
