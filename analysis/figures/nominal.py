"""What smoke, calibration_source and pruner_comparison share: arms with their names on y, in one or two series."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from analysis.arms import Arm, Arms
from analysis.figures import panels, plotted
from analysis.style import Drawing, colour, label, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROW, FRAME = 0.3, 0.75  # inches: one name, and everything around them


def nominal(
    name: str,
    arms: Arms,
    width: float,
    arm_name: Callable[[Arm], str],
    series: Callable[[Arm], str],
    caption: str,
    found: list[str],
    apart: bool = False,
    legend: bool = False,
) -> Drawing:
    """Accuracy and KL beside each other. `series` is what the colour means; `apart` sets the first arm apart."""
    rows = plotted.dense_rows(arms)
    for measure in plotted.measures(arms):
        rows += plotted.arm_rows(arms, measure, arm_name, series)
    table = plotted.table(rows)
    names = list(dict.fromkeys(arm_name(arm) for arm in arms))
    figure = new_figure(width, FRAME + ROW * len(names) + (0.15 if legend else 0))
    draw(figure, arms, table, names, apart)
    kinds = list(dict.fromkeys(series(arm) for arm in arms))
    shown = {label(kind): (colour(kind, step), "o") for step, kind in enumerate(kinds)} if legend else None
    panels.key(figure, dense=arms.has_accuracy, series=shown, seeds=len(arms.seeds) > 1)
    return Drawing(name, figure, table, caption, found, arms.notes)


def source_name(arm: Arm) -> str:
    return label(arm.values["calibration"])


def source_of(arm: Arm) -> str:
    """What the colour means; `nothing` where a pruner needs no calibration."""
    source = arm.values["calibration"]
    return source if isinstance(source, str) else "nothing"


def draw(figure: "Figure", arms: Arms, table, names: list[str], apart: bool) -> None:
    kinds = list(dict.fromkeys(table.loc[table["kind"] == "mean", "series"]))
    shown = plotted.measures(arms)
    places = {name: step + (0.35 if apart and step else 0.0) for step, name in enumerate(names)}
    looks = {}
    for series, arm in table.loc[table["kind"] == "mean", ["series", "arm"]].drop_duplicates().itertuples(index=False):
        step = kinds.index(series)
        offset = 0.0 if len(kinds) == len(names) else 0.36 * (step - (len(kinds) - 1) / 2)
        spread = 0.7 if offset == 0 else 0.3
        looks[series, arm] = panels.Look(places[arm] + offset, colour(series, step), spread=spread)
    grid = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    for axes, measure in zip(grid, shown, strict=True):
        part = table[table["panel"] == measure]
        panels.draw_dense(axes, part, "y")
        panels.draw_arms(axes, part, looks, "y")
        panels.value_axis(axes, part, "x")
        panels.title(axes, measure, "x")
    # a name of two words stands on two lines: the panels need the width
    panels.factor_axis(grid[0], {name.replace(" ", "\n", 1): place for name, place in places.items()}, "y", apart=None)
    for axes in grid:
        axes.tick_params(axis="y", length=0)
        axes.grid(False, axis="y")
        if apart and len(names) > 1:
            panels.set_apart(axes, 0.675, "y")
