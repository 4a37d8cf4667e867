"""The real `datasets` against a hub on this machine, in a process of its own: where the hub is, is read at import."""

import gzip
import json
import os
import socket
import subprocess
import sys

import pytest
from loopback_hub import COMMIT, serve

CARD = b"---\nconfigs:\n- config_name: en\n  data_files:\n  - split: train\n    path: en/*.json.gz\n---\n"
ROWS = [{"problem": f"{i}+1?", "answer": str(i + 1)} for i in range(40)]
CODE = """
import json, sys
from ssgr.config import HubDataset
from ssgr.errors import UserError
from ssgr.hub_data import download_hub, stream_hub
for kind, seed, *data in json.loads(sys.argv[1]):
    options = HubDataset(*data), "some.dataset", "some.path=FILE"
    try:
        print(json.dumps(list(stream_hub(*options, seed) if kind == "stream" else download_hub(*options))))
    except UserError as error:
        print(json.dumps(str(error)))
"""


def answers(calls, port, folder):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {"HF_ENDPOINT": f"http://127.0.0.1:{port}", "HF_HOME": str(folder), "no_proxy": "127.0.0.1"}
    command = [sys.executable, "-c", CODE, json.dumps(calls)]
    run = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    return [json.loads(line) for line in run.stdout.splitlines()], run.stderr


def packed(rows):
    return gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode())


@pytest.fixture(scope="module")
def hub():
    server = serve({"README.md": CARD, "en/a.json.gz": packed(ROWS[:20]), "en/b.json.gz": packed(ROWS[20:])})
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def closed_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


DATA = ["someone/data", "en", "train"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("hub")


@pytest.fixture(scope="module")
def served(hub, folder):
    calls = {
        "first": ["stream", 0, *DATA, None],
        "again": ["stream", 0, *DATA, COMMIT],
        "other": ["stream", 1, *DATA, "v1"],
        "in order": ["stream", None, *DATA, None],
        "no revision": ["stream", 0, *DATA, "v2"],
        "no data set": ["stream", 0, "someone/else", "en", "train", None],
        "no config": ["stream", 0, "someone/data", "de", "train", None],
        "no split": ["download", 0, "someone/data", "en", "test", None],
        "no answer": ["stream", 0, "someone/down", "en", "train", None],
        "no id": ["download", 0, "some where", "en", "train", None],
        "download": ["download", 0, *DATA, None],
    }
    found, _ = answers(list(calls.values()), hub.server_port, folder)
    return dict(zip(calls, found, strict=True))


def test_streams_are_whole_and_seeded(served):
    assert served["in order"] == ROWS == served["download"]
    assert served["first"] == served["again"] != served["other"] and served["first"] != ROWS
    for name in ("first", "other"):
        assert sorted(served[name], key=ROWS.index) == ROWS


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("no revision", "someone/data/en/train@v2 could not be had from the hub (it has no revision v2)"),
        ("no data set", "(there is no such data set, or it is private)"),
        ("no config", "(BuilderConfig 'de' not found. Available: ['en'])"),
        ("no split", "(Unknown split \"test\". Should be one of ['train'].)"),
        ("no answer", "(the hub does not work: "),
        ("no id", "'some where'"),
    ],
)
def test_what_the_hub_does_not_have_is_one_line_with_the_way_out(name, words, served):
    line = served[name]
    assert line.startswith("some.dataset: ") and line.endswith("; some.path=FILE reads a local file instead")
    assert words in line and "\n" not in line


def test_without_a_hub_a_downloaded_copy_does_if_it_is_the_revision_asked_for(served, closed_port, folder):
    calls = [["download", 0, *DATA, revision] for revision in (None, COMMIT, "v1")]
    calls += [["stream", 0, *DATA, None], ["download", 0, "someone/else", "en", "train", None]]
    found, said = answers(calls, closed_port, folder)
    assert served["download"] == found[0] == found[1]
    for line, place in zip(found[2:], ("data/en/train@v1", "data/en/train", "else/en/train"), strict=True):
        assert f"{place} could not be had from the hub (the hub cannot be reached: " in line and "\n" not in line
    lines = said.strip().splitlines()
    assert len(lines) == 2 and all("the copy of someone/data/en/train" in line for line in lines)


def test_a_hub_that_does_not_answer_is_asked_once(served, hub):
    assert sum("someone/down" in asked for asked in hub.asked) == 1


def test_a_hub_that_is_switched_off_is_not_asked(served, hub, folder, monkeypatch):
    before = len(hub.asked)
    code = f"import os; os.environ['HF_HUB_OFFLINE'] = '1'\n{CODE}"
    monkeypatch.setattr(sys.modules[__name__], "CODE", code)
    (rows, line), _ = answers([["download", 0, *DATA, None], ["stream", 0, *DATA, None]], hub.server_port, folder)
    assert rows == ROWS and "the hub cannot be reached" in line and len(hub.asked) == before
