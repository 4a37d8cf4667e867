import json
import shutil

import pytest
import tiny_models
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from ssgr.models import blocks
from ssgr.models.load import load_model
from ssgr.models.save import save_checkpoint


@pytest.mark.parametrize("tied", [True, False])
def test_a_saved_model_is_the_same_model(tmp_path, tied):
    model = tiny_models.build("qwen2", dtype=torch.bfloat16, tie_word_embeddings=tied)
    linear = model.model.layers[0].mlp.down_proj
    linear.weight.data[:, ::2] = -0.0
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    save_checkpoint(tiny_models.loaded(model), tmp_path / "checkpoint")

    again = AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint", dtype="auto")
    ids = torch.arange(4, 20)[None]
    assert again.dtype == torch.bfloat16
    assert torch.equal(again(ids).logits, model(ids).logits)
    assert torch.equal(again.lm_head.weight, before["lm_head.weight"])
    assert torch.equal(again.model.embed_tokens.weight, before["model.embed_tokens.weight"])
    assert AutoTokenizer.from_pretrained(tmp_path / "checkpoint").chat_template
    assert "sparsity" not in (tmp_path / "checkpoint" / "config.json").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]

    stored = load_file(tmp_path / "checkpoint" / "model.safetensors")
    for name in blocks.model_linears(model):
        weight = stored[f"{name}.weight"]
        assert not torch.signbit(weight[weight == 0]).any()


def test_saving_again_replaces_the_checkpoint(tmp_path):
    model = tiny_models.build("llama")
    save_checkpoint(tiny_models.loaded(model), tmp_path / "checkpoint")
    model.model.norm.weight.data.fill_(2.0)
    (tmp_path / "checkpoint" / "left_over.safetensors").write_bytes(b"")
    save_checkpoint(tiny_models.loaded(model), tmp_path / "checkpoint")
    assert not (tmp_path / "checkpoint" / "left_over.safetensors").exists()
    assert load_file(tmp_path / "checkpoint" / "model.safetensors")["model.norm.weight"].eq(2).all()


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    loaded = tiny_models.loaded(tiny_models.build("llama"))

    def full(*args, **kwargs):
        raise OSError("no space left")

    monkeypatch.setattr(loaded.tokenizer, "save_pretrained", full)
    with pytest.raises(OSError, match="no space"):
        save_checkpoint(loaded, tmp_path / "checkpoint")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "held, kept",
    [
        ({"temperature": 0.6, "top_p": 0.9}, {"temperature": 0.6, "top_p": 0.9, "do_sample": True}),
        ({"temperature": 0.6, "do_sample": True}, {"temperature": 0.6, "do_sample": True}),
        ({"temperature": 0.6, "early_stopping": True}, {}),
    ],
)
def test_a_generation_config_that_transformers_only_reads_can_be_saved(held, kept, model_folder, config_for, tmp_path):
    folder = shutil.copytree(model_folder, tmp_path / "model")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 2} | held))
    save_checkpoint(load_model(config_for(folder), torch.device("cpu"), tmp_path / "cache"), tmp_path / "checkpoint")
    written = json.loads((tmp_path / "checkpoint" / "generation_config.json").read_text())
    written.pop("transformers_version")
    assert {name: value for name, value in written.items() if value is not None} == {"eos_token_id": 2} | kept
