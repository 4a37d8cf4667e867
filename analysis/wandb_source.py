"""Cells from Weights & Biases through its public Api. Finished runs are kept on disk, running ones never."""

import hashlib
import json
import re
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from analysis.rows import SCHEMA_VERSIONS, table_of, tasks
from analysis.run_cache import RunCache
from analysis.wandb_project import Project
from ssgr.errors import UserError

if TYPE_CHECKING:
    import wandb

TABLES = {"samples": "outcomes", "divergence": "divergence"}  # as the run calls them
TABLE_ROWS = 10_000  # W&B's limit for a table's file
GROUPS = ("dense", "sparsity", "calibration", "seconds", "model", "environment", "pruning")  # of the summary's names
HISTORY_ROWS = 10_000


def is_project(source: str | Path) -> bool:
    """Whether a source is a W&B project: it says so, or it is written entity/project and is no directory."""
    if not isinstance(source, str):
        return False
    looks_like_one = re.fullmatch(r"[^/.~][^/]*/[^/]+", source)
    return source.startswith("wandb:") or bool(looks_like_one and not Path(source).is_dir())


def find(source: str, study: str | None, refresh: bool) -> tuple[list["WandbCell"], list[str]]:
    """The finished cells among a project's runs (of one study), and a line for each run that holds none."""
    project = Project(source)
    left_out, found, to_fetch = [], {}, []
    for run in project.runs(study, left_out):
        name = f"{run.name} (wandb:{project.path}/{run.id})"
        if run.state not in ("finished", "running"):
            left_out.append(f"{name} is left out: the state of its run is {run.state}")
            continue
        kept = RunCache(project.cache / run.id, project.state(run)) if run.state == "finished" else None
        if kept and refresh:
            kept.drop()
        details = kept.read("run.json") if kept else None
        found[run.id] = (run, kept, details, name)
        if details is None:
            to_fetch.append(run.id)
    fetched = project.details(to_fetch)
    cells = []
    for run, kept, details, name in found.values():
        if details is None and run.id in fetched:
            details = json.dumps(fetched[run.id]).encode()
            if kept:
                kept.write("run.json", details)
        cell = WandbCell(project, run, kept, **json.loads(details)) if details else None
        if cell and cell.lacks is None:
            cells.append(cell)
        else:
            left_out.append(f"{name} is left out: {cell.lacks if cell else 'its run is gone'}")
    return cells, left_out


@dataclass
class WandbCell:
    """A cell whose run holds a finished result; its tables and history are fetched when asked for."""

    project: Project
    run: "wandb.apis.public.Run"
    kept: RunCache | None
    config: dict[str, Any]
    summary: dict[str, Any]

    @property
    def study(self) -> str:
        return self.summary.get("study") or self.run.group

    @property
    def cell(self) -> str:
        return self.summary.get("cell") or self.run.name

    @property
    def place(self) -> str:
        return f"wandb:{self.project.path}/{self.run.id}"

    def __str__(self) -> str:
        return f"{self.cell} ({self.place})"

    @property
    def lacks(self) -> str | None:
        """Why this is no finished cell; None if it is one."""
        if self.summary.get("status") != "finished":
            return "it is still running" if self.run.state == "running" else "its run holds no finished result"
        version = self.summary.get("schema_version")
        return None if version in SCHEMA_VERSIONS else f"schema version {version}"

    @cached_property
    def result(self) -> dict[str, Any]:
        """What result.json of the cell holds, as far as the loader reads it."""
        groups: dict[str, dict[str, Any]] = {group: {} for group in GROUPS}
        metrics: dict[str, Any] = {}
        for name, value in self.summary.items():
            group, slash, rest = name.partition("/")
            if slash and group in groups:
                groups[group][rest] = value
            elif slash:
                metrics[name] = value
        result = {name: self.summary.get(name) for name in ("schema_version", "status")}
        result |= {"study": self.study, "cell": self.cell, "config": without_joined_lists(self.config)}
        result |= {name: groups[name] for name in ("sparsity", "seconds", "model", "environment")}
        result["calibration"] = groups["calibration"] or None
        return result | {"metrics": metrics, "dense_metrics": groups["dense"]}

    def table(self, name: str, schema: pa.Schema) -> pa.Table:
        is_dense = self.result["sparsity"]["pattern"] == "dense"
        if name == "history":
            return schema.empty_table() if is_dense else table_of(self._history(), schema)
        if name == "divergence" and (is_dense or not self.config.get("evaluation", {}).get("divergence", True)):
            return schema.empty_table()
        stored = json.loads(self._part(name, lambda: self._download(TABLES[name])))
        table = table_of([dict(zip(stored["columns"], row, strict=True)) for row in stored["data"]], schema)
        if name == "samples":
            self._check_rows(table)
        return table

    def _check_rows(self, table: pa.Table) -> None:
        """ValueError where the run's table was cut: a share of the problems would pass for all of them."""
        metrics, wanted = self.result["metrics"], {}
        for task in tasks(self.result):
            wanted[task] = int((metrics.get(f"{task}/problems") or 0) * (metrics.get(f"{task}/repeats") or 0))
        held, total = Counter(table.column("task").to_pylist()), sum(wanted.values())
        if any(held[task] < wanted.get(task, 0) for task in held) or TABLE_ROWS <= len(table) < total:
            raise ValueError(f"its table holds {len(table):,} of {total:,} outcomes")

    def _history(self) -> list[dict[str, Any]]:
        """One row per block; of a run that went on after a first pruning, the last one."""

        def fetch() -> bytes:
            with self.project.failures():
                rows = self.run.history(samples=HISTORY_ROWS, pandas=False)
            return json.dumps([row for row in rows if row.get("pruning/block") is not None]).encode()

        blocks = {}
        for row in json.loads(self._part("history", fetch)):
            blocks[row["pruning/block"]] = {name.removeprefix("pruning/"): value for name, value in row.items()}
        if not blocks:
            raise ValueError("its run has no history of the pruning")
        return [blocks[block] for block in sorted(blocks)]

    def _part(self, name: str, fetch: Callable[[], bytes]) -> bytes:
        data = self.kept.read(f"{name}.json") if self.kept else None
        if data is None:
            data = fetch()
            if self.kept:
                self.kept.write(f"{name}.json", data)
        return data

    def _download(self, key: str) -> bytes:
        """The file of a table; ValueError where there is none, or not the one that the summary means."""
        entry = self.summary.get(key)
        if not isinstance(entry, dict) or "path" not in entry:
            raise ValueError(f"its run has no table {key}")
        try:
            with self.project.failures(), tempfile.TemporaryDirectory() as folder:
                for file in self.run.files(names=[entry["path"]]):
                    with file.download(root=folder, replace=True) as opened:
                        data = Path(opened.name).read_bytes()
                    if hashlib.sha256(data).hexdigest() == entry.get("sha256"):
                        return data
        except UserError as error:
            if "404" not in str(error):  # this file alone
                raise
        raise ValueError(f"its run has no file {entry['path']} that is whole")


def without_joined_lists(options: dict[str, Any]) -> dict[str, Any]:
    """The config as it was before tracking put each list's text beside it."""
    return {
        name: without_joined_lists(value) if isinstance(value, dict) else value
        for name, value in options.items()
        if not (name.endswith("_text") and isinstance(options.get(name.removesuffix("_text")), list))
    }
