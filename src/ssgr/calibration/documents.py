"""Rows in seeded order, from local files or streamed from the hub: what the sources of other people's text read."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any

from ssgr.cache import content_hash, locked, remove_damaged, remove_leftovers, write_atomically
from ssgr.calibration import CalibrationRequest
from ssgr.config import HubTextConfig, OffPolicyConfig
from ssgr.data_files import Row, contents_hash, count_rows, data_files, is_text, read_rows, read_text
from ssgr.errors import UserError
from ssgr.hub_data import hub_contents, hub_name, placed, stream_hub
from ssgr.traces.selection import draw_order

FIRST_DRAW = 4096  # rows that are read at once, twice as many each time: only what is needed is held in memory
OVERRIDE = "calibration.data_files=FILE"


def local_files(config: HubTextConfig | OffPolicyConfig) -> list[Path] | None:
    """The files that take the hub's place; None where the hub is asked."""
    if config.data_files is None:
        return None
    return data_files(config.data_files, "calibration.data_files")


def data_contents(config: HubTextConfig | OffPolicyConfig) -> list[str | None]:
    """What names the data in the cell's hash: the hash of each file, or the hub's id, config, split and revision."""
    files = local_files(config)
    return hub_contents(config.dataset) if files is None else [contents_hash(file) for file in files]


def data_name(config: HubTextConfig | OffPolicyConfig) -> str:
    """The data for people."""
    return hub_name(config.dataset) if config.data_files is None else config.data_files


@contextmanager
def drawn_rows(request: CalibrationRequest, fields: Sequence[str], *decisive: Any) -> Iterator[Iterator[Row]]:
    """The rows in seeded order, for as long as the block takes from them.

    What it took of a hub's stream is kept in the cache for the next cell with the same budget, once the block ends
    well. `fields` are those that it needs, `decisive` is what else decides how many rows it takes.
    """
    config = request.config
    files = local_files(config)
    if files is not None:
        yield seeded_rows(files, request.seed, fields[0])
        return
    budget = [config.tokens, config.sequences, config.max_seq_len]
    key = [hub_contents(config.dataset), config.name, list(fields), request.seed, request.weights_hash, budget]
    folder = request.cache / "streams" / content_hash([*key, *decisive])
    with locked(folder.with_suffix(".lock")):
        remove_leftovers(folder)
        remove_damaged(folder, "rows-*.jsonl")
        found = next(folder.glob("rows-*.jsonl"), None)
        if found is not None:
            yield read_rows(found)
            return
        taken: list[dict[str, Any]] = []
        yield _recorded(stream_rows(config, request.seed), fields, taken)
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in taken)
        write_atomically(folder / "rows.jsonl", lambda path: path.write_text(lines, encoding="utf-8"), checked=True)


def stream_rows(config: HubTextConfig | OffPolicyConfig, seed: int | None) -> Iterator[Row]:
    """The hub's rows, shuffled where there is a seed."""
    rows = stream_hub(config.dataset, "calibration.dataset", OVERRIDE, seed)
    return placed(config.dataset, rows)


def seeded_rows(files: Sequence[Path], seed: int, text_field: str) -> Iterator[Row]:
    """Every row of all files once, in an order that follows from the seed; a text file is one row with `text_field`."""
    counts = [count_rows(file) for file in files]
    order = draw_order(seed, "documents", range(sum(counts)))
    done, size = 0, FIRST_DRAW
    while done < len(order):
        drawn = order[done : done + size].tolist()
        found: dict[int, Row] = {}
        for file, start, count in zip(files, accumulate(counts, initial=0), counts, strict=False):
            wanted = sorted(row - start for row in drawn if start <= row < start + count)
            if wanted:
                rows = _rows_of(file, set(wanted), text_field)
                found |= {start + number: row for number, row in zip(wanted, rows, strict=True)}
        yield from (found[row] for row in drawn)
        done, size = done + len(drawn), 2 * size


def file_rows(file: Path, text_field: str) -> Iterator[Row]:
    """Every row of a file in its order; a text file is one row with `text_field`."""
    return iter([(str(file), {text_field: read_text(file)})]) if is_text(file) else read_rows(file)


def texts(rows: Iterator[Row], field: str) -> Iterator[str]:
    """The texts of the rows, empty ones left out; UserError, with the row's place, for a row without such a field."""
    return (text for place, row in rows if (text := text_of(row, field, place, "calibration.text_field")).strip())


def text_of(row: dict[str, Any], field: str, place: str, option: str) -> str:
    """The row's field as text, empty where it is null; UserError where the row has no such field or no text in it."""
    if field not in row:
        raise UserError(f"{place}: no field {field!r} ({option}); it has {', '.join(sorted(row)) or 'none'}")
    value = row[field]
    if value is not None and not isinstance(value, str):
        raise UserError(f"{place}: {field!r} ({option}) must be text, not {type(value).__name__}")
    return value or ""


def _rows_of(file: Path, wanted: set[int], text_field: str) -> Iterator[Row]:
    return file_rows(file, text_field) if is_text(file) else read_rows(file, wanted.__contains__)


def _recorded(rows: Iterator[Row], fields: Sequence[str], taken: list[dict[str, Any]]) -> Iterator[Row]:
    for place, row in rows:
        kept = {field: row[field] for field in fields if field in row}
        taken.append(kept)
        yield place, (kept if kept else row)  # a row without any of them is named with the fields that it has
