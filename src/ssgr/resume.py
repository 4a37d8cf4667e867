"""What a second request for the same cell does: skip it, copy it from another study, wait for it, or go on with it."""

import json
import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ssgr.cache import locked, write_json
from ssgr.cell import Cell
from ssgr.model_card import write_card
from ssgr.progress import say
from ssgr.results import SCHEMA_VERSION, read_result, write_config

COPIED = "would be copied"  # how a plan says that another study has the cell


@dataclass
class Outcome:
    """How a cell ended: finished | skipped | planned | failed | refused (bad input) | busy (another process has it)."""

    status: str
    cell: str
    folder: str
    message: str = ""
    result: dict[str, Any] | None = field(default=None, repr=False)

    @property
    def exit_status(self) -> int:
        return {"failed": 1, "refused": 2}.get(self.status, 0)


class Busy(Exception):
    """Another process has this cell, and this one has other cells to go on with."""


def outcome(status: str, cell: Cell, message: str = "", result: dict[str, Any] | None = None) -> Outcome:
    return Outcome(status, cell.name, str(cell.folder), message, result)


def finished_before(cell: Cell) -> Outcome | None:
    """The outcome of a cell that needs no work: finished here, or finished in another study and copied from there."""
    if cell.config.overwrite:
        return None
    missing = lacking(cell)
    if not missing:
        return skipped(cell, "finished already")
    if source := elsewhere(cell):
        with locked(lock_path(cell)):
            if lacking(cell):  # else another process has finished it in the meantime
                adopt(cell, source)
        if not lacking(cell):
            return skipped(cell, f"copied from {source}")
    if missing != ["result.json"]:
        say(f"{cell.folder} is finished but lacks {', '.join(missing)}: it is run again")
    return None


def finished_meanwhile(cell: Cell) -> Outcome | None:
    """The same, by another process while this one waited for the cell's lock."""
    if cell.config.overwrite or lacking(cell):
        return None
    return skipped(cell, "finished by another process")


def skipped(cell: Cell, how: str) -> Outcome:
    message = f"{how}, every file it was asked for is there (overwrite=true runs it again)"
    return outcome("skipped", cell, message, read_result(cell.folder))


def planned(cell: Cell) -> Outcome:
    """What would become of the cell; writes nothing."""
    if not cell.config.overwrite:
        if not lacking(cell):
            return skipped(cell, "finished already")
        if source := elsewhere(cell):
            return outcome("planned", cell, f"{COPIED} from {source} (dry_run=true)")
    return outcome("planned", cell, "would be run (dry_run=true)")


def lacking(cell: Cell, folder: Path | None = None) -> list[str]:
    """Which of the files that this cell was asked for are not in its folder (or this one); none: it is finished."""
    folder = folder or cell.folder
    result = read_result(folder)
    if result is None or result.get("status") != "finished":
        return ["result.json"]
    if result.get("schema_version") != SCHEMA_VERSION:
        return [f"a result.json of schema version {SCHEMA_VERSION} (it has {result.get('schema_version')})"]
    wanted = ["samples.parquet", "config.yaml"]
    wanted += ["prune_report.json"] * (not cell.is_dense)
    wanted += ["calibration.parquet"] * cell.reads_calibration
    wanted += ["divergence.parquet"] * (cell.config.evaluation.divergence and not cell.is_dense)
    wanted += ["checkpoint/config.json", "checkpoint/README.md"] * cell.config.save_checkpoint
    return [name for name in wanted if not (folder / name).is_file()]


def elsewhere(cell: Cell) -> Path | None:
    """The folder of the same cell in another study of this runs directory that holds all that is asked for."""
    folders = sorted(Path(cell.config.runs_dir).glob(f"*/*-{cell.hash}"))
    return next((folder for folder in folders if folder != cell.folder and not lacking(cell, folder)), None)


def adopt(cell: Cell, source: Path) -> None:
    """Copies a finished cell of another study; the caller holds this cell's lock."""
    copy = cell.folder.with_name(f".{cell.name}.partial")
    shutil.rmtree(copy, ignore_errors=True)  # of a process that was killed here
    left_out = ["wandb", "tracking.json", ".*.partial", *["checkpoint"] * (not cell.config.save_checkpoint)]
    shutil.copytree(source, copy, ignore=shutil.ignore_patterns(*left_out))
    result = read_result(source) | {"study": cell.config.study, "cell": cell.name}
    result["config"] = result["config"] | {"study": cell.config.study}
    write_config(copy, result["config"])
    write_json(copy / "result.json", result)
    if cell.config.save_checkpoint:
        write_card(copy / "checkpoint", result)  # it names the cell
    shutil.rmtree(cell.folder, ignore_errors=True)
    os.replace(copy, cell.folder)


def lock_path(cell: Cell) -> Path:
    return cell.folder.parent / ".locks" / f"{cell.name}.lock"


@contextmanager
def claimed(cell: Cell, wait: bool) -> Iterator[None]:
    """Holds the cell's lock. Where another process holds it: waits, or raises Busy."""
    if not wait:
        refuse_busy(cell)
    with locked(lock_path(cell)):
        yield


def refuse_busy(cell: Cell) -> None:
    """Raises Busy where another process holds the cell's lock; makes no file."""
    if is_held(lock_path(cell)):
        raise Busy(cell.name)


def is_held(path: Path) -> bool:
    """Whether a process holds this lock file."""
    if not path.is_file():
        return False
    try:
        with FileLock(path, timeout=0):
            return False
    except Timeout:
        return True


def marker(cell: Cell) -> Path:
    return cell.folder.parent / ".running" / cell.name


@contextmanager
def running(cell: Cell) -> Iterator[None]:
    """Shows for as long as it lasts, also to other machines, that the cell is being worked on; a killed one stays."""
    with suppress(OSError):  # for the eye only
        marker(cell).parent.mkdir(parents=True, exist_ok=True)
        marker(cell).write_text(json.dumps({"host": platform.node(), "pid": os.getpid()}))
    try:
        yield
    finally:
        with suppress(OSError):
            marker(cell).unlink(missing_ok=True)


def log_path(cell: Cell) -> Path:
    """Where a cell says what it has to say when others run beside it."""
    return cell.folder.parent / ".logs" / f"{cell.name}.txt"


@contextmanager
def logged(cell: Cell) -> Iterator[None]:
    """Sends what the cell prints to its log."""
    log_path(cell).parent.mkdir(parents=True, exist_ok=True)
    with (
        open(log_path(cell), "a", encoding="utf-8", buffering=1) as log,
        redirect_stdout(log),
        redirect_stderr(log),
    ):
        yield
