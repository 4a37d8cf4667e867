"""study.json: which cells a study was asked for, so that a reader of its results can tell what is missing."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ssgr.cache import locked, read_json, write_json
from ssgr.cell import Cell
from ssgr.results import SCHEMA_VERSION

FILE = "study.json"
LOCK = ".study.lock"


def write_grids(asked: Sequence[tuple[Cell, list[str]]]) -> None:
    """Writes <study>/study.json for each study of a sweep; a part of what was asked for before changes nothing.

    Of what an earlier sweep asked for, that which is finished stays: a study may grow sweep by sweep, in several
    processes.
    """
    studies: dict[Path, list[tuple[Cell, list[str]]]] = defaultdict(list)
    for cell, overrides in asked:
        studies[cell.folder.parent].append((cell, overrides))
    for folder, cells in studies.items():
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / LOCK):
            before = {entry["cell"]: entry for entry in read_grid(folder)}
            now = {cell.name: {"cell": cell.name, "hash": cell.hash, "overrides": given} for cell, given in cells}
            if not now.keys() <= before.keys():
                stay = {name: entry for name, entry in before.items() if (folder / name / "result.json").is_file()}
                grid = list((stay | now).values())
                write_json(folder / FILE, {"schema_version": SCHEMA_VERSION, "study": folder.name, "cells": grid})


def read_grid(folder: Path) -> list[dict[str, Any]]:
    """The cells that the study in this folder was last asked for, after earlier finished ones; none without a file."""
    return (read_json(folder / FILE) or {}).get("cells", [])
