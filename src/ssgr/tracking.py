"""Weights & Biases as a view of a cell: its files are the record, and tracking that fails never costs a result."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from ssgr.cache import content_hash, locked, read_json, write_json
from ssgr.cell import Cell
from ssgr.config import TrackingMode
from ssgr.errors import first_line
from ssgr.progress import say
from ssgr.results import git_describe, plain
from ssgr.resume import lock_path

RECORD = "tracking.json"  # in a cell's folder: the run that shows it
TABLE_ROWS = 10_000  # of one table: more is not shown by W&B
OUTCOMES = ["task", "problem_id", "repeat", "correct", "tokens", "finish_reason", "answer"]

_unreachable = False  # once W&B could not be had, this process keeps its runs offline instead of waiting for it again


def run_id(cell: Cell) -> str:
    """The same for every run of this cell in this study, so that a rerun updates its run instead of adding one."""
    return content_hash([cell.config.study, cell.identity])


class Tracker:
    """Passes on what happens to a W&B run, or to nothing. The first failure is said once and ends the tracking."""

    def __init__(self, run: Any = None):
        self.run = run

    def _try(self, action: Callable[[], Any]) -> None:
        if self.run is None:
            return
        try:
            action()
        except Exception as error:  # whatever it is, the cell goes on
            say_failed(error)
            self.run = None

    def log_block(self, block: dict[str, Any]) -> None:
        """One point of the pruning history: the report's row of one block."""
        point = {f"pruning/{name}": value for name, value in block.items() if value is not None}
        self._try(lambda: self.run.log(point))

    def log_finished(self, folder: Path) -> None:
        """What a finished cell left: its numbers as the summary, its grid, outcomes and divergence as tables."""
        self._try(lambda: self.run.log({name: _table(frame.head(TABLE_ROWS)) for name, frame in tables(folder)}))
        self._try(lambda: self.run.summary.update(summary(read_json(folder / "result.json"))))


def summary(result: dict[str, Any]) -> dict[str, Any]:
    """The numbers of a result.json under flat names: <task>/<metric>, dense/…, sparsity/…, calibration/…, seconds/…"""
    environment = {name: result["environment"][name] for name in ("git", "device")}
    groups = {"dense": result["dense_metrics"], "environment": environment}
    groups |= {name: result[name] or {} for name in ("sparsity", "calibration", "seconds", "model")}
    flat = {name: result[name] for name in ("schema_version", "cell", "study", "status")} | result["metrics"]
    for group, values in groups.items():
        flat |= {f"{group}/{name}": value for name, value in values.items() if not isinstance(value, dict)}
    return flat


def tables(folder: Path) -> Iterator[tuple[str, pd.DataFrame]]:
    """store and selection (pass rate x length: what there was and what was taken), outcomes, divergence."""
    calibration = read_json(folder / "result.json")["calibration"] or {}
    for name, part in (("store", "held"), ("selection", "taken")):
        if calibration.get("grid"):
            grid = pd.DataFrame.from_dict(calibration["grid"][part], orient="index")
            yield name, grid.reset_index(names="pass rate")
    yield "outcomes", pd.read_parquet(folder / "samples.parquet", columns=OUTCOMES)
    if (folder / "divergence.parquet").is_file():
        yield "divergence", pd.read_parquet(folder / "divergence.parquet")


@contextmanager
def start(cell: Cell) -> Iterator[Tracker]:
    """A tracker for as long as the cell runs; WANDB_MODE, WANDB_PROJECT and WANDB_ENTITY win over the config."""
    wanted = destination(cell)
    if wanted["mode"] == TrackingMode.disabled:
        yield Tracker()
        return
    (cell.folder / RECORD).unlink(missing_ok=True)
    mode, run = _open(cell, wanted)
    tracker, failed = Tracker(run), True
    url = getattr(run, "url", None) if mode == "online" else None  # whose it is when no entity is named, W&B knows
    try:
        yield tracker
        failed = False
    finally:
        tracker._try(lambda: tracker.run.finish(exit_code=int(failed)))
        if not failed:
            record = wanted | {"mode": mode, "id": run_id(cell), "url": url}
            tracker._try(lambda: write_json(cell.folder / RECORD, record))


def catch_up(cell: Cell) -> None:
    """Gives a finished cell its run where it has none: a copy, or one that ran while tracking was off or failed."""
    if is_tracked(cell):
        return
    with locked(lock_path(cell)):
        if is_tracked(cell):  # by another process in the meantime
            return
        with start(cell) as tracker:
            report = read_json(cell.folder / "prune_report.json") or {}
            for block in report.get("blocks", []):
                tracker.log_block(block)
            tracker.log_finished(cell.folder)


def is_tracked(cell: Cell) -> bool:
    """Whether nothing is to be done: tracking is off, or the cell's run is where it was asked for."""
    wanted = destination(cell)
    if wanted["mode"] == TrackingMode.disabled:
        return True
    record = read_json(cell.folder / RECORD)
    if record is None:
        return False
    there = all(record.get(name) == wanted[name] for name in ("project", "entity"))
    return there and (record.get("mode") in (wanted["mode"], "online") or _unreachable)


def destination(cell: Cell) -> dict[str, str | None]:
    """mode, project and entity that the cell's run goes to."""
    options = cell.config.tracking
    config = {"project": options.project, "entity": options.entity}
    named = {name: os.environ.get(f"WANDB_{name.upper()}") or value for name, value in config.items()}
    return {"mode": str(options.asked_mode()), **named}


def _open(cell: Cell, wanted: dict[str, Any]) -> tuple[str, Any]:
    """The mode that could be had, and its run; None where there is none."""
    global _unreachable
    if wanted["mode"] == TrackingMode.online and not _unreachable:
        try:
            return "online", _init(cell, wanted)
        except Exception as error:
            _unreachable = True
            _forget()
            say(f"W&B cannot be had ({first_line(error)}): runs are kept offline, and `wandb sync` can send them later")
    try:
        return "offline", _init(cell, wanted | {"mode": "offline"})
    except Exception as error:
        say_failed(error)
        return "offline", None


def _forget() -> None:
    """Ends wandb's own process, which still holds the id of a run that it could not start."""
    import wandb

    with suppress(Exception):
        wandb.teardown()


def _init(cell: Cell, wanted: dict[str, Any]) -> Any:
    os.environ.setdefault("WANDB_SILENT", "true")  # what is to be said is said here
    import wandb

    # An offline rerun would leave a second directory under the same id: the superseded one goes.
    shutil.rmtree(cell.folder / "wandb", ignore_errors=True)
    cell.folder.mkdir(parents=True, exist_ok=True)
    return wandb.init(
        **wanted,
        id=run_id(cell),
        resume="allow" if wanted["mode"] == TrackingMode.online else None,
        name=cell.name,
        group=cell.config.study,
        job_type="dense" if cell.is_dense else "prune",
        tags=[tag for tag in (cell.config.study, git_describe()) if tag],
        dir=cell.folder.absolute(),  # wandb's own process need not stand where this one does
        config=with_joined_lists(plain(asdict(cell.config))),
        settings=wandb.Settings(console="off", silent=True, init_timeout=60),
    )


def with_joined_lists(options: dict[str, Any]) -> dict[str, Any]:
    """The nested config, and beside every list the same as text: W&B cannot group or filter by a list."""
    joined = {}
    for name, value in options.items():
        joined[name] = with_joined_lists(value) if isinstance(value, dict) else value
        if isinstance(value, list):
            joined[f"{name}_text"] = ", ".join(f"{item:g}" if isinstance(item, float) else str(item) for item in value)
    return joined


def _table(frame: pd.DataFrame) -> Any:
    import wandb

    return wandb.Table(dataframe=frame)


def say_failed(error: Exception) -> None:
    say(f"tracking failed and is left out, the cell goes on: {first_line(error)}")
