"""A GGUF file from the command line: a whole cell, the plan of one, and the tokenizer of what it left."""

import json
from pathlib import Path

import command_line
import pytest
import tiny_gguf
import tiny_models
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ssgr.errors import UserError
from ssgr.traces.stores import find_tokenizer

CELL = (
    "model=hub model.path=models/tiny.gguf calibration=self_generated selection.correctness=any calibration.tokens=200 "
    "rollouts.problems=4 rollouts.max_new_tokens=60 limit=3 evaluation.max_new_tokens=12 evaluation.dense_repeats=1 "
    "tracking=disabled"
)


@pytest.fixture
def folder(tmp_path):
    ids = {"bos_token_id": None, "eos_token_id": 2, "pad_token_id": 0}
    shape = {"vocab_size": 320, "intermediate_size": 64, "max_position_embeddings": 1024}
    (tmp_path / "models").mkdir()
    model = tiny_models.build("qwen2", dtype=torch.bfloat16, **ids, **shape)
    tiny_gguf.write(tmp_path / "models" / "tiny.gguf", model, packed="Q8_0")
    return tmp_path


def test_a_whole_cell(folder):
    plan = command_line.ssgr(f"{CELL} dry_run=true", folder)
    assert plan.status == 0, plan.err
    done = command_line.ssgr(f"{CELL} save_checkpoint=true", folder)
    assert done.status == 0, done.err
    (cell,) = command_line.cells(folder)
    result = json.loads((cell / "result.json").read_text())
    (unpacked,) = (folder / "cache" / "models").glob("*/")
    assert result["model"]["path"] == "models/tiny.gguf" and result["model"]["weights"] == unpacked.name
    assert result["sparsity"]["achieved"] == pytest.approx(0.5, abs=1e-3)
    assert result["metrics"]["tiny_math/kl"] > 0

    assert AutoModelForCausalLM.from_pretrained(cell / "checkpoint", dtype="auto").dtype == torch.bfloat16
    tokens, original = AutoTokenizer.from_pretrained(cell / "checkpoint"), tiny_gguf.tokenizer()
    assert tokens.chat_template == tiny_gguf.CHAT and tokens.encode("Ann has 3") == original.encode("Ann has 3")
    again = command_line.ssgr(f"{CELL} save_checkpoint=true", folder)
    assert again.status == 0 and "unpacking" in done.err and "unpacking" not in again.err


def test_a_file_that_cannot_be_used_is_one_line_and_writes_nothing(folder):
    path = folder / "models" / "tiny.gguf"
    path.write_bytes(path.read_bytes()[:-1000])
    before = command_line.files(folder)
    done = command_line.ssgr(CELL, folder)
    assert done.status == 2 and len(done.lines) == 1 and "broken or cut short" in done.lines[0]
    assert command_line.files(folder) == before


def test_a_store_finds_the_tokenizer_of_its_model(folder, monkeypatch):
    monkeypatch.chdir(folder)
    original = tiny_gguf.tokenizer()
    for manifest, asked in (({"path": "models/tiny.gguf"}, None), ({}, Path("models/tiny.gguf")), ({}, Path("models"))):
        found = find_tokenizer(manifest, asked, folder / "cache")
        assert found.encode("Ann has 3") == original.encode("Ann has 3")
    assert not (folder / "cache" / "models").exists()
    with pytest.raises(UserError, match=r"--tokenizer models/nowhere\.gguf: no such file"):
        find_tokenizer({}, Path("models/nowhere.gguf"), folder / "cache")
