"""Are traces of hard problems better than those of easy ones, and moderately long ones best? The contrasts beforehand.

Draws any runs: several studies together, matched and unmatched selections beside each other.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from analysis import equivalence
from analysis.arms import Data
from analysis.comparable import pruned_alike
from analysis.figures import FIGURES, captions, findings, panels, plotted
from analysis.figures.contrasts import ACCURACY_MARGIN, ASKED, KL_MARGIN, Contrast, Group, contrasts, gather_groups
from analysis.style import COLOURS, GREY, LIGHT, Drawing, new_figure
from analysis.verdicts import capital
from ssgr.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import FigureBase

ROW, FRAME, NAME, LEGEND = 0.34, 0.42, 0.14, 0.42  # inches: a contrast, around a model's, its name, below all
MOST_MODELS = 4
AT_HOME = "Whether a lead in KL holds on held-out problems unlike either arm is asked under the figure of its axis."
THIN, THICK = 0.8, 2.4  # of the intervals of 95 % and of 90 %
MARKS = {  # marker, and its face where that is not its colour; in the order in which they stand, from above
    "matched": ("o", None),
    "matched by several": ("D", None),
    "unmatched": ("s", "white"),
}
NO_CONTRAST = "no study holds both arms of a contrast: " + ", ".join(f"{one} − {other}" for _, one, other in ASKED)


@FIGURES.register("claims")
def claims(data: Data, width: float) -> Drawing:
    groups, left_out = gather_groups(data)
    found = contrasts(groups)
    if not found:
        raise UserError("; ".join(left_out) or NO_CONTRAST)
    groups = [group for group in groups if any(contrast.group is group for contrast in found)]
    models = list(dict.fromkeys(group.model for group in groups))
    if len(models) > MOST_MODELS:
        raise UserError(f"{len(models)} models and tasks are too many for one figure: choose with --where model=…")
    table = plotted.table([row_of(contrast) for contrast in found])
    figure = draw(width, table, models)
    notes = [*(f"left out: {line}" for line in left_out), *(note for group in groups for note in group.arms.notes)]
    notes = list(dict.fromkeys(notes))
    return Drawing("claims", figure, table, caption(groups, found), told(data, groups, found), notes)


def row_of(contrast: Contrast) -> dict[str, Any]:
    """What is drawn of it, and beside that what is told."""
    group, estimate, test = contrast.group, contrast.estimate, contrast.test
    return {
        "panel": contrast.measure,
        "kind": "difference",
        "series": f"{group.model}: {group.which}",
        "arm": contrast.name,
        "value": estimate.value,
        "low": estimate.low,
        "high": estimate.high,
        "problems": estimate.problems,
        "seeds": len(group.arms.seeds),
        "inner_low": test.inside.low,
        "inner_high": test.inside.high,
        "margin": test.margin,
        "half_width": estimate.half_width,
        "p_adjusted": contrast.adjusted,
        "p_equivalence": test.p,
        "verdict": contrast.verdict,
        "model": group.model,
        "matched": bool(group.balance),
        "kept_still": kept_still(group.balance),
        "colour": contrast.first,
    }


def kept_still(balance: str) -> str:
    """Which of MARKS."""
    if not balance:
        return "unmatched"
    return "matched by several" if " and " in balance else "matched"


def draw(width: float, table: pd.DataFrame, models: Sequence[str]) -> "FigureBase":
    """Of every model and task a row of panels; below the last one the signs."""
    rows = [table.loc[table["model"] == model, "arm"].nunique() for model in models]
    heights = [FRAME + ROW * count + NAME * (len(models) > 1) for count in rows]
    heights[-1] += LEGEND
    figure = new_figure(width, sum(heights))
    parts = figure.subfigures(len(models), 1, height_ratios=heights, squeeze=False)[:, 0]
    for part, model in zip(parts, models, strict=True):
        if len(models) > 1:
            part.suptitle(model, x=0.02, ha="left", fontsize="medium")
        draw_model(part, table[table["model"] == model], list(dict.fromkeys(table["panel"])))
    draw_key(parts[-1], table)
    return figure


def draw_model(figure: "FigureBase", table: pd.DataFrame, measures: Sequence[str]) -> None:
    places = {name: float(step) for step, name in enumerate(dict.fromkeys(table["arm"]))}
    grid = figure.subplots(1, len(measures), squeeze=False, sharey=True)[0]
    for axes, measure in zip(grid, measures, strict=True):
        part = table[table["panel"] == measure]
        if part.empty:  # this model's runs do not hold it
            axes.set_visible(False)
            continue
        draw_margin(axes, part, places)
        for _, row in part.iterrows():
            draw_contrast(axes, row, places[row["arm"]] + offset(table, row))
        reach = pd.concat([part["low"], part["high"], part["margin"], -part["margin"]])
        panels.linear_axis(axes, "x", reach.min(), reach.max(), steps=4)
        panels.title(axes, measure, "x")
        axes.set_xlabel("better →" if findings.MEASURES[measure].better == "higher" else "← better")
        axes.tick_params(axis="y", length=0)
        axes.grid(False, axis="y")
    panels.factor_axis(grid[0], places, "y", apart=None, ends=0.5)


def offset(table: pd.DataFrame, row: pd.Series) -> float:
    """The rows of one contrast in the order of MARKS, each a place of its own; a single one in the middle."""
    same = table[table["arm"] == row["arm"]].drop_duplicates("series").sort_values("series")
    beside = sorted(zip(same["kept_still"], same["series"], strict=True), key=lambda one: list(MARKS).index(one[0]))
    place = beside.index((row["kept_still"], row["series"]))
    return np.linspace(-0.2, 0.2, len(beside))[place] if len(beside) > 1 else 0.0


def draw_margin(axes: "Axes", rows: pd.DataFrame, places: dict[str, float]) -> None:
    """The margin as one band, whatever its width from row to row; a line where there is no difference."""
    margins = rows.groupby("arm", sort=False)["margin"].first()
    edges = [places[arm] + side for arm in margins.index for side in (-0.5, 0.5)]
    widths = np.repeat(margins.to_numpy(), 2)
    axes.fill_betweenx(edges, -widths, widths, color=LIGHT, lw=0, zorder=1)
    axes.axvline(0, color=GREY, lw=0.6, zorder=2)


def draw_contrast(axes: "Axes", row: pd.Series, place: float) -> None:
    """The 95 % interval thin, the 90 % interval thick, the difference as a mark that says whether it is matched."""
    ink = COLOURS[row["colour"]]
    marker, face = MARKS[row["kept_still"]]
    gid = f"{row['series']}/{row['arm']}"
    for before, name, thick in (("", "interval", THIN), ("inner_", "interval/inner", THICK)):
        ends = [row[f"{before}low"], row[f"{before}high"]]
        line = axes.plot(ends, [place] * 2, color=ink, lw=thick, solid_capstyle="butt", zorder=3)[0]
        line.set_gid(f"{row['panel']}/{name}/{gid}")
    mark = axes.plot([row["value"]], [place], marker, mfc=face or ink, mec=ink, mew=0.8, ms=4.2, zorder=4)[0]
    mark.set_gid(f"{row['panel']}/difference/{gid}")


def draw_key(figure: "FigureBase", table: pd.DataFrame) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    kinds = [kind for kind in MARKS if kind in set(table["kept_still"])]
    signs = [
        Line2D([], [], marker=marker, mfc=face or GREY, mec=GREY, mew=0.8, ms=4.2, lw=0, label=kind)
        for kind, (marker, face) in MARKS.items()
        if kind in kinds
    ]
    margin = Patch(facecolor=LIGHT, label="margin")
    intervals = [
        Line2D([], [], color=GREY, lw=thick, label=f"{level}\N{NO-BREAK SPACE}% interval")
        for level, thick in ((95, THIN), (90, THICK))
    ]
    signs += [*intervals, margin] if len(kinds) > 1 else [margin, *intervals]  # columns of two
    figure.legend(handles=signs, loc="outside lower center", ncols=-(-len(signs) // 2))


def caption(groups: Sequence[Group], found: Sequence[Contrast]) -> str:
    """On what it was measured, what every sign means, the margins, and what the verdicts mean."""
    arms = [group.arms for group in groups]
    how = "; ".join(dict.fromkeys(map(captions.bars, arms)))
    matched = ", ".join(dict.fromkeys(f"{group.axis} by {group.balance}" for group in groups if group.balance))
    several = " (diamonds: by several axes)" * (" and " in matched)
    parts = [
        "**Contrasts that were fixed beforehand.**",
        *measured(groups),
        f"Discs{several}: selections that were matched ({matched});" * bool(matched),
        "squares: unmatched ones." if matched else "Squares: selections that were not matched.",
        f"Thin bars: {how}; thick bars: 90 % intervals, made alike.",
        f"Shaded: the margin, {margins(groups)}.",
        "Better, worse: a difference is shown (p below 0.05, Holm-adjusted over the figure's "
        f"{len(found)} comparisons);",
        "equivalent: none is, and the 90 % interval lies inside the margin (two one-sided tests at 5 %, uncorrected);",
        "else not resolved.",
        f"{captions.KL_OF_WHAT} {AT_HOME}" * any(one.has_kl for one in arms),
    ]
    made_up = [captions.is_synthetic(one) for one in arms]
    if any(made_up):
        parts.append(captions.synthetic() if all(made_up) else captions.synthetic(captions.SYNTHETIC))
    return " ".join(part for part in parts if part)


def measured(groups: Sequence[Group]) -> list[str]:
    """On what, once for all groups that share it, with each one's calibration seeds."""
    alike: dict[str, list[str]] = {}
    for group in groups:
        on = f"{captions.measured_on(group.arms)} {captions.pruned(group.arms)}"
        alike.setdefault(on, []).append(f"{group.axis} ({group.which}) by {captions.seeds(group.arms)}")
    return [f"{on}; {'; '.join(which)}." for on, which in alike.items()]


def margins(groups: Sequence[Group]) -> str:
    """± 0.015 in accuracy; ± 3 % of a mean KL, with what that is the mean of."""
    told = [f"± {ACCURACY_MARGIN} in accuracy"] * any(group.arms.has_accuracy for group in groups)
    sticks = dict.fromkeys((group.model, group.yardstick) for group in groups if group.arms.has_kl)
    several = len({group.model for group in groups}) > 1
    of = [f"{stick.of}{f' of {model}' * several} ({stick.kl:.3g})" for model, stick in sticks]
    told += [f"± {100 * KL_MARGIN:g} % of the mean KL of {' and of '.join(of)}"] * bool(of)
    return " and ".join(told)


def told(data: Data, groups: Sequence[Group], found: Sequence[Contrast]) -> list[str]:
    """Every contrast, then whether moderate is best, KL beside accuracy, and where each arm's variance comes from."""
    several = len({group.model for group in groups}) > 1
    which = {id(group): group.which + f" ({group.model})" * several for group in groups}
    sentences = [
        equivalence.claim(f"{one.name}, {which[id(one.group)]}", one.estimate, one.test, one.measured, one.adjusted)
        for one in found
    ]
    for group in groups:
        for measure in plotted.measures(group.arms):
            than = {one.second: one for one in found if one.group is group and one.measure == measure}
            if len(than) > 1:
                first = next(iter(than.values()))
                found_of = {name: one.verdict for name, one in than.items()}
                sentences.append(equivalence.best(first.first, found_of, which[id(group)], first.measured))
    for model, group in {group.model: group for group in groups}.items():
        sentences += findings.kl_and_accuracy(pruned_like(data.runs, group), f" ({model})" * several)
    for group in groups:
        for line in findings.shares(group.arms, lambda arm: arm.key[0]):
            sentences.append(f"{capital(which[id(group)])}: {line[0].lower()}{line[1:]}")
    return sentences


def pruned_like(runs: pd.DataFrame, group: Group) -> pd.DataFrame:
    """All of these runs that differ from the group's in nothing but what calibrated them, on its task."""
    like = group.arms.runs.iloc[0]
    runs = runs[(runs["task"] == like["task"]) & (runs["model"] == like["model"])]
    return runs.loc[[pruned_alike(run, like) for _, run in runs.iterrows()]]
