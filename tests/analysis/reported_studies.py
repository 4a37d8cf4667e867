"""Runs for the page: two studies as they are left, and one whose every text would like to be more than text."""

import json
from copy import deepcopy
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
from synthetic_studies import write_cell, write_study

from analysis.__main__ import main

HOSTILE = '"><img src=x onerror=alert(1)>'
SCRIPT = "</script><script>alert(1)</script>"
BINS = {"problems": 9, "short_traces": 4, "short_tokens": 900, "long_traces": 2, "long_tokens": 700}
GRID = {
    "held": {"easy": BINS, "hard": BINS},
    "taken": {"easy": BINS, "hard": {name: 0 for name in BINS}},
}


def write_studies(runs: Path) -> None:
    """length_effect with two seeds, and smoke."""
    for folder in [*write_study(runs, "length_effect", seeds=2), *write_study(runs, "smoke")]:
        change_result(folder, with_details)


def write_hostile(runs: Path) -> Path:
    """A cell whose study, answers and W&B record are meant to break a page; returns its folder."""
    folder = write_cell(runs, HOSTILE, {})
    samples = pd.read_parquet(folder / "samples.parquet")
    samples.assign(answer=SCRIPT, finish_reason=HOSTILE).to_parquet(folder / "samples.parquet", index=False)
    change_result(folder, with_hostile_details)
    (folder / "tracking.json").write_text(json.dumps({"mode": "online", "url": "javascript:alert(1)", "id": "x"}))
    return folder


def change_result(folder: Path, change) -> None:
    result = json.loads((folder / "result.json").read_text())
    change(result)
    (folder / "result.json").write_text(json.dumps(result))


def with_details(result: dict) -> None:
    result["environment"] = {"git": "abc1234", "versions": {"python": "3.11", "torch": "2.11"}, "device": "cpu"}
    if result["calibration"]["traces"]:
        result["calibration"]["grid"] = deepcopy(GRID)


def with_hostile_details(result: dict) -> None:
    result["environment"] = {"git": SCRIPT, "versions": {SCRIPT: HOSTILE}, "device": HOSTILE}
    result["config"]["problems"]["instruction"] = SCRIPT
    result["calibration"]["grid"] = {part: {SCRIPT: BINS} for part in ("held", "taken")}


def write_page(out: Path, runs: Path, *options: str) -> Path:
    """The page that the command line makes of these runs."""
    assert main(["report", "--runs", str(runs), "--out", str(out / "report.html"), *options]) == 0
    return out / "report.html"


class Page(HTMLParser):
    """What a parser finds in a page: (tag, attributes) of every element, and the texts below each id."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, str] = {}
        self._part = ""
        self.raw: dict[str, list[str]] = {"script": [], "style": []}
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes) -> None:
        self.elements.append((tag, dict(attributes)))
        self.texts[self._part] = self.texts.get(self._part, "") + " "  # cells of a row are words of their own
        if tag == "section" and "id" in dict(attributes):
            self._part = dict(attributes)["id"]

    def handle_data(self, text) -> None:
        if self.cdata_elem:  # inside a script or a style
            self.raw[self.cdata_elem].append(text)
            return
        self.texts[self._part] = self.texts.get(self._part, "") + text

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def part(self, name: str) -> str:
        """The text of one part of the page, with single spaces."""
        return " ".join(self.texts[name].split())
