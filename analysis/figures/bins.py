"""What difficulty_effect and length_effect share: `all` and the bins in order, and the matrix of KL below."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from analysis.arms import Arm, Arms, Data, gather
from analysis.figures import captions, findings, panels, plotted
from analysis.figures.matrix import draw_matrix, held_out_matrix, matrix_height
from analysis.style import Drawing, new_figure, shades

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import FigureBase

APART = 0.75  # from `all` to the first bin; the bins are 1 apart
PANEL_HEIGHT = 1.75  # inches, with labels and legend


def ordered_effect(
    name: str,
    title: str,
    factor: str,
    data: Data,
    width: float,
    tests: Callable[[findings.Family, Arms], list[str]],
) -> Drawing:
    """`tests` adds what is asked of the bins' order to the comparisons and returns what needs no correction."""
    arms = gather(data, (factor,))
    rows = plotted.dense_rows(arms)
    for measure in plotted.measures(arms):
        rows += plotted.arm_rows(arms, measure, bin_of(factor))
    baseline = arms.find(**{factor: "all"})
    rows += held_out_matrix(arms, bin_of(factor), baseline)
    table = plotted.table(rows)
    below = matrix_height(len(arms)) if arms.has_kl else 0
    figure = new_figure(width, PANEL_HEIGHT + below)
    top = figure
    if below:
        top, bottom = figure.subfigures(2, 1, height_ratios=[PANEL_HEIGHT, below])
        draw_matrix(bottom, table[table["panel"] == "matrix"], "all" if baseline else "the mean")
    broken = draw_bins(top, arms, table, factor)
    parts = [captions.ALL_ARM * bool(baseline), captions.BROKEN * broken, captions.matrix(arms, bool(baseline))]
    text = captions.caption(title, arms, *parts)
    return Drawing(name, figure, table, text, found(arms, factor, baseline, tests), arms.notes)


def bin_of(factor: str) -> Callable[[Arm], str]:
    return lambda arm: arm.values[factor]


def found(arms: Arms, factor: str, baseline: Arm | None, tests: Callable) -> list[str]:
    """What the figure asks first: the order's tests; then every arm against `all` and dense, the shares of variance."""
    family = findings.Family()
    beside = tests(family, arms)
    findings.against_arm(family, arms, baseline, "all", bin_of(factor))
    findings.against_dense(family, arms, bin_of(factor))
    return [
        *family.sentences(),
        *beside,
        *findings.shares(arms, bin_of(factor)),
        *findings.kl_and_accuracy(arms.runs),
    ]


def draw_bins(figure: "FigureBase", arms: Arms, table: "pd.DataFrame", factor: str) -> bool:
    """Accuracy and KL beside each other, the bins in order, `all` set apart; True where an axis is broken."""
    at = places([arm.values[factor] for arm in arms])
    inks = shades(factor, list(at))
    looks = {("", bin_): panels.Look(place, inks[bin_]) for bin_, place in at.items()}
    shown, broken = plotted.measures(arms), False
    for axes, measure in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        part = table[table["panel"] == measure]
        panels.draw_dense(axes, part)
        panels.draw_arms(axes, part, looks)
        broken |= panels.value_axis(axes, part, "y")
        panels.factor_axis(axes, at, "x", apart=APART / 2 if "all" in at else None, ends=0.35)
        panels.title(axes, measure, "y")
    panels.key(figure, dense=arms.has_accuracy, seeds=len(arms.seeds) > 1)
    return broken


def places(names: list[str]) -> dict[str, float]:
    """Where the bins stand; `all` is set apart."""
    bins = [name for name in names if name != "all"]
    start = APART if "all" in names else 0.0
    return ({"all": 0.0} if "all" in names else {}) | {name: start + step for step, name in enumerate(bins)}
