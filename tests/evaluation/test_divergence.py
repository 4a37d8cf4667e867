"""The divergence against a brute-force KL of two whole models, one sequence at a time."""

import copy
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from ssgr.evaluation import divergence as room
from ssgr.evaluation import teacher_forcing
from ssgr.evaluation.accuracy import Accuracy
from ssgr.evaluation.divergence import dense_states, divergence
from ssgr.evaluation.held_out import HeldOut, difficulty_bin, held_out, length_bounds
from ssgr.evaluation.teacher_forcing import length_sorted_batches
from ssgr.traces.problems import Problem
from ssgr.traces.store import Trace, TraceStore

SIZES = dict(
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    vocab_size=61,
    max_position_embeddings=128,
    initializer_range=0.3,
)
MODELS = {
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES, tie_word_embeddings=True)),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES)),
    "gemma2": lambda: Gemma2ForCausalLM(Gemma2Config(**SIZES, head_dim=8, final_logit_softcapping=3.0)),
}
COLUMNS = [
    *("task", "problem_id", "tokens", "kl", "kl_sum", "nll_dense", "nll", "top1_changed"),
    *("correct", "finish_reason", "pass_rate", "difficulty", "length"),
]


def make_loaded(name="qwen2", dtype=torch.float32):
    torch.manual_seed(0)
    model = MODELS[name]().to(dtype).eval().requires_grad_(False)
    return SimpleNamespace(model=model, device=torch.device("cpu"))


def prune(model):
    """Half of every MLP's output weights, in place."""
    for layer in model.model.layers:
        layer.mlp.down_proj.weight[:, ::2] = 0


def make_samples(count=16) -> HeldOut:
    generator = np.random.default_rng(3)
    sequences = [
        (generator.integers(0, 61, generator.integers(2, 9)), generator.integers(0, 61, generator.integers(1, 30)))
        for _ in range(count)
    ]
    table = pd.DataFrame(
        {
            "task": "t",
            "problem_id": [f"p{i}" for i in range(count)],
            "tokens": [len(output) for _, output in sequences],
            "correct": True,
            "finish_reason": "stop",
            "pass_rate": 1.0,
            "difficulty": (["easy", "medium", "hard", "never"] * count)[:count],
            "length": (["short", "long", "truncated"] * count)[:count],
        }
    )
    return HeldOut(table, sequences)


def brute_force(before, after, prompt, output):
    ids = torch.as_tensor(np.concatenate([prompt, output]))[None]
    dense, pruned = (model(ids).logits[0, len(prompt) - 1 : -1].double().log_softmax(-1) for model in (before, after))
    rows = torch.arange(len(output)), torch.as_tensor(output)
    kl = (dense.exp() * (dense - pruned)).sum(-1)
    changed = (dense.argmax(-1) != pruned.argmax(-1)).double()
    return [kl.sum(), -dense[rows].mean(), -pruned[rows].mean(), changed.mean()]


@pytest.mark.parametrize("name", MODELS)
def test_equals_brute_force(name, tmp_path, monkeypatch):
    monkeypatch.setattr(teacher_forcing, "BATCH_TOKENS", 100)
    monkeypatch.setattr(teacher_forcing, "LOGIT_ELEMENTS", 61 * 7)
    loaded, samples = make_loaded(name), make_samples()
    before = copy.deepcopy(loaded.model)
    states = dense_states(loaded, samples, tmp_path)
    assert len(states.batches) > 2
    prune(loaded.model)
    table = divergence(loaded, samples, states).table
    assert list(table.columns) == COLUMNS
    expected = np.array([brute_force(before, loaded.model, *sequence) for sequence in samples.sequences])
    np.testing.assert_allclose(table[["kl_sum", "nll_dense", "nll", "top1_changed"]], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(table["kl"] * table["tokens"], table["kl_sum"])
    assert table["kl"].min() > 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_unchanged_model_does_not_diverge(dtype, tmp_path):
    loaded, samples = make_loaded(dtype=dtype), make_samples()
    result = divergence(loaded, samples, dense_states(loaded, samples, tmp_path))
    assert (result.table["kl"] == 0).all() and (result.table["top1_changed"] == 0).all()
    assert result.metrics["t/nll"] == result.dense_metrics["t/nll"] > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tokens_are_compared_to_the_precision_of_fp32(dtype):
    """Peaked distributions as a trained model's, far from zero, over a large vocabulary; the oracle is in fp64."""
    generator = torch.Generator().manual_seed(0)
    before = 4 * torch.randn(24, 20_000, generator=generator) + 30
    before[:, 7] += torch.arange(24)
    after = before + 0.3 * torch.randn(before.shape, generator=generator)
    before, after = before.to(dtype), after.to(dtype)
    model = SimpleNamespace(config=Qwen2Config(), get_output_embeddings=lambda: torch.nn.Identity())
    targets = torch.arange(24)
    values = room.compare_tokens(model, before.clone(), after.clone(), targets).double()
    dense, pruned = (logits.double().log_softmax(-1) for logits in (before, after))
    expected = [
        (dense.exp() * (dense - pruned)).sum(-1),
        -dense[targets, targets],
        -pruned[targets, targets],
        (before.argmax(-1) != after.argmax(-1)).double(),
    ]
    torch.testing.assert_close(values, torch.stack(expected, 1), rtol=1e-5, atol=1e-6)
    assert (room.compare_tokens(model, before, before.clone(), targets)[:, 0] == 0).all()


def test_metrics_are_means_over_problems_and_cells(tmp_path):
    loaded, samples = make_loaded(), make_samples()
    states = dense_states(loaded, samples, tmp_path)
    prune(loaded.model)
    result = divergence(loaded, samples, states)
    table = result.table
    assert result.metrics["t/kl"] == pytest.approx(table["kl"].mean())
    assert result.metrics["t/kl_se"] == pytest.approx(table["kl"].std(ddof=1) / np.sqrt(len(table)))
    binned = table[(table["difficulty"] != "never") & (table["length"] != "truncated")]
    cells = [rows["kl"].mean() for _, rows in binned.groupby(["difficulty", "length"])]
    assert 1 < len(cells) < len(binned)
    assert result.metrics["t/kl_balanced"] == pytest.approx(np.mean(cells))


def test_states_are_computed_once_and_missing_files_again(tmp_path, monkeypatch):
    monkeypatch.setattr(teacher_forcing, "BATCH_TOKENS", 100)
    loaded, samples = make_loaded(), make_samples()
    states = dense_states(loaded, samples, tmp_path)
    before = {path.name: path.read_bytes() for path in states.folder.iterdir()}
    states.file(1).unlink()
    flipped = states.file(2)
    flipped.write_bytes(flipped.read_bytes()[:-1] + b"x")
    monkeypatch.setattr(
        room, "final_states", lambda model, sequences, real=room.final_states: calls.append(1) or real(model, sequences)
    )
    calls: list[int] = []
    assert dense_states(loaded, samples, tmp_path) == states
    assert calls == [1, 1]
    assert {path.name: path.read_bytes() for path in states.folder.iterdir()} == before
    assert dense_states(loaded, make_samples(5), tmp_path).folder != states.folder


def test_batches_hold_every_row_once_within_the_bound():
    generator = np.random.default_rng(0)
    sequences = [(np.zeros(1), np.zeros(length)) for length in generator.integers(1, 20_000, 40)]
    batches = length_sorted_batches(sequences)
    assert sorted(row for rows in batches for row in rows) == list(range(40))
    for rows in batches:
        longest = max(len(sequences[row][1]) + 1 for row in rows)
        assert len(rows) == 1 or len(rows) * longest <= teacher_forcing.BATCH_TOKENS


def test_held_out_samples_and_their_cells(tmp_path):
    lengths = {"a": [6, 7, 8], "b": [10, -10, 10], "c": [-9, 20, -9], "d": [-3, -3, -3], "e": [12, 12, 12]}
    problems = [Problem(name, f"Q {name}", "1") for name in lengths]
    store = TraceStore.open(tmp_path, {})
    store.set_problems(problems)
    rows = [(name, repeat, n) for name, row in lengths.items() for repeat, n in enumerate(row)]
    cut = ("c", 0)
    store.append(
        [
            Trace(name, repeat, [1, 2], [5] * abs(n), "length" if (name, repeat) == cut else "stop", n > 0, "1")
            for name, repeat, n in rows
        ]
    )
    view = store.view(problems, 3)
    samples = view.traces.rename(columns={"rollout": "repeat"}).assign(task="t", output_ids=None)
    result = held_out(Accuracy(samples, {}, view))
    table = result.table.set_index("problem_id")
    assert table["difficulty"].to_dict() == {"a": "easy", "b": "medium", "c": "hard", "d": "never", "e": "easy"}
    # the correct ones are 6 7 8 10 10 12 12 12 20: up to 8 is short, up to 12 moderate
    expected = {"a": "short", "b": "moderate", "c": "truncated", "d": "short", "e": "moderate"}
    assert table["length"].to_dict() == expected
    assert [len(output) for _, output in result.sequences] == [6, 10, 9, 3, 12]
    # a completion may end although its reasoning did not; repeat 1 of another problem is not held out
    unended = held_out(Accuracy(samples, {}, view, {("d", 0), ("a", 1)})).table.set_index("problem_id")
    assert unended["length"].to_dict() == expected | {"d": "truncated"}


@pytest.mark.parametrize(
    ("rate", "name"),
    [(1, "easy"), (2 / 3, "medium"), (0.67, "easy"), (1 / 3, "hard"), (0.34, "medium"), (0.01, "hard"), (0, "never")],
)
def test_difficulty_bins_are_open_below(rate, name):
    assert difficulty_bin(rate) == name


def test_equal_lengths_fall_on_one_side():
    assert length_bounds(np.array([5, 5, 5, 5, 9, 9])) == (5, 5)
