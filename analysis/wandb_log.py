"""Figures as a W&B run of their own, job type `analysis`, which no reader of cells takes for one."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from analysis.dashboard import checked_project
from analysis.wandb_project import explain
from ssgr.errors import UserError

if TYPE_CHECKING:
    from analysis.style import Drawing

JOB_TYPE = "analysis"
PROJECT = "ssgr"  # where neither --project nor WANDB_PROJECT names one, as for cells


def log_figures(
    drawn: Sequence[tuple["Drawing", Path]], studies: Sequence[str], project: str | None, folder: Path
) -> str:
    """Logs each drawing, saved as that PNG, with its caption and its numbers; returns where the run is.

    WANDB_MODE=offline keeps the run below `folder`; WANDB_PROJECT and WANDB_ENTITY stand in for `project`. Raises
    UserError, one line, where W&B cannot be had or refuses.
    """
    if os.environ.get("WANDB_MODE") == "disabled":
        return "nothing is logged: WANDB_MODE=disabled"
    entity, name = checked_project(project) if project else (os.environ.get("WANDB_ENTITY"), None)
    os.environ.setdefault("WANDB_SILENT", "true")
    import wandb

    try:
        with wandb.init(
            entity=entity,
            project=name or os.environ.get("WANDB_PROJECT") or PROJECT,
            job_type=JOB_TYPE,
            name=", ".join(drawing.name for drawing, _ in drawn),
            config={"studies": list(studies)},
            dir=folder.absolute(),
            settings=wandb.Settings(console="off", silent=True, init_timeout=60),
        ) as run:
            for drawing, picture in drawn:
                run.log({f"figures/{drawing.name}": wandb.Image(str(picture), caption=drawing.text())})
                run.log({f"numbers/{drawing.name}": wandb.Table(dataframe=plain(drawing.table))})
                run.summary[f"found/{drawing.name}"] = "\n".join(drawing.findings)
            return run.url or f"{Path(run.dir).parent} (offline: `wandb sync` sends it)"
    except Exception as error:  # wandb has no common class for them
        line = f"--log-to-wandb: {explain(error)}; WANDB_MODE=offline keeps the run here"
        raise UserError(line) from error


def plain(table: pd.DataFrame) -> pd.DataFrame:
    """Without pandas' own missing values, which a table of W&B does not know."""
    return table.astype(object).where(table.notna(), None)
