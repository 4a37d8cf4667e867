"""Everything that the page tells, gathered before anything is written."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from analysis import against
from analysis.arms import Data
from analysis.html_report.answers import Answered, problems
from analysis.html_report.grids import Grid, grids
from analysis.html_report.links import Link, links_of
from analysis.html_report.private import without_folders
from analysis.html_report.settings import Environment, Settings, environments, settings
from analysis.load import StoredCell
from analysis.style import Drawing
from analysis.table import HEADS, rows
from ssgr.errors import UserError

# of HEADS, what a phone must show first: the accuracy beside what was pruned
SHOWN = ("pruner", "calibrated on", "accuracy ± se", "n × k", "KL", "mean tokens", "cut", "tokens", "seed", "study")


@dataclass(frozen=True)
class Table:
    """Texts below heads; of each row the links at its end."""

    title: str
    heads: Sequence[str]
    rows: list[tuple[list[str], list[Link]]]
    legend: str = ""


@dataclass(frozen=True)
class Contents:
    """The parts of the page in their order.

    `complaints` say what is missing or damaged, `not_drawn` which figures and why, in one line each.
    """

    studies: list[str]
    cells: int
    complaints: list[str]
    drawings: list[Drawing]
    not_drawn: list[str]
    results: list[Table]
    arms: list[Table]
    problems: list[Answered]
    grids: list[Grid]
    settings: list[Settings]
    environments: list[Environment]


def gather(
    data: Data,
    cells: Sequence[StoredCell],
    figures: Iterable[tuple[str, Drawing | UserError]],
    complaints: Sequence[str],
    home: Path,
    sources: Sequence[str] = (),
    baseline: tuple[str, str] | None = None,
) -> Contents:
    """What is told of these runs: `cells` are theirs, `figures` what they allow, `home` the folder of the page.

    `baseline` (key, value) names the arm that a table of all arms compares with; UserError where no arm has it, before
    the first figure is asked for.
    """
    arms, left_out = arm_tables(data, baseline) if baseline else ([], [])
    figures = list(figures)
    read = set(zip(data.runs["study"], data.runs["cell"], strict=True))
    results = [cell.result for cell in cells if (cell.study, cell.cell) in read]
    lines = dict.fromkeys([*complaints, *(f"left out of the arms: {line}" for line in left_out)])
    return Contents(
        data.studies,
        len(read),
        [without_folders(line, sources) for line in lines],
        [drawn for _, drawn in figures if isinstance(drawn, Drawing)],
        [f"{name}: {drawn}" for name, drawn in figures if isinstance(drawn, UserError)],
        result_tables(data.runs, home),
        arms,
        problems(data, cells),
        grids(data.runs, results),
        settings(data.runs),
        environments(results),
    )


def result_tables(runs: pd.DataFrame, home: Path) -> list[Table]:
    """A table for each model and task, in which to sort has a meaning."""
    found: dict[str, Table] = {}
    for row in rows(runs):
        cells = dict(zip(HEADS, row.cells, strict=True))
        table = found.setdefault(cells["model, task"], Table(cells["model, task"], [*SHOWN, "run"], []))
        links = [] if row.run is None else links_of(row.run, home)
        table.rows.append(([cells[head] for head in SHOWN], links))
    return list(found.values())


def arm_tables(data: Data, baseline: tuple[str, str]) -> tuple[list[Table], list[str]]:
    """`--against` as tables, the legend below the last one."""
    found, legend, left_out = against.tables(data, *baseline)
    tables = [Table(one.model, one.heads, [(row, []) for row in one.rows]) for one in found]
    return [*tables[:-1], Table(tables[-1].title, tables[-1].heads, tables[-1].rows, legend)], left_out
