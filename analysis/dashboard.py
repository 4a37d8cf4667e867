"""`python -m analysis dashboard --project entity/project`: a saved W&B workspace with the panels that a study asks for.

What it shows is decided here without W&B, so that `--dry-run` needs neither an account nor a network. Keys are those
that `ssgr.tracking` gives a run: config by dotted options, and in its summary `<task>/<metric>`, `calibration/<name>`,
`seconds/<stage>`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from analysis.rows import STAGES
from analysis.wandb_project import Project, project_path
from ssgr.errors import UserError

if TYPE_CHECKING:
    from wandb_workspaces.reports.v2 import BarPlot, ScatterPlot
    from wandb_workspaces.workspaces import Workspace

ANY_TASK = "TASK"  # where nobody asked which tasks the project's runs hold
FORBIDDEN = re.compile(r"[\\#?%:\s]")  # in an entity and a project
OPERATORS = re.compile(r"[=<>]")  # wandb-workspaces 0.4 rewrites them inside of a name too
FACTORS = {  # columns of the runs that arms are told apart by: the option that says so
    "calibration": "calibration.name",
    "pruner": "pruner.name",
    "sparsity_target": "sparsity.name",
    "difficulty": "difficulty.name",
    "length": "length.name",
}
COSTS = ("mean_tokens", "truncated")
COLUMNS = (*(f"config:{option}" for option in (*FACTORS.values(), "seed")), "summary:calibration/tokens")
MEASURED = ("accuracy", "accuracy_se", "kl", "kl_se", "mean_tokens", "truncated")  # of each task, in the runs' table


@dataclass(frozen=True)
class Bars:
    """The mean of a summary's number over the runs that share a value of an option, with its standard error."""

    title: str
    metric: str
    by: str

    def __str__(self) -> str:
        return f"bars     {self.title}: {self.metric} by {self.by}, mean ± standard error over runs"


@dataclass(frozen=True)
class Points:
    """One point for each run: a number of its summary against another one."""

    title: str
    x: str
    y: str

    def __str__(self) -> str:
        return f"points   {self.title}: {self.y} against {self.x}"


@dataclass(frozen=True)
class Dashboard:
    """`sections` are panels by their titles, `columns` those of the runs' table, `studies` the groups it shows."""

    entity: str
    project: str
    studies: list[str]
    sections: dict[str, list[Bars | Points]]
    columns: list[str]

    @property
    def name(self) -> str:
        """Letters, digits and what joins them: W&B takes no emoji in a name."""
        return "ssgr: " + (re.sub(r"[^\w .,-]", "_", ", ".join(self.studies)) or "every study")

    @property
    def filters(self) -> str:
        """Finished pruned cells of these studies, as wandb-workspaces writes a filter.

        A dense cell's config names a calibration too, and would pass for one of its arms.
        """
        parts = ["Metric(\"JobType\") == 'prune'", "Metric(\"State\") == 'finished'"]
        studies = OPERATORS.sub(lambda found: f"\\x{ord(found[0]):02x}", repr(self.studies))
        return " and ".join([f'Metric("Group") in {studies}'] * bool(self.studies) + parts)

    def text(self) -> str:
        """Every panel, one line each."""
        lines = [f"workspace {self.name!r} in {self.entity}/{self.project}, runs where {self.filters}"]
        for title, panels in self.sections.items():
            lines += ["", title, *(f"  {panel}" for panel in panels)]
        return "\n".join([*lines, "", "Runs", *(f"  column   {column}" for column in self.columns)])


def dashboard(project: str, studies: Sequence[str], runs: pd.DataFrame | None) -> Dashboard:
    """The panels for these runs' tasks and for the factors that vary among them; without runs for every one of each.

    Raises UserError where `project` is not written entity/project.
    """
    entity, name = checked_project(project)
    tasks = [ANY_TASK] if runs is None else sorted(runs["task"].unique())
    varying = list(FACTORS) if runs is None else [one for one in FACTORS if runs[one].nunique(dropna=False) > 1]
    factors = varying or ["calibration"]
    columns = [
        *COLUMNS,
        *(f"summary:{task}/{metric}" for task in tasks for metric in MEASURED),
        "summary:seconds/total",
    ]
    return Dashboard(entity, name, list(studies), sections(tasks, factors), columns)


def checked_project(project: str) -> tuple[str, str]:
    """entity and project; UserError where they are not written so, or hold what no name of W&B may."""
    path = project_path(project)
    if found := FORBIDDEN.search(path):
        raise UserError(f"--project {project}: neither entity nor project may hold {found[0]!r}")
    entity, name = path.split("/")
    return entity, name


def sections(tasks: Sequence[str], factors: Sequence[str]) -> dict[str, list[Bars | Points]]:
    """Accuracy and KL by what arms are told apart by, what traces were chosen, cost."""
    traces = {"mean_pass_rate": "pass rate", "mean_trace_tokens": "length with the prompt"}
    return {
        "Accuracy by arm": [by(task, "accuracy", factor) for task in tasks for factor in factors],
        "KL by arm": [by(task, "kl", factor) for task in tasks for factor in factors],
        "Difficulty and length": [
            Points(f"{task}: {measure} and the traces' {words}", f"calibration/{name}", f"{task}/{measure}")
            for task in tasks
            for measure in ("accuracy", "kl")
            for name, words in traces.items()
        ],
        "Cost": [
            *(Points(f"{task}: what accuracy costs", f"{task}/mean_tokens", f"{task}/accuracy") for task in tasks),
            *(by(task, measure, factor) for task in tasks for measure in COSTS for factor in factors),
            *(Bars(f"seconds of {stage}", f"seconds/{stage}", FACTORS["pruner"]) for stage in STAGES),
        ],
    }


def by(task: str, metric: str, factor: str) -> Bars:
    return Bars(f"{task}: {metric.replace('_', ' ')} by {factor.split('_')[0]}", f"{task}/{metric}", FACTORS[factor])


def save(asked: Dashboard) -> str:
    """Saves it as a new view of the project's workspace, and returns its address.

    Raises UserError, one line, without the extra `dashboard`, without a login, and where W&B refuses.
    """
    built = workspace(asked)
    project = Project(f"wandb:{asked.entity}/{asked.project}")
    with project.failures():
        return built.save().url


def workspace(asked: Dashboard) -> "Workspace":
    """The same in the words of wandb-workspaces; UserError without the extra."""
    try:
        from wandb_workspaces import workspaces
    except ImportError as error:
        raise UserError("dashboard needs wandb-workspaces: pip install 'ssgr[dashboard]', or --dry-run") from error
    found = [
        workspaces.Section(name=title, panels=[panel_of(panel) for panel in panels], is_open=True)
        for title, panels in asked.sections.items()
    ]
    runset = workspaces.RunsetSettings(filters=asked.filters, pinned_columns=list(asked.columns))
    return workspaces.Workspace(
        entity=asked.entity, project=asked.project, name=asked.name, sections=found, runset_settings=runset
    )


def panel_of(panel: Bars | Points) -> "BarPlot | ScatterPlot":
    from wandb_workspaces.reports import v2

    if isinstance(panel, Points):
        x, y = v2.SummaryMetric(panel.x), v2.SummaryMetric(panel.y)
        return v2.ScatterPlot(title=panel.title, x=x, y=y)
    return v2.BarPlot(
        title=panel.title,
        metrics=[panel.metric],
        groupby=v2.Config(panel.by),
        groupby_aggfunc="mean",
        groupby_rangefunc="stderr",
    )
