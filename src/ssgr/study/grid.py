"""study.json: which cells a study was asked for, so that a reader of its results can tell what is missing."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ssgr.cache import read_json, write_json
from ssgr.cell import Cell
from ssgr.results import SCHEMA_VERSION

FILE = "study.json"


def write_grids(asked: Sequence[tuple[Cell, list[str]]]) -> None:
    """Writes <study>/study.json for each study of a sweep; a part of what was asked for before changes nothing."""
    studies: dict[Path, list[tuple[Cell, list[str]]]] = defaultdict(list)
    for cell, overrides in asked:
        studies[cell.folder.parent].append((cell, overrides))
    for folder, cells in studies.items():
        before = {entry["cell"] for entry in read_grid(folder)}
        if not {cell.name for cell, _ in cells} <= before:
            grid = [{"cell": cell.name, "hash": cell.hash, "overrides": overrides} for cell, overrides in cells]
            write_json(folder / FILE, {"schema_version": SCHEMA_VERSION, "study": folder.name, "cells": grid})


def read_grid(folder: Path) -> list[dict[str, Any]]:
    """The cells that the study in this folder was last asked for; none where it does not say."""
    return (read_json(folder / FILE) or {}).get("cells", [])
