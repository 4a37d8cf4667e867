"""Sources through the real command line: whole cells, and input that is refused before anything is written."""

from dataclasses import replace

import pytest
from calibration_requests import CHATS, document_rows, write_rows
from command_line import QUICK, cells, files, ssgr

from ssgr import stages
from ssgr.calibration import SOURCES
from ssgr.results import read_result

ONE_SAMPLE = f"{QUICK} pruner=wanda evaluation.divergence=false evaluation.dense_repeats=1"


@pytest.mark.parametrize(
    ("source", "budget", "counts"),
    [
        ("calibration=c4 calibration.data_files=d.jsonl", "calibration.tokens=1024", (1024, 2)),
        ("calibration=text calibration.path=d.jsonl", "calibration.sequences=2", (2 * 512, 2)),
        ("calibration=off_policy calibration.data_files=c.parquet", "calibration.tokens=999", (999, None)),
    ],
)
def test_a_cell_from_local_files_has_its_budget_exactly(source, budget, counts, tmp_path):
    write_rows(tmp_path / "d.jsonl", document_rows())
    write_rows(tmp_path / "c.parquet", CHATS)
    done = ssgr(f"{source} {ONE_SAMPLE} calibration.tokens=null {budget}", tmp_path)
    assert done.status == 0, done.err
    (cell,) = cells(tmp_path)
    calibration = read_result(cell)["calibration"]
    for name, count in zip(("tokens", "sequences"), counts, strict=True):
        assert count is None or calibration[name] == count


def test_sequences_longer_than_the_context_are_lowered_to_it_once_and_recorded(tmp_path):
    done = ssgr(f"calibration=general_text {ONE_SAMPLE} calibration.tokens=3000 calibration.max_seq_len=1500", tmp_path)
    assert done.status == 0, done.err
    assert done.err.count("calibration.max_seq_len=1500 is lowered to the model's context, 1024") == 1
    result = read_result(cells(tmp_path)[0])
    assert result["config"]["calibration"]["max_seq_len"] == 1024
    assert result["calibration"]["sequences"] == 3


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        ("calibration.tokens=1024", "made 3 tokens where calibration.tokens=1,024 was"),
        ("calibration.tokens=null calibration.sequences=2", "made 1 sequences where calibration.sequences=2 was"),
    ],
)
def test_a_source_that_misses_its_budget_fails_its_cell(budget, words, tmp_path, monkeypatch):
    source = SOURCES.get("general_text")

    def too_few(request):
        made = source.build(request)
        return replace(made, sequences=[made.sequences[0][:3]], weights=[made.weights[0][:3]], trace_ids=[None])

    monkeypatch.setitem(SOURCES._entries, "general_text", replace(source, build=too_few))
    done = ssgr(f"calibration=general_text {ONE_SAMPLE} {budget}", tmp_path)
    assert done.status == 1 and f"calibration=general_text {words} asked for" in done.lines[-1], done.err


def test_a_file_that_changes_while_its_cell_begins_fails_it(tmp_path, monkeypatch):
    rows, load = document_rows(), stages.load
    write_rows(tmp_path / "d.jsonl", rows)

    def load_after_a_change(cell):
        write_rows(tmp_path / "d.jsonl", rows[::-1])
        return load(cell)

    monkeypatch.setattr(stages, "load", load_after_a_change)
    done = ssgr(f"calibration=c4 calibration.data_files=d.jsonl {ONE_SAMPLE}", tmp_path)
    assert done.status == 1 and "calibration=c4: what it reads has changed since" in done.err
    assert not any((cell / "result.json").is_file() for cell in cells(tmp_path))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("calibration=c4", ["calibration.dataset: allenai/c4/en/train", "calibration.data_files=FILE"]),
        ("calibration=off_policy", ["calibration.dataset: open-r1/OpenR1-Math-220k", "calibration.data_files=FILE"]),
        ("problems=gsm8k_train", ["problems.dataset: openai/gsm8k/main/train", "problems.path=FILE"]),
        ("calibration=c4 calibration.data_files=no.jsonl", ["calibration.data_files=no.jsonl: no such file"]),
        ("calibration=c4 calibration.data_files=d.jsonl calibration.tokens=9000000", ["9,000,000", "would help"]),
        ("calibration=c4 calibration.data_files=d.jsonl calibration.sequences=2", ["one or the other"]),
    ],
)
def test_what_cannot_be_read_is_one_line_and_exit_status_2(options, words, tmp_path, monkeypatch):
    def unreachable(*_, **__):
        raise OSError("nobody there")

    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", unreachable)
    monkeypatch.setattr("ssgr.hub_data._kept_copy", lambda dataset: None)
    write_rows(tmp_path / "d.jsonl", document_rows())
    done = ssgr(f"{ONE_SAMPLE} {options}", tmp_path)
    assert done.status == 2 and len(done.lines) == 1 and all(word in done.lines[0] for word in words)
    assert not any(name.startswith("runs") for name in files(tmp_path))
