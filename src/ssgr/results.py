"""What a cell leaves in its run directory: written atomically, result.json last."""

import math
import platform
import shutil
import subprocess
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import yaml

from ssgr.cache import read_json, remove_leftovers, write_atomically, write_json
from ssgr.calibration import CalibrationSet
from ssgr.cell import Cell
from ssgr.errors import first_line
from ssgr.progress import say

if TYPE_CHECKING:
    from ssgr.pruning.loop import PruneReport

SCHEMA_VERSION = 1
PACKAGES = ("ssgr", "torch", "transformers", "lm-eval", "vllm", "wandb", "numpy")


class Clock:
    """Seconds per stage, and which stage runs now. A stage entered inside another one stops the outer one's clock."""

    STAGES = ("rollouts", "calibration", "dense", "pruning", "evaluation")

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
    write_config(cell.folder, plain(asdict(cell.config)))
    if calibration is not None:
        calibration.to_parquet(cell.folder / "calibration.parquet")


def close_folder(cell: Cell) -> None:
    """Removes what only a run that goes on would have needed."""
    shutil.rmtree(cell.folder / "partial", ignore_errors=True)


def write_table(table: pd.DataFrame, path: Path) -> None:
    write_atomically(path, lambda temporary: table.to_parquet(temporary, index=False, compression="zstd"))


def read_result(folder: Path) -> dict[str, Any] | None:
    """A cell's result.json; None where there is none that can be read."""
    return read_json(folder / "result.json")


def write_config(folder: Path, config: dict[str, Any]) -> None:
    """The resolved config as it was used, nulls filled."""
    text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
    write_atomically(folder / "config.yaml", lambda path: path.write_text(text, encoding="utf-8"))


def write_failure(cell: Cell, stage: str, error: BaseException) -> str:
    """failure.json and log.txt instead of result.json; returns the one line that says what happened.

    A result that stands is left alone: it is another process', or an earlier one's that was not to be replaced yet.
    """
    line = first_line(error)
    if (cell.folder / "result.json").is_file():
        return line
    log = cell.folder / "log.txt"
    try:
        cell.folder.mkdir(parents=True, exist_ok=True)
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


def conclude(
    cell: Cell,
    model: dict[str, Any],
    calibration: CalibrationSet | None,
    pruning: "PruneReport | None",
    metrics: dict[str, float],
    dense_metrics: dict[str, float],
) -> dict[str, Any]:
    """What result.json holds, but for the seconds, which are not over yet."""
    sparsity = {"target": 0.0, "achieved": 0.0, "pattern": "dense"}
    if pruning is not None:
        sparsity = {"target": pruning.target, "achieved": pruning.achieved, "pattern": pruning.pattern}
        sparsity |= pruning.experts()
    return finite(
        {
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
            "seconds": {},
            "environment": {"git": git_describe(), "versions": versions(), "device": model["device"]},
        }
    )


def write_result(cell: Cell, result: dict[str, Any], clock: Clock) -> dict[str, Any]:
    """result.json, the last file of a cell: it stands only where everything else does. Returns what it holds."""
    result = result | {"seconds": clock.totals()}
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
