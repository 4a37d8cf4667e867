"""The console entry: composes the config, runs the cells, and turns what went wrong into one line and an exit status.

Exit status: 0 every cell stands, 1 a cell failed, 2 bad input.
"""

import os
import sys

import hydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from ssgr import __version__, job
from ssgr.composition import explain, folder, refuse_names, register
from ssgr.errors import UserError
from ssgr.progress import say
from ssgr.study import sweep
from ssgr.study.ending import conclude

WITH_VALUE = ("--config-dir", "-cd", "--config-name", "-cn", "--config-path", "-cp", "--package", "-p", "--cfg", "-c")
WITH_VALUE += ("--experimental-rerun", "--info", "-i")  # Hydra's own options
ALONE_TOO = ("--info", "-i")


def main() -> int:
    if "--version" in sys.argv[1:]:
        print(f"ssgr {__version__}")
        return 0
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises instead of printing and exiting with 1
    sys.argv[1:] = options_first([readable(argument) for argument in sys.argv[1:]])
    register()
    job.ended.clear()
    sweep.ended.clear()
    entry = hydra.main(version_base="1.3", config_path=str(folder("conf")), config_name="config")(job.job)
    refused = 0
    try:
        refuse_names(sys.argv[1:])
        entry()
    except (
        HydraException,
        OmegaConfBaseException,
        UserError,
        ValueError,
        YAMLError,
    ) as error:  # cells raise nothing: all Hydra's own
        say(f"ssgr: {explain(error)}")
        refused = 2
    except KeyboardInterrupt:
        say("ssgr: interrupted; the same command goes on from what was stored")
        return 130
    return max(conclude(sweep.ended or job.ended), refused)


def options_first(arguments: list[str]) -> list[str]:
    """The same with the overrides last where they stand on both sides of an option, which Hydra's parser refuses."""
    options, overrides, places = [], [], []
    for place, (before, argument) in enumerate(zip(["", *arguments], arguments, strict=False)):
        its_value = before in WITH_VALUE and not (before in ALONE_TOO and "=" in argument)
        if argument.startswith("-") or its_value:
            options.append(argument)
        else:
            overrides.append(argument)
            places.append(place)
    if not places or places[-1] - places[0] < len(places):
        return arguments
    if options[-1] in ALONE_TOO:  # an override behind it would be its value
        return [*options[:-1], *overrides, options[-1]]
    return options + overrides


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


if __name__ == "__main__":
    sys.exit(main())
