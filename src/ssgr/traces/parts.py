"""The parts of a trace store: parquet files whose names carry a checksum of their bytes.

part-NNNNN-<checksum>.parquet, and part-NNNNN-rM-<checksum>.parquet once its M-th regrading has changed a verdict. A
part appears whole or not at all and is never changed. Of several of one number the last regraded one counts, so that
a regrading that was killed between writing the new part and removing the old one leaves a store that can be read.
"""

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ssgr.cache import is_sound, write_atomically
from ssgr.errors import CellError

SCHEMA = pa.schema(
    {
        "problem_id": pa.string(),
        "rollout": pa.int32(),
        "prompt_ids": pa.list_(pa.int32()),
        "output_ids": pa.list_(pa.int32()),
        "finish_reason": pa.string(),
        "correct": pa.bool_(),
        "answer": pa.string(),
        "prompt_tokens": pa.int32(),
        "tokens": pa.int32(),  # generated tokens
        "content": pa.string(),  # Problem.content, empty where the store knows no such problem
    }
)
TEXT = pa.field("text", pa.string())  # a column of parts whose rows came with a text that is kept for whoever exports
IDS = ["prompt_ids", "output_ids"]
INDEX_COLUMNS = [name for name in SCHEMA.names if name not in IDS]
PARTS = "part-*.parquet"
DICTIONARY = ["problem_id", "finish_reason", "answer", "content"]
GROUP = 64  # rows that are decoded together: few traces of a large part are read without the rest
READERS = 4  # parts that are checked at once: what bounds the memory, too

_NAME = re.compile(r"part-(\d+)(?:-r(\d+))?-[0-9a-f]+\.parquet")


def part_number(name: str) -> int:
    return _place(name)[0]


def part_files(folder: Path) -> list[Path]:
    """Every part in this folder, sound or not, in the order of their numbers and the last regraded one first."""
    paths = [path for path in folder.glob(PARTS) if _NAME.fullmatch(path.name)]
    return sorted(paths, key=lambda path: (_place(path.name)[0], -_place(path.name)[1], path.name))


def read_indices(paths: Sequence[Path]) -> list[pa.Table | None]:
    """Of each part all columns but the ids; None for one whose bytes are not what its name promises."""
    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(_read_index, paths))


def current_parts(indices: dict[str, pa.Table]) -> dict[str, pa.Table]:
    """Without the parts that a regrading has superseded; `indices` goes by name, in the order of part_files."""
    latest: dict[int, int] = {}
    for name in indices:
        number, regrading = _place(name)
        latest[number] = max(regrading, latest.get(number, 0))
    return {name: index for name, index in indices.items() if _place(name)[1] == latest[_place(name)[0]]}


def index_frame(indices: dict[str, pa.Table]) -> pd.DataFrame:
    """All rows of these parts: columns INDEX_COLUMNS, and where each lies, part and row."""
    tables = list(indices.values()) or [SCHEMA.empty_table().select(INDEX_COLUMNS)]
    frame = pa.concat_tables(tables).to_pandas()
    sizes = [table.num_rows for table in indices.values()]
    part = np.repeat(np.array(list(indices), dtype=object), sizes)
    row = np.concatenate([np.arange(size) for size in sizes]) if sizes else np.zeros(0, np.int64)
    return frame.assign(part=part, row=row)


def read_part(path: Path) -> pa.Table:
    """All rows of the part; CellError where its bytes are not what its name promises or it is gone."""
    return _checked(path).read()


def read_ids(path: Path, rows: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Prompt and output ids (int32) of these rows of the part, in their order; no more of it is decoded than needed.

    Raises CellError where the part's bytes are not what its name promises or it is gone.
    """
    file = _checked(path)
    sizes = np.array([file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)])
    starts = np.cumsum(sizes) - sizes
    groups = np.searchsorted(starts, rows, side="right") - 1
    needed, position = np.unique(groups, return_inverse=True)
    read_starts = np.cumsum(sizes[needed]) - sizes[needed]
    table = file.read_row_groups(needed.tolist(), columns=IDS)
    table = table.take(pa.array(rows - starts[groups] + read_starts[position]))
    return list(zip(*(id_arrays(table, column) for column in IDS), strict=True))


def write_part(folder: Path, number: int, table: pa.Table) -> Path:
    return _write(folder / f"part-{number:05d}.parquet", table)


def replace_part(path: Path, table: pa.Table) -> Path:
    """Writes what stands for this part from now on, then removes the part."""
    number, regrading = _place(path.name)
    written = _write(path.with_name(f"part-{number:05d}-r{regrading + 1}.parquet"), table)
    path.unlink()
    return written


def rows_table(columns: dict[str, list[Any]]) -> pa.Table:
    """The columns of SCHEMA from lists of values (ids: any sequence of integers); `text` only where a row has one."""
    if any(text is not None for text in columns.get("text", [])):
        return pa.table(columns, schema=SCHEMA.append(TEXT))
    return pa.table({name: columns[name] for name in SCHEMA.names}, schema=SCHEMA)


def id_arrays(table: pa.Table, column: str) -> list[np.ndarray]:
    """One array per row of a column of lists of integers, each its own memory."""
    lists = table.column(column).combine_chunks()
    values, offsets = lists.values.to_numpy(), lists.offsets.to_numpy()
    return [values[start:end].copy() for start, end in pairwise(offsets)]


def _checked(path: Path) -> pq.ParquetFile:
    if not is_sound(path):
        raise CellError(f"{path} is damaged or was replaced since the store was opened: run this again")
    return pq.ParquetFile(path)


def _write(path: Path, table: pa.Table) -> Path:
    """Ids without a dictionary: most differ, so that it would only cost time and space."""
    options = {"compression": "zstd", "row_group_size": GROUP, "use_dictionary": DICTIONARY}
    return write_atomically(path, lambda part: pq.write_table(table, part, **options), checked=True)


def _read_index(path: Path) -> pa.Table | None:
    return pq.ParquetFile(path).read(columns=INDEX_COLUMNS) if is_sound(path) else None


def _place(name: str) -> tuple[int, int]:
    """Number and regrading of a part, 0 for one that was never regraded."""
    number, regrading = _NAME.fullmatch(name).groups()
    return int(number), int(regrading or 0)
