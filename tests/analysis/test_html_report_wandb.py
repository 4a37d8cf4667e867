"""The page of runs that W&B holds: the same results, links to the runs, and what W&B does not keep is said."""

import pytest
from reported_studies import Page, write_studies
from wandb_server import ENTITY, PROJECT, serving

from analysis.__main__ import main


@pytest.fixture
def server(tmp_path, monkeypatch):
    with serving(tmp_path, monkeypatch) as served:
        yield served


def test_runs_of_w_and_b_are_told_as_those_on_disk_with_links_to_them(server, tmp_path):
    write_studies(tmp_path / "runs")
    for folder in sorted((tmp_path / "runs" / "length_effect").iterdir()):
        server.add(folder)
    pages = []
    for source in (f"{ENTITY}/{PROJECT}", "runs"):
        assert main(["report", "--runs", source, "--study", "length_effect", "--out", "page.html"]) == 0
        pages.append(Page(tmp_path / "page.html"))
    there, here = pages
    assert there.part("results").replace(" W&B", "") == here.part("results").replace(" folder", "")
    assert there.part("figures") == here.part("figures")
    links = sorted(one["href"] for one in there.all("a") if one["href"].startswith("http"))
    assert links == sorted(f"{server.url}/{ENTITY}/{PROJECT}/runs/{run['name']}" for run in server.runs)
    assert "W&B keeps no completions" in there.part("answers") and "read from W&B" in there.part("grids")
