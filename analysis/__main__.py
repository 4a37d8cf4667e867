"""The analysis from the command line.

python -m analysis                                  every finished cell as one Markdown table
python -m analysis --against calibration=c4         arms instead of cells, with paired differences from one of them
python -m analysis length_effect                    one figure; `all` draws whatever the runs allow
python -m analysis report                           all of it as one HTML file that needs nothing but a browser
python -m analysis dashboard --project ME/PROJECT   a W&B workspace with a study's panels (--dry-run: which ones)
python -m analysis keep --study NAME --out DIR      what is needed of finished cells, small enough to publish
"""

import argparse
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pandas as pd

from analysis.asked import complaints, data_of, load, pair, sole_study
from analysis.table import markdown
from ssgr.cache import write_atomically
from ssgr.errors import UserError
from ssgr.progress import Bar, track

if TYPE_CHECKING:
    from analysis.arms import Data
    from analysis.style import Drawing

NAME = "table | all | report | dashboard | keep | a figure's name"
OUT = "where files are written (default: figures); of the report the file itself, where it ends in .html"


class Parser(argparse.ArgumentParser):
    """One line for a wrong option, not two."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (--help lists what there is)")


def parser() -> Parser:
    found = Parser(prog="python -m analysis", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("name", nargs="?", default="table", metavar="NAME", help=NAME)
    found.add_argument("--runs", action="append", help="a runs directory, or entity/project of W&B; may be repeated")
    found.add_argument("--study", action="append", help="read this study instead of the one of the figure's name")
    found.add_argument("--where", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="only these cells")
    found.add_argument("--against", metavar="KEY=VALUE", help="table, report: every arm beside this one")
    found.add_argument("--out", type=Path, help=OUT)
    found.add_argument("--width", choices=("one", "two"), help="figures, report: columns (default: one, 3.3 inches)")
    found.add_argument("--refresh", action="store_true", help="fetch anew what is cached of W&B")
    found.add_argument("--log-to-wandb", action="store_true", help="figures: as a W&B run too, job type analysis")
    found.add_argument("--project", metavar="ENTITY/PROJECT", help="dashboard, --log-to-wandb: where it is made")
    found.add_argument("--dry-run", action="store_true", help="dashboard: print what would be made")
    found.add_argument("--histories", action="store_true", help="keep: with prune_report.json")
    return found


def main(arguments: list[str] | None = None) -> int:
    """0; 2 with one line on standard error for anything that the user can set right."""
    try:
        options = parser().parse_args(arguments)
        check_belonging(options)
        if options.name == "dashboard":
            return make_dashboard(options)
        options.runs = options.runs or ["runs"]
        options.out, options.width = options.out or Path("figures"), options.width or "one"
        commands = {"table": print_table, "all": draw_all, "report": write_report, "keep": keep_cells}
        return commands.get(options.name, draw_one)(options)
    except BrokenPipeError:  # who read the table has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (UserError, OSError) as error:
        print(f"analysis: {error}", file=sys.stderr)
        return 2


def check_belonging(options: argparse.Namespace) -> None:
    """UserError for an option of another command."""
    draws = options.name not in ("table", "report", "dashboard", "keep")
    belongs = {
        "--against": (options.against, options.name in ("table", "report"), "the table and the report"),
        "--log-to-wandb": (options.log_to_wandb, draws, "figures"),
        "--project": (
            options.project,
            options.name == "dashboard" or options.log_to_wandb,
            "dashboard, --log-to-wandb",
        ),
        "--dry-run": (options.dry_run, options.name == "dashboard", "dashboard"),
        "--histories": (options.histories, options.name == "keep", "keep"),
        "--where": (options.where, options.name != "keep", "the table, figures, report and dashboard"),
        "--width": (options.width, draws or options.name == "report", "figures and the report"),
    }
    for option, (given, fits, commands) in belongs.items():
        if given and not fits:
            raise UserError(f"{option} is an option of {commands}, not of {options.name}")
    if options.name == "keep" and options.out is None:
        raise UserError("keep needs --out DIR, where the copies go")


def make_dashboard(options: argparse.Namespace) -> int:
    """For the tasks and factors of --runs, by default of the project's own; a dry run asks nobody."""
    from analysis import dashboard

    if options.project is None:
        raise UserError("dashboard needs --project ENTITY/PROJECT")
    project = "/".join(dashboard.checked_project(options.project))
    if not options.runs and not options.dry_run:
        options.runs = [f"wandb:{project}"]
    runs = load(options) if options.runs else None
    asked = dashboard.dashboard(project, options.study or [], runs)
    print(asked.text() if options.dry_run else dashboard.save(asked))
    return 0


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
    data = data_of(runs, options)
    save_drawings([draw(options.name, data, options.width)], data, options)
    return 0


def draw_all(options: argparse.Namespace) -> int:
    """Every figure that the runs allow, and one line for each that they do not; 2 where there was none."""
    from analysis.figures import draw_every

    runs = load(options)
    report(runs, options)
    data = data_of(runs, options)

    def drawings() -> "Iterator[Drawing]":
        for name, drawing in draw_every(data, options.width):
            if isinstance(drawing, UserError):
                print(f"{name} is not drawn: {drawing}", file=sys.stderr)
            else:
                yield drawing

    return 0 if save_drawings(drawings(), data, options) else 2


def write_report(options: argparse.Namespace) -> int:
    """The page, whole or not at all; what is missing or damaged stands in it."""
    from analysis.figures import FIGURES, draw_every
    from analysis.html_report import gather, page
    from analysis.load import find_cells

    baseline = None if options.against is None else pair("--against", options.against)
    path = options.out if options.out.suffix == ".html" else options.out / "report.html"
    runs = load(options)
    data = data_of(runs, options)
    lines = [*complaints(runs, options), *runs.attrs["left_out"]]
    lines += [*data.samples.attrs["left_out"], *data.divergence.attrs["left_out"]]
    cells, _ = find_cells(options.runs, sole_study(options))  # what it leaves out has been said
    with track("report", len(FIGURES.names())) as bar:
        figures = watched(draw_every(data, options.width), bar)
        text = page(gather(data, cells, figures, lines, path.parent, options.runs, baseline))
    with writing_to(path.parent):
        write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    print(f"{path}, {len(text) / 1e6:.1f} MB")
    return 0


def watched(
    figures: "Iterable[tuple[str, Drawing | UserError]]", bar: Bar
) -> "Iterator[tuple[str, Drawing | UserError]]":
    """The same, each counted once it is there."""
    for name, drawing in figures:
        bar.advance(note=name)
        yield name, drawing


@contextmanager
def writing_to(out: Path) -> Iterator[None]:
    """UserError, which names --out, for an error of writing there; errors of reading elsewhere stay what they are."""
    try:
        yield
    except OSError as error:
        place = Path(error.filename) if isinstance(error.filename, str) else out  # a full disk names no file
        if isinstance(error, UserError) or not (place == out or out in place.parents or place in out.parents):
            raise
        raise UserError(f"--out {out}: cannot be written to ({error.strerror or error})") from error


def report(runs: pd.DataFrame, options: argparse.Namespace) -> None:
    """What is wrong with these studies, one line each, on standard error."""
    for line in complaints(runs, options):
        print(line, file=sys.stderr)


def save_drawings(drawings: "Iterable[Drawing]", data: "Data", options: argparse.Namespace) -> int:
    """Writes and tells each as it comes, and logs them together where that was asked for; returns how many."""
    saved = [(drawing, save_drawing(drawing, options)) for drawing in drawings]
    if saved and options.log_to_wandb:
        from analysis.wandb_log import log_figures

        print(log_figures(saved, data.studies, options.project, options.out))
    return len(saved)


def save_drawing(drawing: "Drawing", options: argparse.Namespace) -> Path:
    """Writes its files and tells what was found; returns its picture."""
    from analysis.style import save

    with writing_to(options.out):
        paths = save(drawing, options.out)
    print(f"{paths[0].with_suffix('')}.{{{','.join(path.suffix[1:] for path in paths)}}}")
    for line in drawing.findings:
        print(f"- {line}")
    for line in drawing.notes:
        print(f"{drawing.name}: {line}", file=sys.stderr)
    return next(path for path in paths if path.suffix == ".png")


if __name__ == "__main__":
    sys.exit(main())
