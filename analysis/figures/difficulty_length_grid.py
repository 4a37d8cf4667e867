"""Does the effect of length depend on difficulty?"""

from typing import TYPE_CHECKING

import pandas as pd

from analysis import stats
from analysis.arms import Arm, Arms, Data, gather
from analysis.comparable import rank
from analysis.figures import FIGURES, captions, findings, panels, plotted
from analysis.figures.bins import APART, places
from analysis.figures.matrix import draw_matrix, held_out_matrix, matrix_height
from analysis.style import ORDERED, Drawing, new_figure, shades

if TYPE_CHECKING:
    from matplotlib.figure import FigureBase

LENGTHS = ORDERED["length"]
HEIGHT = 2.35  # inches, of accuracy and KL with their legends


@FIGURES.register("difficulty_length_grid")
def difficulty_length_grid(data: Data, width: float) -> Drawing:
    arms = gather(data, ("difficulty", "length"))
    baseline = arms.find(difficulty="all", length="all")
    rows = plotted.dense_rows(arms)
    for measure in plotted.measures(arms):
        rows += plotted.arm_rows(arms, measure, lambda arm: arm.values["length"], series_of)
    rows += held_out_matrix(arms, both, baseline)
    table = plotted.table(rows)
    below = matrix_height(len(arms) + 1) if arms.has_kl else 0
    figure = new_figure(width, HEIGHT + below)
    top = figure
    if below:
        top, bottom = figure.subfigures(2, 1, height_ratios=[HEIGHT, below])
        draw_matrix(bottom, table[table["panel"] == "matrix"], "all" if baseline else "the mean", difficulty_of)
    broken = draw_grid(top, arms, table)
    parts = [captions.ALL_ARM * bool(baseline), captions.BROKEN * broken, captions.matrix(arms, bool(baseline))]
    text = captions.caption("Difficulty and length of the traces that calibrate", arms, *parts)
    return Drawing("difficulty_length_grid", figure, table, text, found(arms, baseline), arms.notes)


def both(arm: Arm) -> str:
    """easy/short; a margin by its one name; all."""
    names = [arm.values[factor] for factor in ("difficulty", "length") if arm.values[factor] != "all"]
    return "/".join(names) or "all"


def series_of(arm: Arm) -> str:
    return f"difficulty {arm.values['difficulty']}"


def difficulty_of(name: str) -> str:
    """The row's block in the matrix: its difficulty, margins of length with `all`."""
    first = name.split("/")[0]
    return "all" if first in LENGTHS else first


def found(arms: Arms, baseline: Arm | None) -> list[str]:
    """Whether the gain of moderate traces differs between hard and easy ones; every arm against `all` and dense."""
    family = findings.Family()
    beside = []
    corners = [[arms.find(difficulty=row, length=column) for column in LENGTHS] for row in ("hard", "easy")]
    if any(arm is None for row in corners for arm in row):
        beside.append("Whether length acts alike on hard and easy traces needs all of their arms: not tested.")
    else:
        for measure in plotted.measures(arms):
            gain = stats.contrast(
                [arm.measure(measure) for row in corners for arm in row], [-0.5, 1, -0.5, 0.5, -1, 0.5]
            )
            first, second = (
                f"the lead of moderate over short and long ones among {row} traces" for row in ("hard", "easy")
            )
            family.difference(first, second, gain, findings.MEASURES[measure])
    findings.against_arm(family, arms, baseline, "all", both)
    findings.against_dense(family, arms, both)
    return [*family.sentences(), *beside, *findings.shares(arms, both), *findings.kl_and_accuracy(arms.runs)]


def draw_grid(figure: "FigureBase", arms: Arms, table: pd.DataFrame) -> bool:
    """Length on x, a line through the bins of length for each difficulty; True where an axis is broken."""
    at = places(sorted({arm.values["length"] for arm in arms}, key=lambda length: rank("length", length)))
    kinds = list(dict.fromkeys(arm.values["difficulty"] for arm in arms))
    inks = shades("difficulty", kinds)
    looks = {}
    for step, kind in enumerate(kinds):
        side = 0.19 * (step - (len(kinds) - 1) / 2)
        for length, place in at.items():
            narrow = 0.75 if length == "all" else 1.0
            looks[f"difficulty {kind}", length] = panels.Look(place + side * narrow, inks[kind], spread=0.16, size=3.2)
    shown, broken = plotted.measures(arms), False
    for axes, measure in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        part = table[table["panel"] == measure]
        panels.draw_dense(axes, part)
        for kind in kinds:
            series = part[(part["series"] == f"difficulty {kind}") & (part["kind"] == "mean") & (part["arm"] != "all")]
            xs = [looks[f"difficulty {kind}", arm].place for arm in series["arm"]]
            axes.plot(xs, series["value"], color=inks[kind], lw=0.7, alpha=0.6, zorder=2)
        panels.draw_arms(axes, part, looks)
        broken |= panels.value_axis(axes, part, "y")
        panels.factor_axis(axes, at, "x", apart=APART / 2 - 0.03 if "all" in at else None, ends=0.42)
        panels.title(axes, measure, "y")
    series = {kind: (ink, "o") for kind, ink in inks.items()}
    panels.key(figure, dense=arms.has_accuracy, series=series, seeds=len(arms.seeds) > 1, series_title="difficulty")
    return broken
