from pathlib import Path

import pytest
from synthetic_traces import byte_tokenizer, make_problems

from ssgr.traces.prompts import PromptTemplate
from ssgr.traces.regrading import regrade
from ssgr.traces.store import Trace, TraceStore

TOKENIZER = byte_tokenizer()
TEMPLATE = PromptTemplate(TOKENIZER, "", "</think>")


def said(problem_id, rollout, answer, correct, finish_reason="stop", read=None):
    """A trace that boxes this answer, stored with this verdict."""
    ids = TOKENIZER(f"hm</think>\\boxed{{{answer}}}", add_special_tokens=False)["input_ids"]
    return Trace(problem_id, rollout, [1, 2], ids, finish_reason, correct, answer if read is None else read)


@pytest.fixture
def store(tmp_path):
    """Three parts; gold answers are 1, 2, 3. Two verdicts are wrong and two answers read otherwise."""
    store = TraceStore.open(tmp_path / "s", {"model": "m"})
    store.set_problems(make_problems(3))
    store.append([said("p0", 0, "1", False), said("p1", 0, "2", True), said("p2", 0, "9", True)])
    store.append([said("p0", 1, "1", True, read="one"), said("p1", 1, "7", False)])
    store.append([said("p2", 1, "3", True), said("p2", 2, "3", False, finish_reason="length")])
    return store


def bytes_of(folder):
    return {path.name: path.read_bytes() for path in (folder / "traces").iterdir()}


def verdicts(store):
    rows = store.index.sort_values(["problem_id", "rollout"])
    return dict(zip(zip(rows["problem_id"], rows["rollout"], strict=True), rows["correct"], strict=True))


RIGHT = {("p0", 0): True, ("p0", 1): True, ("p1", 0): True, ("p1", 1): False, ("p2", 0): False, ("p2", 1): True}
RIGHT[("p2", 2)] = False


def test_todays_verdicts_take_the_place_of_the_old_ones(store):
    before = TraceStore.open(store.folder)
    ids = [output.tolist() for _, output in before.read(before.index["part"], before.index["row"])]
    found = regrade(store, TEMPLATE)
    assert found.traces == 7 and found.other_answers == 2 and found.ungraded == 0
    assert found.changed == [
        {"trace": "p0/0", "before": False, "after": True, "answer": "1", "gold": "1"},
        {"trace": "p2/0", "before": True, "after": False, "answer": "9", "gold": "3"},
    ]
    for opened in (store, TraceStore.open(store.folder)):
        assert verdicts(opened) == RIGHT
        assert [output.tolist() for _, output in opened.read(opened.index["part"], opened.index["row"])] == ids
    assert all("-r1-" in name for name in store.parts)


def test_a_store_that_is_right_already_keeps_its_bytes(store):
    regrade(store, TEMPLATE)
    before = bytes_of(store.folder)
    found = regrade(TraceStore.open(store.folder), TEMPLATE)
    assert (found.changed, found.other_answers) == ([], 0)
    assert bytes_of(store.folder) == before


def test_killed_before_the_old_part_is_gone_the_new_grades_win_and_a_rerun_finishes(store, monkeypatch):
    before, unlink = bytes_of(store.folder), Path.unlink

    def killed(path, missing_ok=False):
        if path.name.startswith("part-"):
            raise KeyboardInterrupt
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", killed)
    with pytest.raises(KeyboardInterrupt):
        regrade(store, TEMPLATE)
    monkeypatch.undo()
    (written,) = set(bytes_of(store.folder)) - set(before)
    assert written.startswith("part-00000-r1-") and len(bytes_of(store.folder)) == 4
    opened = TraceStore.open(store.folder)
    assert len(opened.index) == 7 and verdicts(opened)["p0", 0] and not verdicts(opened)["p2", 0]
    assert [change["trace"] for change in regrade(opened, TEMPLATE).changed] == []
    assert verdicts(opened) == RIGHT and len(bytes_of(store.folder)) == 3


def test_a_damaged_new_part_does_not_hide_the_old_one(store):
    regrade(store, TEMPLATE)
    first = store.folder / "traces" / store.parts[0]
    old = first.with_name(first.name.replace("-r1-", "-r2-"))
    old.write_bytes(first.read_bytes()[:-1] + b"x")
    opened = TraceStore.open(store.folder)
    assert opened.damaged == [old] and opened.parts == store.parts and verdicts(opened) == RIGHT


def test_traces_without_a_gold_answer_stay_as_they_are(tmp_path):
    store = TraceStore.open(tmp_path / "s", {})
    store.append([said("unknown", 0, "1", None)])
    found = regrade(store, TEMPLATE)
    assert (found.traces, found.ungraded, found.changed) == (1, 1, [])
    assert verdicts(store) == {("unknown", 0): None}
