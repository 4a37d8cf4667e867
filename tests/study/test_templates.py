"""Every template: its comment tells the truth about its cells, and no two of them share a folder or an id."""

import re
from pathlib import Path

import pytest
import yaml
from command_line import ssgr

from analysis.figures import FIGURES
from ssgr.composition import folder
from ssgr.study import sweep

TEMPLATES = {path.stem: path for path in sorted(folder("multirun_templates").glob("*.yaml"))}


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_expands_to_the_cells_that_its_comment_states(name, tmp_path):
    comment = TEMPLATES[name].read_text()
    stated = int(re.search(r"^# Cells: (\d+) ", comment, re.M)[1])
    done = ssgr(f"-cn {name} dry_run=true", tmp_path)
    assert done.status == 0 and f"{stated} cells: {stated} planned" in done.err and "describe" not in done.err
    assert len({outcome.cell.rpartition("-")[2] for outcome in sweep.ended}) == stated
    assert {Path(outcome.folder).parent.name for outcome in sweep.ended} == {name}
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_opens_with_its_question_its_cells_and_its_cost(name):
    lines = TEMPLATES[name].read_text().splitlines()
    assert [line.split(":")[0] for line in lines[:3]] == ["# Question", "# Cells", "# Cost"]
    assert lines[0].endswith("?") and name in FIGURES.names()


@pytest.mark.parametrize("name", [name for name in TEMPLATES if name != "smoke"])
def test_a_study_has_four_seeds_a_thousand_problems_and_an_arm_without_bins(name):
    template = yaml.safe_load(TEMPLATES[name].read_text())
    params = template["hydra"]["sweeper"]["params"]
    assert len(params["seed"].split(",")) >= 4 and template["limit"] >= 1000
    for group in ("difficulty", "length"):
        assert "all" in params.get(group, "all").split(", ")
    assert "self_generated" in params.get("calibration", "self_generated")


def test_what_is_given_takes_the_place_of_what_the_template_varies_and_orders_the_cells(tmp_path):
    done = ssgr("-cn length_effect seed=7,8 length=short,long dry_run=true", tmp_path)
    assert done.status == 0 and "4 cells: 4 planned" in done.err and "combinations" not in done.err
    names = [outcome.cell for outcome in sweep.ended]
    order = [("short", "seed7"), ("long", "seed7"), ("short", "seed8"), ("long", "seed8")]
    assert [all(part in name for part in parts) for name, parts in zip(names, order, strict=True)] == [True] * 4
