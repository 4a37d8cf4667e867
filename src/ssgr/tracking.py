"""Weights & Biases as a view of a cell: result.json is the record, and tracking that fails never costs a result."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import pandas as pd

from ssgr.cache import content_hash
from ssgr.calibration import CalibrationSet
from ssgr.cell import Cell
from ssgr.config import TrackingMode
from ssgr.progress import say
from ssgr.results import git_describe, plain

TABLE_ROWS = 1_000  # problems in the table of outcomes


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
        """One point of the pruning history: seconds and, where measured, the mean relative_error of one block."""
        point = {"pruning/block": block["block"], "pruning/seconds": block["seconds"]}
        errors = [row["relative_error"] for row in block["rows"] if row.get("relative_error") is not None]
        if errors:
            point["pruning/relative_error"] = sum(errors) / len(errors)
        self._try(lambda: self.run.log(point))

    def log_selection(self, calibration: CalibrationSet | None) -> None:
        """The tables of pass rate x length: what the store holds and what was taken."""
        if calibration is None or calibration.held is None:
            return
        tables = {"store": calibration.held, "selection": calibration.selection}
        logged = {name: table.reset_index(names="pass rate") for name, table in tables.items()}
        self._try(lambda: self.run.log({name: _table(table) for name, table in logged.items()}))

    def log_result(self, result: dict[str, Any], samples: pd.DataFrame) -> None:
        """The summary (metrics, dense/…, sparsity, calibration, seconds) and a table of per-problem outcomes."""
        summary = dict(result["metrics"])
        summary |= {f"dense/{name}": value for name, value in result["dense_metrics"].items()}
        for group in ("sparsity", "calibration", "seconds"):
            summary |= {f"{group}/{name}": value for name, value in (result[group] or {}).items()}
        outcomes = samples[["task", "problem_id", "repeat", "correct", "tokens", "finish_reason", "answer"]]
        self._try(lambda: self.run.log({"outcomes": _table(outcomes.head(TABLE_ROWS))}))
        self._try(lambda: self.run.summary.update(summary))


@contextmanager
def start(cell: Cell) -> Iterator[Tracker]:
    """A tracker for as long as the cell runs; WANDB_MODE, WANDB_PROJECT and WANDB_ENTITY win over the config."""
    mode = os.environ.get("WANDB_MODE") or str(cell.config.tracking.mode)
    if mode == TrackingMode.disabled:
        yield Tracker()
        return
    tracker = Tracker(_open(cell, mode))
    failed = True
    try:
        yield tracker
        failed = False
    finally:
        tracker._try(lambda: tracker.run.finish(exit_code=int(failed)))


def _open(cell: Cell, mode: str) -> Any:
    config = cell.config
    # An offline rerun would leave a second directory under the same id: the superseded one goes.
    shutil.rmtree(cell.folder / "wandb", ignore_errors=True)
    try:
        import wandb

        cell.folder.mkdir(parents=True, exist_ok=True)
        return wandb.init(
            id=run_id(cell),
            resume="allow" if mode == TrackingMode.online else None,
            name=cell.name,
            group=config.study,
            job_type="dense" if cell.is_dense else "prune",
            tags=[tag for tag in (config.study, git_describe()) if tag],
            project=os.environ.get("WANDB_PROJECT") or config.tracking.project,
            entity=os.environ.get("WANDB_ENTITY") or config.tracking.entity,
            mode=mode,
            dir=cell.folder,
            config=plain(asdict(config)),
            settings=wandb.Settings(console="off", silent=True, init_timeout=60),
        )
    except Exception as error:
        say_failed(error)
        return None


def _table(frame: pd.DataFrame) -> Any:
    import wandb

    return wandb.Table(dataframe=frame)


def say_failed(error: Exception) -> None:
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    say(f"tracking failed and is left out, the cell goes on: {line}")
