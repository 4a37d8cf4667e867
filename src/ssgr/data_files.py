"""Local files of texts and rows: txt, JSON lines (gzipped too) and parquet, read by whoever needs data from outside.

A row comes with its place, `file:line` or `file row N`, which every message about it names.
"""

import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from functools import lru_cache
from glob import glob, has_magic
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from ssgr.cache import file_hash
from ssgr.errors import UserError, first_line

TEXT_SUFFIXES = (".txt", ".md")
SUFFIXES = (*TEXT_SUFFIXES, ".jsonl", ".json", ".jsonl.gz", ".json.gz", ".parquet")
BATCH_ROWS = 1024  # of a parquet file in memory at a time

Row = tuple[str, dict[str, Any]]  # its place, its fields


def data_files(pattern: str | Path | None, option: str) -> list[Path]:
    """The files that a path or a glob pattern names, sorted; UserError where there are none or of another kind."""
    if pattern is None:
        raise UserError(f"{option} is not set: it must name a txt, jsonl or parquet file")
    path = Path(pattern).expanduser()
    if path.is_file() or not has_magic(str(path)):
        found = [existing_file(path, option)]
    else:
        found = sorted(Path(name) for name in glob(str(path), recursive=True) if Path(name).is_file())
        if not found:
            raise UserError(f"{option}={pattern}: no file matches")
    for file in found:
        if not file.name.lower().endswith(SUFFIXES):
            raise UserError(f"{option}={file}: not a kind of file that can be read; choices: {', '.join(SUFFIXES)}")
    return found


def existing_file(path: str | Path, option: str) -> Path:
    """The file at this path; UserError where there is none."""
    path = Path(path).expanduser()
    if not path.is_file():
        raise UserError(f"{option}={path}: {'a folder, not a file' if path.is_dir() else 'no such file'}")
    return path


def contents_hash(path: Path) -> str:
    """file_hash, remembered by this process for as long as neither size nor time of change differ."""
    return _file_hash(*file_state(path))


def file_state(path: Path) -> tuple[Path, int, int]:
    """Path, size and time of change: what says that a file is still the one that was read."""
    status = path.stat()
    return path, status.st_size, status.st_mtime_ns


@lru_cache(maxsize=256)
def _file_hash(path: Path, size: int, changed: int) -> str:
    return file_hash(path)


def is_text(path: Path) -> bool:
    return path.suffix.lower() in TEXT_SUFFIXES


def read_text(path: Path) -> str:
    """The whole file as text; UserError where it is not UTF-8 or empty."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8 text") from None
    if not text.strip():
        raise UserError(f"{path}: an empty file")
    return text


def count_rows(path: Path) -> int:
    """How many rows `read_rows` yields; UserError where the file is broken."""
    if is_text(path):
        return 1
    if _is_parquet(path):
        return _parquet(path).metadata.num_rows
    return sum(1 for _ in _lines(path))


def read_rows(path: Path, wanted: Callable[[int], bool] | None = None) -> Iterator[Row]:
    """The rows of a file of JSON lines or parquet, in its order; only those whose number (from 0) is `wanted`.

    Rows that are not wanted are not parsed. Raises UserError, with the row's place, for what cannot be read.
    """
    return _parquet_rows(path, wanted) if _is_parquet(path) else _json_rows(path, wanted)


def _json_rows(path: Path, wanted: Callable[[int], bool] | None) -> Iterator[Row]:
    for number, (line_number, line) in enumerate(_lines(path)):
        if wanted is not None and not wanted(number):
            continue
        place = f"{path}:{line_number}"
        try:
            row = json.loads(line.decode("utf-8-sig"))
            if b"\\ud" in line.lower():
                json.dumps(row, ensure_ascii=False).encode()
        except UnicodeDecodeError:
            raise UserError(f"{place}: not UTF-8 text") from None
        except UnicodeEncodeError:
            raise UserError(f"{place}: a text holds half a character (a lone surrogate)") from None
        except (ValueError, RecursionError) as error:  # a number of thousands of digits is a plain ValueError
            reason = "nested too deeply" if isinstance(error, RecursionError) else getattr(error, "msg", str(error))
            raise UserError(f"{place}: malformed JSON ({reason})") from None
        if not isinstance(row, dict):
            raise UserError(f"{place}: a line must be a JSON object, not {type(row).__name__}")
        yield place, row


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Line number and bytes of every line that is not blank."""
    number = 0
    with _opened(path) as file:
        try:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, line
        except (gzip.BadGzipFile, zlib.error, EOFError) as error:
            raise UserError(f"{path}:{number + 1}: broken gzip ({first_line(error)})") from None


def _opened(path: Path) -> BinaryIO:
    return gzip.open(path, "rb") if path.suffix.lower() == ".gz" else open(path, "rb")


def _is_parquet(path: Path) -> bool:
    return path.suffix.lower() == ".parquet"


def _parquet(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path}: no parquet file, or a broken one ({first_line(error)})") from None


def _parquet_rows(path: Path, wanted: Callable[[int], bool] | None) -> Iterator[Row]:
    number = 0
    try:
        with _parquet(path) as file:
            for batch in file.iter_batches(batch_size=BATCH_ROWS):
                kept = [row for row in range(len(batch)) if wanted is None or wanted(number + row)]
                for row, values in zip(kept, batch.take(pa.array(kept, pa.int64())).to_pylist(), strict=True):
                    yield f"{path} row {number + row + 1}", values
                number += len(batch)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path} row {number + 1}: broken parquet ({first_line(error)})") from None
