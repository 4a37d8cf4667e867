"""A GGUF file as a model: what was written into it is what is loaded."""

import json
import os
from pathlib import Path

import pytest
import tiny_gguf
import tiny_models
import torch
from gguf import GGMLQuantizationType, quants
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from ssgr.errors import UserError
from ssgr.models import blocks, load, unpack
from ssgr.models.save import save_checkpoint
from ssgr.traces.prompts import PromptTemplate

R1_TOKENIZER = Path(__file__).parents[2].parent / "shared" / "models" / "r1_tokenizer"
LLAMA3 = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 32.0, "original_max_position_embeddings": 8192}
LLAMA3 |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
MADE = {
    "qwen2": ("qwen2", {"tie_word_embeddings": True}),
    "qwen3": ("qwen3", {}),  # its heads are larger than hidden size / heads
    "llama": ("llama", {}),
    "llama3": ("llama", {"rope_parameters": LLAMA3, "max_position_embeddings": 131072}),
}
# rounded to fp32 in the file; where it came from; what no file says and nothing here reads
UNEQUAL = {"rms_norm_eps", "_name_or_path", "architectures", "initializer_range"}
TEXTS = [
    "Ann has 12 apples.\n\n  And I'm left",
    "<|im_start|>user <think>2 + 2</think><|im_end|>",
    "naïve ≤ 東京 \r\n x",
]

pytestmark = pytest.mark.usefixtures("fast_in_bf16")


def build(name: str, **changes):
    architecture, own = MADE[name]
    ids = {"bos_token_id": None, "eos_token_id": 2, "pad_token_id": 0}
    shape = {"vocab_size": 320, "intermediate_size": 64}
    return tiny_models.build(architecture, dtype=torch.bfloat16, **ids, **shape, **own, **changes)


@pytest.fixture
def load_it(config_for, tmp_path):
    def run(path, **changes):
        return load.load_model(config_for(path, **changes), "cpu", tmp_path / "cache")

    return run


def refusal(load_it, path) -> str:
    with pytest.raises(UserError) as caught:
        load_it(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", MADE)
def test_what_was_written_is_what_is_loaded(load_it, tmp_path, name):
    model, tokens = build(name), tiny_gguf.tokenizer()
    path = tiny_gguf.write(tmp_path / "model.gguf", model, tokens, packed="F32")
    loaded = load_it(path)
    weights, found = model.state_dict(), loaded.model.state_dict()
    assert weights.keys() == found.keys() and all(torch.equal(weights[key], found[key]) for key in weights)
    ids = torch.arange(4, 100)[None]
    assert torch.equal(loaded.model(ids).logits, model(ids).logits)

    config, read = model.config.to_dict(), loaded.model.config.to_dict()
    assert {key for key in config | read if config.get(key) != read.get(key)} <= UNEQUAL
    assert read["rms_norm_eps"] == pytest.approx(config["rms_norm_eps"], rel=1e-6)
    assert loaded.model.generation_config.eos_token_id == [0, 2]
    assert (loaded.path, loaded.context) == (str(path), model.config.max_position_embeddings)
    assert loaded.model.dtype == torch.bfloat16 and not loaded.model.training


@pytest.mark.parametrize("packed", ["F16", "BF16", "Q8_0", "Q4_0"])
def test_packed_weights_are_what_they_stand_for(load_it, tmp_path, packed):
    model, kind = build("llama"), GGMLQuantizationType[packed]
    loaded = load_it(tiny_gguf.write(tmp_path / "model.gguf", model, packed=packed))
    for name, linear in blocks.model_linears(loaded.model).items():
        weight = model.get_submodule(name).weight.float().numpy()
        expected = quants.dequantize(quants.quantize(weight, kind), kind)
        assert torch.equal(linear.weight, torch.from_numpy(expected).bfloat16()), name


def test_the_tokenizer_needs_no_unpacking_and_is_the_same_after_it(load_it, tmp_path, config_for):
    tokens = tiny_gguf.tokenizer()
    path = tiny_gguf.write(tmp_path / "model.gguf", build("qwen2"), tokens)
    straight = load.read_tokenizer(path)
    assert not (tmp_path / "cache").exists()
    loaded = load_it(path)
    original = PromptTemplate(tokens, "Box it.", None)
    for found in (straight, loaded.tokenizer, AutoTokenizer.from_pretrained(loaded.folder)):
        template = PromptTemplate(found, "Box it.", None)
        for text in TEXTS:
            assert found.encode(text) == tokens.encode(text)
            assert template.prompt_ids(text) == original.prompt_ids(text)
        assert template.hash == original.hash
        assert found.decode(tokens.encode(TEXTS[2])) == TEXTS[2]
    assert straight.encode("e\N{COMBINING ACUTE ACCENT}") == tokens.encode("é")  # as Qwen2's own tokenizer does


@pytest.mark.skipif(not R1_TOKENIZER.is_dir(), reason="no tokenizer of a real model beside the project")
def test_the_tokenizer_of_a_model_that_thinks(tmp_path, config_for):
    tokens = PreTrainedTokenizerFast.from_pretrained(R1_TOKENIZER)
    tiny = tiny_models.build("qwen2", vocab_size=151936, intermediate_size=64, num_hidden_layers=1)
    path = tiny_gguf.write(tmp_path / "r1.gguf", tiny, tokens, **{"tokenizer.ggml.pre": "deepseek-r1-qwen"})
    found = load.read_tokenizer(path)
    original, template = (PromptTemplate(each, "Box it.", "</think>") for each in (tokens, found))
    assert template.hash == original.hash
    for text in [*TEXTS, "e\N{COMBINING ACUTE ACCENT}", "<｜User｜>1234567<think>\nHm.</think>\n\n\\boxed{3}"]:
        assert found.encode(text) == tokens.encode(text)
        assert template.prompt_ids(text) == original.prompt_ids(text)
        assert template.completion_text(tokens.encode(text)) == original.completion_text(tokens.encode(text))


def test_llama_3_cuts_numbers_otherwise(tmp_path, config_for):
    cut = {}
    for split in ("qwen2", "llama-bpe"):
        changes = {"tokenizer.ggml.pre": split, "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.add_bos_token": None}
        path = tiny_gguf.write(tmp_path / f"{split}.gguf", build("llama"), **changes)
        found = load.read_tokenizer(path)
        cut[split] = [text for text, _ in found.backend_tokenizer.pre_tokenizer.pre_tokenize_str("x 1234567")]
        assert found.encode("x")[0] == (1 if split == "llama-bpe" else found.convert_tokens_to_ids("x"))
    assert cut == {"qwen2": ["x", "Ġ", *"1234567"], "llama-bpe": ["x", "Ġ", "123", "456", "7"]}


@pytest.mark.parametrize(("written", "begins"), [(True, [1]), (False, []), (None, [])])
def test_a_text_begins_as_the_file_says(tmp_path, config_for, written, begins):
    changes = {"tokenizer.ggml.add_bos_token": written, "tokenizer.ggml.bos_token_id": 1}
    path = tiny_gguf.write(tmp_path / "model.gguf", build("qwen2"), **changes)
    found = load.read_tokenizer(path)
    plain = tiny_gguf.tokenizer().encode("Ann has")
    assert found.encode("Ann has") == begins + plain
    assert found.encode("Ann has", add_special_tokens=False) == plain
    found.save_pretrained(tmp_path / "saved")
    assert AutoTokenizer.from_pretrained(tmp_path / "saved").encode("Ann has") == begins + plain


@pytest.mark.parametrize("kind", ["yarn", "linear"])
def test_longer_contexts_keep_their_scaling(load_it, tmp_path, kind):
    rope = {"rope_type": kind, "rope_theta": 1e4, "factor": 4.0}
    changes = {"qwen2.rope.scaling.type": kind, "qwen2.rope.scaling.factor": 4.0}
    if kind == "yarn":
        rope["original_max_position_embeddings"] = changes["qwen2.rope.scaling.original_context_length"] = 32
    model = build("qwen2", rope_parameters=rope)
    loaded = load_it(tiny_gguf.write(tmp_path / "model.gguf", model, **changes))
    assert loaded.model.config.rope_parameters == model.config.rope_parameters
    ids = torch.arange(4, 100)[None]
    assert torch.equal(loaded.model(ids).logits, model(ids).logits)
    del changes["qwen2.rope.scaling.factor"]
    assert "lacks a number" in refusal(load_it, tiny_gguf.write(tmp_path / "less.gguf", model, **changes))


def test_a_scaling_that_no_llama_has_is_refused(load_it, tmp_path):
    odd = build("llama3")
    odd.config.rope_parameters = LLAMA3 | {"low_freq_factor": 2.0}
    assert "rope_freqs.weight" in refusal(load_it, tiny_gguf.write(tmp_path / "odd.gguf", odd))


def test_neither_missing_nor_left_over_weights_pass(load_it, tmp_path):
    model = build("llama")
    path = tiny_gguf.write(tmp_path / "less.gguf", model, leave_out=("blk.1.ffn_up.weight",))
    assert "lack model.layers.1.mlp.up_proj.weight" in refusal(load_it, path)
    more = tiny_gguf.write(tmp_path / "more.gguf", build("llama", attention_bias=True))
    assert "weights, but LlamaForCausalLM of its metadata has" in refusal(load_it, more)
    assert not [found for found in (tmp_path / "cache" / "models").iterdir() if found.suffix != ".lock"]


def test_a_file_is_unpacked_once(load_it, tmp_path, monkeypatch):
    model = build("qwen2")
    first = load_it(tiny_gguf.write(tmp_path / "model.gguf", model))
    assert first.folder == tmp_path / "cache" / "models" / first.weights_hash
    written = (first.folder / "model.safetensors").stat().st_mtime_ns

    made = []
    make = unpack.gguf_model
    monkeypatch.setattr(unpack, "gguf_model", lambda header: made.append(header) or make(header))
    os.rename(tmp_path / "model.gguf", tmp_path / "other.gguf")
    again = load_it(tmp_path / "other.gguf")
    assert (again.folder, again.weights_hash, made) == (first.folder, first.weights_hash, [])
    assert (first.folder / "model.safetensors").stat().st_mtime_ns == written

    os.truncate(first.folder / "model.safetensors", 100)
    killed = first.folder.with_name(f".{first.folder.name}.x.partial")
    others = first.folder.with_name(".another.x.partial")
    killed.mkdir(), others.mkdir()
    assert torch.equal(load_it(tmp_path / "other.gguf").model.lm_head.weight, model.lm_head.weight)
    assert len(made) == 1 and others.is_dir() and not killed.exists()


def test_a_failed_unpacking_leaves_nothing(load_it, tmp_path, monkeypatch):
    path = tiny_gguf.write(tmp_path / "model.gguf", build("qwen2"))
    tokenizer = unpack.gguf_tokenizer(path)

    def full(folder):
        raise OSError("no space left")

    monkeypatch.setattr(tokenizer, "save_pretrained", full)
    monkeypatch.setattr(unpack, "gguf_tokenizer", lambda path: tokenizer)
    with pytest.raises(OSError, match="no space"):
        load_it(path)
    assert [found.suffix for found in (tmp_path / "cache" / "models").iterdir()] == [".lock"]


def test_a_checkpoint_of_it_is_a_plain_folder(load_it, tmp_path):
    loaded = load_it(tiny_gguf.write(tmp_path / "model.gguf", build("llama3"), packed="Q8_0"))
    linear = loaded.model.model.layers[0].mlp.down_proj
    linear.weight.data[:, ::2] = 0
    save_checkpoint(loaded, tmp_path / "checkpoint")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint", dtype="auto")
    ids = torch.arange(4, 20)[None]
    assert again.dtype == torch.bfloat16 and torch.equal(again(ids).logits, loaded.model(ids).logits)
    assert again.generation_config.eos_token_id == [0, 2]
    assert {tensor.dtype for tensor in load_file(tmp_path / "checkpoint" / "model.safetensors").values()} == {
        torch.bfloat16
    }
    config = json.loads((tmp_path / "checkpoint" / "config.json").read_text())
    assert "quantization_config" not in config and config["architectures"] == ["LlamaForCausalLM"]
    assert AutoTokenizer.from_pretrained(tmp_path / "checkpoint").chat_template == tiny_gguf.CHAT


def test_a_tokenizer_that_cannot_be_made_is_one_line(tmp_path, config_for):
    for changes in ({"tokenizer.ggml.merges": None}, {"tokenizer.ggml.bos_token_id": 9999}):
        path = tiny_gguf.write(tmp_path / "broken.gguf", build("qwen2"), **changes)
        with pytest.raises(UserError, match="the tokenizer cannot be loaded"):
            load.read_tokenizer(path)
