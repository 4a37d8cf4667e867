"""python -m analysis dashboard: keys that tracking really gives, a dry run that asks nobody, one line for a failure."""

import json
import subprocess
import sys

import pytest
from stored_cells import write_stored_cell
from synthetic_studies import write_study
from wandb_server import ENTITY, PROJECT, serving

from analysis import load_runs
from analysis.__main__ import main
from analysis.dashboard import ANY_TASK, Bars, dashboard, workspace
from ssgr import tracking

PATH = f"{ENTITY}/{PROJECT}"
HOSTILE = """a'b" or Metric("State") != 'x' = <y>"""


@pytest.fixture
def server(tmp_path, monkeypatch):
    with serving(tmp_path, monkeypatch) as served:
        yield served


def keys_of(asked) -> tuple[set[str], set[str]]:
    """The options and the summary's keys that a dashboard names."""
    options, metrics = set(), set()
    for panel in [panel for panels in asked.sections.values() for panel in panels]:
        options |= {panel.by} if isinstance(panel, Bars) else set()
        metrics |= {panel.metric} if isinstance(panel, Bars) else {panel.x, panel.y}
    for column in asked.columns:
        kind, _, key = column.partition(":")
        (options if kind == "config" else metrics).add(key)
    return options, metrics


def test_every_key_is_one_that_tracking_gives_a_run(tmp_path):
    folder = write_study(tmp_path, "length_effect", seeds=1)[0]
    result = json.loads((folder / "result.json").read_text())
    options, metrics = keys_of(dashboard(PATH, [], None))
    given = tracking.summary(result)
    assert {key.replace(ANY_TASK, "tiny_math") for key in metrics} <= set(given)
    config = tracking.with_joined_lists(result["config"])
    for option in options:
        value = config
        for part in option.split("."):
            value = value[part]


def test_panels_are_for_the_tasks_and_for_what_varies(tmp_path):
    write_study(tmp_path, "length_effect", seeds=2)
    asked = dashboard(PATH, ["length_effect"], load_runs(tmp_path))
    assert list(asked.sections) == ["Accuracy by arm", "KL by arm", "Difficulty and length", "Cost"]
    (accuracy,) = asked.sections["Accuracy by arm"]
    assert accuracy == Bars("tiny_math: accuracy by length", "tiny_math/accuracy", "length.name")
    assert len(dashboard(PATH, [], None).sections["KL by arm"]) == 5


def test_a_dry_run_needs_no_network_no_account_and_no_extra(tmp_path):
    code = (
        "import sys; sys.modules['wandb_workspaces'] = None; import socket; socket.socket.connect = None;"
        "from analysis.__main__ import main;"
        "assert main(['dashboard', '--project', 'us/ssgr', '--study', 'mine', '--dry-run']) == 0;"
        "assert not {'torch', 'wandb', 'matplotlib'} & set(sys.modules);"
        "sys.exit(main(['dashboard', '--project', 'us/ssgr', '--runs', sys.argv[1]]))"
    )
    write_stored_cell(tmp_path / "runs", "mine", "first")
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "runs"], capture_output=True, text=True, timeout=60)
    assert "workspace 'ssgr: mine' in us/ssgr" in done.stdout and "TASK/accuracy by calibration.name" in done.stdout
    assert (
        done.returncode == 2 and len(done.stderr.splitlines()) == 1 and "pip install 'ssgr[dashboard]'" in done.stderr
    )


@pytest.mark.parametrize(
    "project", ["ssgr", "us/", "/ssgr", "us/ssgr/more", "us/ss gr", "us/s#r", "us/%2e", "a:b/c", ""]
)
def test_what_is_no_project_is_one_line(capsys, project):
    assert main(["dashboard", "--project", project, "--dry-run"]) == 2
    said = capsys.readouterr()
    assert said.out == "" and len(said.err.splitlines()) == 1 and (project in said.err)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["dashboard"], "dashboard needs --project ENTITY/PROJECT"),
        (["length_effect", "--dry-run"], "--dry-run is an option of dashboard, not of length_effect"),
        (["report", "--log-to-wandb"], "--log-to-wandb is an option of figures, not of report"),
        (["table", "--histories"], "--histories is an option of keep, not of table"),
        (["dashboard", "--width", "two"], "--width is an option of figures and the report, not of dashboard"),
        (["keep", "--study", "smoke"], "keep needs --out DIR"),
        (
            ["keep", "--out", "x", "--where", "seed=0"],
            "--where is an option of the table, figures, report and dashboard",
        ),
        (["smoke", "--project", "us/ssgr"], "--project is an option of dashboard, --log-to-wandb, not of smoke"),
    ],
)
def test_an_option_of_another_command_is_one_line(capsys, options, said):
    assert main(options) == 2 and said in capsys.readouterr().err


@pytest.mark.parametrize("studies", [[], ["length_effect"], [HOSTILE, "b"]])
def test_the_workspace_shows_finished_pruned_cells_of_these_studies_alone(studies):
    spec = workspace(dashboard(PATH, studies, None))._spec["spec"]["section"]
    filters = {one["key"]["name"]: one["value"] for one in spec["runSets"][0]["filters"]["filters"]}
    wanted = {"jobType": "prune", "state": "finished"} | ({"group": studies} if studies else {})
    assert filters == wanted


def test_it_is_saved_with_error_bars_and_its_address_is_told(server, tmp_path, capsys):
    for seed in (0, 1):
        server.add(write_stored_cell(tmp_path / "runs", "a", f"cell{seed}", seed=seed))
    assert main(["dashboard", "--project", PATH, "--study", "a"]) == 0
    (view,) = server.views
    assert (view["entityName"], view["projectName"], view["displayName"]) == (ENTITY, PROJECT, "ssgr: a")
    sections = json.loads(view["spec"])["section"]["panelBankConfig"]["sections"]
    bars = sections[0]["panels"][0]["config"]
    assert bars["metrics"] == ["tiny_math/accuracy"] and bars["groupBy"] == "calibration.value.name"
    assert (bars["groupAgg"], bars["groupArea"]) == ("mean", "stderr")
    assert f"/{PATH}" in capsys.readouterr().out


def test_what_w_and_b_refuses_is_one_line(server, tmp_path, capsys):
    server.errors["UpsertView2"] = "permission denied"
    write_stored_cell(tmp_path / "runs", "a", "first")
    assert main(["dashboard", "--project", PATH, "--runs", str(tmp_path / "runs")]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("analysis: ")]
    assert len(lines) == 1 and "this login is refused" in lines[0] and not server.views
