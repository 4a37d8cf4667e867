"""Option files, schemas and registries agree, and every option is read."""

import ast
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest
from command_line import config_of
from hydra import compose, initialize_config_dir

import ssgr
from ssgr import cell, composition
from ssgr import config as schemas
from ssgr.calibration import SOURCES
from ssgr.engines.base import ENGINES
from ssgr.evaluation.files import evaluation_names
from ssgr.pruning.allocation import ALLOCATIONS
from ssgr.pruning.base import PRUNERS

CONF = composition.folder("conf")
OPTIONS = sorted(path for path in CONF.glob("*/*.yaml") if path.parent.name != "experiment")
EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))
TEMPLATES = sorted(path.stem for path in composition.folder("multirun_templates").glob("*.yaml"))
REQUIRED = {  # options without an honest default, and what to give them
    ("model", "hub"): ["model.path=some/where"],
    ("problems", "jsonl"): ["problems.path=p.jsonl"],
    ("calibration", "text"): ["calibration.path=some.txt"],
    ("calibration", "traces"): ["calibration.path=some/store"],
    ("evaluation", "jsonl"): ["evaluation.path=e.jsonl"],
    ("evaluation", "divergence"): ["evaluation.task=tiny_math"],
    ("evaluation", "lm_eval"): ["evaluation.tasks=[arc_easy]"],
}


def option_names(group):
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


@pytest.mark.parametrize("path", OPTIONS, ids=lambda path: f"{path.parent.name}={path.stem}")
def test_every_option_composes_under_its_own_name(path):
    group, option = path.parent.name, path.stem
    config = config_of(f"{group}={option}", *REQUIRED.get((group, option), []))
    chosen = getattr(config, group)
    assert chosen.name == option
    assert is_dataclass(chosen)
    assert path.read_text().count(f"/schema/{group}") == 1, "the first line of an option file names its schema"


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_experiments_change_what_is_selected_and_nothing_else(experiment):
    chosen, plain = config_of(f"experiment={experiment}"), config_of()
    selects = {"calibration", "difficulty", "length", "selection"}
    if experiment == "ssgr_window":
        selects |= {"rollouts"}  # its bins are those of 16 rollouts at its own temperature
    for field in fields(schemas.Config):
        if field.name not in selects:
            assert getattr(chosen, field.name) == getattr(plain, field.name)
    assert chosen.calibration.tokens == plain.calibration.tokens


def test_the_command_line_wins_over_an_experiment_and_that_over_option_files():
    config = config_of("experiment=ssgr")
    assert (config.difficulty.name, config.length.name) == ("hard", "moderate")
    config = config_of("experiment=ssgr", "difficulty=easy", "length.percentile=[0,50]")
    assert (config.difficulty.name, config.length.percentile) == ("easy", [0, 50])
    assert config_of("experiment=rac").selection.correctness == schemas.Correctness.any


@pytest.mark.parametrize("template", TEMPLATES)
def test_multirun_templates_compose(template):
    composition.register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config, full = compose(template), compose(template, return_hydra_config=True)
    assert composition.as_object(config).study == template
    assert full.hydra.mode.name == "MULTIRUN" and full.hydra.sweeper.params


@pytest.mark.parametrize(
    ("launcher", "plugin"), {"cores": "JoblibLauncher", "ray_gpu": "RayLauncher", "slurm_gpu": "SlurmLauncher"}.items()
)
def test_every_launcher_preset_composes(launcher, plugin):
    assert launcher in {path.stem for path in (CONF / "hydra" / "launcher").glob("*.yaml")}
    composition.register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("length_effect", [f"hydra/launcher={launcher}"], return_hydra_config=True)
    assert config.hydra.launcher._target_.endswith(f".{plugin}")
    assert config.hydra.sweeper._target_.endswith(".StudySweeper")


@pytest.mark.parametrize(
    ("group", "names"),
    [
        ("pruner", PRUNERS.names),
        ("calibration", SOURCES.names),
        ("engine", ENGINES.names),
        ("allocation", ALLOCATIONS.names),
        ("evaluation", evaluation_names),
    ],
)
def test_registries_and_option_files_agree(group, names):
    assert option_names(group) == sorted(names())


def test_every_option_is_read_somewhere():
    read = set()
    for path in Path(ssgr.__file__).parent.rglob("*.py"):
        if path.parent.name != "config":
            nodes = ast.walk(ast.parse(path.read_text()))
            read |= {n.attr for n in nodes if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Load)}
    read |= set(cell.FILLED.values())  # read by getattr
    groups = [node for node in vars(schemas).values() if is_dataclass(node)]
    assert len(groups) >= 27
    unread = {(node.__name__, field.name) for node in groups for field in fields(node)} - {
        (node.__name__, field.name)
        for node in groups
        for field in fields(node)
        if field.name in read or field.name == "measure_error"  # read by getattr: not every pruner has it
    }
    assert not unread


def test_options_that_not_every_pruner_has_are_read_by_name():
    source = (Path(ssgr.__file__).parent / "pruning" / "orders.py").read_text()
    assert 'getattr(pruner, "measure_error", False)' in source


def test_a_null_takes_the_models_value():
    config = config_of("calibration.tokens=77")
    cell.fill(config)
    assert (config.calibration.tokens, config.calibration.max_seq_len) == (77, 512)
    assert (config.rollouts.temperature, config.evaluation.temperature, config.limit) == (1.0, 0.6, 300)
    r1 = config_of("model=r1_distill_qwen_1_5b")
    cell.fill(r1)
    assert (r1.calibration.tokens, r1.calibration.max_seq_len, r1.limit) == (1_000_000, 8192, None)
    coder = config_of("model=qwen2_5_coder_1_5b")
    cell.fill(coder)
    assert (coder.calibration.tokens, coder.calibration.max_seq_len) == (131_072, 2048)
