"""Traces from outside, row by row: what a row must hold, checked before anything of it enters a store.

Two kinds of rows: those of a store's parts {problem_id or unique_id, rollout, prompt_ids, output_ids, finish_reason,
correct, answer}, and SGLang's {input_ids, num_prompt_tokens, num_decode_tokens, text}.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ssgr.cache import content_hash
from ssgr.data_files import Row, count_rows, read_rows
from ssgr.errors import UserError, first_line
from ssgr.traces.parts import IDS, id_arrays

BATCH = 256  # rows in memory at a time
LARGEST_ID = np.iinfo(np.int32).max
MOST_ROLLOUTS = 10_000  # of a problem: a view's k is its largest number + 1, whatever lies between
FINISH_REASONS = ("stop", "length", "repetition")
ID_FIELDS = ("problem_id", "unique_id")
ROW_FILES = (".parquet", ".jsonl", ".json", ".jsonl.gz", ".json.gz")


@dataclass(frozen=True)
class Incoming:
    """One checked row. `problem_id` and `rollout` are None where the row has none (SGLang's), `tokens` as of Trace."""

    place: str
    prompt_ids: np.ndarray
    output_ids: np.ndarray
    finish_reason: str
    problem_id: str | None = None
    rollout: int | None = None
    correct: bool | None = None
    answer: str | None = None
    text: str | None = None
    tokens: int | None = None


def row_files(path: Path) -> list[Path]:
    """The files of rows that a path names: itself, or those in a folder (SGLang's traces.jsonl alone).

    Raises UserError where there are none.
    """
    path = Path(path).expanduser()
    if (path / "traces.jsonl").is_file():
        return [path / "traces.jsonl"]
    if is_saved_dataset(path):
        return sorted(path.rglob("*.arrow"))
    found = sorted(path.iterdir()) if path.is_dir() else [path] if path.is_file() else []
    found = [file for file in found if file.name.lower().endswith(ROW_FILES) and file.name != "rac_manifest.json"]
    if not found:
        what = "holds no" if path.is_dir() else "is no" if path.exists() else "does not exist: needs a"
        raise UserError(f"{path} {what} jsonl or parquet file of traces, store, or saved data set")
    return found


def is_saved_dataset(path: Path) -> bool:
    """Whether `datasets` wrote this folder by save_to_disk."""
    return (path / "state.json").is_file() or (path / "dataset_dict.json").is_file()


def rows_in(path: Path) -> int:
    """How many rows a path names; 0 for a saved data set, which says so only once it is read."""
    return 0 if is_saved_dataset(path) else sum(count_rows(file) for file in row_files(path))


def raw_rows(path: Path) -> Iterator[Row]:
    """Place and fields of every row that a path names; lists of integers in parquet and data sets are numpy arrays."""
    if is_saved_dataset(path):
        yield from _dataset_rows(path)
        return
    for file in row_files(path):
        yield from _parquet_rows(file) if file.suffix == ".parquet" else read_rows(file)


def table_rows(table: pa.Table, where: str, first: int = 1) -> Iterator[Row]:
    """Each row of a table as a dict; its place is `where row N`, counted from `first`."""
    columns = [_values(table, name) for name in table.column_names]
    for number, values in enumerate(zip(*columns, strict=True), start=first):
        yield f"{where} row {number}", dict(zip(table.column_names, values, strict=True))


def checked_row(place: str, row: dict[str, Any], longest: int | None = None) -> Incoming:
    """The row as it may enter a store; UserError, with its place, for anything wrong with it.

    `longest` is the cap on generated tokens, where it is known: SGLang's rows do not say how a completion ended, and
    one of that length was cut.
    """
    if "input_ids" in row:
        return _from_sglang(place, row, longest)
    prompt_ids, output_ids = (_token_ids(_field(row, name, place), name, place) for name in IDS)
    finish_reason = _field(row, "finish_reason", place)
    if finish_reason not in FINISH_REASONS:
        raise UserError(f"{place}: finish_reason {finish_reason!r}; choices: {', '.join(FINISH_REASONS)}")
    rollout = _count(_field(row, "rollout", place), "rollout", place)
    if rollout >= MOST_ROLLOUTS:
        raise UserError(f"{place}: rollout {rollout}: those of a problem are numbered 0, 1, … below {MOST_ROLLOUTS:,}")
    correct = row.get("correct")
    if not (correct is None or isinstance(correct, bool)):
        raise UserError(f"{place}: correct must be true, false or null, not {correct!r}")
    return Incoming(
        place,
        prompt_ids,
        output_ids,
        finish_reason,
        problem_id=_problem_id(row, place),
        rollout=rollout,
        correct=correct,
        answer=_text(row.get("answer"), "answer", place),
        text=_text(row.get("text"), "text", place),
    )


def prompt_name(prompt_ids: np.ndarray) -> str:
    """What names the problem of a row that says none."""
    return content_hash(prompt_ids.tolist())


def _from_sglang(place: str, row: dict[str, Any], longest: int | None) -> Incoming:
    ids = _token_ids(row["input_ids"], "input_ids", place)
    names = ("num_prompt_tokens", "num_decode_tokens")
    prompt, generated = (_count(_field(row, name, place), name, place) for name in names)
    if prompt + generated != len(ids):
        counts = f"num_prompt_tokens {prompt} and num_decode_tokens {generated}"
        raise UserError(f"{place}: {counts} do not add up to the {len(ids)} ids in input_ids")
    reason = "length" if longest is not None and generated >= longest else "stop"
    return Incoming(place, ids[:prompt], ids[prompt:], reason, text=_text(row.get("text"), "text", place))


def _field(row: dict[str, Any], name: str, place: str) -> Any:
    if row.get(name) is None:
        raise UserError(f"{place}: no {name}; the row has {', '.join(row) or 'no field'}")
    return row[name]


def _problem_id(row: dict[str, Any], place: str) -> str:
    found = next((row[name] for name in ID_FIELDS if row.get(name) not in (None, "")), None)
    if found is None or isinstance(found, bool | float | list | dict):
        raise UserError(f"{place}: no {' or '.join(ID_FIELDS)}; the row has {', '.join(row) or 'no field'}")
    return str(found)


def _count(value: Any, name: str, place: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= LARGEST_ID:
        raise UserError(f"{place}: {name} must be a whole number of at least 0, not {value!r}")
    return value


def _text(value: Any, name: str, place: str) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise UserError(f"{place}: {name} must be text, not {type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise UserError(f"{place}: {name} holds half a character (a lone surrogate)") from None
    return value


def _token_ids(value: Any, name: str, place: str) -> np.ndarray:
    """int32 ids from a list of Python's or numpy's integers."""
    integers = (
        value.dtype.kind in "iu"
        if isinstance(value, np.ndarray)
        else isinstance(value, list) and set(map(type, value)) <= {int}
    )
    if not integers:
        raise UserError(f"{place}: {name} must be a list of token ids, whole numbers")
    if len(value):
        least, most = int(min(value) if isinstance(value, list) else value.min()), int(np.max(value))
        if least < 0:
            raise UserError(f"{place}: {name} holds {least}, and a token id is not negative")
        if most > LARGEST_ID:
            raise UserError(f"{place}: {name} holds {most}, and a token id is at most {LARGEST_ID}")
    return np.asarray(value, dtype=np.int32)


def _parquet_rows(path: Path) -> Iterator[Row]:
    number = 1
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=BATCH):
                yield from table_rows(pa.Table.from_batches([batch]), str(path), number)
                number += len(batch)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path} row {number}: no parquet file, or a broken one ({first_line(error)})") from None


def _dataset_rows(path: Path) -> Iterator[Row]:
    import datasets

    try:
        found = datasets.load_from_disk(str(path))
    except Exception as error:  # datasets raises errors of many kinds
        raise UserError(f"{path}: a saved data set that cannot be read ({first_line(error)})") from error
    splits = found if isinstance(found, dict) else {"": found}
    for name, split in splits.items():
        where = f"{path / name}" if name else str(path)
        for start in range(0, len(split), BATCH):
            table = split.with_format("arrow")[start : start + BATCH]
            yield from table_rows(table, where, start + 1)


def _values(table: pa.Table, name: str) -> list[Any]:
    column = table.column(name)
    lists = pa.types.is_list(column.type) or pa.types.is_large_list(column.type)
    if not (lists and pa.types.is_integer(column.type.value_type)) or column.null_count:
        return column.to_pylist()
    has_gaps = any(chunk.values.null_count for chunk in column.chunks)
    return column.to_pylist() if has_gaps else id_arrays(table, name)
