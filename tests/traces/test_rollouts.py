import dataclasses
import os
import subprocess
import sys
import threading
import time

import pytest
from synthetic_traces import ScriptedEngine, byte_tokenizer, make_problems, rollouts, stub_model

from ssgr.errors import UserError
from ssgr.traces import rollouts as rollouts_module
from ssgr.traces.problems import Problem
from ssgr.traces.prompts import PromptTemplate
from ssgr.traces.rollouts import collect, make_manifest, store_folder
from ssgr.traces.store import TraceStore

TOKENIZER = byte_tokenizer()
TEMPLATE = PromptTemplate(TOKENIZER, "Box it.", "</think>")
MODEL = stub_model(TOKENIZER)


def run(root, problems, config=None, **options):
    engine = ScriptedEngine(TOKENIZER, problems, **options)
    view = collect(engine, MODEL, TEMPLATE, problems, config or rollouts(len(problems)), root)
    return view, engine


def stored_bytes(root):
    """Every file of the cache by its path; locks are empty and say nothing."""
    files = (path for path in root.rglob("*") if path.is_file() and path.suffix != ".lock")
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def test_every_rollout_is_stored_as_sampled_and_graded(tmp_path):
    problems = make_problems(5)
    view, engine = run(tmp_path, problems)
    assert len(view.traces) == 15 and [len(batch) for batch in engine.batches] == [4, 4, 4, 3]
    assert len({seed for batch in engine.batches for seed in batch}) == 15
    sequences = view.sequences(view.traces)
    for row, (prompt, output) in zip(view.traces.itertuples(), sequences, strict=True):
        problem = problems[int(row.problem_id[1:])]
        assert prompt.tolist() == TEMPLATE.prompt_ids(problem.question)
        text = TOKENIZER.decode(output)
        assert (row.finish_reason == "length") == text.startswith("hmm")
        assert row.correct == (f"\\boxed{{{problem.answer}}}" in text)
    assert 0 < view.traces["correct"].sum() < 15


@pytest.mark.parametrize("fails_at", [0, 1, 3])
def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(tmp_path, fails_at):
    problems = make_problems(5)
    run(tmp_path / "whole", problems)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", problems, fails_at=fails_at)
    _, engine = run(tmp_path / "killed", problems)
    assert len(engine.batches) == 4 - fails_at
    assert stored_bytes(tmp_path / "killed") == stored_bytes(tmp_path / "whole")


def test_a_second_request_generates_nothing_and_a_larger_one_only_what_is_missing(tmp_path):
    problems = make_problems(6)
    first, _ = run(tmp_path, problems, rollouts(4, 2))
    again, engine = run(tmp_path, problems, rollouts(4, 2))
    assert engine.batches == [] and again.traces.equals(first.traces)
    _, engine = run(tmp_path, problems, rollouts(6, 3))
    assert sum(map(len, engine.batches)) == 6 * 3 - 4 * 2
    smaller, _ = run(tmp_path, problems, rollouts(4, 2))
    assert smaller.traces.equals(first.traces)


def test_a_traces_draws_do_not_depend_on_batch_or_neighbours(tmp_path):
    problems = make_problems(6)
    wide, _ = run(tmp_path / "wide", problems, rollouts(6, 2), batch_size=100)
    narrow, _ = run(tmp_path / "narrow", problems[2:], rollouts(4, 2), batch_size=1)
    rows = wide.traces[wide.traces["problem_id"].isin(narrow.traces["problem_id"])]
    outputs = [
        [output.tolist() for _, output in view.sequences(t)] for view, t in ((wide, rows), (narrow, narrow.traces))
    ]
    assert outputs[0] == outputs[1]


def test_a_changed_question_is_generated_anew(tmp_path):
    problems = make_problems(3)
    run(tmp_path, problems, rollouts(3, 2))
    changed = [dataclasses.replace(problems[0], question="What is 7 + 1?", answer="8"), *problems[1:]]
    view, engine = run(tmp_path, changed, rollouts(3, 2))
    assert sum(map(len, engine.batches)) == 2 and len(view.traces) == 6
    prompt, _ = view.sequences(view.traces)[0]
    assert "7 + 1" in TOKENIZER.decode(prompt)


def test_another_seed_or_sampling_is_another_store(tmp_path):
    problems = make_problems(2)
    engine = ScriptedEngine(TOKENIZER, problems)
    base = rollouts(2)
    others = [dataclasses.replace(base, **change) for change in ({"seed": 1}, {"temperature": 1.0}, {"top_p": 1.0})]
    folders = {store_folder(tmp_path, make_manifest(engine, MODEL, TEMPLATE, config)) for config in (base, *others)}
    assert len(folders) == 4
    larger = dataclasses.replace(base, problems=9, k=9)
    assert store_folder(tmp_path, make_manifest(engine, MODEL, TEMPLATE, larger)) in folders


def test_two_at_once_generate_each_rollout_once(tmp_path):
    problems = make_problems(5)
    engines = [ScriptedEngine(TOKENIZER, problems) for _ in range(2)]
    config = rollouts(5)
    threads = [
        threading.Thread(target=collect, args=(engine, MODEL, TEMPLATE, problems, config, tmp_path))
        for engine in engines
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(len(engine.batches) for engine in engines) == [0, 4]


PROCESS = """
import sys, time
from pathlib import Path
from synthetic_traces import ScriptedEngine, byte_tokenizer, make_problems, rollouts, stub_model
from ssgr.traces.prompts import PromptTemplate
from ssgr.traces.rollouts import collect

folder, tokenizer, problems = Path(sys.argv[1]), byte_tokenizer(), make_problems(5)

class Patient(ScriptedEngine):
    def stream(self, *arguments):
        (folder / "begun").touch()
        while not (folder / "go on").exists():
            time.sleep(0.01)
        yield from super().stream(*arguments)

engine = Patient(tokenizer, problems)
template = PromptTemplate(tokenizer, "Box it.", "</think>")
view = collect(engine, stub_model(tokenizer), template, problems, rollouts(5), folder / "cache")
print(len(engine.batches), len(view.traces))
"""


def test_of_two_processes_one_generates_and_the_other_waits_and_says_so(tmp_path):
    def started():
        paths = os.pathsep.join(path for path in sys.path if path)
        command = [sys.executable, "-c", PROCESS, str(tmp_path)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, env=os.environ | {"PYTHONPATH": paths}, **pipes)

    first = started()
    while first.poll() is None and not (tmp_path / "begun").exists():
        time.sleep(0.01)
    second = started()
    try:
        assert second.stderr.readline().startswith("waiting for another process that works on ")
    finally:
        (tmp_path / "go on").touch()
        made = [process.communicate()[0] for process in (first, second)]
    assert made == ["4 15\n", "0 15\n"]
    assert (first.returncode, second.returncode) == (0, 0)


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """A bundled store of 5 problems x 3 rollouts made by MODEL."""
    problems = make_problems(5)
    engine = ScriptedEngine(TOKENIZER, problems)
    view = collect(engine, MODEL, TEMPLATE, problems, rollouts(5), tmp_path)
    monkeypatch.setattr(rollouts_module, "BUNDLED", view.store.folder)
    return problems


def test_the_bundled_store_needs_no_engine_and_is_not_written_to(shipped, tmp_path):
    before = stored_bytes(tmp_path)
    view = collect(None, MODEL, TEMPLATE, shipped, rollouts(3, 2, name="bundled"), tmp_path / "cache")
    assert len(view.traces) == 6
    assert view.more.endswith("(rollouts=bundled holds 3 rollouts of 5 problems; rollouts=fresh generates more)")
    assert stored_bytes(tmp_path) == before


@pytest.mark.parametrize(
    ("model", "template", "config", "words"),
    [
        (stub_model(TOKENIZER, "w2", "other"), TEMPLATE, {}, "stub's, not other's"),
        (MODEL, PromptTemplate(TOKENIZER, "Hm.", "</think>"), {}, "template or instruction"),
        (MODEL, TEMPLATE, {"temperature": 0.7}, r"rollouts\.temperature"),
        (MODEL, TEMPLATE, {"k": 4}, "holds 3 rollouts of 5 problems"),
        (MODEL, TEMPLATE, {"problems": 6}, "holds 3 rollouts of 5 problems"),
    ],
)
def test_the_bundled_store_refuses_what_it_cannot_answer(shipped, tmp_path, model, template, config, words):
    wanted = dataclasses.replace(rollouts(5, name="bundled"), **config)
    with pytest.raises(UserError, match=words):
        collect(None, model, template, shipped, wanted, tmp_path)


def test_the_bundled_store_refuses_another_problem_set(shipped, tmp_path):
    others = [Problem(problem.problem_id, "another", "1") for problem in shipped]
    with pytest.raises(UserError, match="on this problem set"):
        collect(None, MODEL, TEMPLATE, others, rollouts(5, name="bundled"), tmp_path)


def test_a_model_folder_is_found_from_anywhere_and_does_not_name_the_store(tmp_path, monkeypatch):
    engine = ScriptedEngine(TOKENIZER, [])
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)
    made = {}
    for path in ("model", "org/model", "bundled", None):
        MODEL.path = path
        made[path] = make_manifest(engine, MODEL, TEMPLATE, rollouts(1))
    del MODEL.path
    assert [manifest["path"] for manifest in made.values()] == [str(tmp_path / "model"), "org/model", "bundled", None]
    assert len({store_folder(tmp_path, manifest) for manifest in made.values()}) == 1


def test_a_manifest_says_where_the_tokens_come_from_but_not_when(tmp_path):
    view, engine = run(tmp_path, make_problems(2))
    manifest = TraceStore.open(view.store.folder).manifest
    assert manifest["engine"] == engine.identity and manifest["sampling"]["max_new_tokens"] == 64
    assert manifest["weights"] == "w1" and manifest["template"] == TEMPLATE.hash
