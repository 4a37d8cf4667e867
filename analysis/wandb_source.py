"""Cells from Weights & Biases through its public Api. Finished runs are kept on disk, running ones never."""

import hashlib
import json
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from analysis.rows import table_of
from analysis.run_cache import RunCache
from ssgr.cache import cache_root
from ssgr.errors import UserError

if TYPE_CHECKING:
    import wandb

JOB_TYPES = ("prune", "dense")
TABLES = {"samples": "outcomes", "divergence": "divergence"}  # as the run calls them
TABLE_ROWS = 10_000  # W&B's limit for a table's file
GROUPS = ("dense", "sparsity", "calibration", "seconds", "model", "environment", "pruning")  # of the summary's names
WANDB_OPTIONS = ("_wandb", "wandb_version")  # in a run's config, of wandb's own
PER_PAGE = 100  # runs of one page of the list
BATCH = 50  # runs whose config and summary are fetched at once
HISTORY_ROWS = 10_000
TIMEOUT = 12  # seconds that one answer may take, retries included
PATIENCE = {
    "x_graphql_retry_max": 1,
    "x_graphql_timeout_seconds": 10,
    "x_file_transfer_retry_max": 2,
    "x_file_transfer_timeout_seconds": 60,
}
PROBLEMS = {  # in what wandb says: what it means
    r"no api key|no authentication": "there is no API key: run `wandb login`, or set WANDB_API_KEY",
    r"\b40[13]\b|invalid credentials|not logged in|permission denied|API_KEY invalid": (
        "this login is refused (expired, or without access to the project): run `wandb login --relogin`"
    ),
    r"could not find project|project not found": "there is no such project, or none that this login may read",
}


def is_project(source: str | Path) -> bool:
    """Whether a source is a W&B project: it says so, or it is written entity/project and is no directory."""
    if not isinstance(source, str):
        return False
    looks_like_one = re.fullmatch(r"[^/.~][^/]*/[^/]+", source)
    return source.startswith("wandb:") or bool(looks_like_one and not Path(source).is_dir())


def project_path(source: str) -> str:
    """entity/project; UserError where the source names none."""
    path = source.removeprefix("wandb:")
    if path.count("/") != 1 or not all(path.split("/")):
        raise UserError(f"{source}: a W&B project is written wandb:entity/project")
    return path


def find(source: str, study: str | None, refresh: bool) -> tuple[list["WandbCell"], list[str]]:
    """The finished cells among a project's runs (of one study), and a line for each run that holds none."""
    project = Project(source)
    left_out, found, to_fetch = [], {}, []
    for run in project.runs(study, left_out):
        name = f"{run.name} (wandb:{project.path}/{run.id})"
        if run.state not in ("finished", "running"):
            left_out.append(f"{name} is left out: its run has {run.state}")
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
        if cell and cell.summary.get("status") == "finished":
            cells.append(cell)
        else:
            why = "it is still running" if run.state == "running" else "its run holds no finished result"
            left_out.append(f"{name} is left out: {why}")
    return cells, left_out


class Project:
    """One project of W&B, asked through wandb's public Api; every failure of that is a UserError of one line."""

    def __init__(self, source: str):
        self.path = project_path(source)
        self.name = f"W&B project {self.path}"
        if not source.startswith("wandb:"):
            self.name += " (no directory is called that)"
        with self.failures():
            self.api = connect()
        self.cache = cache_root(None) / "wandb" / self.path

    def runs(self, study: str | None, left_out: list[str]) -> list["wandb.apis.public.Run"]:
        """The runs without their config and summary, page by page, each once."""
        filters: dict[str, Any] = {"jobType": {"$in": list(JOB_TYPES)}}
        if study:
            filters["group"] = study
        with self.failures():
            pages = self.api.runs(self.path, filters=filters, per_page=PER_PAGE)
            found = {run.id: run for run in pages}
            if len(found) != len(pages):  # the pages moved while they were read
                left_out.append(f"wandb:{self.path} counts {len(pages)} runs and listed {len(found)}: try again")
        return list(found.values())

    def details(self, ids: list[str]) -> dict[str, dict[str, Any]]:
        """config and summary of these runs."""
        found = {}
        for start in range(0, len(ids), BATCH):
            filters = {"name": {"$in": ids[start : start + BATCH]}}
            with self.failures():
                pages = self.api.runs(self.path, filters=filters, per_page=BATCH, lazy=False)
                nodes = list(nodes_of(pages))
            for node in nodes:
                config = json.loads(node["config"] or "{}")
                config = {name: option["value"] for name, option in config.items() if name not in WANDB_OPTIONS}
                found[node["name"]] = {"config": config, "summary": json.loads(node["summaryMetrics"] or "{}")}
        return found

    def state(self, run: "wandb.apis.public.Run") -> dict[str, Any]:
        """What changes whenever the run does; files that were kept of another state are fetched again."""
        server = self.api.settings["base_url"]
        return {"server": server, "heartbeat_at": run.heartbeat_at, "history_lines": run.history_line_count}

    @contextmanager
    def failures(self) -> Iterator[None]:
        try:
            yield
        except UserError:
            raise
        except Exception as error:  # wandb has no common class for them
            raise UserError(f"{self.name}: {explain(error)}") from error


def nodes_of(pages: "wandb.apis.public.Runs") -> Iterator[dict[str, Any]]:
    """The runs as the server sent them.

    wandb 0.31 takes the config of a run that it did not load lazily apart twice: {"name": "s50", "value": 0.5}, our
    sparsity, comes out of `run.config` as 0.5.
    """
    response = None
    for _ in pages:
        if pages.last_response is not response:
            response = pages.last_response
            yield from (edge["node"] for edge in response["project"]["runs"]["edges"])


def connect() -> "wandb.Api":
    """An Api that gives up after seconds instead of minutes, and asks nobody for a key."""
    import wandb
    from wandb.sdk.lib import wbauth

    settings = wandb.setup().settings
    before = {name: getattr(settings, name) for name in PATIENCE}
    try:
        for name, value in PATIENCE.items():
            if before[name] is None:
                setattr(settings, name, value)
        server = wandb.env.get_base_url(settings.base_url)
        if wbauth.authenticate_session(host=server, source="analysis", prompt=False, update_session=False) is None:
            raise LookupError("no API key")
        return wandb.Api(timeout=TIMEOUT)  # takes a copy of the settings
    finally:
        for name, value in before.items():
            setattr(settings, name, value)


def explain(error: Exception) -> str:
    """One line for what wandb raised; no part of it is a key."""
    said = " ".join(str(error).split())
    for pattern, meaning in PROBLEMS.items():
        if re.search(pattern, said, re.IGNORECASE):
            return meaning
    if re.search(r"giving up|did not respond|dial tcp|time-?out|not running", said, re.IGNORECASE):
        reason = re.sub(r'^\w+ "[^"]*": ', "", said.rpartition("while retrying: ")[2])
        return f"the server cannot be reached ({reason[:200]})"
    return said[:300] or type(error).__name__


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
        metrics = self.result["metrics"]
        tasks = {name.partition("/")[0] for name in metrics}
        counts = {
            task: (metrics.get(f"{task}/problems") or 0) * (metrics.get(f"{task}/repeats") or 0) for task in tasks
        }
        held = table.group_by("task").aggregate([("task", "count")]).to_pylist()
        short = any(row["task_count"] < counts.get(row["task"], 0) for row in held)
        if short or (len(table) >= TABLE_ROWS and len(table) < sum(counts.values())):
            raise ValueError(f"its table holds {len(table):,} of {sum(counts.values()):,} outcomes; the folder has all")

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
        with self.project.failures(), tempfile.TemporaryDirectory() as folder:
            for file in self.run.files(names=[entry["path"]]):
                with file.download(root=folder, replace=True) as opened:
                    data = Path(opened.name).read_bytes()
                if hashlib.sha256(data).hexdigest() == entry.get("sha256", ""):
                    return data
        raise ValueError(f"its run has no file {entry['path']} that is whole")


def without_joined_lists(options: dict[str, Any]) -> dict[str, Any]:
    """The config as it was before tracking put each list's text beside it."""
    return {
        name: without_joined_lists(value) if isinstance(value, dict) else value
        for name, value in options.items()
        if not (name.endswith("_text") and isinstance(options.get(name.removesuffix("_text")), list))
    }
