"""Where a row of the results leads: to the run's folder, beside the page, and to its W&B run."""

import os
import re
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, urlsplit

import pandas as pd

from ssgr.cache import read_json
from ssgr.tracking import RECORD

W_AND_B = "https://wandb.ai"
IN_W_AND_B = re.compile(r"wandb:(?P<entity>[^/]+)/(?P<project>[^/]+)/(?P<id>[^/]+)")


class Link(NamedTuple):
    """A text that leads somewhere."""

    text: str
    url: str


def links_of(run: pd.Series, home: Path) -> list[Link]:
    """The links of a row of `load_runs`; a folder's is relative to `home`, so that both may be moved together."""
    if found := IN_W_AND_B.fullmatch(run["folder"]):
        return [Link("W&B", run_url(**found.groupdict()))]
    folder = Path(run["folder"])
    links = [Link("folder", f"{quote(Path(os.path.relpath(folder, home)).as_posix())}/")]
    if url := tracked_url(folder):
        links.append(Link("W&B", url))
    return links


def tracked_url(folder: Path) -> str | None:
    """Where the run that tracking recorded can be looked at; None where it is offline, or nobody knows whose it is."""
    record = read_json(folder / RECORD) or {}
    if record.get("mode") != "online":
        return None
    if is_web_url(record.get("url")):
        return record["url"]
    parts = [record.get(name) for name in ("entity", "project", "id")]
    return run_url(*parts) if all(isinstance(part, str) and part for part in parts) else None


def run_url(entity: str, project: str, id: str) -> str:
    """A run's page: on the server that WANDB_BASE_URL names, else on W&B's own."""
    server = os.environ.get("WANDB_BASE_URL", "")
    server = W_AND_B if not is_web_url(server) or urlsplit(server).hostname == "api.wandb.ai" else server.rstrip("/")
    return f"{server}/{quote(entity, '')}/{quote(project, '')}/runs/{quote(id, '')}"


def is_web_url(url: object) -> bool:
    """http(s) with a host and nothing that could hide where it leads."""
    if not isinstance(url, str) or not url.isprintable() or " " in url:
        return False
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and "@" not in parts.netloc
    except ValueError:
        return False
