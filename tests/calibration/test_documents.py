"""Rows of local files and of the hub's streams, in seeded order."""

import dataclasses
import gzip

import pytest
from calibration_requests import (
    CHATS,
    DATASET,
    DOCUMENTS,
    PROBLEMS,
    TOKENIZER,
    Hub,
    build,
    config_of,
    document_rows,
    texts,
    write_rows,
)

from ssgr.calibration import documents as documents_module
from ssgr.calibration.documents import seeded_rows
from ssgr.errors import UserError

SUFFIXES = (".jsonl", ".jsonl.gz", ".json.gz", ".parquet")
WHOLE = sum(len(document.encode()) + 1 for document in DOCUMENTS)  # tokens, with the end of each
WIKI = [{"text": row} for row in ("", " = Title = \n", "", " A first line . \n", "last", "")]


def joined(built):
    return "".join(texts(built))


@pytest.mark.parametrize("name", ["c4", "text"])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_documents_are_joined_in_seeded_order_each_with_its_end(name, suffix, tmp_path):
    path = write_rows(tmp_path / f"rows{suffix}", document_rows())
    option = {"path" if name == "text" else "data_files": str(path)}
    first, other = (joined(build(config_of(name, WHOLE, **option), tmp_path, seed=seed)) for seed in (0, 1))
    for text in (first, other):
        assert sorted(text.split("<|eos|>")[:-1]) == sorted(DOCUMENTS)
    assert first != other and first.split("<|eos|>")[:-1] != DOCUMENTS


def test_every_kind_of_file_draws_the_same(tmp_path):
    drawn = set()
    for suffix in SUFFIXES:
        path = write_rows(tmp_path / f"rows{suffix}", document_rows())
        drawn.add(joined(build(config_of("c4", 400, data_files=str(path)), tmp_path)))
    assert len(drawn) == 1


def test_a_pattern_names_several_files_in_sorted_order(tmp_path):
    rows = document_rows()
    whole = write_rows(tmp_path / "whole.jsonl", rows)
    write_rows(tmp_path / "part-2.parquet", rows[20:])
    write_rows(tmp_path / "part-1.jsonl.gz", rows[:20])
    built = [build(config_of("c4", 500, data_files=str(path)), tmp_path) for path in (whole, tmp_path / "part-*")]
    assert joined(built[0]) == joined(built[1])


def test_rows_are_drawn_once_also_where_they_are_read_in_several_passes(tmp_path, monkeypatch):
    monkeypatch.setattr(documents_module, "FIRST_DRAW", 4)
    files = [write_rows(tmp_path / f"{i}.jsonl", document_rows()[10 * i : 10 * i + 10]) for i in range(3)]
    in_passes = [row["text"] for _, row in seeded_rows(files, 0, "text")]
    monkeypatch.undo()
    assert in_passes == [row["text"] for _, row in seeded_rows(files, 0, "text")]
    assert sorted(in_passes) == sorted(DOCUMENTS)


def test_rows_that_are_not_drawn_are_not_parsed(tmp_path, monkeypatch):
    monkeypatch.setattr(documents_module, "FIRST_DRAW", 1)
    path = write_rows(tmp_path / "rows.jsonl", ["{broken"] * 50)
    with pytest.raises(UserError, match="malformed JSON"):
        next(seeded_rows([path], 0, "text"))
    path.write_text('{"text": "a"}\n' * 50)
    assert next(seeded_rows([path], 0, "text"))[1] == {"text": "a"}


def test_a_text_file_is_one_document(tmp_path):
    for number, text in enumerate(("one text", "another text")):
        (tmp_path / f"{number}.txt").write_text(text)
    for name, option in (("c4", "data_files"), ("text", "path")):
        built = build(config_of(name, 22, **{option: str(tmp_path / "*.txt")}), tmp_path)
        assert sorted(joined(built).split("<|eos|>")) == ["", "another text", "one text"]


@pytest.mark.parametrize("name", ["wikitext", "text"])
def test_one_text_is_cut_from_a_seeded_start_and_round_the_end(name, tmp_path):
    text = "".join(f"Sentence {i} of it. " for i in range(40)) + "\n"
    path = tmp_path / "text.txt"
    path.write_text(text)
    option = {"path" if name == "text" else "data_files": str(path)}
    starts = set()
    for seed in range(5):
        built = build(config_of(name, len(text), **option), tmp_path, seed=seed)
        whole = joined(built)
        start = (text + text).index(whole)
        assert len(whole) == len(text)
        starts.add(start)
        assert {len(sequence) for sequence in built.sequences[:-1]} == {90}
    assert len(starts) == 5
    assert len(list((tmp_path / "text").glob("*/array-*.npy"))) == 1, "tokenised once"


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_rows_of_wikitext_are_lines_of_one_text(suffix, tmp_path):
    path = write_rows(tmp_path / f"rows{suffix}", WIKI)
    text = "\n = Title = \n\n A first line . \nlast\n\n"
    whole = joined(build(config_of("wikitext", len(text), data_files=str(path)), tmp_path))
    assert whole in text + text


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ('{"text": ', "malformed JSON"),
        ("[1]", "must be a JSON object, not list"),
        (f'{{"text": "t", "n": {"9" * 5000}}}', "malformed JSON (Exceeds the limit"),
        ('{"text": "half \\ud83d"}', "half a character"),
        ({"body": "b", "url": "u"}, "no field 'text' (calibration.text_field); it has body, url"),
        ({"text": 3}, "'text' (calibration.text_field) must be text, not int"),
    ],
)
@pytest.mark.parametrize("name", ["c4", "c4_chat", "wikitext", "text"])
def test_errors_name_file_and_line(name, row, words, tmp_path):
    path = write_rows(tmp_path / "rows.jsonl", [{"text": "t"}, "", row])
    with pytest.raises(UserError) as caught:
        build(config_of(name, **{"path" if name == "text" else "data_files": str(path)}), tmp_path)
    assert str(caught.value).startswith(f"{path}:3: ") and words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_errors_of_parquet_name_file_and_row(tmp_path):
    path = write_rows(tmp_path / "rows.parquet", [{"text": "t"}, {"text": None}])
    with pytest.raises(UserError, match=rf"{path} row [12]: no field 'body'"):
        build(config_of("c4", data_files=str(path), text_field="body"), tmp_path)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UserError, match="no parquet file, or a broken one") as caught:
        build(config_of("c4", data_files=str(path)), tmp_path)
    assert "\n" not in str(caught.value)


def test_broken_gzip_and_bytes_that_are_no_text_are_one_line(tmp_path):
    path = write_rows(tmp_path / "rows.jsonl.gz", document_rows())
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"rows\.jsonl\.gz:\d+: broken gzip"):
        build(config_of("c4", data_files=str(path)), tmp_path)
    path.write_bytes(gzip.compress(b'{"text": "\xff"}\n'))
    with pytest.raises(UserError, match=r"rows\.jsonl\.gz:1: not UTF-8 text"):
        build(config_of("c4", data_files=str(path)), tmp_path)
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(UserError, match=r"a\.txt: not UTF-8 text"):
        build(config_of("wikitext", data_files=str(tmp_path / "a.txt")), tmp_path)
    (tmp_path / "b.txt").write_bytes(b" \n")
    with pytest.raises(UserError, match=r"b\.txt: an empty file"):
        build(config_of("text", path=str(tmp_path / "b.txt")), tmp_path)


@pytest.mark.parametrize("name", ["c4", "c4_chat", "off_policy", "wikitext"])
@pytest.mark.parametrize("budget", [{"tokens": 300}, {"sequences": 3}])
def test_a_stream_is_seeded_and_kept_for_the_next_cell(name, budget, tmp_path, monkeypatch):
    hub = Hub(CHATS if name == "off_policy" else document_rows()).install(monkeypatch)
    first = build(config_of(name, **budget), tmp_path, seed=1)
    asked, taken = len(hub.asked), hub.taken
    assert asked == 1 and (taken < len(hub.rows) or name == "wikitext")
    again = build(config_of(name, **budget), tmp_path, seed=1)
    assert texts(again) == texts(first) and (len(hub.asked), hub.taken) == (asked, taken)
    assert texts(build(config_of(name, **budget), tmp_path, seed=2)) != texts(first)
    assert len(hub.asked) == (1 if name == "wikitext" else 2)
    fresh = build(config_of(name, **budget), tmp_path / "elsewhere", seed=1)
    assert texts(fresh) == texts(first)


def test_a_stream_is_asked_for_by_id_config_split_and_the_commit_of_its_revision(tmp_path, monkeypatch):
    hub = Hub(document_rows()).install(monkeypatch)
    build(config_of("c4"), tmp_path)
    assert hub.asked == [("someone/data", "en", {"split": "train", "revision": "c0ffee", "streaming": True})]


@pytest.mark.parametrize("change", ["revision", "tokens", "text_field"])
def test_what_is_kept_is_of_one_data_set_revision_and_budget(change, tmp_path, monkeypatch):
    hub = Hub([{"text": text, "other": text} for text in DOCUMENTS]).install(monkeypatch)
    pinned = {"dataset": dataclasses.replace(DATASET, revision="v2")}
    other = {"revision": pinned, "tokens": {"tokens": 301}, "text_field": {"text_field": "other"}}[change]
    build(config_of("c4"), tmp_path)
    build(config_of("c4", **other), tmp_path)
    assert len(hub.asked) == 2


def test_c4_chat_streams_again_for_other_prompts(tmp_path, monkeypatch):
    hub = Hub(document_rows()).install(monkeypatch)
    for problems in (PROBLEMS, PROBLEMS[:3], PROBLEMS):
        build(config_of("c4_chat"), tmp_path, problems=problems)
    assert len(hub.asked) == 2


def test_damaged_rows_are_streamed_again(tmp_path, monkeypatch):
    hub = Hub(document_rows()).install(monkeypatch)
    first = build(config_of("c4"), tmp_path)
    (kept,) = (tmp_path / "streams").glob("*/rows-*.jsonl")
    kept.write_bytes(kept.read_bytes()[:-5])
    assert texts(build(config_of("c4"), tmp_path)) == texts(first) and len(hub.asked) == 2


def test_a_stream_that_breaks_or_ends_too_early_is_one_line_and_kept_is_nothing(tmp_path, monkeypatch):
    Hub([*document_rows()[:2], OSError("reset by peer\nmore")] * 30).install(monkeypatch)
    with pytest.raises(UserError) as caught:
        build(config_of("c4", 5_000), tmp_path)
    line = "could not be had from the hub (reset by peer); calibration.data_files=FILE reads a local file instead"
    assert str(caught.value) == f"calibration.dataset: someone/data/en/train {line}"
    Hub(document_rows()).install(monkeypatch)
    with pytest.raises(UserError, match=rf"someone/data/en/train hold {WHOLE:,} tokens"):
        build(config_of("c4", 100_000), tmp_path)
    assert not list(tmp_path.rglob("rows*"))


def test_a_field_that_the_stream_lacks_names_those_it_has(tmp_path, monkeypatch):
    Hub([{"body": "b", "url": "u"}]).install(monkeypatch)
    with pytest.raises(UserError, match=r"someone/data row 1: no field 'text' \(calibration.text_field\); it has body"):
        build(config_of("c4"), tmp_path)


def test_documents_without_text_are_left_out(tmp_path):
    path = write_rows(tmp_path / "rows.jsonl", [{"text": None}, {"text": " "}, {"text": "only"}])
    built = build(config_of("c4", 5, data_files=str(path)), tmp_path)
    assert texts(built) == ["only<|eos|>"] and built.sequences[0][-1] == TOKENIZER.eos_token_id
