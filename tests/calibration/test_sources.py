import tempfile
from pathlib import Path

import calibration_requests
import numpy as np
import pyarrow.parquet as pq
import pytest
from calibration_requests import (
    CHATS,
    PROBLEMS,
    TEMPLATE,
    TOKENIZER,
    config_of,
    document_rows,
    texts,
    write_rows,
)
from synthetic_traces import ScriptedEngine, rollouts, stub_model

from ssgr.calibration import general_text as general_text_module
from ssgr.errors import CellError, UserError
from ssgr.traces.rollouts import collect

ALL = (
    "self_generated",
    "prompts_only",
    "reference_solutions",
    "general_text",
    "c4",
    "c4_chat",
    "wikitext",
    "text",
    "off_policy",
)
WITHOUT_TRACES = ALL[1:]
WINDOWED = ("general_text", "c4", "wikitext", "text")
COMPLETIONS = ("self_generated", "reference_solutions", "c4_chat", "off_policy")
BUDGET = 300
CACHE = tempfile.TemporaryDirectory(prefix="ssgr-sources-")


@pytest.fixture(scope="module")
def view(tmp_path_factory):
    engine = ScriptedEngine(TOKENIZER, PROBLEMS)
    root = tmp_path_factory.mktemp("cache")
    return collect(engine, stub_model(TOKENIZER), TEMPLATE, PROBLEMS, rollouts(12, 3), root)


@pytest.fixture(autouse=True)
def text(tmp_path_factory, monkeypatch):
    path = tmp_path_factory.getbasetemp() / "general_text.txt"
    path.write_text("".join(f"Line {i} of a fixed text. " for i in range(60)), encoding="utf-8")
    monkeypatch.setattr(general_text_module, "TEXT", path)
    return path


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """The options by which each source reads a local file."""
    folder = tmp_path_factory.mktemp("data")
    documents = str(write_rows(folder / "documents.jsonl", document_rows()))
    chats = str(write_rows(folder / "chats.jsonl", CHATS))
    options = {name: {"data_files": documents} for name in ("c4", "c4_chat", "wikitext")}
    return options | {"text": {"path": documents}, "off_policy": {"data_files": chats}}


@pytest.fixture
def build(view, local):
    """A source's set by its name; the budget is 300 tokens unless another is given."""

    def build_set(name, tokens=BUDGET, *, sequences=None, max_seq_len=90, weights="all", **options):
        config = config_of(name, tokens, sequences, max_seq_len, weights, **local.get(name, {}))
        return calibration_requests.build(config, Path(CACHE.name), view=view, **options)

    return build_set


@pytest.mark.parametrize("name", ALL)
def test_every_source_fills_the_budget_exactly(name, build):
    for tokens in (1, 90, 91, BUDGET):
        built = build(name, tokens)
        assert built.tokens == tokens == sum(map(len, built.weights))
        assert all(0 < len(sequence) <= 90 and sequence.dtype == np.int32 for sequence in built.sequences)
        assert all(weight.dtype == np.float32 for weight in built.weights)
        assert len(built.sequences) == len(built.weights) == len(built.trace_ids)


@pytest.mark.parametrize("name", ALL)
def test_every_source_delivers_so_many_sequences(name, build):
    for sequences in (1, 4):
        built = build(name, sequences=sequences, max_seq_len=50)
        assert len(built.sequences) == sequences == len(built.weights)
        lengths = {len(sequence) for sequence in built.sequences}
        assert lengths == {50} if name in WINDOWED else max(lengths) <= 50


@pytest.mark.parametrize("name", [name for name in WITHOUT_TRACES if name not in WINDOWED])
def test_sequences_are_whole_where_they_are_short_enough(name, build):
    whole = build(name, sequences=5, max_seq_len=100_000)
    cut = build(name, sequences=5, max_seq_len=60)
    assert [sequence[:60].tolist() for sequence in whole.sequences] == [row.tolist() for row in cut.sequences]
    if name in COMPLETIONS:
        assert all(sequence[-1] == TOKENIZER.eos_token_id for sequence in whole.sequences)


@pytest.mark.parametrize("name", WITHOUT_TRACES)
def test_too_few_sequences_are_one_line(name, build):
    with pytest.raises(UserError) as caught:
        build(name, sequences=2_000)
    line = str(caught.value)
    needed = "calibration.sequences=2,000 of 90 tokens need 180,000" if name in WINDOWED else "needs 2,000"
    assert needed in line and "a smaller calibration.sequences would help" in line and "\n" not in line


@pytest.mark.parametrize("name", ALL)
def test_no_sequence_has_a_second_bos(name, build):
    bos = TOKENIZER.bos_token_id
    for sequence in build(name, max_seq_len=100_000).sequences:
        assert sequence.tolist().count(bos) == (name not in WINDOWED) and bos not in sequence[1:]


@pytest.mark.parametrize("name", ALL)
def test_the_seed_decides_what_is_drawn(name, build):
    first, again, other = (build(name, seed=seed) for seed in (3, 3, 4))
    assert texts(first) == texts(again) != texts(other)


@pytest.mark.parametrize("name", ALL)
def test_a_source_that_cannot_fill_the_budget_says_so_in_one_line(name, build):
    with pytest.raises(CellError if name == "self_generated" else UserError) as caught:
        build(name, tokens=1_000_000)
    assert "1,000,000" in str(caught.value) and "would help" in str(caught.value) and "\n" not in str(caught.value)


def test_own_traces_are_the_sampled_ids(view, build):
    built = build("self_generated", max_seq_len=10_000)
    rows = view.traces.set_index(["problem_id", "rollout"])
    for sequence, name in zip(built.sequences[:-1], built.trace_ids, strict=False):
        problem, _, rollout = name.partition("/")
        row = rows.loc[[(problem, int(rollout))]]
        ((prompt, output),) = view.sequences(row)
        assert row["correct"].all() and sequence.tolist() == [*prompt, *output]
    assert len(set(built.trace_ids)) == built.traces == built.problems
    rates = [view.pass_rate[name.partition("/")[0]] for name in built.trace_ids]
    assert built.mean_pass_rate == pytest.approx(np.mean(rates))
    assert built.selection.filter(like="_tokens").to_numpy().sum() == BUDGET


def test_prompts_only_repeats_nothing_and_has_no_completion(build):
    built = build("prompts_only")
    prompts = {TEMPLATE.prompt_text(problem.question) for problem in PROBLEMS}
    assert set(texts(built)[:-1]) <= prompts and len(set(texts(built))) == len(built.sequences)
    assert (built.traces, built.mean_trace_tokens, built.mean_pass_rate) == (0, None, None)


def test_general_text_is_windows_of_the_text_in_a_row(build, text):
    whole = text.read_text(encoding="utf-8")
    built = build("general_text", tokens=len(whole))
    assert "".join(texts(built)) in whole + whole
    assert [len(sequence) for sequence in built.sequences[:-1]] == [90] * (len(built.sequences) - 1)


@pytest.mark.parametrize("name", COMPLETIONS)
def test_decode_weighs_no_prompt_token(name, build):
    built = build(name, weights="decode", max_seq_len=10_000)
    for sequence, weight in zip(built.sequences[:-1], built.weights, strict=False):
        prompt = int((weight == 0).sum())
        assert TOKENIZER.decode(sequence[:prompt]).endswith("<|assistant|><think>\n")
        assert (weight[:prompt] == 0).all() and (weight[prompt:] == 1).all() and prompt < len(weight)


@pytest.mark.parametrize("name", ALL)
def test_per_trace_gives_each_sequence_the_same_weight(name, build):
    built = build(name, weights="per_trace")
    sums = [weight.sum() for weight in built.weights]
    assert np.allclose(sums, BUDGET / len(sums), rtol=1e-5)


def test_summary_and_parquet_say_what_was_used(build, tmp_path):
    assert list(build("prompts_only").summary()) == [
        "source",
        "tokens",
        "sequences",
        "traces",
        "problems",
        "mean_trace_tokens",
        "mean_pass_rate",
        "grid",
    ]
    built = build("self_generated")
    summary = built.summary()
    assert summary["mean_trace_tokens"] == pytest.approx(BUDGET / len(built.sequences))
    for name in ("a", "b"):
        built.to_parquet(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    rows = pq.read_table(tmp_path / "a").to_pylist()
    assert [row["trace_id"] for row in rows] == built.trace_ids
    assert all(row["input_ids"] == sequence.tolist() for row, sequence in zip(rows, built.sequences, strict=True))
