"""`python -m analysis keep`: of finished cells what this package reads, small enough to commit or to publish."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from analysis.load import DiskCell, find_cells
from analysis.rows import DIVERGENCE, NOT_KEPT, SAMPLES
from ssgr.cache import write_atomically
from ssgr.errors import UserError

SMALLER = {pa.float64(): pa.float32(), pa.int64(): pa.int32()}
LONGEST_ANSWER = 64  # characters: a box with more may hold the question instead, which is not ours to publish
NOWHERE = ("runs_dir", "cache_dir")
# of a path within a list or a mapping that is one text, as overrides hold them: also=[{name: x, path: /a/b.jsonl}]
FOLDER_INSIDE = re.compile(r"""([:=,\[{'"]\s*)/(?:[^/,\]}'"]+/)+""")


def keep(sources: Sequence[str], studies: Sequence[str], out: Path, histories: bool = False) -> list[Path]:
    """Copies the finished cells of these studies (all where none is named) to out/<study>/<cell>; returns the folders.

    result.json without the paths of the machine that made it; samples.parquet without output_ids and without answers
    of more than LONGEST_ANSWER characters, divergence.parquet with single precision and without NOT_KEPT; study.json
    where there is one; prune_report.json with `histories`. `load_*` read the copy as they read the original, with
    nothing in those columns. Raises UserError where a study has no finished cell, where a table of one cannot be
    read, and where a source is no directory.
    """
    cells = [cell for cell in find_cells(list(sources), None)[0] if not studies or cell.study in studies]
    if remote := [cell.place for cell in cells if not isinstance(cell, DiskCell)]:
        raise UserError(f"only cells on disk can be kept, not {remote[0]}")
    for study in studies or [""]:
        if not any(not study or cell.study == study for cell in cells):
            raise UserError(f"no finished cells{f' of {study}' if study else ''} in {', '.join(map(str, sources))}")
    kept = [copy_cell(cell, out / cell.study / cell.cell, histories) for cell in cells]
    for original, copy in {cell.folder.parent: out / cell.study for cell in cells}.items():
        if (original / "study.json").is_file():
            copy_json(original / "study.json", copy / "study.json")
    return kept


def copy_cell(cell: DiskCell, folder: Path, histories: bool) -> Path:
    """result.json comes last, as in a run: a copy that was cut short is no finished cell."""
    for name, schema in (("samples", SAMPLES), ("divergence", DIVERGENCE)):
        try:
            table = cell.table(name, schema)
        except (OSError, ValueError) as error:
            raise UserError(f"{cell}: its {name} cannot be read: {error}") from error
        if len(table):
            write_atomically(folder / f"{name}.parquet", lambda path, table=table: write_small(table, path))
    if histories and (cell.folder / "prune_report.json").is_file():
        copy_json(cell.folder / "prune_report.json", folder / "prune_report.json")
    copy_json(cell.folder / "result.json", folder / "result.json")
    return folder


def write_small(table: pa.Table, path: Path) -> None:
    """Numbers in 32 bits and their bytes in streams, ids as what changes from one to the next, text as dictionaries."""
    table = table.drop_columns([name for name in NOT_KEPT if name in table.column_names])
    table = table.cast(pa.schema([field.with_type(SMALLER.get(field.type, field.type)) for field in table.schema]))
    if "answer" in table.column_names:
        table = table.set_column(table.column_names.index("answer"), "answer", short(table["answer"]))
    encodings = {"problem_id": "DELTA_BYTE_ARRAY"}
    encodings |= {field.name: "BYTE_STREAM_SPLIT" for field in table.schema if field.type in SMALLER.values()}
    pq.write_table(
        table,
        path,
        compression="zstd",
        compression_level=19,
        use_dictionary=[name for name in table.column_names if name not in encodings],
        column_encoding=encodings,
        write_statistics=False,
        store_schema=False,
    )


def short(answers: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.if_else(pc.less_equal(pc.utf8_length(answers), LONGEST_ANSWER), answers, None)


def copy_json(original: Path, copy: Path) -> None:
    """Without the paths of this machine, and without the spaces and line ends that are a quarter of it."""
    value = without_places(json.loads(original.read_text(encoding="utf-8")))
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n"
    write_atomically(copy, lambda path: path.write_text(text, encoding="utf-8"))


def without_places(value: Any, name: str = "") -> Any:
    """The same with absolute paths cut to their last part, and without the runs' and the cache's folders."""
    if isinstance(value, dict):
        return {key: without_places(item, key) for key, item in value.items()}
    if isinstance(value, list):
        return [without_places(item, name) for item in value if not is_place(item)]
    if name in NOWHERE:
        return None
    if not isinstance(value, str):
        return value
    option, equals, path = value.rpartition("=")
    if Path(path).is_absolute():
        return f"{option}{equals}{Path(path).name}"
    return FOLDER_INSIDE.sub(r"\1", value)


def is_place(override: Any) -> bool:
    """runs_dir=… or cache_dir=… in a list of overrides."""
    return isinstance(override, str) and override.lstrip("+").partition("=")[0] in NOWHERE
