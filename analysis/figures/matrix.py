"""The matrix of KL: what the calibration arm (rows) does to held-out samples of each bin (columns).

A bin has a home advantage on samples like itself, so that "A beats B" needs the same sign in columns that belong to
neither. Colours compare with the column's `all` arm; the numbers are the KL itself.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from analysis.arms import Arm, Arms
from analysis.style import SMALL, bin_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import FigureBase

HELD_OUT_BINS = {  # of divergence.parquet; what is in no bin last
    "difficulty": ("easy", "medium", "hard", "never"),
    "length": ("short", "moderate", "long", "truncated"),
}
SHORT = {"truncated": "cut"}  # as the tables call it
GAP = 1.5  # between the columns of difficulty and of length, in characters


def held_out_matrix(arms: Arms, arm_name: Callable[[Arm], str], baseline: Arm | None) -> list[dict]:
    """One row per arm and held-out bin: its KL, and the relative difference to `baseline`, else to the arms' mean.

    Bins without a problem are left out. Nothing where an arm has no divergence table.
    """
    if not arms.has_kl:
        return []
    rows = []
    for axis, names in HELD_OUT_BINS.items():
        for bin_ in names:
            inside = (arms.held_out[axis] == bin_).to_numpy()
            if not inside.any():
                continue
            means = [float(arm.kl[:, inside].mean()) for arm in arms]
            against = float(baseline.kl[:, inside].mean()) if baseline else float(np.mean(means))
            about = {"panel": "matrix", "kind": "cell", "series": axis, "problems": int(inside.sum())}
            for arm, value in zip(arms, means, strict=True):
                rows.append(
                    about | {"arm": arm_name(arm), "held_out": bin_, "value": value, "relative": value / against - 1}
                )
    return rows


def matrix_height(arms: int) -> float:
    """Inches that the matrix of so many arms needs, its labels included."""
    return 0.8 + 0.16 * arms


def draw_matrix(
    figure: "FigureBase", rows: pd.DataFrame, baseline: str, block: Callable[[str], str] = lambda arm: ""
) -> None:
    """The rows of `held_out_matrix` on a figure of their own; arms of different blocks stand a little apart."""
    axes = figure.subplots()
    names = row_places(list(dict.fromkeys(rows["arm"])), block)
    columns = list(dict.fromkeys(zip(rows["series"], rows["held_out"], rows["problems"], strict=True)))
    spans = column_spans(columns)
    shade = shading(float(rows["relative"].abs().max()))
    for _, row in rows.iterrows():
        draw_cell(axes, spans[row["series"], row["held_out"]], names[row["arm"]], row, shade)
    axes.set_xlim(0, max(right for _, right in spans.values()))
    axes.set_ylim(max(names.values()) + 0.5, -0.5)
    labels = [f"{SHORT.get(bin_, bin_)}\nn {count:,}" for _, bin_, count in columns]
    axes.set_xticks([sum(span) / 2 for span in spans.values()], labels)
    axes.set_yticks(list(names.values()), [bin_label(name) for name in names])
    axes.tick_params(length=0)
    axes.grid(False)
    axes.spines[:].set_visible(False)
    figure.suptitle(
        "KL per token (10⁻³ nats): calibrated on (rows), held-out (columns)", x=0.02, ha="left", fontsize=SMALL
    )
    bar = figure.colorbar(shade, ax=axes, location="bottom", aspect=30, shrink=0.6, pad=0.03)
    reach = nice_below(shade.norm.vmax)
    bar.set_ticks([-reach, 0, reach], labels=[signed_percent(value) for value in (-reach, 0, reach)])
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0)
    bar.ax.set_ylabel(f"relative to {baseline}", rotation=0, ha="right", va="center", fontsize=SMALL)


def row_places(names: list[str], block: Callable[[str], str]) -> dict[str, float]:
    places, y = {}, 0.0
    for before, name in zip([names[0], *names], names, strict=False):
        y += (bool(places)) + 0.35 * (block(before) != block(name))
        places[name] = y
    return places


def column_spans(columns: list[tuple[str, str, int]]) -> dict[tuple[str, str], tuple[float, float]]:
    """Left and right end of each column, wide enough for its label, in characters."""
    spans, left, first = {}, 0.0, columns[0][0]
    for axis, bin_, count in columns:
        if axis != first:
            left, first = left + GAP, axis
        width = max(6.0, len(SHORT.get(bin_, bin_)) + 1.0, len(f"n {count:,}") + 1.0)
        spans[axis, bin_] = (left, left + width)
        left += width
    return spans


def shading(largest: float) -> "ScalarMappable":
    """From blue (lower) through white to red (higher), the same reach both ways; never so dark that text drowns."""
    import matplotlib
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LinearSegmentedColormap, Normalize

    shades = matplotlib.colormaps["RdBu_r"](np.linspace(0.12, 0.88, 101))
    limit = max(0.02, largest)
    return ScalarMappable(Normalize(-limit, limit), LinearSegmentedColormap.from_list("blue_red", shades))


def nice_below(limit: float) -> float:
    """The largest of 1, 2, 5 x 10^k that is not above the limit."""
    decade = 10.0 ** np.floor(np.log10(limit))
    return max(step * decade for step in (1, 2, 5) if step * decade <= limit * (1 + 1e-9))


def draw_cell(axes: "Axes", span: tuple[float, float], y: float, row: pd.Series, shade: "ScalarMappable") -> None:
    from matplotlib.patches import Rectangle

    fill = shade.to_rgba(row["relative"])
    axes.add_patch(Rectangle((span[0], y - 0.5), span[1] - span[0], 1, facecolor=fill, edgecolor="white", lw=0.8))
    ink = "white" if np.dot(fill[:3], (0.299, 0.587, 0.114)) < 0.5 else "black"
    text = axes.text(
        sum(span) / 2, y, thousandths(row["value"]), ha="center", va="center_baseline", fontsize=SMALL, color=ink
    )
    text.set_gid(f"matrix/cell/{row['series']}-{row['held_out']}/{row['arm']}")


def thousandths(value: float) -> str:
    """KL in thousandths of a nat, three figures."""
    value *= 1000
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f}"


def signed_percent(value: float) -> str:
    text = f"{100 * value:+.0f}\N{NO-BREAK SPACE}%".replace("-", "\N{MINUS SIGN}")
    return text[1:] if round(100 * value) == 0 else text
