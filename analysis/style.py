"""How figures look, and how they are written: the same input gives the same bytes, today and in another process.

Colours are Okabe and Ito's (told apart by colour-blind readers), fixed by meaning in all figures. matplotlib is
imported by the functions that draw, so that a table is printed without it.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTHS = {"one": 3.3, "two": 6.9}  # inches: one column, two columns
TEXT, SMALL = 7.0, 6.5  # points at print size
DPI = 300
FONT = "ssgr sans"  # matplotlib's own DejaVu Sans under a name that no font of the system answers to

BLACK, GREY, LIGHT = "#000000", "#595959", "#d9d9d9"
COLOURS = {
    "dense": BLACK,
    "all": GREY,
    # sources
    "self_generated": "#0072B2",
    "traces": "#003F66",
    "off_policy": "#56B4E9",
    "reference_solutions": "#009E73",
    "prompts_only": "#E69F00",
    "c4_chat": "#A8588F",
    "c4": "#CC79A7",
    "wikitext": "#8C6D1F",
    "general_text": "#D55E00",
    "text": "#7A2E00",
    "nothing": "#8C8C8C",
    # difficulty: light to dark purple, as easy to hard
    "easy": "#B79AD6",
    "medium": "#7D4FB0",
    "hard": "#3F1670",
    # length: light to dark olive, as short to long
    "short": "#B5A642",
    "moderate": "#7D6F1C",
    "long": "#45390A",
    # pruners
    "magnitude": "#4D4D4D",
    "wanda": "#E69F00",
    "ria": "#CC79A7",
    "sparsegpt": "#0072B2",
    "alps": "#009E73",
}
ORDERED = {"difficulty": ("easy", "medium", "hard"), "length": ("short", "moderate", "long")}
SPARE = ("#CC79A7", "#009E73", "#56B4E9", "#8C6D1F", "#8C8C8C")  # for values without a meaning of their own here
MARKERS = {"wanda": "s", "sparsegpt": "o", "magnitude": "^", "ria": "D", "alps": "v"}
NAMES = {
    "self_generated": "own traces",
    "traces": "stored traces",
    "off_policy": "another model's traces",
    "reference_solutions": "reference solutions",
    "prompts_only": "prompts only",
    "general_text": "general text",
    "c4_chat": "C4 as chat",
    "c4": "C4",
    "wikitext": "WikiText",
    "magnitude": "magnitude",
    "wanda": "Wanda",
    "ria": "RIA",
    "sparsegpt": "SparseGPT",
    "alps": "ALPS",
}
RULES = {
    "figure.dpi": 100,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "font.family": [FONT],
    "font.size": TEXT,
    "axes.titlesize": TEXT,
    "axes.titlelocation": "left",
    "axes.titlepad": 4,
    "axes.labelsize": TEXT,
    "axes.labelpad": 2,
    "axes.linewidth": 0.6,
    "axes.edgecolor": GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.formatter.useoffset": False,
    "axes.formatter.use_mathtext": False,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.5,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "xtick.major.size": 2,
    "ytick.major.size": 2,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.pad": 2,
    "ytick.major.pad": 2,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": BLACK,
    "ytick.labelcolor": BLACK,
    "xtick.minor.visible": False,
    "ytick.minor.visible": False,
    "legend.fontsize": SMALL,
    "legend.frameon": False,
    "legend.handlelength": 1.2,
    "legend.handletextpad": 0.4,
    "legend.columnspacing": 1.0,
    "legend.borderaxespad": 0.2,
    "lines.linewidth": 1.0,
    "lines.markersize": 4,
    "pdf.fonttype": 42,
    "pdf.compression": 6,
    "svg.fonttype": "path",
    "svg.hashsalt": "ssgr",
    "path.simplify": False,
}
NO_DATES = {
    "png": {"Software": None},
    "pdf": {"Creator": None, "Producer": None, "CreationDate": None},
    "svg": {"Creator": None, "Date": None, "Format": None, "Type": None},
}


@dataclass
class Drawing:
    """A figure, the table of exactly the numbers in it, and what is said under it.

    `caption` says what is drawn, `findings` what was found (one sentence each), `notes` what was left out and why.
    """

    name: str
    figure: "Figure"
    table: pd.DataFrame
    caption: str
    findings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def _repr_png_(self) -> bytes:
        """What a notebook shows of it."""
        buffer = BytesIO()
        with drawing_style():
            self.figure.savefig(buffer, format="png", dpi=160)
        return buffer.getvalue()

    def text(self) -> str:
        """The caption file: Markdown."""
        parts = [self.caption]
        for heading, lines in (("Found:", self.findings), ("Notes:", self.notes)):
            if lines:
                parts.append("\n".join([heading, "", *(f"- {line}" for line in lines)]))
        return "\n\n".join(parts) + "\n"


@contextmanager
def drawing_style() -> Iterator[None]:
    """Everything that is drawn or saved inside follows RULES, whatever matplotlibrc says."""
    import matplotlib

    bundled_font()
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(RULES)
        yield


def bundled_font() -> None:
    """Makes matplotlib's own font known as FONT: another copy on the system must not change a byte."""
    from matplotlib import font_manager, get_data_path

    known = {entry.name for entry in font_manager.fontManager.ttflist}
    if FONT not in known:
        path = Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
        entry = font_manager.FontEntry(fname=str(path), name=FONT, weight=400, size="scalable")
        font_manager.fontManager.ttflist.append(entry)


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure in inches, laid out so that nothing overlaps; belongs to no window and no global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.03, wspace=0.02, hspace=0.02)
    FigureCanvasAgg(figure)
    return figure


def save(drawing: Drawing, out: str | Path) -> list[Path]:
    """Writes NAME.pdf, .svg, .png (300 dpi), .csv (the plotted numbers) and .md (the caption); returns the paths."""
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    contents = {"csv": drawing.table.to_csv(index=False, lineterminator="\n").encode(), "md": drawing.text().encode()}
    with drawing_style():
        # laid out once, for the print: the three files then agree, and each is written in a third of the time
        drawing.figure.canvas.draw()
        drawing.figure.set_layout_engine("none")
        for suffix in ("pdf", "svg", "png"):
            buffer = BytesIO()
            drawing.figure.savefig(buffer, format=suffix, dpi=DPI, metadata=NO_DATES[suffix])
            contents[suffix] = buffer.getvalue()
    paths = [out / f"{drawing.name}.{suffix}" for suffix in ("pdf", "svg", "png", "csv", "md")]
    for path in paths:
        path.write_bytes(contents[path.suffix[1:]])
    return paths


def colour(value: Any, position: int = 0) -> str:
    """The fixed colour of what a value means; of an unknown one, a spare colour by its position among its like."""
    return COLOURS.get(value if isinstance(value, str) else "", SPARE[position % len(SPARE)])


def shades(factor: str, names: Sequence[str]) -> dict[str, str]:
    """Colours of a factor's bins, light to dark in this order where a bin has no colour of its own; `all` is grey."""
    bins = [name for name in names if name != "all"]
    found = {name: COLOURS[name] for name in names if name in COLOURS}
    if len(found) < len(names):
        light, _, dark = (COLOURS[name] for name in ORDERED[factor])
        steps = [step / max(len(bins) - 1, 1) for step in range(len(bins))]
        found |= {name: between(light, dark, step) for name, step in zip(bins, steps, strict=True)}
    return found


def between(one: str, other: str, part: float) -> str:
    pairs = [(int(one[place : place + 2], 16), int(other[place : place + 2], 16)) for place in (1, 3, 5)]
    return "#" + "".join(f"{round(first + part * (second - first)):02X}" for first, second in pairs)


def label(value: Any) -> str:
    """What a value is called in figures: `own traces` for self_generated, `nothing` for no calibration."""
    if value is None or value != value:
        return "nothing"
    return NAMES.get(value, str(value).replace("_", " "))


def bin_label(name: str) -> str:
    """A bin that was set by hand by its bounds alone, .2–.5 for pass0.2to0.5; any other name as it is."""

    def bounds(found: re.Match) -> str:
        return f"{plain_number(float(found[1]))}\N{EN DASH}{plain_number(float(found[2]))}"

    return re.sub(r"\b(?:pass|level|length|tokens)([\d.]+)to([\d.]+)", bounds, name)


def sparsity_label(sparsity: float, pattern: str) -> str:
    """50 %, or 2:4 for a pattern; hair spaces do not survive every PDF reader, so a no-break space."""
    return f"{100 * sparsity:.3g}\N{NO-BREAK SPACE}%" if pattern in ("unstructured", "dense") else pattern


def plain_number(value: float) -> str:
    """0.05 as .05, 0.5 as .5, 1 as 1: the zero before the point costs width and says nothing."""
    text = f"{value:.6g}".replace("-", "\N{MINUS SIGN}")
    return text.replace("0.", ".", 1) if text.lstrip("\N{MINUS SIGN}").startswith("0.") else text
