"""The analysis from the command line.

python -m analysis                                  every finished cell as one Markdown table
python -m analysis --against calibration=c4         arms instead of cells, with paired differences from one of them
python -m analysis length_effect                    one figure; `all` draws whatever the runs allow
python -m analysis report                           all of it as one HTML file that needs nothing but a browser
python -m analysis keep --study NAME --out DIR      what is needed of finished cells, small enough to publish
"""

import argparse
import io
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pandas as pd

from analysis import load_divergence, load_runs, load_samples
from analysis.load import matching, unmatched
from analysis.reports import problems
from analysis.table import markdown
from ssgr.cache import write_atomically
from ssgr.errors import UserError
from ssgr.progress import track

if TYPE_CHECKING:
    from analysis.arms import Data
    from analysis.style import Drawing


NAME = "table | all | report | keep | a figure's name"
OUT = "where files are written (default: figures); of the report the file itself, where it ends in .html"
READS_AGAINST = ("table", "report")


class NotWritten(UserError):
    """Nothing can be written to --out: no figure can."""


class Parser(argparse.ArgumentParser):
    """One line for a wrong option, not two."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (--help lists what there is)")


def parser() -> Parser:
    found = Parser(prog="python -m analysis", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument(
        "name", nargs="?", default="table", metavar="NAME", help="table | all | report | keep | a figure's name"
    )
    found.add_argument("--runs", action="append", help="a runs directory, or entity/project of W&B; may be repeated")
    found.add_argument("--study", action="append", help="read this study instead of the one of the figure's name")
    found.add_argument("--where", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="only these cells")
    found.add_argument(
        "--against", metavar="KEY=VALUE", help="table, report: every arm, and what it differs by from this one"
    )
    found.add_argument("--out", type=Path, default=Path("figures"), help=OUT)
    found.add_argument("--width", choices=("one", "two"), default="one", help="columns (default: one, 3.3 inches)")
    found.add_argument("--refresh", action="store_true", help="fetch anew what is cached of W&B")
    found.add_argument("--histories", action="store_true", help="keep: with prune_report.json")
    return found


def main(arguments: list[str] | None = None) -> int:
    """0; 2 with one line on standard error for anything that the user can set right."""
    try:
        options = parser().parse_args(arguments)
        options.runs = options.runs or ["runs"]
        if options.against is not None and options.name not in READS_AGAINST:
            raise UserError(f"--against is an option of {' and '.join(READS_AGAINST)}, not of {options.name}")
        commands = {"table": print_table, "all": draw_all, "report": write_report, "keep": keep_cells}
        return commands.get(options.name, draw_one)(options)
    except BrokenPipeError:  # who read the table has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (UserError, OSError) as error:
        print(f"analysis: {error}", file=sys.stderr)
        return 2


def print_table(options: argparse.Namespace) -> int:
    runs = load(options)
    report(runs, options)
    if options.against is None:
        print(markdown(runs))
        return 0
    from analysis import against

    table, left_out = against.markdown(data_of(runs, options), *pair("--against", options.against))
    for line in left_out:
        print(f"left out: {line}", file=sys.stderr)
    print(table)
    return 0


def keep_cells(options: argparse.Namespace) -> int:
    from analysis.keep import keep

    with writing_to(options.out):
        folders = keep(options.runs, options.study or [], options.out, options.histories)
    size = sum(path.stat().st_size for folder in folders for path in folder.iterdir())
    print(f"{len(folders)} cells in {options.out}, {size / len(folders) / 1000:.1f} kB each")
    return 0


def draw_one(options: argparse.Namespace) -> int:
    from analysis.figures import ANY_STUDY, FIGURES, draw

    FIGURES.get(options.name)  # an unknown name, before anything is read
    if options.study is None and options.name not in ANY_STUDY:
        options.study = [options.name]
    runs = load(options)
    report(runs, options)
    save_drawing(draw(options.name, data_of(runs, options), options.width), options)
    return 0


def draw_all(options: argparse.Namespace) -> int:
    """Every figure that the runs allow, and one line for each that they do not; 2 where there was none."""
    from analysis.figures import draw_every

    runs = load(options)
    report(runs, options)
    some = False
    for name, drawing in draw_every(data_of(runs, options), options.width):
        if isinstance(drawing, UserError):
            print(f"{name} is not drawn: {drawing}", file=sys.stderr)
        else:
            save_drawing(drawing, options)
            some = True
    return 0 if some else 2


def write_report(options: argparse.Namespace) -> int:
    """The page, whole or not at all; what is missing or damaged stands in it."""
    from analysis.figures import FIGURES, draw_every
    from analysis.html_report import gather, page
    from analysis.load import find_cells

    baseline = None if options.against is None else pair("--against", options.against)
    path = options.out if options.out.suffix == ".html" else options.out / "report.html"
    runs = load(options)
    data, figures = data_of(runs, options), []
    with track("report", len(FIGURES.names())) as bar:
        for name, drawing in draw_every(data, options.width):
            figures.append((name, drawing))
            bar.advance(note=name)
    lines = [*complaints(runs, options), *runs.attrs["left_out"]]
    lines += [*data.samples.attrs["left_out"], *data.divergence.attrs["left_out"]]
    with redirect_stderr(io.StringIO()):  # what is left out has been said
        cells, _ = find_cells(options.runs, None, False)
    text = page(gather(data, cells, figures, lines, path.parent, options.runs, baseline))
    with writing_to(path.parent):
        write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    print(f"{path}, {len(text) / 1e6:.1f} MB")
    return 0


def load(options: argparse.Namespace) -> pd.DataFrame:
    """The runs that were asked for; UserError where there is none."""
    where = dict(pair("--where", part) for part in options.where)
    studies = options.study or [None]
    every = load_runs(options.runs, studies[0] if len(studies) == 1 else None, refresh=options.refresh)
    left_out = every.attrs.get("left_out", [])
    if len(studies) > 1:
        every = every[every["study"].isin(studies)]
    runs = matching(every, where)
    runs.attrs["left_out"] = left_out
    if runs.empty:
        studies = f" of {' or '.join(options.study)}" if options.study else ""
        cells = f" with {' '.join(options.where)}" if where else ""
        choices = unmatched(every, where)
        raise UserError(f"no finished cells{studies}{cells} in {', '.join(options.runs)}{choices and f': {choices}'}")
    return runs


def pair(option: str, text: str) -> tuple[str, str]:
    """Key and value of what an option was given."""
    key, equals, value = text.partition("=")
    if not equals:
        raise UserError(f"{option} {text}: must be KEY=VALUE")
    return key, value


def data_of(runs: pd.DataFrame, options: argparse.Namespace) -> "Data":
    from analysis.arms import Data

    study = options.study[0] if options.study and len(options.study) == 1 else None
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


@contextmanager
def writing_to(out: Path) -> Iterator[None]:
    """NotWritten, which names --out, for an error of writing there; errors of reading elsewhere stay what they are."""
    try:
        yield
    except OSError as error:
        place = Path(error.filename) if isinstance(error.filename, str) else out  # a full disk names no file
        if isinstance(error, UserError) or not (place == out or out in place.parents or place in out.parents):
            raise
        raise NotWritten(f"--out {out}: cannot be written to ({error.strerror or error})") from error


def report(runs: pd.DataFrame, options: argparse.Namespace) -> None:
    """What is wrong with these studies, one line each, on standard error."""
    for line in complaints(runs, options):
        print(line, file=sys.stderr)


def complaints(runs: pd.DataFrame, options: argparse.Namespace) -> Iterator[str]:
    """What is wrong with the studies that were asked for; what was left out has been said."""
    for line in problems(runs, options.runs):
        study = re.match(r"study (.+?)(?: holds | mixes |: )", line)
        if line not in runs.attrs["left_out"] and (not options.study or study is None or study[1] in options.study):
            yield line


def save_drawing(drawing: "Drawing", options: argparse.Namespace) -> None:
    from analysis.style import save

    with writing_to(options.out):
        paths = save(drawing, options.out)
    print(f"{paths[0].with_suffix('')}.{{{','.join(path.suffix[1:] for path in paths)}}}")
    for line in drawing.findings:
        print(f"- {line}")
    for line in drawing.notes:
        print(f"{drawing.name}: {line}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
