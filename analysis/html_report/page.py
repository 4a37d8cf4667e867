"""The page: contents, template, style and script as one text."""

import re
from base64 import b64encode
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from analysis.html_report.contents import Contents
from analysis.html_report.private import without_secrets
from analysis.style import NO_DATES, Drawing, drawing_style
from ssgr.progress import visible

HERE = Path(__file__).parent
STRONG, CODE = re.compile(r"\*\*(.+?)\*\*"), re.compile(r"`([^`]+)`")  # the only Markdown of captions


def page(contents: Contents) -> str:
    """The HTML of the report. Its policy allows the style and the script that are in it, images in it, nothing else."""
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"prose": prose, "svg": svg, "csv": csv}
    style, script = ((HERE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    policy = f"default-src 'none'; img-src data:; style-src {source(style)}; script-src {source(script)}"
    return environment.get_template("template.html").render(
        contents=contents,
        style=Markup(style),
        script=Markup(script),
        policy=f"{policy}; base-uri 'none'; form-action 'none'",
    )


def source(text: str) -> str:
    """How a policy names an inline style or script: by the hash of its text."""
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


def shown(value: Any) -> Any:
    """What may be written of a value, before it is escaped: no credentials, control characters as escapes."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return visible(without_secrets(value), kept="\n\t\N{NO-BREAK SPACE}")


def prose(text: str) -> Markup:
    """A caption's text with its bold words and its code."""
    found = str(escape(shown(text)))
    return Markup(CODE.sub(r"<code>\1</code>", STRONG.sub(r"<strong>\1</strong>", found)))


def svg(drawing: Drawing) -> Markup:
    """The figure as a data URI: as an image its ids and styles are its own."""
    file = BytesIO()
    with drawing_style():
        drawing.figure.savefig(file, format="svg", metadata=NO_DATES["svg"])
    return data_uri("image/svg+xml", file.getvalue())


def csv(drawing: Drawing) -> Markup:
    """The plotted numbers as a data URI."""
    return data_uri("text/csv;charset=utf-8", drawing.table.to_csv(index=False, lineterminator="\n").encode())


def data_uri(kind: str, data: bytes) -> Markup:
    return Markup(f"data:{kind};base64,{b64encode(data).decode()}")
