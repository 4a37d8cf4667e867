"""One project of Weights & Biases, asked through the public Api of wandb 0.31; wandb is imported when it is asked."""

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ssgr.cache import cache_root
from ssgr.errors import UserError

if TYPE_CHECKING:
    import wandb

JOB_TYPES = ("prune", "dense")
WANDB_OPTIONS = ("_wandb", "wandb_version")  # in a run's config, of wandb's own
PER_PAGE = 100  # runs of one page of the list
BATCH = 50  # runs whose config and summary are fetched at once
TIMEOUT = 12  # seconds that one answer may take, retries included
PATIENCE = {
    "x_graphql_retry_max": 1,
    "x_graphql_timeout_seconds": 10,
    "x_file_transfer_retry_max": 1,
    "x_file_transfer_timeout_seconds": 20,
}
PROBLEMS = {  # in what wandb says: what it means
    r"no api key|no authentication": "there is no API key: run `wandb login`, or set WANDB_API_KEY",
    r"API_KEY invalid": "WANDB_API_KEY holds no API key: run `wandb login`, or set it anew",
    r"(error|http|status:?) 40[13]\b|invalid credentials|not logged in|permission denied": (
        "this login is refused (expired, or without access to the project): run `wandb login --relogin`"
    ),
    r"could not find project|project not found": "there is no such project, or none that this login may read",
}


def project_path(source: str) -> str:
    """entity/project; UserError where the source names none."""
    path = source.removeprefix("wandb:")
    if path.count("/") != 1 or not all(path.split("/")):
        raise UserError(f"{source}: a W&B project is written entity/project, or wandb:entity/project")
    return path


class Project:
    """One project of W&B, asked through wandb's public Api; every failure of that is a UserError of one line."""

    def __init__(self, source: str):
        self.path = project_path(source)
        self.name = f"W&B project {self.path}"
        if not source.startswith("wandb:"):
            self.name += " (no directory is called that)"
        with self.failures():
            self.api = connect()
        self.cache = cache_root(None) / "wandb" / self.path

    def runs(self, study: str | None, left_out: list[str]) -> list["wandb.apis.public.Run"]:
        """The runs without their config and summary, page by page, each once."""
        filters: dict[str, Any] = {"jobType": {"$in": list(JOB_TYPES)}}
        if study:
            filters["group"] = study
        with self.failures():
            pages = self.api.runs(self.path, filters=filters, per_page=PER_PAGE)
            found = {run.id: run for run in pages}
            if len(found) != len(pages):  # the pages moved while they were read
                left_out.append(f"wandb:{self.path} counts {len(pages)} runs and listed {len(found)}: try again")
        return list(found.values())

    def details(self, ids: list[str]) -> dict[str, dict[str, Any]]:
        """config and summary of these runs."""
        found = {}
        for start in range(0, len(ids), BATCH):
            filters = {"name": {"$in": ids[start : start + BATCH]}}
            with self.failures():
                pages = self.api.runs(self.path, filters=filters, per_page=BATCH, lazy=False)
                nodes = list(nodes_of(pages))
            for node in nodes:
                config = json.loads(node["config"] or "{}")
                config = {name: option["value"] for name, option in config.items() if name not in WANDB_OPTIONS}
                found[node["name"]] = {"config": config, "summary": json.loads(node["summaryMetrics"] or "{}")}
        return found

    def state(self, run: "wandb.apis.public.Run") -> dict[str, Any]:
        """What changes whenever the run does; files that were kept of another state are fetched again."""
        server = self.api.settings["base_url"]
        return {"server": server, "heartbeat_at": run.heartbeat_at, "history_lines": run.history_line_count}

    @contextmanager
    def failures(self) -> Iterator[None]:
        try:
            yield
        except UserError:
            raise
        except Exception as error:  # wandb has no common class for them
            raise UserError(f"{self.name}: {explain(error)}") from error


def nodes_of(pages: "wandb.apis.public.Runs") -> Iterator[dict[str, Any]]:
    """The runs as the server sent them.

    wandb 0.31 takes the config of a run that it did not load lazily apart twice: {"name": "s50", "value": 0.5}, our
    sparsity, comes out of `run.config` as 0.5.
    """
    response = None
    for _ in pages:
        if pages.last_response is not response:
            response = pages.last_response
            yield from (edge["node"] for edge in response["project"]["runs"]["edges"])


def connect() -> "wandb.Api":
    """An Api that gives up after seconds instead of minutes, and asks nobody for a key."""
    import wandb
    from wandb.sdk.lib import wbauth

    settings = wandb.setup().settings
    before = {name: getattr(settings, name) for name in PATIENCE}
    try:
        for name, value in PATIENCE.items():
            if before[name] is None:
                setattr(settings, name, value)
        server = wandb.env.get_base_url(settings.base_url)
        if wbauth.authenticate_session(host=server, source="analysis", prompt=False, update_session=False) is None:
            raise LookupError("no API key")
        return wandb.Api(timeout=TIMEOUT)  # takes a copy of the settings
    finally:
        for name, value in before.items():
            setattr(settings, name, value)


def explain(error: Exception) -> str:
    """One line for what wandb raised; no part of it is a key."""
    said = " ".join(str(error).split())
    if key := os.environ.get("WANDB_API_KEY"):
        said = said.replace(key, "…")
    for pattern, meaning in PROBLEMS.items():
        if re.search(pattern, said, re.IGNORECASE):
            return meaning
    if re.search(r"giving up|did not respond|dial tcp|time-?out|not running", said, re.IGNORECASE):
        reason = re.sub(r'^\w+ "[^"]*": ', "", said.rpartition("while retrying: ")[2])
        return f"the server cannot be reached ({reason[:200]})"
    return said[:300] or type(error).__name__
