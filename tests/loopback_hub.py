"""As much of the hub as `datasets` needs, on this machine: one data set of a few JSON lines files."""

import json
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
ID = "someone/data"


class Handler(BaseHTTPRequestHandler):
    """Files are those of the server: {path in the repository: bytes}."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.do_GET()

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        paths = json.loads(body)["paths"] if body.startswith("{") else parse_qs(body).get("paths", [])
        self.answer_json([entry for entry in self.entries() if entry["path"] in paths])

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        self.server.asked.append(f"{self.command} {path}")
        if path in (f"/api/datasets/{ID}", f"/api/datasets/{ID}/revision/v1", f"/api/datasets/{ID}/revision/{COMMIT}"):
            siblings = [{"rfilename": name} for name in self.server.files]
            self.answer_json({"id": ID, "sha": COMMIT, "private": False, "siblings": siblings, "tags": []})
        elif path.startswith(f"/api/datasets/{ID}/tree/"):
            below = path.removeprefix(f"/api/datasets/{ID}/tree/").partition("/")[2]
            self.answer_json([entry for entry in self.entries() if entry["path"].startswith(below)])
        elif path.startswith(f"/datasets/{ID}/resolve/"):
            self.answer_file(path.removeprefix(f"/datasets/{ID}/resolve/").partition("/")[2])
        elif path.startswith("/api/datasets/someone/down"):
            self.answer(503, b"", {})
        elif path.startswith(f"/api/datasets/{ID}/revision/"):
            self.answer(404, b"", {"X-Error-Code": "RevisionNotFound"})
        else:
            self.answer(404, b"", {"X-Error-Code": "RepoNotFound"})

    def entries(self):
        files = self.server.files
        found = [{"type": "file", "path": name, "size": len(data), "oid": name} for name, data in files.items()]
        folders = {name.rpartition("/")[0] for name in files} - {""}
        return [{"type": "directory", "path": name, "oid": name} for name in sorted(folders)] + found

    def answer_file(self, name):
        data = self.server.files.get(name)
        if data is None:
            self.answer(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
            return
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{sha256(data).hexdigest()}"', "Accept-Ranges": "bytes"}
        first, _, last = (self.headers.get("Range") or "").removeprefix("bytes=").partition("-")
        if first:
            start, end = int(first), min(int(last or len(data)), len(data) - 1)
            headers["Content-Range"] = f"bytes {start}-{end}/{len(data)}"
            self.answer(206, data[start : end + 1], headers)
        else:
            self.answer(200, data, headers)

    def answer_json(self, value):
        self.answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def answer(self, status, body, headers):
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_):
        pass


def serve(files):
    """A server of these files; its address is http://127.0.0.1:<server_port>."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.files, server.asked = files, []
    Thread(target=server.serve_forever, daemon=True).start()
    return server
