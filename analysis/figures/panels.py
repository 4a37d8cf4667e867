"""What panels are made of: arms with their seeds and intervals, the dense line, axes that stay legible when small.

Every artist carries a gid, panel/kind/series/arm, by which it is found again in the SVG and in the tests.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from analysis.figures.plotted import MEASURES
from analysis.style import BLACK, GREY, LIGHT, bin_label, plain_number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import FigureBase

CHARACTER = 0.052  # inches, of tick labels on average
LOG_FROM = 8.0  # largest / smallest mean above which an axis is logarithmic
BREAK_FROM = 1.0  # distance of the dense line from the arms, in units of their own range, above which it is broken


@dataclass(frozen=True)
class Look:
    """Where an arm stands on the factor's axis, and how it looks; seeds are spread over `spread` around it."""

    place: float
    colour: str
    marker: str = "o"
    spread: float = 0.5
    size: float = 4.0


def draw_arms(axes: "Axes", rows: pd.DataFrame, looks: Mapping[tuple[str, str], Look], factor: str = "x") -> None:
    """Seeds as small open circles, their mean with its interval; the factor on `factor`, the value on the other."""
    for (series, arm), group in rows[rows["kind"] != "dense"].groupby(["series", "arm"], sort=False):
        look = looks[series, arm]
        panel = group["panel"].iloc[0]
        seeds, mean = group[group["kind"] == "seed"], group[group["kind"] == "mean"].iloc[0]
        if len(seeds):
            places = look.place + beside(len(seeds), look.spread)
            line = _plot(
                axes, factor, places, seeds["value"], "o", mfc="none", mec=look.colour, mew=0.6, ms=0.6 * look.size
            )
            line.set_gid(f"{panel}/seed/{series}/{arm}")
        line = _plot(axes, factor, [look.place] * 2, [mean["low"], mean["high"]], "-", color=look.colour, lw=1.2)
        line.set_gid(f"{panel}/interval/{series}/{arm}")
        line = _plot(axes, factor, [look.place], [mean["value"]], look.marker, color=look.colour, ms=look.size, mew=0)
        line.set_gid(f"{panel}/mean/{series}/{arm}")


def beside(count: int, spread: float) -> np.ndarray:
    """Places for so many seeds, left and right of their mean and never behind it."""
    half = (count + 1) // 2
    inner = spread / 2 * 0.45
    side = np.linspace(inner, spread / 2, half) if half > 1 else np.array([spread / 2])
    return np.sort(np.concatenate([-side, side]))[:count]


def _plot(axes: "Axes", factor: str, places, values, style: str, **look):
    pair = (places, values) if factor == "x" else (values, places)
    return axes.plot(*pair, style, solid_capstyle="butt", zorder=3, **look)[0]


def draw_dense(axes: "Axes", rows: pd.DataFrame, factor: str = "x") -> None:
    """The dense model's line and its standard error, where the panel has one."""
    for _, row in rows[rows["kind"] == "dense"].iterrows():
        line, span = (axes.axhline, axes.axhspan) if factor == "x" else (axes.axvline, axes.axvspan)
        span(row["low"], row["high"], color=LIGHT, lw=0, zorder=1)
        line(row["value"], color=BLACK, lw=0.9, ls=(0, (4, 2)), zorder=2).set_gid(f"{row['panel']}/dense/dense/dense")


def value_axis(axes: "Axes", rows: pd.DataFrame, which: str) -> bool:
    """Limits and ticks of the value's axis, so that arms can be told apart; True if it was broken for the dense line.

    Logarithmic where the means differ by more than LOG_FROM times (KL only); broken where the dense line is far off.
    """
    arms, dense = rows[rows["kind"] != "dense"], rows[rows["kind"] == "dense"]
    lows, highs = arms[["low", "value"]].min().min(), arms[["high", "value"]].max().max()
    means = arms["value"]
    if rows["panel"].iloc[0] == "kl" and means.min() > 0 and means.max() / means.min() > LOG_FROM:
        log_axis(axes, which, max(lows, means.min() / 3), highs)
        return False
    room = 0.08 * max(highs - lows, 1e-9)
    if rows["panel"].iloc[0] == "accuracy" and lows - room < 0.1:
        lows = min(lows, 0.0)
    if len(dense) and which == "y" and dense["value"].iloc[0] - highs > BREAK_FROM * (highs - lows):
        broken_axis(axes, lows - room, highs + room, dense["value"].iloc[0], dense["high"].iloc[0])
        return True
    ends = [lows, highs, *dense["low"], *dense["high"]]
    linear_axis(axes, which, min(ends), max(ends))
    return False


def linear_axis(
    axes: "Axes", which: str, low: float, high: float, room: float = 0.06, steps: int | None = None
) -> None:
    """Limits with room on both sides, and few round ticks, at most `steps` apart."""
    margin = room * (high - low) or 0.1 * abs(high) or 1.0
    _limits(axes, which, low - margin, high + margin)
    _ticks(axes, which, steps or (5 if which == "x" else 7))


def _limits(axes: "Axes", which: str, low: float, high: float) -> None:
    (axes.set_xlim if which == "x" else axes.set_ylim)(low, high)


def _ticks(axes: "Axes", which: str, steps: int) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(MaxNLocator(steps, steps=[1, 2, 5, 10]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: plain_number(round(value, 10))))


def log_axis(axes: "Axes", which: str, low: float, high: float) -> None:
    """Plain numbers at 1, 2, 5 of each decade, or at decades alone where those would be more than five."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    low, high = low / 1.25, high * 1.25
    decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    for steps in ((1, 2, 5), (1, 3), (1,)):
        ticks = [step * 10.0**decade for decade in decades for step in steps if low <= step * 10.0**decade <= high]
        if len(ticks) <= (4 if which == "x" else 6):
            break
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: plain_number(value)))
    _limits(axes, which, low, high)


def broken_axis(axes: "Axes", low: float, high: float, dense: float, dense_high: float) -> None:
    """A y axis whose lower four fifths hold the arms and whose top holds the dense line; two strokes mark the gap."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

    reach = max(dense_high - dense, 1e-6) * 3
    values = np.array([low, high, dense - reach, dense + reach])
    shown = np.array([0.0, 0.80, 0.88, 1.0])

    def forward(y):
        inside = np.interp(y, values, shown)
        below, above = np.minimum(np.asarray(y) - low, 0), np.maximum(np.asarray(y) - values[-1], 0)
        return inside + below * 0.8 / (high - low) + above

    def inverse(y):
        return np.interp(y, shown, values)

    axes.set_yscale("function", functions=(forward, inverse))
    axes.set_ylim(low, values[-1])
    ticks = [tick for tick in MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(low, high) if low <= tick <= high]
    axes.yaxis.set_major_locator(FixedLocator([*ticks, dense]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: plain_number(float(f"{value:.3g}"))))
    over = {"transform": axes.transAxes, "clip_on": False}
    axes.plot([0, 0], [0.825, 0.855], color="white", lw=1.6, zorder=4, **over)
    # two strokes as markers: their size is in points, whatever the axes' width
    axes.plot([0, 0], [0.825, 0.855], ls="", marker=[(-1, -0.5), (1, 0.5)], ms=6, mec=GREY, mew=0.7, zorder=5, **over)


def title(axes: "Axes", measure: str, which: str) -> None:
    """What the value's axis shows, above the panel; it says where the axis is logarithmic."""
    scale = axes.get_xscale() if which == "x" else axes.get_yscale()
    axes.set_title(MEASURES[measure].replace(")", ", log)") if scale == "log" else MEASURES[measure])


def factor_axis(axes: "Axes", labels: Mapping[str, float], which: str, apart: float | None, ends: float = 0.6) -> None:
    """Names at their places, on two levels where one is too narrow; a line sets apart what stands before `apart`."""
    places, names = list(labels.values()), [bin_label(name) for name in labels]
    if which == "x" and collide(
        names, places, inches=0.38 * axes.figure.get_figure(root=True).get_figwidth(), ends=ends
    ):
        names = ["\n" * (step % 2) + name for step, name in enumerate(names)]
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_ticks(places, names)
    axis.set_tick_params(length=0)
    axis.grid(False)
    _limits(axes, which, min(places) - ends, max(places) + ends)
    if which == "y":
        axes.invert_yaxis()
    if apart is not None:
        set_apart(axes, apart, which)


def collide(names: list[str], places: list[float], inches: float, ends: float) -> bool:
    """Whether neighbours would touch on an axis of this length, at CHARACTER inches a character."""
    unit = inches / (max(places) - min(places) + 2 * ends)
    pairs = pairwise(zip(names, places, strict=True))
    return any((len(one) + len(other)) / 2 * CHARACTER > (right - left) * unit for (one, left), (other, right) in pairs)


def set_apart(axes: "Axes", place: float, which: str) -> None:
    (axes.axvline if which == "x" else axes.axhline)(place, color=GREY, lw=0.5, ls=(0, (1, 2)), zorder=1)


def key(
    figure: "FigureBase",
    dense: bool,
    series: Mapping[str, tuple[str, str]] | None = None,
    seeds: bool = True,
    series_title: str | None = None,
) -> None:
    """What the series' colours mean above the panels, what the signs are below."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=colour, marker=marker, ms=3.5, mew=0, lw=1.2, label=name)
        for name, (colour, marker) in (series or {}).items()
    ]
    if series_title:
        handles.insert(0, Line2D([], [], lw=0, label=f"{series_title}:"))
    if handles:
        figure.legend(handles=handles, loc="outside upper center", ncols=len(handles) if len(handles) < 6 else 3)
    signs = [
        Line2D([], [], color=GREY, marker="o", ms=3.5, mew=0, lw=1.2, label="mean, 95\N{NO-BREAK SPACE}% interval")
    ]
    if seeds:
        signs.append(Line2D([], [], color=GREY, marker="o", ms=2.4, mfc="none", mew=0.6, lw=0, label="one seed"))
    if dense:
        signs.append(Line2D([], [], color=BLACK, lw=0.9, ls=(0, (4, 2)), label="dense ± se"))
    figure.legend(handles=signs, loc="outside lower center", ncols=3)
