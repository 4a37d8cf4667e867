"""Figures by name: one file each, one for every template of multirun_templates; `claims` and `cost` for any runs.

A figure is a function (data, width in inches) -> Drawing under `@FIGURES.register(NAME)`, which raises UserError, one
line, where these runs do not hold what it draws. No file here imports matplotlib at its top.
"""

from collections.abc import Iterator

from analysis.arms import Data
from analysis.style import WIDTHS, Drawing, drawing_style
from ssgr.errors import UserError
from ssgr.registry import Registry

FIGURES: Registry = Registry("figure", "analysis.figures")
ANY_STUDY = ("claims", "cost")  # figures that read all studies; the others read the one of their own name


def draw(name: str, data: Data, width: str = "one") -> Drawing:
    """The figure of this name from these runs; raises UserError where there is none or where they do not allow it."""
    figure = FIGURES.get(name)
    with drawing_style():
        return figure(data, WIDTHS[width])


def draw_every(data: Data, width: str = "one") -> Iterator[tuple[str, Drawing | UserError]]:
    """Each figure's name with what these runs allow: the figure, or in one line why there is none."""
    for name in FIGURES.names():
        part = data if name in ANY_STUDY else data.of(name)
        try:
            if part.runs.empty:
                raise UserError(f"no finished cell of a study named {name}")
            yield name, draw(name, part, width)
        except UserError as error:
            yield name, error
