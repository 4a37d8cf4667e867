"""Finished cells, their per-problem outcomes, divergences and pruning histories as tidy tables.

A source is a runs directory, a W&B project ("entity/project") or a list of both; the columns do not depend on it.
"""

import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from analysis import wandb_source
from analysis.comparable import rank, shown
from analysis.rows import DIVERGENCE, HISTORY, RUNS, SAMPLES, SCHEMA_VERSIONS, options, run_rows, table_of
from ssgr.errors import UserError
from ssgr.progress import track

READERS = 8  # tables that are read or fetched at the same time
NAMED = 5  # cells that one line names
VALUES = 12  # of a column that one line names

Source = str | Path


class NoRunsDirectory(UserError, FileNotFoundError):
    """A path that was given as a runs directory and is none."""


class StoredCell(Protocol):
    """A finished cell, wherever it is kept."""

    study: str
    cell: str
    place: str  # its folder or its run: what messages name and the column `folder` holds

    @property
    def result(self) -> dict[str, Any]:
        """What result.json holds."""

    def table(self, name: str, schema: pa.Schema) -> pa.Table:
        """samples | divergence | history, as in its schema; OSError or ValueError where it cannot be read."""


def load_runs(
    source: Source | Sequence[Source],
    study: str | None = None,
    *,
    where: Mapping[str, str] | None = None,
    refresh: bool = False,
) -> pd.DataFrame:
    """One row per finished cell and task, sorted by study, cell and task; columns and types as in rows.RUNS.

    What the cell was (bins named by their bounds, whatever option they were asked for with), the metrics of the pruned
    model, `dense_<metric>` of the dense one, seconds per stage, the resolved config as JSON text, and the folder (or
    the run). What a cell did not use is missing. `where` keeps the rows whose column, or dotted option of the config
    (`rollouts.k`), equals the value. `refresh` fetches anew what is cached of W&B.

    A cell that a runs directory and W&B both hold comes from the directory. What cannot be read, runs that are not
    finished and unknown schema versions are said on standard error, left out, and kept as lines in
    `attrs["left_out"]`. Raises UserError, one line, for a source that is not there or cannot be reached.
    """
    cells, left_out = find_cells(source, study, refresh)
    rows = []
    for cell in cells:
        try:
            found = run_rows(cell.result, cell.place)
            pa.Table.from_pylist(found, RUNS)  # a wrong type is this cell's alone
            rows += found
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
            left_out.append(f"{cell} is left out: its result is not whole ({error!r})")
    rows.sort(key=lambda row: (row["study"], row["cell"], row["task"]))
    runs = pa.Table.from_pylist(rows, RUNS).to_pandas()
    _say(left_out)
    runs = matching(runs, where or {})
    runs.attrs["left_out"] = left_out
    return runs


def matching(runs: pd.DataFrame, where: Mapping[str, str]) -> pd.DataFrame:
    """The rows whose column, or option, equals the value, of all that are named; sparsity to three digits."""
    for name, value in where.items():
        runs = runs[_equals(runs, name, value)].reset_index(drop=True)
    return runs


def unmatched(runs: pd.DataFrame, where: Mapping[str, str]) -> str:
    """What the first of these that no row matches could have been, among the rows that those before it left."""
    for name, value in where.items():
        found = matching(runs, {name: value})
        if found.empty and len(runs):
            values = {shown(found): found for found in _values(runs, name)}
            choices = sorted(values, key=lambda text: rank(name, values[text]))
            more = f" and {len(choices) - VALUES} more" if len(choices) > VALUES else ""
            return f"{name} is {', '.join(choices[:VALUES])}{more}"
        runs = found
    return ""


def load_samples(source: Source | Sequence[Source], study: str | None = None, *, refresh: bool = False) -> pd.DataFrame:
    """One row per outcome of the pruned models: study, cell, task, problem_id, repeat, correct, tokens, …"""
    return _load_tables(source, study, refresh, "samples", SAMPLES)


def load_divergence(
    source: Source | Sequence[Source], study: str | None = None, *, refresh: bool = False
) -> pd.DataFrame:
    """One row per cell and held-out dense sample: study, cell and the columns of divergence.parquet (KL in nats).

    Cells that were asked to leave it out, and dense models, have no rows.
    """
    return _load_tables(source, study, refresh, "divergence", DIVERGENCE)


def load_histories(
    source: Source | Sequence[Source], study: str | None = None, *, refresh: bool = False
) -> pd.DataFrame:
    """One row per cell and pruned decoder block: study, cell, block, seconds, relative_error (where measured)."""
    return _load_tables(source, study, refresh, "history", HISTORY)


def find_cells(
    source: Source | Sequence[Source], study: str | None, refresh: bool = False
) -> tuple[list[StoredCell], list[str]]:
    """The finished cells of all sources, each once, sorted; and a line for each that is left out.

    Runs directories come before W&B projects, then the order given decides.
    """
    sources = [source] if isinstance(source, str | Path) else list(source)
    found: dict[tuple[str, str], StoredCell] = {}
    left_out: list[str] = []
    for one in sorted(sources, key=wandb_source.is_project):
        cells, complaints = (wandb_source.find if wandb_source.is_project(one) else _find_on_disk)(one, study, refresh)
        left_out += complaints
        for cell in cells:
            taken = found.setdefault((cell.study, cell.cell), cell)
            if taken is not cell and type(taken) is type(cell):
                left_out.append(f"{cell} is left out: the same cell is in {taken}")
    return [found[key] for key in sorted(found)], left_out


@dataclass
class DiskCell:
    """A finished cell's folder in a runs directory."""

    folder: Path
    result: dict[str, Any]

    @property
    def study(self) -> str:
        return self.result["study"]

    @property
    def cell(self) -> str:
        return self.result["cell"]

    @property
    def place(self) -> str:
        return str(self.folder)

    def __str__(self) -> str:
        return self.place

    def table(self, name: str, schema: pa.Schema) -> pa.Table:
        if name == "history":
            return self._history(schema)
        path = self.folder / f"{name}.parquet"
        asked = self.result["config"].get("evaluation", {}).get("divergence", True)
        if name == "divergence" and not path.is_file() and (self._is_dense or not asked):
            return schema.empty_table()
        generated = any(metric.endswith("/accuracy") for metric in self.result["metrics"])
        if name == "samples" and not path.is_file() and not generated:  # what `keep` leaves of the divergence alone
            return schema.empty_table()
        with pq.ParquetFile(path) as file:
            columns = [column for column in schema.names if column in file.schema_arrow.names]
            return table_of(file.read(columns), schema)

    def _history(self, schema: pa.Schema) -> pa.Table:
        """The report's blocks; of reports that have none, the sums over each block's linears."""
        if self._is_dense:
            return schema.empty_table()
        report = json.loads((self.folder / "prune_report.json").read_text(encoding="utf-8"))
        return table_of(report.get("blocks") or _blocks(report["rows"]), schema)

    @property
    def _is_dense(self) -> bool:
        return self.result["sparsity"]["pattern"] == "dense"


def _find_on_disk(source: Source, study: str | None, refresh: bool) -> tuple[list[DiskCell], list[str]]:
    source = Path(source)
    if not source.is_dir():
        raise NoRunsDirectory(f"no runs directory {source}")
    cells, left_out = [], []
    folders = [source / study] if study else [path for path in source.iterdir() if path.is_dir()]
    for path in sorted(path for folder in folders for path in folder.glob("*/result.json")):
        try:
            result = json.loads(path.read_text(encoding="utf-8"))
            version, status = result.get("schema_version"), result.get("status", "finished")
            if version not in SCHEMA_VERSIONS:
                raise ValueError(f"schema version {version}")
            if status != "finished":
                raise ValueError(f"its status is {status}")
            cell = DiskCell(path.parent, result)
            if not all(isinstance(name, str) for name in (cell.study, cell.cell)):
                raise ValueError("its study or its cell has no name")
            if not isinstance(result["config"].get("evaluation", {}), dict):
                raise ValueError("its config is not whole")
            cells.append(cell)
        except (OSError, ValueError, KeyError, AttributeError) as error:
            left_out.append(f"{path} is left out: {error}")
    return cells, left_out


def _blocks(linears: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Seconds and mean relative error of each decoder block, whose number is the first one in its linears' names."""

    def number(linear: dict[str, Any]) -> int:
        found = re.search(r"\.(\d+)\.", linear["name"])
        if found is None:
            raise ValueError(f"{linear['name']} names no block")
        return int(found[1])

    blocks = []
    for block, rows in groupby(sorted(linears, key=number), key=number):
        rows = list(rows)
        errors = [row["relative_error"] for row in rows if row.get("relative_error") is not None]
        error = sum(errors) / len(errors) if errors else None
        blocks.append({"block": block, "seconds": sum(row["seconds"] for row in rows), "relative_error": error})
    return blocks


def _load_tables(
    source: Source | Sequence[Source], study: str | None, refresh: bool, name: str, schema: pa.Schema
) -> pd.DataFrame:
    cells, left_out = find_cells(source, study, refresh)

    def read(cell: StoredCell) -> pa.Table | Exception:
        try:
            table = cell.table(name, schema)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            return error
        for place, label in enumerate((cell.study, cell.cell)):
            table = table.add_column(place, ("study", "cell")[place], pa.repeat(label, len(table)))
        return table

    pool = ThreadPoolExecutor(READERS)
    try:
        tables = list(_watched(pool.map(read, cells), cells, name))
    finally:
        pool.shutdown(cancel_futures=True)
    failed = [(cell, table) for cell, table in zip(cells, tables, strict=True) if isinstance(table, Exception)]
    left_out += _unread(failed, name)
    _say(left_out)
    labelled = pa.schema([pa.field("study", pa.string()), pa.field("cell", pa.string()), *schema])
    whole = [table for table in tables if isinstance(table, pa.Table)]
    rows = pa.concat_tables([labelled.empty_table(), *whole]).to_pandas()
    rows.attrs["left_out"] = left_out
    return rows


def _unread(failed: list[tuple[StoredCell, Exception]], name: str) -> Iterable[str]:
    """A line for each table that cannot be read, and one for all those that are not there: they were not kept."""
    for cell, error in failed:
        if not isinstance(error, FileNotFoundError):
            yield f"{cell}: its {name} cannot be read and is left out: {error}"
    absent = [str(cell) for cell, error in failed if isinstance(error, FileNotFoundError)]
    if absent:
        more = f" and {len(absent) - NAMED} more" if len(absent) > NAMED else ""
        yield f"the {name} of {len(absent)} cells is not there and is left out: {', '.join(absent[:NAMED])}{more}"


def _watched(tables: Iterable[Any], cells: list[StoredCell], name: str) -> Iterable[Any]:
    """The same, with a bar where they come over a network."""
    if all(isinstance(cell, DiskCell) for cell in cells):
        yield from tables
        return
    with track(f"{name} of runs", len(cells)) as bar:
        for table in tables:
            bar.advance()
            yield table


def _equals(runs: pd.DataFrame, name: str, value: str) -> pd.Series:
    """Which rows have this value, as YAML reads it, in this column or else in this option of their config."""
    values = _values(runs, name)
    wanted = yaml.safe_load(value) if isinstance(value, str) else value

    def same(found: Any) -> bool:
        missing = not isinstance(found, list) and pd.isna(found)
        return wanted is None if missing else found == wanted or str(found) == str(value)

    return values.map(same).astype(bool)


def _values(runs: pd.DataFrame, name: str) -> pd.Series:
    """Of this column, or else of this option of the configs; UserError where there is neither."""
    if name in runs:
        return runs[name].round(3) if name == "sparsity" else runs[name]  # as counted: 0.54998 for 0.55
    if len(runs) and not any(name in options(text) for text in runs["config"]):
        raise UserError(f"where: no column and no option of the configs is called {name}")
    return runs["config"].map(lambda text: options(text).get(name))


def _say(lines: Iterable[str]) -> None:
    for line in lines:
        print(line, file=sys.stderr)
