"""The console entry: composes the config, runs the cells, and turns what went wrong into one line and an exit status.

Exit status: 0 every cell stands, 1 a cell failed, 2 bad input.
"""

import json
import os
import re
import sys
import tempfile
from dataclasses import asdict
from difflib import get_close_matches
from pathlib import Path

import hydra
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.plugins import Plugins
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ssgr import __version__
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


@hydra.main(version_base="1.3", config_path=str(folder("conf")), config_name="config")
def cell(config: DictConfig) -> None:
    """One Hydra job: one cell."""
    outcome = run(OmegaConf.to_object(config))
    with open(os.environ[OUTCOMES], "a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(outcome) | {"result": None}) + "\n")


def main() -> int:
    if "--version" in sys.argv[1:]:
        print(f"ssgr {__version__}")
        return 0
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises instead of printing and exiting with 1
    register_schemas()
    Plugins.instance().register(Templates)
    with tempfile.TemporaryDirectory(prefix="ssgr-") as scratch:
        os.environ[OUTCOMES] = str(Path(scratch) / "outcomes.jsonl")
        try:
            cell()
        except (HydraException, OmegaConfBaseException, UserError) as error:
            say(f"ssgr: {explain(error)}")
            return 2
        except KeyboardInterrupt:
            say("ssgr: interrupted; the same command goes on from what was stored")
            return 130
        path = Path(os.environ[OUTCOMES])
        outcomes = [Outcome(**json.loads(line)) for line in path.read_text().splitlines()] if path.is_file() else []
    return conclude(outcomes)


def conclude(outcomes: list[Outcome]) -> int:
    """Says how each cell ended, and returns the exit status of the whole call."""
    for outcome in outcomes:
        if outcome.status in ("failed", "refused"):
            where = f" (see {outcome.folder}/failure.json)" if outcome.status == "failed" else ""
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
    lines = [line.strip() for line in str(chain).splitlines() if line.strip()]
    if isinstance(chain, MissingConfigException) and chain.options:
        return f"{lines[0].split(': ')[-1]}; choices: {', '.join(o for o in chain.options if o != 'schema')}"
    text = " ".join(lines[:1]) if lines else type(chain).__name__
    key = re.search(r"full_key: (\S+)", str(chain))
    unknown = re.search(r"Could not override '([^']+)'", str(error)) or re.search(
        r"Key '([^']+)' (?:is )?not in", str(error)
    )
    if unknown:
        name = key[1] if key else unknown[1]
        return f"there is no option {name}{suggestion(name)}"
    if key and key[1] not in text:
        text = f"{key[1]}: {text}"
    return text


def suggestion(name: str) -> str:
    """The options that stand where this one was looked for, the likeliest ones first where there are many."""
    node: dict = field_tree(Config)
    *parents, last = name.lstrip("+~").split("@")[0].split(".")
    for parent in parents:
        node = node.get(parent) or {}
    choices = sorted(node)
    if not choices:
        return ""
    close = get_close_matches(last, choices, n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(close)}?" if close else f"; choices: {', '.join(choices)}"


def field_tree(schema: type) -> dict:
    """The options of a schema by name; groups hold a tree of their own."""
    from dataclasses import fields, is_dataclass

    return {field.name: field_tree(field.type) if is_dataclass(field.type) else None for field in fields(schema)}


if __name__ == "__main__":
    sys.exit(main())
