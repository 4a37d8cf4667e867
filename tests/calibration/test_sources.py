import dataclasses
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from synthetic_traces import (
    ScriptedEngine,
    byte_tokenizer,
    difficulty,
    length,
    make_problems,
    rollouts,
    selection,
    stub_model,
)

from ssgr.calibration import SOURCES, CalibrationRequest, check_source
from ssgr.calibration import general_text as general_text_module
from ssgr.config import CalibrationConfig
from ssgr.errors import CellError, UserError
from ssgr.traces.problems import Problem
from ssgr.traces.prompts import PromptTemplate
from ssgr.traces.rollouts import collect

TOKENIZER = byte_tokenizer()
TEMPLATE = PromptTemplate(TOKENIZER, "Box it.", "</think>")
PROBLEMS = [dataclasses.replace(problem, solution=f"It is {problem.answer}.") for problem in make_problems(12)]
BUILT_IN = ("self_generated", "prompts_only", "reference_solutions", "general_text")
WITHOUT_TRACES = BUILT_IN[1:]
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


def build(name, view, tokens=BUDGET, max_seq_len=90, weights="all", seed=0, problems=PROBLEMS, template=TEMPLATE):
    config = CalibrationConfig(name, tokens, None, max_seq_len, weights)
    bins = {"selection": selection(), "difficulty": difficulty(), "length": length()}
    request = CalibrationRequest(
        config,
        **bins,
        seed=seed,
        split=False,
        template=template,
        weights_hash="w",
        cache=Path(CACHE.name),
        problems=lambda: problems,
        rollouts=lambda: view,
    )
    return SOURCES.get(name)(request)


def texts(built):
    return [TOKENIZER.decode(sequence) for sequence in built.sequences]


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_source_fills_the_budget_exactly(name, view):
    for tokens in (1, 90, 91, BUDGET):
        built = build(name, view, tokens)
        assert built.tokens == tokens == sum(map(len, built.weights))
        assert all(0 < len(sequence) <= 90 and sequence.dtype == np.int32 for sequence in built.sequences)
        assert all(weight.dtype == np.float32 for weight in built.weights)
        assert len(built.sequences) == len(built.weights) == len(built.trace_ids)


@pytest.mark.parametrize("name", BUILT_IN)
def test_the_seed_decides_what_is_drawn(name, view):
    first, again, other = (build(name, view, seed=seed) for seed in (3, 3, 4))
    assert texts(first) == texts(again) != texts(other)


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_source_that_cannot_fill_the_budget_says_so_in_one_line(name, view):
    with pytest.raises(CellError if name == "self_generated" else UserError) as caught:
        build(name, view, tokens=1_000_000)
    assert "1,000,000" in str(caught.value) and "would help" in str(caught.value) and "\n" not in str(caught.value)


def test_own_traces_are_the_sampled_ids(view):
    built = build("self_generated", view, max_seq_len=10_000)
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


def test_prompts_only_repeats_nothing_and_has_no_completion(view):
    built = build("prompts_only", view)
    prompts = {TEMPLATE.prompt_text(problem.question) for problem in PROBLEMS}
    assert set(texts(built)[:-1]) <= prompts and len(set(texts(built))) == len(built.sequences)
    assert (built.traces, built.mean_trace_tokens, built.mean_pass_rate) == (0, None, None)


def test_reference_solutions_stand_where_the_model_would_reason(view):
    written = texts(build("reference_solutions", view, max_seq_len=1_000))
    wanted = {
        f"{TEMPLATE.prompt_text(p.question)}{p.solution}\n</think>\n\n\\boxed{{{p.answer}}}<|eos|>" for p in PROBLEMS
    }
    assert len(written) > 2 and set(written[:-1]) <= wanted


def test_reference_solutions_of_models_that_reason_in_plain_text(view):
    plain = PromptTemplate(byte_tokenizer("{{ messages[0]['content'] }}:"), "", None)
    problem = Problem("a", "1+1?", "2", solution="It is \\boxed{2}.")
    built = build("reference_solutions", view, 20, problems=[problem], template=plain)
    assert texts(built) == ["1+1?:It is \\boxed{2}."[:20]]


def test_an_opening_tag_is_written_where_the_prompt_has_none(view):
    later = PromptTemplate(byte_tokenizer("{{ messages[0]['content'] }}:"), "", "</think>")
    built = build("reference_solutions", view, 20, problems=PROBLEMS[:1], template=later)
    assert texts(built)[0].startswith("What is 0 + 1?:<think>\nIt")


def test_problems_without_solutions_are_no_reference(view):
    with pytest.raises(UserError, match="solution_field"):
        build("reference_solutions", view, problems=make_problems(3))


def test_general_text_is_windows_of_the_text_in_a_row(view, text):
    whole = text.read_text(encoding="utf-8")
    built = build("general_text", view, tokens=len(whole))
    assert "".join(texts(built)) in whole + whole
    assert [len(sequence) for sequence in built.sequences[:-1]] == [90] * (len(built.sequences) - 1)


@pytest.mark.parametrize("name", ["self_generated", "reference_solutions"])
def test_decode_weighs_no_prompt_token(name, view):
    built = build(name, view, weights="decode", max_seq_len=10_000)
    for sequence, weight in zip(built.sequences[:-1], built.weights, strict=False):
        prompt = int((weight == 0).sum())
        assert TOKENIZER.decode(sequence[:prompt]).endswith("<|assistant|><think>\n")
        assert (weight[:prompt] == 0).all() and (weight[prompt:] == 1).all() and prompt < len(weight)


@pytest.mark.parametrize("name", BUILT_IN)
def test_per_trace_gives_each_sequence_the_same_weight(name, view):
    built = build(name, view, weights="per_trace")
    sums = [weight.sum() for weight in built.weights]
    assert np.allclose(sums, BUDGET / len(sums), rtol=1e-5)


def test_summary_and_parquet_say_what_was_used(view, tmp_path):
    built = build("self_generated", view)
    summary = built.summary()
    assert list(summary) == [
        "source",
        "tokens",
        "sequences",
        "traces",
        "problems",
        "mean_trace_tokens",
        "mean_pass_rate",
        "grid",
    ]
    assert summary["mean_trace_tokens"] == pytest.approx(BUDGET / len(built.sequences))
    for name in ("a", "b"):
        built.to_parquet(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    rows = pq.read_table(tmp_path / "a").to_pylist()
    assert [row["trace_id"] for row in rows] == built.trace_ids
    assert all(row["input_ids"] == sequence.tolist() for row, sequence in zip(rows, built.sequences, strict=True))


@pytest.mark.parametrize("name", WITHOUT_TRACES)
@pytest.mark.parametrize(
    ("bins", "group"),
    [
        ((difficulty([0, 0.5], name="hard"), length()), "difficulty=hard"),
        ((difficulty(level=[1, 2], name="low"), length()), "difficulty=low"),
        ((difficulty(), length([0, 33.3], name="short")), "length=short"),
        ((difficulty(), length(tokens=[1, 9], name="few")), "length=few"),
    ],
)
def test_sources_without_traces_refuse_bins(name, bins, group):
    config = CalibrationConfig(name, BUDGET, None, 90, "all")
    with pytest.raises(UserError, match=group):
        check_source(config, *bins)
    check_source(config, difficulty(), length())
    check_source(dataclasses.replace(config, name="self_generated"), *bins)


@pytest.mark.parametrize("name", ["prompts_only", "general_text"])
def test_decode_weights_need_completions(name):
    with pytest.raises(UserError, match=r"token_weights=decode"):
        check_source(CalibrationConfig(name, BUDGET, None, 90, "decode"), difficulty(), length())


def test_an_unknown_source_lists_the_choices():
    with pytest.raises(UserError, match="general_text, prompts_only, reference_solutions, self_generated"):
        check_source(CalibrationConfig("nothing", BUDGET, None, 90, "all"), difficulty(), length())


@pytest.mark.parametrize("option", ["tokens", "max_seq_len"])
def test_budgets_are_positive(option):
    config = dataclasses.replace(CalibrationConfig("prompts_only", BUDGET, None, 90, "all"), **{option: 0})
    with pytest.raises(UserError, match=rf"calibration\.{option}"):
        check_source(config, difficulty(), length())


def test_checking_a_source_imports_no_torch():
    code = (
        "import sys\n"
        "from ssgr.calibration import check_source\n"
        "from ssgr.config import CalibrationConfig, DifficultyConfig, LengthConfig\n"
        "config = CalibrationConfig('general_text', 1, None, 1, 'all')\n"
        "check_source(config, DifficultyConfig('all', None, None), LengthConfig('all', None, 'store', None, None))\n"
        "print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
