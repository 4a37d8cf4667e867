"""Perplexity against a plain loop over transformers' own loss."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import tiny_models
import torch

from ssgr.config import HubDataset, LmEvalConfig, PerplexityConfig
from ssgr.errors import UserError
from ssgr.evaluation import perplexity as module
from ssgr.evaluation.dense import dense_metrics
from ssgr.evaluation.perplexity import perplexity, text_windows, whole_text

DATASET = HubDataset("someone/text", "raw", "test", None)


def config(path, max_seq_len=16, text_field="text"):
    return PerplexityConfig("perplexity", [], False, path and str(path), DATASET, text_field, max_seq_len)


def words(count, start=0):
    return " ".join(f"w{(7 * number + start) % 60 + 30}" for number in range(count))


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(words(75))
    return path


@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
def test_it_is_the_mean_loss_of_windows_that_do_not_overlap(text, dtype, rounding, monkeypatch):
    loaded = tiny_models.loaded(tiny_models.build(dtype=dtype))
    monkeypatch.setattr("ssgr.evaluation.teacher_forcing.LOGIT_ELEMENTS", 5 * tiny_models.VOCABULARY)
    metrics = perplexity(loaded, config(text))
    ids = torch.tensor(loaded.tokenizer(text.read_text())["input_ids"])
    losses = []
    for start in range(0, 64, 16):
        window = ids[None, start : start + 16]
        logits = loaded.model(window).logits[0, :-1].float()
        losses.append(torch.nn.functional.cross_entropy(logits, window[0, 1:]).item())
    assert metrics["perplexity/perplexity"] == pytest.approx(np.exp(np.mean(losses)), rel=rounding)
    assert metrics["perplexity/problems"] == 4 and metrics["perplexity/seconds"] > 0
    first = perplexity(loaded, config(text), limit=1)
    assert first["perplexity/perplexity"] == pytest.approx(np.exp(losses[0]), rel=rounding)


def test_a_short_text_is_one_window_and_hardly_any_text_is_refused(tmp_path):
    loaded, path = tiny_models.loaded(tiny_models.build()), tmp_path / "t.txt"
    path.write_text(words(7))
    assert [len(window) for window in text_windows(loaded, config(path))] == [7]
    path.write_text("w39")
    with pytest.raises(UserError, match="holds 1 tokens, perplexity needs at least 2"):
        perplexity(loaded, config(path))


def test_the_text_of_rows_and_of_the_hub(tmp_path, monkeypatch):
    rows = [{"text": "one"}, {"text": ""}, {"text": "two"}]
    path = tmp_path / "t.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    assert whole_text(config(path)) == "one\n\n\n\ntwo"
    with pytest.raises(UserError, match=r"t\.jsonl:1: no text in 'body' \(evaluation.text_field\); it has text"):
        whole_text(config(path, text_field="body"))
    monkeypatch.setattr(module, "download_hub", lambda dataset, *_: iter(rows if dataset == DATASET else []))
    module._hub_text.cache_clear()
    assert whole_text(config(None)) == "one\n\n\n\ntwo"
    module._hub_text.cache_clear()


def test_what_is_kept_of_the_dense_model_is_of_its_reasoning_mark_too(tmp_path):
    loaded = tiny_models.loaded(tiny_models.build())
    engine, made = SimpleNamespace(identity={"engine": "hf"}), []

    def measured():
        made.append(loaded.think_end)
        return {"t/accuracy": float(len(made))}

    lm_eval = LmEvalConfig("lm_eval", [], False, ["t"], None, None, False, 8, 0)
    for loaded.think_end in (None, "</think>", None):
        dense_metrics(engine, loaded, None, lm_eval, None, tmp_path, measured)
    assert made == [None, "</think>"]
