"""What a cell leaves in its run directory: written atomically, result.json last."""

import json
import math
import os
import platform
import shutil
import subprocess
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import yaml

from ssgr.cache import locked, remove_leftovers, write_atomically, write_json
from ssgr.calibration import CalibrationSet
from ssgr.cell import Cell
from ssgr.progress import say

if TYPE_CHECKING:
    from ssgr.pruning.loop import PruneReport

SCHEMA_VERSION = 1
PACKAGES = ("ssgr", "torch", "transformers", "lm-eval", "vllm", "wandb", "numpy")


@dataclass
class Outcome:
    """How a cell ended: finished | skipped | planned | failed | refused (bad input)."""

    status: str
    cell: str
    folder: str
    message: str = ""
    result: dict[str, Any] | None = field(default=None, repr=False)

    @property
    def exit_status(self) -> int:
        return {"failed": 1, "refused": 2}.get(self.status, 0)


class Clock:
    """Seconds per stage, and which stage runs now. A stage entered inside another one stops the outer one's clock."""

    STAGES = ("rollouts", "calibration", "pruning", "evaluation")

    def __init__(self) -> None:
        self._started = self._since = time.perf_counter()
        self._seconds: dict[str, float] = {}
        self.stage = "setup"

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        outer = self.stage
        self._switch(stage)
        yield
        self._switch(outer)  # not after an exception: the stage that failed is what failure.json names

    def _switch(self, stage: str) -> None:
        now = time.perf_counter()
        self._seconds[self.stage] = self._seconds.get(self.stage, 0.0) + now - self._since
        self._since, self.stage = now, stage

    def totals(self) -> dict[str, float]:
        seconds = {stage: round(self._seconds.get(stage, 0.0), 3) for stage in self.STAGES}
        return seconds | {"total": round(time.perf_counter() - self._started, 3)}


def outcome(status: str, cell: Cell | None, message: str = "", result: dict[str, Any] | None = None) -> Outcome:
    """An outcome of this cell; None where the config describes no cell."""
    return Outcome(status, cell.name if cell else "", str(cell.folder) if cell else "", message, result)


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


def dry_run(cell: Cell) -> Outcome | None:
    """What would become of the cell, under dry_run=true; writes nothing."""
    if not cell.config.dry_run:
        return None
    if not cell.config.overwrite:
        if not lacking(cell):
            return skipped(cell, "finished already")
        if source := elsewhere(cell):
            return outcome("planned", cell, f"would be copied from {source} (dry_run=true)")
    return outcome("planned", cell, "would be run (dry_run=true)")


def lock_path(cell: Cell) -> Path:
    return cell.folder.parent / ".locks" / f"{cell.name}.lock"


def partial_folder(cell: Cell, fingerprint: str) -> Path:
    """Where the samples of an evaluation are kept until it is finished; other weights' leftovers are removed."""
    folder = cell.folder / "partial" / fingerprint
    for other in (cell.folder / "partial").glob("*"):
        if other != folder:
            shutil.rmtree(other, ignore_errors=True)
    return folder


def open_folder(cell: Cell, calibration: CalibrationSet | None) -> None:
    """The first files of a cell: its config and what it calibrates on. What an earlier run concluded is removed."""
    for name in ("result.json", "failure.json", "log.txt"):
        (cell.folder / name).unlink(missing_ok=True)
    remove_leftovers(cell.folder)
    write_config(cell)
    if calibration is not None:
        calibration.to_parquet(cell.folder / "calibration.parquet")


def close_folder(cell: Cell) -> None:
    """Removes what only a run that goes on would have needed."""
    shutil.rmtree(cell.folder / "partial", ignore_errors=True)


def write_table(table: pd.DataFrame, path: Path) -> None:
    write_atomically(path, lambda temporary: table.to_parquet(temporary, index=False, compression="zstd"))


def lacking(cell: Cell, folder: Path | None = None) -> list[str]:
    """Which of the files that this cell was asked for are not in its folder (or this one); none: it is finished."""
    folder = folder or cell.folder
    result = read_result(folder)
    if result is None or result.get("status") != "finished":
        return ["result.json"]
    wanted = ["samples.parquet", "config.yaml"]
    wanted += ["prune_report.json"] * (not cell.is_dense)
    wanted += ["calibration.parquet"] * cell.reads_calibration
    wanted += ["divergence.parquet"] * (cell.config.evaluation.divergence and not cell.is_dense)
    wanted += ["checkpoint/config.json"] * cell.config.save_checkpoint
    return [name for name in wanted if not (folder / name).is_file()]


def read_result(folder: Path) -> dict[str, Any] | None:
    try:
        return json.loads((folder / "result.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def elsewhere(cell: Cell) -> Path | None:
    """The folder of the same cell in another study of this runs directory that holds all that is asked for."""
    folders = sorted(Path(cell.config.runs_dir).glob(f"*/*-{cell.hash}"))
    return next((folder for folder in folders if folder != cell.folder and not lacking(cell, folder)), None)


def adopt(cell: Cell, source: Path) -> None:
    """Copies a finished cell of another study; the caller holds this cell's lock."""
    with tempfile.TemporaryDirectory(prefix=f".{cell.hash}.", dir=cell.folder.parent) as temporary:
        copy = Path(temporary) / "copy"
        shutil.copytree(source, copy, ignore=shutil.ignore_patterns("wandb", ".*.partial"))
        write_json(copy / "result.json", read_result(source) | {"study": cell.config.study, "cell": cell.name})
        shutil.rmtree(cell.folder, ignore_errors=True)
        os.replace(copy, cell.folder)


def write_config(cell: Cell) -> None:
    """The resolved config as it was used, nulls filled."""
    text = yaml.safe_dump(plain(asdict(cell.config)), sort_keys=False, allow_unicode=True)
    write_atomically(cell.folder / "config.yaml", lambda path: path.write_text(text, encoding="utf-8"))


def write_failure(cell: Cell | None, stage: str, error: BaseException) -> str:
    """failure.json and log.txt instead of result.json; returns the one line that says what happened."""
    line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if cell is None:
        return line
    log = cell.folder / "log.txt"
    try:
        cell.folder.mkdir(parents=True, exist_ok=True)
        (cell.folder / "result.json").unlink(missing_ok=True)
        with open(log, "a", encoding="utf-8") as file:
            file.write("".join(traceback.format_exception(error)))
        write_json(cell.folder / "failure.json", {"stage": stage, "error": line, "log": str(log)})
    except OSError as second:
        say(f"{cell.folder}: failure.json cannot be written ({second})")
    return line


def write_artefacts(
    cell: Cell, samples: pd.DataFrame, divergence: pd.DataFrame | None, pruning: "PruneReport | None"
) -> None:
    write_table(samples, cell.folder / "samples.parquet")
    if divergence is not None:
        write_table(divergence, cell.folder / "divergence.parquet")
    if pruning is not None:
        write_json(cell.folder / "prune_report.json", finite(pruning.to_json()))


def write_result(
    cell: Cell,
    model: dict[str, Any],
    calibration: CalibrationSet | None,
    pruning: "PruneReport | None",
    metrics: dict[str, float],
    dense_metrics: dict[str, float],
    clock: Clock,
) -> dict[str, Any]:
    """result.json, the last file of a cell: it stands only where everything else does."""
    sparsity = {"target": 0.0, "achieved": 0.0, "pattern": "dense"}
    if pruning is not None:
        sparsity = {"target": pruning.target, "achieved": pruning.achieved, "pattern": pruning.pattern}
    result = {
        "schema_version": SCHEMA_VERSION,
        "cell": cell.name,
        "study": cell.config.study,
        "status": "finished",
        "config": plain(asdict(cell.config)),
        "model": model,
        "calibration": calibration.summary() if calibration else None,
        "sparsity": sparsity,
        "metrics": metrics,
        "dense_metrics": dense_metrics,
        "seconds": clock.totals(),
        "environment": {"git": git_describe(), "versions": versions(), "device": model["device"]},
    }
    result = finite(result)
    write_json(cell.folder / "result.json", result)
    return result


def plain(value: Any) -> Any:
    """Enums and tuples as what JSON and YAML have for them."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, str) else value


def finite(value: Any) -> Any:
    """NaN and infinity as null: JSON has neither."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if hasattr(value, "item"):  # a numpy scalar
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def git_describe() -> str | None:
    """The version of the sources that ran, where they are a git checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--tags"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None
