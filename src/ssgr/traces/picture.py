"""Pass rate against length: one picture of what a store holds, and where the bins lie in it."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ssgr.cache import write_atomically
from ssgr.errors import UserError
from ssgr.traces.bins import length_at
from ssgr.traces.profile import spearman
from ssgr.traces.store import StoreView
from ssgr.traces.tables import COLUMNS, LENGTH_PERCENTILES, ROWS, difficulty_thirds, length_thirds

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".pdf", ".svg")
SIZE = (3.3, 3.0)  # inches: one column
MOST_TICKS = 6
LONGEST_NAME = 56  # characters that fit above the picture
TEXT, SMALL = 7.0, 6.5  # points
INK, GREY, EDGE = "#000000", "#595959", "#b0b0b0"
SHADES = ("#B79AD6", "#7D4FB0", "#3F1670")  # easy, medium, hard
RULES = {
    "font.size": TEXT,
    "axes.titlesize": TEXT,
    "axes.labelsize": TEXT,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def plot_store(view: StoreView, name: str, out: Path) -> None:
    """Draws the picture; its title says the rank correlation of pass rate and mean length over problems.

    Raises UserError for a kind of file that cannot be drawn and for a store without correct traces.
    """
    if out.suffix.lower() not in SUFFIXES:
        raise UserError(f"OUT {out}: not a kind of picture; choices: {', '.join(SUFFIXES)}")
    correct = view.traces[view.traces["correct"]]
    if correct.empty:
        raise UserError(f"{view.store.folder}: none of its traces is graded as correct, so there is nothing to draw")
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    lengths = correct.groupby("problem_id")["tokens"].mean()
    points = pd.DataFrame({"length": lengths, "rate": view.pass_rate.reindex(lengths.index)})
    found = spearman(points["rate"], points["length"])
    with pyplot.rc_context(RULES):
        figure, axes = pyplot.subplots(figsize=SIZE, layout="constrained")
        _draw(axes, view, points, correct)
        said = "all pass rates or lengths are equal" if found is None else f"Spearman {found:+.2f}".replace("-", "−")
        said = f"{said} · {len(points):,} problems × {view.graded} rollouts"
        figure.suptitle(f"{_shortened(name)}\n{said}", x=0.02, ha="left", fontsize=TEXT)
        _save(figure, out)
        pyplot.close(figure)


def _draw(axes: "Axes", view: StoreView, points: pd.DataFrame, correct: pd.DataFrame) -> None:
    step = 1 / view.graded
    levels = points["rate"].to_numpy()
    shade = np.where(levels > 2 / 3 + 1e-9, 0, np.where(levels > 1 / 3 + 1e-9, 1, 2))
    spread = np.random.default_rng(0).uniform(-0.3, 0.3, len(points)) * min(step, 0.125)
    size = float(np.clip(2_000 / len(points), 1.0, 8.0))
    colours = np.array(SHADES)[shade]
    axes.scatter(points["length"], levels + spread, s=size, c=colours, alpha=0.45, linewidths=0, rasterized=True)
    axes.set_xscale("log")
    _medians(axes, points, min(step, 0.125))
    low, high = points["length"].min(), points["length"].max()
    axes.set_xlim(low / 1.12, high * 1.12)
    axes.set_ylim(-0.02, 1.04 + min(step, 0.125) / 3)
    axes.set_xlabel("mean generated tokens of a problem's correct traces\n(bars: median and middle half)")
    axes.set_ylabel("pass rate")
    axes.set_yticks([0, 1 / 3, 2 / 3, 1], ["0", "1/3", "2/3", "1"])
    _length_axis(axes, low, high)
    _margins(axes, view, correct)


def _medians(axes: "Axes", points: pd.DataFrame, height: float) -> None:
    """A bar at the median length of every pass rate and a line over its middle half."""
    for rate, lengths in points.groupby("rate")["length"]:
        lower, middle, upper = np.percentile(lengths, [25, 50, 75])
        axes.plot([lower, upper], [rate, rate], color=INK, linewidth=0.8, solid_capstyle="butt")
        axes.plot(
            [middle, middle], [rate - height / 3, rate + height / 3], color=INK, linewidth=1.6, solid_capstyle="butt"
        )


def _length_axis(axes: "Axes", low: float, high: float) -> None:
    from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator

    for digits in ((1, 1.5, 2, 2.5, 3, 4, 5, 7), (1, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        steps = [digit * 10**power for power in range(7) for digit in digits]
        ticks = [tick for tick in steps if low / 1.12 <= tick <= high * 1.12]
        if len(ticks) <= MOST_TICKS:
            break
    axes.xaxis.set_major_locator(FixedLocator(ticks or [round(low)]))
    axes.xaxis.set_major_formatter(lambda tick, _: f"{tick:,.0f}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())


def _margins(axes: "Axes", view: StoreView, correct: pd.DataFrame) -> None:
    """The edges of the bins; above, how many correct traces each length holds, and beside, how many problems."""
    lengths = correct["tokens"].to_numpy()
    edges = [length_at(lengths, percentile) for percentile in LENGTH_PERCENTILES]
    for edge in edges:
        axes.axvline(edge, color=EDGE, linewidth=0.6, linestyle=(0, (4, 2)), zorder=0)
    for edge in (1 / 3, 2 / 3):
        axes.axhline(edge, color=EDGE, linewidth=0.6, linestyle=(0, (4, 2)), zorder=0)
    above, beside = axes.get_xaxis_transform(), axes.get_yaxis_transform()
    margin = {"xycoords": "axes fraction", "fontsize": SMALL, "color": GREY, "annotation_clip": False}
    left, right = axes.get_xlim()
    bounds = [left, *np.clip(edges, left, right), right]
    traces = np.bincount(length_thirds(lengths, lengths), minlength=len(COLUMNS))
    for number, name in enumerate(COLUMNS):
        middle = np.sqrt(bounds[number] * bounds[number + 1])
        text = f"{name}\n{traces[number]:,}"
        axes.annotate(text, (middle, 1.01), ha="center", va="bottom", **margin | {"xycoords": above})
    axes.annotate("← correct\n    traces", (1.02, 1.01), va="bottom", **margin)
    problems = np.bincount(difficulty_thirds(view), minlength=len(ROWS))
    for number, name in enumerate(ROWS):
        height = (5 / 6, 1 / 2, 1 / 6, 0.0)[number]
        if name != "never solved" or problems[number]:
            text = f"{name}\n{problems[number]:,} problems"
            axes.annotate(text, (1.02, height), va="center", **margin | {"xycoords": beside})


def _shortened(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"


def _save(figure: "Figure", out: Path) -> None:
    kind = out.suffix.lower().removeprefix(".")
    write_atomically(out, lambda path: figure.savefig(path, format=kind, dpi=300))
