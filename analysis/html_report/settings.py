"""The resolved configs of a study's cells: what they share, what they differ in, and what they ran on."""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.html_report.private import public_options
from analysis.rows import options

UNKNOWN = "not said"


@dataclass(frozen=True)
class Settings:
    """`shared` (option, value); `differing` (option, values with the number of cells that have each)."""

    study: str
    cells: int
    shared: list[tuple[str, str]]
    differing: list[tuple[str, list[tuple[str, int]]]]


def settings(runs: pd.DataFrame) -> list[Settings]:
    """Of each study, from the configs that its cells were run with."""
    found = []
    for study, group in runs.drop_duplicates(["study", "cell"]).groupby("study"):
        configs = [public_options(options(text)) for text in group["config"]]
        for config in configs:  # of a copy from another study: that study's
            config.pop("study", None)
        shared, differing = [], []
        for name in sorted({name for config in configs for name in config}):
            values = Counter(value_text(config[name]) if name in config else "absent" for config in configs)
            if len(values) == 1:
                shared.append((name, next(iter(values))))
            else:
                differing.append((name, sorted(values.items())))
        found.append(Settings(study, len(group), shared, differing))
    return found


def value_text(value: Any) -> str:
    """As YAML would have it on one line: text without its quotes, a third as 0.333333."""
    return value if isinstance(value, str) else json.dumps(rounded(value), ensure_ascii=False)


def rounded(value: Any) -> Any:
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


@dataclass(frozen=True)
class Environment:
    """What so many cells ran on: the device, the sources' version, and those of the packages."""

    cells: int
    studies: str
    device: str
    git: str
    versions: list[tuple[str, str]]


def environments(results: Iterable[dict[str, Any]]) -> list[Environment]:
    """The different ones, those of most cells first."""
    found: dict[str, list[dict[str, Any]]] = {}
    for result in results:
        environment = result.get("environment") or {}
        found.setdefault(json.dumps(environment, sort_keys=True), []).append(result)
    told = []
    for cells in found.values():
        environment = cells[0].get("environment") or {}
        told.append(
            Environment(
                len(cells),
                ", ".join(sorted({cell["study"] for cell in cells})),
                environment.get("device") or UNKNOWN,
                environment.get("git") or UNKNOWN,
                [(name, str(version)) for name, version in sorted(versions_of(environment).items())],
            )
        )
    return sorted(told, key=lambda environment: -environment.cells)


def versions_of(environment: dict[str, Any]) -> dict[str, Any]:
    versions = environment.get("versions")
    return versions if isinstance(versions, dict) else {}
