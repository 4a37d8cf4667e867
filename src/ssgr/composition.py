"""From what a user types to a checked config: Hydra's DictConfig as our dataclasses, its errors as one line."""

import re
from collections.abc import Sequence
from dataclasses import fields
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.plugins import Plugins
from hydra.errors import ConfigCompositionException, MissingConfigException, OverrideParseException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, MissingMandatoryValue, OmegaConfBaseException
from yaml import MarkedYAMLError
from yaml.reader import ReaderError

from ssgr import config as schemas
from ssgr.cell import study_folder
from ssgr.config import SCHEMAS, Config, DivergenceConfig, EvaluationConfig, TaskConfig, register_schemas
from ssgr.errors import UserError
from ssgr.evaluation.files import evaluation_names, task_names

GROUPS = sorted({path.partition("/")[0] for path in SCHEMAS})


def folder(name: str) -> Path:
    """conf/ or multirun_templates/: inside the package in a wheel, beside src/ in a checkout."""
    inside = Path(__file__).parent / name
    return inside if inside.is_dir() else Path(__file__).parents[2] / name


class Templates(SearchPathPlugin):
    """Lets -cn find the multirun templates from any folder."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        search_path.append("ssgr", f"file://{folder('multirun_templates')}")


def register() -> None:
    """Tells Hydra of our schemas, resolvers and templates; it finds our sweeper and launcher by itself."""
    register_schemas()
    OmegaConf.register_new_resolver("study_folder", study_folder, replace=True)
    Plugins.instance().register(Templates)


def as_object(config: DictConfig) -> Config:
    """The config as its dataclasses, each entry of evaluation.also too.

    UserError for what +key=value added to them, and for an option under the name of one that has another schema.
    """
    refuse_additions(config)
    found: Config = OmegaConf.to_object(config)
    check_schemas(found)
    fill_from_task(found.evaluation)
    found.evaluation.also = [other_evaluation(entry) for entry in found.evaluation.also]
    return found


def refuse_names(arguments: Sequence[str]) -> None:
    """UserError for a typed <group>.name, which would leave the values of another option; a model's is a mere label."""
    for argument in arguments:
        group, is_name, name = argument.lstrip("+").partition(".name=")
        if is_name and group in GROUPS and group != "model":
            raise UserError(not_by_name(group, name))


def check_schemas(config: Config) -> None:
    """UserError for an option with the name of one of ours and another's schema; a user's own has a name of its own."""
    for group in GROUPS:
        options = getattr(config, group)
        if option_schema(group, options.name) not in (type(options), None):
            raise UserError(not_by_name(group, options.name))


def not_by_name(group: str, name: str) -> str:
    if option_schema(group, name) is None:
        choices = ", ".join(sorted(path.stem for path in (folder("conf") / group).glob("*.yaml")))
        return f"{group}.name={name}: an option is chosen by {group}=NAME; choices: {choices}"
    return f"{group}.name={name}: choose it by {group}={name}, which sets its options too"


def fill_from_task(config: EvaluationConfig) -> None:
    """evaluation=divergence takes what it leaves open from its task's option file; UserError for an unknown task."""
    if not isinstance(config, DivergenceConfig):
        return
    if config.task not in task_names():
        raise UserError(f"evaluation.task: no task is named {config.task!r}; choices: {', '.join(task_names())}")
    given = {name: getattr(config, name) for name in field_names(TaskConfig) if getattr(config, name, None) is not None}
    try:
        task = option_file("evaluation", config.task, given | {"name": config.task, "also": []})
    except OmegaConfBaseException as error:
        raise UserError(f"evaluation.{explain(error)}") from error
    for field in fields(TaskConfig):
        if hasattr(config, field.name) and getattr(config, field.name) is None:
            setattr(config, field.name, getattr(task, field.name))


def other_evaluation(entry: Any) -> EvaluationConfig:
    """One entry of evaluation.also: a name, or {name: …, option: value}; UserError where it is none."""
    changes = entry if isinstance(entry, dict) else {"name": entry}
    name = changes.get("name")
    if name not in evaluation_names():
        raise UserError(f"evaluation.also: no evaluation is named {name!r}; choices: {', '.join(evaluation_names())}")
    if name == "divergence" or changes.get("also"):
        what = "the divergence is measured on the main evaluation" if name == "divergence" else "also holds no also"
        raise UserError(f"evaluation.also: {name}: {what}")
    try:
        return option_file("evaluation", name, changes | {"divergence": False})
    except (OmegaConfBaseException, UserError) as error:
        raise UserError(f"evaluation.also: {name}: {explain(error)}") from error


def option_file(group: str, name: str, changes: dict[str, Any]) -> Any:
    """The values of conf/<group>/<name>.yaml, some of them changed, as the schema that its first line names."""
    values = OmegaConf.load(folder("conf") / group / f"{name}.yaml")
    del values["defaults"]
    return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(option_schema(group, name)), values, changes))


@cache
def option_schema(group: str, name: str) -> type | None:
    """The schema that the first line of conf/<group>/<name>.yaml names; None where there is no such file or line."""
    path = folder("conf") / group / f"{name}.yaml"
    first = OmegaConf.load(path).defaults[0] if path.is_file() else ""
    return SCHEMAS.get(first.removeprefix("/schema/").partition("@")[0])


def refuse_additions(node: DictConfig, above: str = "") -> None:
    schema = OmegaConf.get_type(node)
    for key in node:
        if key not in field_names(schema):
            raise UserError(f"there is no option {above}{key}{suggestion(str(key), schema)}")
        if OmegaConf.is_dict(node) and OmegaConf.is_config(child := node._get_node(key)) and OmegaConf.is_dict(child):
            refuse_additions(child, f"{above}{key}.")


def explain(error: Exception) -> str:
    """One line for what Hydra and OmegaConf raise, with the choices where there are any."""
    chain = error
    while isinstance(chain, ConfigCompositionException) and chain.__cause__ is not None:
        chain = chain.__cause__
    if isinstance(chain, ReaderError):  # a character, or bytes, that no YAML file has
        return f"{chain.name}: {chain.reason}"
    if isinstance(chain, MarkedYAMLError):
        return f"{chain.problem_mark.name}:{chain.problem_mark.line + 1}: malformed YAML: {chain.problem}"
    if in_file := re.match(r"In '(.+)': \w+ raised while composing config:\n", str(chain)):
        return f"{in_file[1]}.yaml: {explain(type(chain)(str(chain)[in_file.end() :]))}"
    text = str(chain)
    first = next((line.strip() for line in text.splitlines() if line.strip()), type(chain).__name__)
    if isinstance(chain, MissingConfigException):
        if "submitit" in first:
            return "hydra/launcher=slurm_gpu needs submitit: pip install 'ssgr[slurm]'"
        group = Path(chain.missing_cfg_file or "").parent.name  # none: -cn names a template
        found = folder("conf") / group if group else folder("multirun_templates")
        options = chain.options or [path.stem for path in found.glob("*.yaml")]
        return f"{first.split(': ')[-1].rstrip('.')}; choices: {', '.join(sorted(o for o in options if o != 'schema'))}"
    if isinstance(chain, OverrideParseException):
        return f"{chain.override!r} cannot be read: write option=value, and quotes around values with , [ ] {{ }}"
    if isinstance(chain, InterpolationResolutionError):
        return first.rpartition("while resolving interpolation: ")[2]
    if first.startswith("Config group override must be"):
        return "a config group (model, pruner, ...) needs the name of an option, not null"
    if first.startswith("Ambiguous value"):
        return f"{first}: several values need -m (one cell each)"
    key = found[1] if (found := re.search(r"full_key: (\S+)", text)) else None
    if isinstance(chain, MissingMandatoryValue) or "missing mandatory value" in first:
        return f"{key or first.split()[-1]} is missing: it must be set"
    unknown = re.search(r"Could not override '([^']+)'", str(error)) or re.search(
        r"Key '([^']+)' (?:is )?not in", first
    )
    if unknown:
        return f"there is no option {key or unknown[1]}{suggestion(key or unknown[1], schema_of(text))}"
    return f"{key}: {first}" if key and key not in first else first


def schema_of(text: str) -> type | None:
    """The schema that an OmegaConf message says it looked into; None where it is none of ours."""
    found = re.search(r"object_type=(\w+)", text)
    return getattr(schemas, found[1], None) if found else None


def suggestion(name: str, schema: type | None) -> str:
    """The options that stand where this one was looked for, the likeliest ones alone where there are any."""
    if schema is None:
        return ""
    choices = field_names(schema)
    group, _, option = name.rpartition(".")
    others = [other for path, other in schemas.SCHEMAS.items() if path.partition("/")[0] == group]
    if any(option in field_names(other) for other in others):
        own = f"other options of {group} have it: with -m over {group}, give it in a command of its own"
        return f"; choices: {', '.join(choices)} ({own})"
    close = get_close_matches(name.rpartition(".")[2], choices, n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(close)}?" if close else f"; choices: {', '.join(choices)}"


def field_names(schema: type) -> list[str]:
    return sorted(field.name for field in fields(schema))
