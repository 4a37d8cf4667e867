"""A stand-in for W&B on the loopback: it speaks what the installed wandb client speaks, for one project.

Runs are put into it by `add`, or by wandb itself: what it needs to open a run, to stream into it and to send its files.
"""

import hashlib
import io
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import wandb

from ssgr import tracking

ENTITY, PROJECT = "us", "ssgr"
KEY = "0123456789abcdef" * 2 + "01234567"


@contextmanager
def serving(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator["WandbServer"]:
    """A server that this process' wandb talks to, logged in, with nothing of the user's own; it stands in `home`."""
    wandb.teardown()  # wandb keeps a process' first server and login for all its runs
    served = WandbServer()
    for name in ("WANDB_MODE", "WANDB_PROJECT", "WANDB_ENTITY", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    settings = {"WANDB_BASE_URL": served.url, "WANDB_API_KEY": KEY, "WANDB_ERROR_REPORTING": "false"}
    settings |= {"HOME": home / "home", "NETRC": home / "home" / ".netrc", "SSGR_CACHE": home / "cache"}
    for name, value in settings.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.chdir(home)
    try:
        yield served
    finally:
        served.close()
        wandb.teardown()


class WandbServer:
    """`runs` are what it serves, `views` the workspaces that were saved, `asked` the names of the operations and files
    that were asked for."""

    def __init__(self) -> None:
        self.runs: list[dict[str, Any]] = []
        self.views: list[dict[str, Any]] = []
        self.asked: list[str] = []
        self.status = 200  # of every answer
        self.errors: dict[str, str] = {}  # operation: the GraphQL error that it is answered with
        self.stalls = False  # never answers
        self._closed = threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.body()
                if self.path.endswith("/file_stream"):
                    server.stream(self.path, json.loads(body))
                elif self.path == "/graphql":
                    if server.stalls:
                        server._closed.wait(20)
                    return self.reply(server.status, json.dumps(server.answer(json.loads(body))).encode())
                return self.reply(200, b"{}")  # other paths: the client's own measurements

            def do_PUT(self) -> None:
                _, name, file = self.path.lstrip("/").split("/", 2)
                server.run(name)["files"][file] = self.body()
                self.reply(200, b"")

            def do_GET(self) -> None:
                data = server.file(self.path)
                self.reply(404 if data is None else 200, data or b"")

            def body(self) -> bytes:
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))

            def reply(self, status: int, data: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closed.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def add(self, folder: Path, state: str = "finished", **changes: Any) -> dict[str, Any]:
        """The run that tracking makes of a cell's folder; `changes` replace what the server says about it."""
        result = json.loads((folder / "result.json").read_text())
        name = f"id{len(self.runs):03d}"
        report = folder / "prune_report.json"
        blocks = json.loads(report.read_text())["blocks"] if report.is_file() else []
        points = [{f"pruning/{key}": value for key, value in block.items() if value is not None} for block in blocks]
        summary = (points[-1] if points else {}) | tracking.summary(result)
        files, logged = {}, {}
        for key, frame in tracking.tables(folder):
            path, data, entry = stored_table(key, frame)
            files[path], logged[key] = data, entry
        run = {
            "id": f"internal-{name}",
            "name": name,
            "displayName": result["cell"],
            "group": result["study"],
            "jobType": "dense" if result["sparsity"]["pattern"] == "dense" else "prune",
            "state": state,
            "heartbeatAt": "2025-11-24T12:00:00",
            "createdAt": f"2025-11-24T10:00:{len(self.runs):02d}",
            "config": tracking.with_joined_lists(result["config"]),
            "summary": summary | logged | {"_step": len(points), "_runtime": 4},
            "history": [*points, logged],
            "files": files,
        }
        self.runs.append(run | changes)
        return self.runs[-1]

    def replace_table(self, run: dict[str, Any], key: str, frame: pd.DataFrame) -> None:
        path, data, entry = stored_table(key, frame)
        run["files"][path], run["summary"][key] = data, entry

    def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        query, variables = body["query"], body.get("variables") or {}
        operation = re.search(r"(?:query|mutation) (\w+)", query)[1]
        self.asked.append(operation)
        if operation in self.errors:
            return {"data": None, "errors": [{"message": self.errors[operation], "path": []}]}
        if operation in ("Viewer", "GetDefaultEntity"):
            teams = {"edges": []}
            viewer = {"id": "u", "entity": ENTITY, "username": "me", "email": "", "flags": "{}", "teams": teams}
            return {"data": {"viewer": viewer}}
        if operation in ("RunResumeStatus", "UpsertBucket", "CreateRunFiles", "UpsertView2"):
            return {"data": getattr(self, f"_{operation}")(variables)}
        if operation not in ("Runs", "RunFullHistory", "RunFiles"):  # tables are sent as artifacts too: not needed
            return {"data": None, "errors": [{"message": f"no {operation} here", "path": []}]}
        if (variables["entity"], variables["project"]) != (ENTITY, PROJECT):
            return {"data": {"project": None}}
        return {"data": {"project": getattr(self, f"_{operation}")(variables, query)}}

    def run(self, name: str) -> dict[str, Any]:
        return next(run for run in self.runs if run["name"] == name)

    def file(self, path: str) -> bytes | None:
        _, name, file = path.lstrip("/").split("/", 2)
        self.asked.append(file)
        return self.run(name)["files"].get(file)

    def stream(self, path: str, body: dict[str, Any]) -> None:
        """A part of a run's history, its summary so far, or its end."""
        run = self.run(path.split("/")[-2])
        for name, part in body.get("files", {}).items():
            rows = [json.loads(line) for line in part["content"]]
            if name == "wandb-history.jsonl":
                run["history"][part["offset"] :] = rows
            elif name == "wandb-summary.json":
                run["summary"] = rows[-1]
        if body.get("complete"):
            run["state"] = "failed" if body["exitcode"] else "finished"

    def _RunResumeStatus(self, variables: dict[str, Any]) -> dict[str, Any]:
        return {"model": {"id": "1", "name": PROJECT, "entity": {"id": "1", "name": ENTITY}, "bucket": None}}

    def _UpsertBucket(self, variables: dict[str, Any]) -> dict[str, Any]:
        named = {"displayName": "displayName", "group": "groupName", "jobType": "jobType"}
        run = next((run for run in self.runs if run["name"] == variables["name"]), None)
        if run is None:
            run = {"id": "1", "name": variables["name"], "summary": {}, "history": [], "files": {}, "state": "running"}
            run |= {"heartbeatAt": "2025-11-24T12:00:00", "createdAt": "2025-11-24T10:00:00"}
            run |= {name: variables[asked] for name, asked in named.items()}
            self.runs.append(run)
        run["config"] = {name: option["value"] for name, option in json.loads(variables["config"]).items()}
        project = {"id": "1", "name": PROJECT, "entity": {"id": "1", "name": ENTITY}}
        bucket = {name: run[name] for name in ("id", "name", "displayName")} | {"project": project}
        bucket |= {"config": variables["config"], "description": "", "sweepName": "", "historyLineCount": 0}
        return {"upsertBucket": {"bucket": bucket, "inserted": True}}

    def _UpsertView2(self, variables: dict[str, Any]) -> dict[str, Any]:
        self.views.append(variables)
        return {"upsertView": {"view": {"id": "1", "name": variables["name"]}, "inserted": True}}

    def _CreateRunFiles(self, variables: dict[str, Any]) -> dict[str, Any]:
        urls = {name: f"{self.url}/files/{variables['run']}/{name}" for name in variables["files"]}
        files = [{"name": name, "uploadUrl": url} for name, url in urls.items()]
        return {"createRunFiles": {"runID": "1", "uploadHeaders": [], "files": files}}

    def _Runs(self, variables: dict[str, Any], query: str) -> dict[str, Any]:
        filters = json.loads(variables["filters"])
        runs = [run for run in self.runs if all(_fits(run[name], asked) for name, asked in filters.items())]
        start = int(variables["cursor"] or 0)
        page = runs[start : start + variables["perPage"]]
        is_whole = "...RunFragment" in query
        edges = [{"node": _node(run, is_whole), "cursor": str(start + place + 1)} for place, run in enumerate(page)]
        info = {"endCursor": str(start + len(page)), "hasNextPage": start + len(page) < len(runs)}
        project = {"internalId": "1", "runCount": len(runs), "readOnly": False}
        return project | {"runs": {"edges": edges, "pageInfo": info}}

    def _RunFullHistory(self, variables: dict[str, Any], query: str) -> dict[str, Any]:
        rows = [json.dumps({"_step": step, **row}) for step, row in enumerate(self.run(variables["name"])["history"])]
        return {"run": {"history": rows[: variables["samples"]]}}

    def _RunFiles(self, variables: dict[str, Any], query: str) -> dict[str, Any]:
        run = self.run(variables["name"])
        names = [name for name in run["files"] if name in variables["fileNames"]]
        edges = [{"node": self._file_node(run, name), "cursor": name} for name in names]
        files = {"edges": edges, "pageInfo": {"endCursor": None, "hasNextPage": False}}
        return {"internalId": "1", "run": {"fileCount": len(run["files"]), "files": files}}

    def _file_node(self, run: dict[str, Any], name: str) -> dict[str, Any]:
        url = f"{self.url}/files/{run['name']}/{name}"
        node = {"id": name, "name": name, "url": url, "directUrl": url, "sizeBytes": len(run["files"][name])}
        return node | {"mimetype": "application/json", "updatedAt": run["heartbeatAt"], "md5": ""}


def stored_table(key: str, frame: pd.DataFrame) -> tuple[str, bytes, dict[str, Any]]:
    """Where wandb puts a table, the bytes it writes there, and what stands in the summary."""
    written = io.StringIO()
    content = wandb.Table(dataframe=frame)._to_table_json(warn=False)
    wandb.util.json_dump_safer(content, written)
    data = written.getvalue().encode()
    checksum = hashlib.sha256(data).hexdigest()
    path = f"media/table/{key}_4_{checksum[:20]}.table.json"
    entry = {"_type": "table-file", "path": path, "sha256": checksum, "size": len(data), "nrows": len(frame)}
    return path, data, entry


def _fits(value: Any, asked: Any) -> bool:
    return value in asked["$in"] if isinstance(asked, dict) else value == asked


def _node(run: dict[str, Any], is_whole: bool) -> dict[str, Any]:
    names = ("id", "name", "displayName", "group", "jobType", "state", "heartbeatAt", "createdAt")
    node = {name: run[name] for name in names} | {"projectId": "1", "historyLineCount": len(run["history"])}
    node |= {"tags": [], "sweepName": None, "commit": None, "readOnly": False, "description": None, "notes": None}
    node["user"] = {"name": "me", "username": "me"}
    if is_whole:
        config = {name: {"value": value, "desc": None} for name, value in run["config"].items()}
        node["config"] = json.dumps(_kept(config) | {"_wandb": {"value": {}}})
        node |= {"summaryMetrics": json.dumps(_kept(run["summary"])), "systemMetrics": "{}", "historyKeys": {}}
    return node


def _kept(value: Any) -> Any:
    """As a store keeps it that has one kind of number: whole floats come back as integers."""
    if isinstance(value, dict):
        return {name: _kept(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_kept(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
