"""python -m analysis report: one file that needs nothing else, says everything, and believes no text."""

import json
import re
import subprocess
import sys
from base64 import b64decode, b64encode
from hashlib import sha256
from pathlib import Path

import pandas as pd
import pytest
from reported_studies import (
    HOSTILE,
    SCRIPT,
    Page,
    change_result,
    with_details,
    write_hostile,
    write_page,
    write_studies,
)
from synthetic_studies import write_cell

from analysis import load_runs
from analysis.__main__ import main
from analysis.table import markdown


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reported") / "runs"
    write_studies(folder)
    return folder


@pytest.fixture(scope="module")
def file(runs, tmp_path_factory):
    return write_page(tmp_path_factory.mktemp("page"), runs, "--against", "length=short")


@pytest.fixture(scope="module")
def page(file):
    return Page(file)


def test_it_is_one_file_that_names_no_other_but_the_runs_folders(page, file, runs):
    assert [path.name for path in file.parent.iterdir()] == ["report.html"]
    for tag, attributes in page.elements:
        assert tag not in ("link", "iframe", "object", "embed", "base", "form")
        assert not any(name.startswith("on") or name in ("style", "srcset", "ping") for name in attributes), attributes
        if "src" in attributes:
            assert tag == "img" and attributes["src"].startswith("data:image/svg+xml;base64,")
    folders = [one["href"] for one in page.all("a") if not one["href"].startswith(("#", "data:text/csv"))]
    assert len(folders) == 8 + 2
    for folder in folders:
        assert (file.parent / folder).resolve().parent.parent == runs.resolve()


def test_its_policy_allows_its_own_style_and_script_and_images_in_it(page):
    (policy,) = [one["content"] for one in page.all("meta") if one.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'" and rules["img-src"] == "data:"
    for tag in ("script", "style"):
        (text,) = page.raw[tag]
        assert rules[f"{tag}-src"] == f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.all("meta")


def test_figures_are_those_of_all_with_what_was_found(page, runs, tmp_path, capsys):
    assert main(["all", "--runs", str(runs), "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr()
    found = [line.removeprefix("- ") for line in printed.out.splitlines() if line.startswith("- ")]
    assert found and all(" ".join(line.replace("`", "").split()) in page.part("figures") for line in found)
    assert len(page.all("img")) == 4 and "sparsity_curve: no finished cell" in page.part("figures")
    svg = b64decode(page.all("img")[0]["src"].partition(",")[2])
    assert svg.startswith(b"<?xml") and b"</svg>" in svg
    numbers = {one["download"]: one["href"] for one in page.all("a") if "download" in one}
    written = b64decode(numbers["smoke.csv"].partition(",")[2])
    assert written == (tmp_path / "smoke.csv").read_bytes()


def test_the_results_are_the_tables_lines_each_with_n_and_k(page, runs):
    said = page.part("results")
    for line in markdown(load_runs(runs)).splitlines()[2:]:
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        study, _, pruner, source, tokens, seed, accuracy, counts, generated, cut, kl = cells
        row = (pruner, source, accuracy, counts, kl, generated, cut, tokens, seed, study)
        assert " ".join(part for part in row if part) in said
        assert " ± " in accuracy and counts == ("60 × 8" if pruner == "dense" else "60 × 1")
    assert page.part("arms").count("[") >= 3 and "paired by problem" in page.part("arms")


def test_selection_settings_and_versions(page):
    assert "self_generated, short: 16,384 tokens tiny_reasoner, 2 seeds" in page.part("grids")
    assert "easy 4 of 4 900 tokens 2 of 2 700 tokens" in page.part("grids")
    assert "general_text" not in page.part("grids"), "it chose among nothing"
    assert "length.name all (2) long (2) moderate (2) short (2)" in page.part("settings")
    assert "seed 0 (4) 1 (4)" in page.part("settings") and "pruner.damping 0.01" in page.part("settings")
    assert "abc1234 python 3.11 torch 2.11" in page.part("versions")


def test_answers_of_every_arm_to_the_problems_on_which_they_disagree(page):
    said = page.part("answers")
    assert len([one for one in page.all("article") if "hidden" not in one]) == 1
    assert len(page.all("option")) == len(page.all("article")) == 6
    assert said.count("Completion") == 6 * 5, "an arm that two studies share counts once, the dense model has no text"
    assert "dense right" in said or "dense wrong" in said
    assert "SparseGPT 50 % on own traces (short), seed 0" in said and "of all its 2 answers right" in said
    assert re.search(r"\d+ tokens, ended by (stop|length)", said)


def test_questions_and_completions_are_text_where_they_are_at_hand(tmp_path):
    folder = write_cell(tmp_path / "runs", "own", {})
    problem = {"id": "e0000", "question": f"What is {SCRIPT}?", "answer": "1"}
    rows = [problem | {"id": f"e{number:04d}"} for number in range(60)]
    rows = [row | {"question": f"{row['question']} {row['id']}"} for row in rows]
    (tmp_path / "problems.jsonl").write_text("\n".join(map(json.dumps, rows)))

    def asks(result):
        result["config"]["evaluation"] |= {"path": str(tmp_path / "problems.jsonl"), "name": "jsonl"}
        for group in ("metrics", "dense_metrics"):
            result[group] = {f"jsonl/{name.partition('/')[2]}": value for name, value in result[group].items()}

    change_result(folder, asks)
    for name in ("samples", "divergence"):
        path = folder / f"{name}.parquet"
        pd.read_parquet(path).assign(task="jsonl").to_parquet(path, index=False)
    written = Page(write_page(tmp_path, tmp_path / "runs"))
    assert f"What is {SCRIPT}? e0" in written.part("answers") and len(written.all("script")) == 1
    change_result(folder, lambda result: result["config"]["model"].update(path="/nowhere/model"))
    without = Page(write_page(tmp_path, tmp_path / "runs")).part("answers")
    assert "the model's tokenizer.json is not at hand" in without and "Completion" not in without


def test_no_text_is_ever_more_than_text(tmp_path):
    write_hostile(tmp_path / "runs")
    file = write_page(tmp_path, tmp_path / "runs")
    page = Page(file)
    assert len(page.all("script")) == 1 and not any(one.get("src") == "x" for one in page.all("img"))
    assert "alert(1)" not in "".join(page.raw["script"]) and SCRIPT not in file.read_text()
    assert not any((one["href"] or "").startswith("javascript") for one in page.all("a"))
    assert SCRIPT in page.part("answers") and HOSTILE in page.part("versions")


@pytest.mark.parametrize(
    ("record", "leads_to"),
    [
        ({"url": "https://wandb.ai/us/ssgr/runs/x"}, "https://wandb.ai/us/ssgr/runs/x"),
        ({"entity": "u/s", "project": 'p"', "id": "x"}, "https://wandb.ai/u%2Fs/p%22/runs/x"),
        ({"entity": None, "project": "p", "id": "x"}, None),
        ({"url": "javascript:alert(1)"}, None),
        ({"url": "https://us@evil.example/"}, None),
        ({"url": "file:///etc/passwd"}, None),
        ({"mode": "offline", "url": "https://wandb.ai/us/ssgr/runs/x"}, None),
    ],
)
def test_a_w_and_b_run_is_linked_where_the_record_says_where_it_is(tmp_path, monkeypatch, record, leads_to):
    monkeypatch.delenv("WANDB_BASE_URL", raising=False)
    folder = write_cell(tmp_path / "runs", "own", {})
    (folder / "tracking.json").write_text(json.dumps({"mode": "online"} | record))
    links = [one["href"] for one in Page(write_page(tmp_path, tmp_path / "runs")).all("a")]
    assert [link for link in links if ":" in link and not link.startswith("data:")] == ([leads_to] if leads_to else [])


def test_no_credential_and_no_place_of_the_machine_is_written(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "the-key-of-this-test")
    folder = write_cell(tmp_path / "runs", "own", {})

    def with_secrets(result):
        result["config"]["problems"]["path"] = "https://me:hunter22@host.example/a.jsonl?token=abc123&x=1"
        result["config"]["model"] |= {
            "api_key": "plain",
            "revision": "the-key-of-this-test",
            "think_end": "hf_" + "a" * 30,
        }
        result["environment"]["git"] = "the-key-of-this-test"

    change_result(folder, with_secrets)
    (folder.parent / "torn").mkdir()
    (folder.parent / "torn" / "result.json").write_text("{")
    text = write_page(tmp_path, tmp_path / "runs").read_text()
    for secret in ("hunter22", "abc123", "the-key-of-this-test", "plain<", "hf_aaa", "/somewhere", str(tmp_path)):
        assert secret not in text, secret
    assert "https://host.example/a.jsonl?token=…&amp;x=1" in text and "max_new_tokens" in text


def test_a_damaged_folder_is_one_line_and_the_others_are_told(tmp_path, capsys):
    write_studies(tmp_path / "runs")
    torn, unread, *_ = sorted((tmp_path / "runs" / "length_effect").iterdir())
    (torn / "result.json").write_text("{")
    (unread / "samples.parquet").write_bytes(b"not a table")
    page = Page(write_page(tmp_path, tmp_path / "runs"))
    lines = capsys.readouterr().err
    assert page.part("missing").count(torn.name) == page.part("missing").count(f"{unread.name}:") == 1
    assert torn.name in lines and len(page.all("img")) == 2
    assert "length_effect: length_effect: " in page.part("figures") and unread.name in page.part("results") + lines


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--study", "other"], "no finished cells of other in "),
        (["--against", "length"], "--against length: must be KEY=VALUE"),
        (["--against", "length=longer"], "no arm has it; length is all, short, moderate, long"),
        (["--where", "seed=9"], ": seed is 0, 1"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(runs, tmp_path, capsys, options, said):
    assert main(["report", "--runs", str(runs), "--out", str(tmp_path), *options]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("report: ")]
    assert len(lines) == 1 and said in lines[0] and not list(tmp_path.iterdir())


def test_a_page_that_cannot_be_written_names_out_and_leaves_the_old_one(runs, tmp_path, capsys, monkeypatch):
    (tmp_path / "file").write_text("")
    assert main(["report", "--runs", str(runs), "--study", "smoke", "--out", str(tmp_path / "file" / "x.html")]) == 2
    assert "cannot be written to (" in capsys.readouterr().err
    old = write_page(tmp_path, runs, "--study", "smoke").read_bytes()
    monkeypatch.setattr(Path, "write_text", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "No space left")))
    assert main(["report", "--runs", str(runs), "--study", "smoke", "--out", str(tmp_path / "report.html")]) == 2
    assert (tmp_path / "report.html").read_bytes() == old and not list(tmp_path.glob(".*"))


def test_the_same_runs_give_the_same_bytes_without_torch(runs, file, tmp_path):
    code = (
        "import sys; from analysis.__main__ import main; runs, out = sys.argv[1:];"
        "assert main(['report', '--runs', runs, '--against', 'length=short', '--out', out]) == 0;"
        "assert not {'torch', 'transformers', 'wandb', 'matplotlib.pyplot'} & set(sys.modules)"
    )
    out = file.with_name("again.html")
    done = subprocess.run([sys.executable, "-c", code, runs, out], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    again = out.read_bytes()
    out.unlink()
    assert again == file.read_bytes()


@pytest.mark.parametrize(
    ("place", "value", "is_left_out"),
    [
        (("cell",), None, True),
        (("config",), "x", True),
        (("config", "pruner", "name"), 5, True),
        (("calibration", "tokens"), "x", True),
        (("calibration", "source"), None, True),
        (("config", "model"), None, False),
        (("config", "evaluation"), [], True),
        (("calibration", "grid", "held", "easy"), 5, False),
        (("environment", "versions"), "x", False),
    ],
)
def test_a_result_that_is_not_whole_costs_no_more_than_itself(tmp_path, capsys, place, value, is_left_out):
    whole, damaged = (write_cell(tmp_path / "runs", "own", {"seed": seed}) for seed in "01")

    def damage(result):
        with_details(result)
        for name in place[:-1]:
            result = result[name]
        result[place[-1]] = value

    change_result(damaged, damage)
    page = Page(write_page(tmp_path, tmp_path / "runs", "--where", "sparsity=0.5"))
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith(f"{damaged}")]
    assert len(lines) == is_left_out
    links = [one["href"] for one in page.all("a") if one["href"].endswith("/")]
    assert len(links) == (1 if is_left_out else 2) and any(whole.name in link for link in links)
    assert page.texts.get("missing", "").count(damaged.name) == len(lines)
