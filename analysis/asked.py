"""What a command line asks for: the runs, what belongs to them, and what is wrong with them."""

import argparse
import io
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from analysis.load import load_divergence, load_runs, load_samples, matching, unmatched
from analysis.reports import problems
from ssgr.errors import UserError

if TYPE_CHECKING:
    from analysis.arms import Data


def load(options: argparse.Namespace) -> pd.DataFrame:
    """The runs that were asked for; UserError where there is none."""
    where = dict(pair("--where", part) for part in options.where)
    every = load_runs(options.runs, sole_study(options), refresh=options.refresh)
    left_out = every.attrs.get("left_out", [])
    if options.study:
        every = every[every["study"].isin(options.study)]
    runs = matching(every, where)
    runs.attrs["left_out"] = left_out
    if runs.empty:
        studies = f" of {' or '.join(options.study)}" if options.study else ""
        cells = f" with {' '.join(options.where)}" if where else ""
        choices = unmatched(every, where)
        raise UserError(f"no finished cells{studies}{cells} in {', '.join(options.runs)}{choices and f': {choices}'}")
    return runs


def sole_study(options: argparse.Namespace) -> str | None:
    """The study that is read alone; None where several or all are."""
    return options.study[0] if options.study and len(options.study) == 1 else None


def pair(option: str, text: str) -> tuple[str, str]:
    """Key and value of what an option was given."""
    key, equals, value = text.partition("=")
    if not equals:
        raise UserError(f"{option} {text}: must be KEY=VALUE")
    return key, value


def data_of(runs: pd.DataFrame, options: argparse.Namespace) -> "Data":
    from analysis.arms import Data

    study = sole_study(options)
    with said_once(runs.attrs["left_out"], options.runs):
        samples = load_samples(options.runs, study, refresh=options.refresh)
        return Data(runs, samples, load_divergence(options.runs, study, refresh=options.refresh))


@contextmanager
def said_once(lines: list[str], sources: list[str]) -> Iterator[None]:
    """Loading says what it leaves out for every table anew: what was said of the runs is not said again.

    Where something is fetched, nothing is held back: a progress line is on the same stream.
    """
    if not all(Path(source).is_dir() for source in sources):
        yield
        return
    with redirect_stderr(io.StringIO()) as said:
        yield
    for line in dict.fromkeys(said.getvalue().splitlines()):
        if line not in lines:
            print(line, file=sys.stderr)


def complaints(runs: pd.DataFrame, options: argparse.Namespace) -> Iterator[str]:
    """What is wrong with the studies that were asked for; what was left out has been said."""
    for line in problems(runs, options.runs):
        study = re.match(r"study (.+?)(?: holds | mixes |: )", line)
        if line not in runs.attrs["left_out"] and (not options.study or study is None or study[1] in options.study):
            yield line
