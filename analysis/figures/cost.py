"""What does an arm's accuracy cost? A badly pruned model rambles: it is wrong and slow at once. Draws any runs."""

from typing import TYPE_CHECKING, Any

import pandas as pd

from analysis import stats
from analysis.arms import Data
from analysis.figures import FIGURES, captions, findings, panels, plotted
from analysis.figures.priced import Priced, every_arm
from analysis.style import BLACK, GREY, LIGHT, MARKERS, Drawing, colour, label, new_figure
from ssgr.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ROW, FRAME, LEGEND = 1.5, 0.75, 0.14  # inches: a row of panels, everything around, a line of legend
MOST_ROWS = 4
PER_LINE = 3  # legend entries
X = {"tokens": "generated tokens per answer", "seconds": "seconds per 1,000 answers"}


@FIGURES.register("cost")
def cost(data: Data, width: float) -> Drawing:
    priced, left_out = every_arm(data)
    names = list(dict.fromkeys(one.row for one in priced))
    if len(names) > MOST_ROWS:
        raise UserError(
            f"{len(names)} models and tasks are too many for one figure: choose with --where model=…"
            + " or problems=…" * any(one.tells_problems for one in priced)
        )
    table = plotted.table([row for one in priced for row in arm_rows(one)] + dense_rows(priced))
    kinds, pruners = looks(priced)
    lines = -(-len(kinds) // PER_LINE) + (len(pruners) > 1)  # of both legends, besides one
    figure = new_figure(width, FRAME + ROW * len(names) + LEGEND * lines)
    for panel_row, name in zip(figure.subplots(len(names), 2, squeeze=False, sharey="row"), names, strict=True):
        for axes, panel in zip(panel_row, X, strict=True):
            part = table[(table["panel"] == panel) & (table["series"] == name)]
            draw_panel(axes, part, kinds, pruners)
            axes.set_xlabel(X[panel])
        panel_row[0].set_title("accuracy" + (f": {name}" if len(names) > 1 else ""))
    draw_key(figure, kinds, pruners, seeds=(table["kind"] == "seed").any())
    return Drawing(
        "cost",
        figure,
        table,
        caption(priced),
        found(priced),
        [*(f"left out: {line}" for line in left_out), *notes(priced)],
    )


def arm_rows(one: Priced) -> list[dict[str, Any]]:
    """Of both panels: the mean with intervals both ways, and each seed."""
    arm, rows = one.arm, []
    accuracy, tokens, seconds = stats.mean(arm.measure("accuracy")), stats.mean(arm.measure("generated")), one.seconds()
    about = {"series": one.row, "arm": one.name, "colour": one.kind, "marker": one.run["pruner"]}
    about |= {"problems": arm.accuracy.shape[1]}
    bounds = {"value": accuracy.value, "low": accuracy.low, "high": accuracy.high, "kind": "mean"}
    bounds["seed"] = arm.seeds[0] if len(arm.seeds) == 1 else None
    rows.append(about | bounds | {"panel": "tokens", "at": tokens.value, "at_low": tokens.low, "at_high": tokens.high})
    rows.append(about | bounds | {"panel": "seconds", "at": seconds.mean()})
    if len(arm.seeds) > 1:
        places = {"tokens": arm.generated.mean(1), "seconds": seconds}
        for panel, at in places.items():
            for seed, x, value in zip(arm.seeds, at, arm.accuracy.mean(1), strict=True):
                rows.append(about | {"panel": panel, "kind": "seed", "seed": seed, "at": x, "value": value})
    return rows


def dense_rows(priced: list[Priced]) -> list[dict[str, Any]]:
    """Of each model and task; without a place on x where nobody timed it."""
    rows = []
    for one in {(one.row, one.arms.dense.value): one for one in priced}.values():
        run, about = one.run, plotted.dense_row(one.arms) | {"series": one.row, "colour": "dense"}
        seconds = 1000 * run["dense_seconds"] / (run["dense_problems"] * run["dense_repeats"])
        rows.append(about | {"panel": "tokens", "at": one.arms.dense.mean_tokens})
        rows.append(about | {"panel": "seconds", "at": seconds})
    return rows


def looks(priced: list[Priced]) -> tuple[dict[str, str], dict[str, str]]:
    """The colours of kinds and the markers of pruners that occur."""
    kinds = list(dict.fromkeys(one.kind for one in priced))
    pruners = list(dict.fromkeys(one.run["pruner"] for one in priced))
    return {kind: colour(kind, step) for step, kind in enumerate(kinds)}, {
        name: MARKERS.get(name, "P") for name in pruners
    }


def draw_panel(axes: "Axes", rows: pd.DataFrame, kinds: dict[str, str], pruners: dict[str, str]) -> None:
    panel = rows["panel"].iloc[0]
    for _, row in rows[rows["kind"] == "dense"].iterrows():
        axes.axhspan(row["low"], row["high"], color=LIGHT, lw=0, zorder=1)
        axes.axhline(row["value"], color=BLACK, lw=0.9, ls=(0, (4, 2)), zorder=2).set_gid(f"{panel}/dense/dense/dense")
        if row["at"] == row["at"]:
            axes.plot([row["at"]], [row["value"]], "*", color=BLACK, ms=6, mew=0, zorder=4)
    for arm, group in rows[rows["kind"] != "dense"].groupby("arm", sort=False):
        ink, marker = kinds[group["colour"].iloc[0]], pruners[group["marker"].iloc[0]]
        seeds, mean = group[group["kind"] == "seed"], group[group["kind"] == "mean"].iloc[0]
        line = axes.plot(seeds["at"], seeds["value"], marker, mfc="none", mec=ink, mew=0.5, ms=2, alpha=0.8, zorder=3)[
            0
        ]
        line.set_gid(f"{panel}/seed/{row_of(group)}/{arm}")
        axes.plot([mean["at"]] * 2, [mean["low"], mean["high"]], color=ink, lw=1.0, zorder=3)
        if panel == "tokens":
            axes.plot([mean["at_low"], mean["at_high"]], [mean["value"]] * 2, color=ink, lw=1.0, zorder=3)
        line = axes.plot([mean["at"]], [mean["value"]], marker, color=ink, ms=4, mew=0, zorder=4)[0]
        line.set_gid(f"{panel}/mean/{row_of(group)}/{arm}")
    places = rows["at"].dropna()
    if places.max() > panels.LOG_FROM * places.min() > 0:
        panels.log_axis(axes, "x", places.min(), places.max())
    else:
        ends = pd.concat([rows["at"], rows["at_low"], rows["at_high"]])
        panels.linear_axis(axes, "x", ends.min(), ends.max(), room=0.12)
    ends = pd.concat([rows["value"], rows["low"], rows["high"]])
    panels.linear_axis(axes, "y", ends.min(), ends.max())


def row_of(group: pd.DataFrame) -> str:
    return group["series"].iloc[0]


def draw_key(figure: "Figure", kinds: dict[str, str], pruners: dict[str, str], seeds: bool) -> None:
    """Sources by colour above, pruners by marker below."""
    from matplotlib.lines import Line2D

    mark = {"marker": "o", "ms": 3.5, "mew": 0, "lw": 0}
    handles = [Line2D([], [], label=label(kind), color=ink, **mark) for kind, ink in kinds.items()]
    figure.legend(
        handles=handles, loc="outside upper center", ncols=2 if len(handles) == 4 else min(len(handles), PER_LINE)
    )
    signs = []
    if len(pruners) > 1:
        signs = [
            Line2D([], [], label=label(name), color=GREY, **mark | {"marker": sign}) for name, sign in pruners.items()
        ]
    signs.append(Line2D([], [], label="mean, 95\N{NO-BREAK SPACE}% interval", color=GREY, **mark | {"lw": 1.0}))
    if seeds:
        signs.append(Line2D([], [], label="one seed", color=GREY, marker="o", ms=2.4, mfc="none", mew=0.5, lw=0))
    signs.append(Line2D([], [], label="dense ± se", color=BLACK, marker="*", ms=6, mew=0, lw=0.9, ls=(0, (4, 2))))
    figure.legend(handles=signs, loc="outside lower center", ncols=PER_LINE)


def caption(priced: list[Priced]) -> str:
    """n and k of every model and task, and what the signs are."""
    measured = dict.fromkeys(captions.measured_on(one.arms) for one in priced)
    how = dict.fromkeys(captions.bars(one.arms) for one in priced)
    seeds = sorted({seed for one in priced for seed in one.arms.seeds})
    timed = all(one.run["dense_seconds"] == one.run["dense_seconds"] for one in priced)
    parts = [
        f"**What accuracy costs.** {' '.join(measured)}",
        f"{arms_told(priced)}; calibration {'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))}."
        if seeds
        else f"{arms_told(priced)}.",
        "Left: against the mean number of generated tokens, a truncated answer counted to where it was cut; right: "
        "against the seconds that answering took.",
        "Filled: means of an arm; open: one calibration seed each;" if (len(seeds) > 1) else "Filled: means;",
        f"bars: {'; '.join(how)}; none for seconds.",
        "Star and dashed line: the dense model ± one standard error over problems"
        + ("." if timed else "; where nobody timed it, it has no place on the right."),
    ]
    made_up = [captions.is_synthetic(one.arms) for one in priced]
    if any(made_up):
        parts.append(captions.synthetic() if all(made_up) else captions.synthetic(captions.SYNTHETIC))
    return " ".join(parts)


def arms_told(priced: list[Priced]) -> str:
    if len(priced) <= findings.MANY:
        return ", ".join(dict.fromkeys(one.name for one in priced))
    return f"{len(priced)} arms of {', '.join(dict.fromkeys(label(one.run['pruner']) for one in priced))}"


def found(priced: list[Priced]) -> list[str]:
    """Of every model and task: accuracy against dense, tokens and truncation, whether the wrong ones ramble."""
    family, beside = findings.Family(), []
    for name in dict.fromkeys(one.row for one in priced):
        some = [one for one in priced if one.row == name]
        prefix = "" if len(some) == len(priced) else f" ({name})"
        estimates = {
            one.name: stats.difference(one.arm.measure("accuracy"), one.arms.dense.accuracy)
            for one in some
            if one.arms.dense.accuracy is not None
        }
        family.against(f"the dense model{prefix}", estimates, findings.ACCURACY)
        beside.append(tokens_told(some, prefix))
        pairs = [(one.arm.generated.mean(), one.arm.accuracy.mean()) for one in some]
        beside += findings.rank_correlation(pairs, "generated tokens", "accuracy", f"arms{prefix}")
        beside += findings.kl_and_accuracy(pd.concat([one.arm.runs for one in some]), prefix)
    return [*family.sentences(), *beside]


def tokens_told(some: list[Priced], prefix: str) -> str:
    """Of the arms with the fewest and with the most tokens, or of all where they are few."""
    told = sorted(some, key=lambda one: one.arm.generated.mean())
    told = told if len(told) <= findings.MANY else [told[0], told[-1]]
    arms = [
        f"{one.name} {one.arm.generated.mean():.0f} ({one.arm.runs['truncated'].mean():.1%} cut, accuracy "
        f"{one.arm.accuracy.mean():.3f})"
        for one in told
    ]
    dense = some[0].arms.dense
    which = "" if len(told) == len(some) else f", fewest and most of {len(some)} arms"
    return (
        f"Generated tokens per answer{prefix}{which}: dense {dense.mean_tokens:.0f} ({dense.truncated:.1%} cut, "
        f"accuracy {dense.value:.3f}); {'; '.join(arms)}."
    )


def notes(priced: list[Priced]) -> list[str]:
    several = len({one.row for one in priced}) > 1
    lines = list(dict.fromkeys(f"{one.row}: " * several + note for one in priced for note in one.arms.notes))
    devices = sorted({device for one in priced for device in one.arm.runs["device"].dropna()})
    if len(devices) > 1:
        lines.append(f"seconds are comparable on one device only, and there are several: {', '.join(devices)}")
    return lines
