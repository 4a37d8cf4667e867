"""The console entry: composes the config, runs the cells, and turns what went wrong into one line and an exit status.

Exit status: 0 every cell stands, 1 a cell failed, 2 bad input.
"""

import json
import os
import re
import sys
import tempfile
from dataclasses import asdict, fields
from difflib import get_close_matches
from pathlib import Path

import hydra
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, MissingMandatoryValue, OmegaConfBaseException

from ssgr import __version__
from ssgr import config as schemas
from ssgr.cell import study_folder
from ssgr.config import Config, register_schemas
from ssgr.errors import UserError
from ssgr.main import run
from ssgr.progress import say
from ssgr.results import Outcome

OUTCOMES = "SSGR_OUTCOMES"  # where the cells of this call write how they ended, also from other processes


def folder(name: str) -> Path:
    """conf/ or multirun_templates/: inside the package in a wheel, beside src/ in a checkout."""
    inside = Path(__file__).parent / name
    return inside if inside.is_dir() else Path(__file__).parents[2] / name


class Templates(SearchPathPlugin):
    """Lets -cn find the multirun templates from any folder."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        search_path.append("ssgr", f"file://{folder('multirun_templates')}")


def register_resolvers() -> None:
    OmegaConf.register_new_resolver("study_folder", study_folder, replace=True)


@hydra.main(version_base="1.3", config_path=str(folder("conf")), config_name="config")
def cell(config: DictConfig) -> None:
    """One Hydra job: one cell. Nothing is raised, so that the other jobs of a sweep go on."""
    try:
        outcome = run(as_object(config))
    except (OmegaConfBaseException, UserError) as error:
        outcome = Outcome("refused", "", "", explain(error))
    with open(os.environ[OUTCOMES], "a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(outcome) | {"result": None}) + "\n")


def as_object(config: DictConfig) -> Config:
    """The config as its dataclasses; UserError for what +key=value added to them."""
    refuse_additions(config)
    return OmegaConf.to_object(config)


def refuse_additions(node: DictConfig, above: str = "") -> None:
    schema = OmegaConf.get_type(node)
    for key in node:
        if key not in field_names(schema):
            raise UserError(f"there is no option {above}{key}{suggestion(str(key), schema)}")
        if OmegaConf.is_dict(node) and OmegaConf.is_config(child := node._get_node(key)) and OmegaConf.is_dict(child):
            refuse_additions(child, f"{above}{key}.")


def main() -> int:
    if "--version" in sys.argv[1:]:
        print(f"ssgr {__version__}")
        return 0
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises instead of printing and exiting with 1
    sys.argv[1:] = [readable(argument) for argument in sys.argv[1:]]
    register_schemas()
    register_resolvers()
    Plugins.instance().register(Templates)
    with tempfile.TemporaryDirectory(prefix="ssgr-") as scratch:
        os.environ[OUTCOMES] = str(Path(scratch) / "outcomes.jsonl")
        refused = 0
        try:
            cell()
        except (HydraException, OmegaConfBaseException, ValueError) as error:  # cells raise nothing: all Hydra's own
            say(f"ssgr: {explain(error)}")
            refused = 2
        except KeyboardInterrupt:
            say("ssgr: interrupted; the same command goes on from what was stored")
            return 130
        path = Path(os.environ[OUTCOMES])
        outcomes = [Outcome(**json.loads(line)) for line in path.read_text().splitlines()] if path.is_file() else []
    return max(conclude(outcomes), refused)


def readable(argument: str) -> str:
    """The argument as Hydra's grammar can read it: a value such as </think>, or a path with = in it, gets quotes."""
    option, equals, value = argument.partition("=")
    if not equals or argument.startswith("-"):
        return argument
    try:
        OverridesParser.create().parse_override(argument)
    except HydraException:
        escaped = value.replace("'", "\\'")
        return f"{option}='{escaped}'"
    return argument


def conclude(outcomes: list[Outcome]) -> int:
    """Says how each cell ended, and returns the exit status of the whole call."""
    for outcome in outcomes:
        if outcome.status in ("failed", "refused"):
            failure = Path(outcome.folder, "failure.json")
            where = f" (see {failure})" if outcome.status == "failed" and failure.is_file() else ""
            say(f"ssgr: {outcome.message}{where}")
        elif outcome.message:
            say(f"ssgr: {outcome.status} {outcome.cell}: {outcome.message}")
    if len(outcomes) > 1:
        counts = {
            status: sum(outcome.status == status for outcome in outcomes)
            for status in sorted({o.status for o in outcomes})
        }
        say(f"ssgr: {len(outcomes)} cells: " + ", ".join(f"{count} {status}" for status, count in counts.items()))
    return max((outcome.exit_status for outcome in outcomes), default=0)


def explain(error: Exception) -> str:
    """One line for what Hydra and OmegaConf raise, with the choices where there are any."""
    chain = error
    while isinstance(chain, ConfigCompositionException) and chain.__cause__ is not None:
        chain = chain.__cause__
    text = str(chain)
    first = next((line.strip() for line in text.splitlines() if line.strip()), type(chain).__name__)
    if isinstance(chain, MissingConfigException):
        options = chain.options or [path.stem for path in folder("multirun_templates").glob("*.yaml")]
        return f"{first.split(': ')[-1]}; choices: {', '.join(sorted(o for o in options if o != 'schema'))}"
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
    close = get_close_matches(name.rpartition(".")[2], choices, n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(close)}?" if close else f"; choices: {', '.join(choices)}"


def field_names(schema: type) -> list[str]:
    return sorted(field.name for field in fields(schema))


if __name__ == "__main__":
    sys.exit(main())
