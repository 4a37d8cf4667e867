import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from synthetic_traces import byte_tokenizer, make_problems

from ssgr.cache import locked
from ssgr.models.files import BUNDLED_MODEL
from ssgr.traces import __main__ as command_line
from ssgr.traces.problems import Problem
from ssgr.traces.showing import bins_table, visible
from ssgr.traces.store import Trace, TraceStore
from ssgr.traces.stores import lock_of, whole_view

TOKENIZER = byte_tokenizer()


def ids_of(text):
    return TOKENIZER(text, add_special_tokens=False)["input_ids"]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache with two stores; the first one's tokenizer lies in a folder that its manifest names."""
    monkeypatch.setenv("SSGR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "100")
    TOKENIZER.save_pretrained(tmp_path / "model")
    folder = tmp_path / "cache" / "traces" / "abc123"
    sampling = {"temperature": 0.6, "top_p": 0.95, "max_new_tokens": 512}
    made = {"model": "mine", "path": str(tmp_path / "model"), "think_end": "</think>", "sampling": sampling}
    store = TraceStore.open(folder, made | {"problem_set": "mine.jsonl"})
    problems = [*make_problems(3), Problem("odd/1", "[bold]Is\x1b[31m this[/bold] markup?", "[red]yes[/red]")]
    store.set_problems(problems)
    texts = {
        "p0": "so\n</think>\\boxed{1}",
        "p1": "[red]hm\x07[/red]",
        "p2": "long " * 20,
        "odd/1": "</think>\\boxed{1}",
    }
    rows = [(name, rollout, text) for name, text in texts.items() for rollout in range(2)]
    verdicts = {"p0": (True, "1"), "odd/1": (False, "1")}
    traces = [(name, r, ids_of("<|user|>Q"), ids_of(text), "stop") for name, r, text in rows]
    store.append([Trace(*trace, *verdicts.get(trace[0], (False, None))) for trace in traces])
    TraceStore.open(tmp_path / "cache" / "traces" / "abd999", {"model": "other"})
    return tmp_path / "cache"


def run(capsys, *arguments):
    """Exit status, standard output, standard error."""
    status = command_line.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_list_names_every_store_and_the_shipped_one(cache, capsys):
    status, out, _ = run(capsys, "list")
    assert status == 0
    for word in ("abc123", "mine.jsonl", "4 problems × 2", "8 traces", "2 correct", "T 0.6, top-p 0.95", "abd999"):
        assert word in out
    assert "bundled" in out and "32,000 traces" in out


def test_show_gives_the_bins_of_the_store_that_a_prefix_names(cache, capsys):
    status, out, _ = run(capsys, "show", "abc")
    assert status == 0 and "mine on mine.jsonl: 8 traces of 4 problems" in out and "never solved" in out
    assert run(capsys, "show", cache / "traces" / "abc123")[1] == out
    status, _, err = run(capsys, "show", "ab")
    assert status == 2 and "begins 2 keys: abc123, abd999" in err
    status, _, err = run(capsys, "show", "zzz")
    assert status == 2 and "zzz" in err and err.count("\n") == 1


def test_the_bins_hold_every_correct_trace_once():
    store = TraceStore.open(command_line.find_store("bundled", None))
    view = whole_view(store)
    table = bins_table(view)
    counts = [int(cell.replace(",", "")) for cell in table.columns[3].cells]
    assert sum(counts[:4]) == sum(counts[4:]) == int(view.traces["correct"].sum())
    problems = [int(cell.replace(",", "")) for cell in table.columns[2].cells]
    assert sum(problems[:4]) == 4_000


def test_a_trace_is_shown_as_it_is_without_markup_and_control_characters(cache, capsys):
    status, out, _ = run(capsys, "show", "abc", "p1/1")
    assert status == 0
    assert "rollout 1: wrong, ended by stop, answer –" in out and "[red]hm\\x07[/red]" in out and "<|user|>Q" in out
    _, out, _ = run(capsys, "show", "abc", "odd/1")  # an id that looks like problem/rollout
    assert "[bold]Is\\x1b[31m this[/bold] markup?" in out and "[red]yes[/red]" in out and "\x1b[31m this" not in out
    assert "0 of 2 correct" in out
    assert "rollout 1:" in run(capsys, "show", "abc", "odd/1/1")[1]


@pytest.mark.parametrize(
    ("asked", "words"),
    [("p7", "no problem 'p7'"), ("p0/5", "no rollout 5; choices: 0, 1"), ("p0/x", "no problem 'p0/x'")],
)
def test_a_trace_that_is_not_there_is_said(cache, capsys, asked, words):
    status, _, err = run(capsys, "show", "abc", asked)
    assert status == 2 and words in err


def test_without_a_tokenizer_ids_are_shown_and_how_to_get_the_text(cache, capsys):
    manifest = cache / "traces" / "abc123" / "manifest.json"
    manifest.write_text(json.dumps({"model": "mine"}))
    status, out, err = run(capsys, "show", "abc", "p0/0")
    assert status == 0 and "--tokenizer" in err and "--tokenizer DIR shows the text" in out
    status, out, _ = run(capsys, "show", "abc", "p0/0", "--tokenizer", cache.parent / "model")
    assert status == 0 and "</think>\\boxed{1}" in out
    status, _, err = run(capsys, "show", "abc", "p0/0", "--tokenizer", cache)
    assert status == 2 and "holds no tokenizer" in err


def test_the_shipped_store_finds_the_shipped_tokenizer(capsys):
    status, out, _ = run(capsys, "show", "bundled", "c0000/0")
    assert status == 0 and "</think>" in out and "\\boxed{" in out
    assert BUNDLED_MODEL.is_dir()


def test_export_and_import_keep_the_rows(cache, capsys, tmp_path):
    status, out, _ = run(capsys, "export", "abc", tmp_path / "out")
    assert status == 0 and "8 traces" in out
    assert run(capsys, "export", "abc", tmp_path / "out")[0] == 2
    status, out, _ = run(capsys, "import", tmp_path / "out", tmp_path / "s")
    assert status == 0 and "8 traces" in out
    assert run(capsys, "export", tmp_path / "s", tmp_path / "again")[0] == 0
    assert (tmp_path / "again" / "traces.jsonl").read_bytes() == (tmp_path / "out" / "traces.jsonl").read_bytes()
    assert not list(tmp_path.glob("*.lock"))


def test_a_store_is_imported_by_its_key(cache, capsys, tmp_path):
    status, out, _ = run(capsys, "import", "abc", tmp_path / "s")
    assert status == 0 and "8 traces" in out
    status, _, err = run(capsys, "import", "nowhere", tmp_path / "t")
    assert status == 2 and "nowhere" in err
    status, _, err = run(capsys, "import", "nowhere.jsonl", tmp_path / "t")
    assert status == 2 and "does not exist" in err


def test_import_grades_with_the_problems_of_a_file_and_lists_the_differences(cache, capsys, tmp_path):
    rows = [{"problem_id": "a", "rollout": 0, "prompt_ids": [1], "output_ids": ids_of("\\boxed{2}")}]
    rows.append(rows[0] | {"problem_id": "[b]", "output_ids": ids_of("\\boxed{4}")})
    made = [row | {"finish_reason": "stop", "correct": True} for row in rows]
    (tmp_path / "r.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))
    problems = [
        {"id": "a", "q": "1 + 1?", "gold": "2"},
        {"id": "[b]", "q": "1 + 2?", "gold": "3"},
        {"id": "c", "q": "?"},
    ]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in problems))
    options = ["--problems", tmp_path / "p.jsonl", "--question-field", "q", "--answer-field", "gold", "--grade"]
    status, _, err = run(capsys, "import", tmp_path / "r.jsonl", tmp_path / "s", *options)
    assert status == 2 and "--tokenizer" in err
    options += ["--tokenizer", tmp_path / "model"]
    status, out, err = run(capsys, "import", tmp_path / "r.jsonl", tmp_path / "s", *options)
    assert status == 0 and "agree on 1: 1 correct, 0 wrong" in out and "1 without an answer" in err
    assert "[b]/0: column correct, grader wrong: answer `4`, gold `3`" in out
    status, _, err = run(capsys, "import", tmp_path / "r.jsonl", tmp_path / "t", *options[:2], *options[4:])
    assert status == 2 and "--question-field='problem'" in err


def test_regrade_corrects_the_store_and_names_what_changed(cache, capsys):
    status, out, _ = run(capsys, "regrade", "abc")
    assert status == 0 and "8 traces graded again: 0 verdicts changed" in out
    store = TraceStore.open(cache / "traces" / "abc123")
    store.append([Trace("p2", 5, [1], ids_of("</think>\\boxed{3}"), "stop", False, "3")])
    status, out, _ = run(capsys, "regrade", "abc")
    assert status == 0 and "1 verdicts changed" in out and "p2/5: wrong → correct: answer `3`, gold `3`" in out
    status, _, err = run(capsys, "regrade", "bundled")
    assert status == 2 and "not changed" in err


@pytest.mark.parametrize(("thinking", "correct"), [(True, False), (None, True)])
def test_regrade_looks_for_an_answer_where_the_rollouts_prompts_left_it(cache, capsys, thinking, correct):
    """A template that ends the reasoning itself unless thinking is asked for: with it a box before the tag is none."""
    ending = "{{ '<think>' if enable_thinking else '<think></think>' }}"
    byte_tokenizer("{{ messages[0]['content'] }}" + ending).save_pretrained(cache.parent / "model")
    manifest = cache / "traces" / "abc123" / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"enable_thinking": thinking}))
    store = TraceStore.open(manifest.parent)
    store.append([Trace("p2", 5, [1], ids_of("perhaps \\boxed{3}, but"), "stop", None, None)])
    assert run(capsys, "regrade", "abc")[0] == 0
    rows = TraceStore.open(manifest.parent).index.set_index(["problem_id", "rollout"])
    assert rows.loc[("p2", 5), "correct"] == correct


def test_regrade_waits_for_whoever_works_on_the_store(cache):
    command = [sys.executable, "-m", "ssgr.traces", "regrade", "abc", "--cache", str(cache)]
    with locked(lock_of(cache / "traces" / "abc123")):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert process.stderr.readline() == "waiting for another process that works on abc123\n"
    out, _ = process.communicate()
    assert process.returncode == 0 and "8 traces graded again" in out


def test_plot_draws_a_picture_of_one_column(cache, capsys, tmp_path):
    status, out, _ = run(capsys, "plot", "bundled", tmp_path / "p.png")
    assert status == 0 and out.strip() == str(tmp_path / "p.png")
    with Image.open(tmp_path / "p.png") as picture:
        assert picture.width == round(3.3 * 300)
        assert len(picture.convert("RGB").getcolors(1 << 24)) > 100
    for arguments, words in (
        (("bundled", tmp_path / "p.txt"), "choices: .png"),
        (("abd", tmp_path / "q.png"), "no trace in it"),
    ):
        status, _, err = run(capsys, "plot", *arguments)
        assert status == 2 and words in err


def halved(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("command", ["show", "regrade"])
@pytest.mark.parametrize(
    ("pattern", "damage", "said"),
    [
        ("traces/part-*.parquet", halved, "{path} is damaged; without that file the rest can be read"),
        ("problems.parquet", halved, "{path} is damaged"),
        ("problems.parquet", Path.unlink, "{path} is missing"),
        ("traces/part-*.parquet", Path.unlink, "{store}: no trace in it"),
    ],
)
def test_a_damaged_store_is_no_empty_one(command, pattern, damage, said, cache, capsys):
    store = cache / "traces" / "abc123"
    (path,) = store.glob(pattern)
    damage(path)
    status, out, err = run(capsys, command, "abc")
    assert (status, out) == (2, "") and err.replace("\n", "") == f"traces: {said.format(path=path, store=store)}"


def test_the_list_leaves_out_what_is_damaged_and_says_it(cache, capsys):
    store = TraceStore.open(cache / "traces" / "abc123")
    store.append([Trace("p0", 7, [1], [2], "stop", True, "1")])
    path = store.folder / "traces" / store.parts[1]
    halved(path)
    status, out, err = run(capsys, "list")
    assert status == 0 and "8 traces" in out and f"{path.name} is damaged" in err.replace("\n", "")


@pytest.mark.parametrize("arguments", [[], ["nothing"], ["show"], ["list", "--what"], ["import", "a"]])
def test_a_wrong_command_is_one_line(cache, capsys, arguments):
    status, out, err = run(capsys, *arguments)
    assert status == 2 and out == "" and err.count("\n") == 1 and err.startswith("traces: ")


def test_output_that_nobody_reads_is_said(cache):
    command = f"{sys.executable} -m ssgr.traces list --cache {cache} | true"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, executable="/bin/bash")
    assert "Traceback" not in done.stderr


def test_only_line_breaks_and_tabs_stay_invisible():
    assert visible("a\x1b[0m\u202eb\tc\nd é") == "a\\x1b[0m\\u202eb\tc\nd é"
