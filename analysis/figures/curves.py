"""What sparsity_curve and token_budget share: a number on x, one line for each source."""

from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING

import pandas as pd

from analysis.arms import Arm, Arms
from analysis.figures import captions, panels, plotted
from analysis.style import Drawing, colour, label, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HEIGHT, LEGEND = 1.95, 0.15  # inches


def curves(
    name: str,
    arms: Arms,
    width: float,
    at: Callable[[Arm], float],
    place: Callable[[float], float],
    tick: Callable[[float], str],
    x_label: str,
    caption: str,
    found: list[str],
) -> Drawing:
    """Accuracy and KL beside each other. `at` is an arm's number, `place` where that stands on x, `tick` its name."""
    rows = plotted.dense_rows(arms)
    for measure in plotted.measures(arms):
        rows += plotted.arm_rows(arms, measure, lambda arm: tick(at(arm)), lambda arm: arm.values["calibration"], at)
    table = plotted.table(rows)
    kinds = list(dict.fromkeys(arm.values["calibration"] for arm in arms))
    shown = plotted.measures(arms)
    ticks = {tick(number): place(number) for number in sorted({at(arm) for arm in arms})}
    looks = look(ticks, kinds)
    broken = False
    figure = new_figure(width, HEIGHT + (LEGEND if len(kinds) > 1 else 0))
    for axes, measure in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        part = table[table["panel"] == measure]
        panels.draw_dense(axes, part)
        for step, kind in enumerate(kinds):
            draw_line(axes, part[(part["series"] == kind) & (part["kind"] == "mean")], looks, colour(kind, step))
        panels.draw_arms(axes, part, looks)
        broken |= panels.value_axis(axes, part, "y")
        panels.factor_axis(axes, ticks, "x", apart=None, ends=0.5 * gap(ticks))
        axes.set_xlabel(x_label)
        panels.title(axes, measure, "y")
    series = {label(kind): (colour(kind, step), "o") for step, kind in enumerate(kinds)}
    panels.key(figure, dense=arms.has_accuracy, series=series if len(kinds) > 1 else None, seeds=len(arms.seeds) > 1)
    return Drawing(name, figure, table, f"{caption} {captions.BROKEN * broken}".strip(), found, arms.notes)


def gap(ticks: dict[str, float]) -> float:
    """The smallest distance between two places."""
    places = sorted(ticks.values())
    return min((right - left for left, right in pairwise(places)), default=1.0)


def look(ticks: dict[str, float], kinds: list[str]) -> dict[tuple[str, str], panels.Look]:
    """The lines' points beside each other, so that one interval never hides another."""
    step = gap(ticks)
    looks = {}
    for index, kind in enumerate(kinds):
        side = 0.16 * step * (index - (len(kinds) - 1) / 2)
        for arm, at in ticks.items():
            looks[kind, arm] = panels.Look(at + side, colour(kind, index), spread=0.36 * step, size=3.5)
    return looks


def draw_line(axes: "Axes", means: pd.DataFrame, looks: dict, ink: str) -> None:
    means = means.sort_values("at")
    places = [looks[series, arm].place for series, arm in zip(means["series"], means["arm"], strict=True)]
    axes.plot(places, means["value"], color=ink, lw=0.8, alpha=0.6, zorder=2)
