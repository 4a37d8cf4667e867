"""What is known of a GGUF file before torch is loaded."""

import shutil
import subprocess
import sys

import pytest
import tiny_gguf
import tiny_models

from ssgr.errors import UserError
from ssgr.models import files, gguf


def write(path, architecture="qwen2", **changes):
    model = tiny_models.build(architecture, vocab_size=320, intermediate_size=64)
    return tiny_gguf.write(path, model, **changes)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return write(tmp_path_factory.mktemp("gguf") / "whole.gguf", packed="Q8_0")


def refusal(path, config_for) -> str:
    with pytest.raises(UserError) as caught:
        files.check_model_folder(config_for(path))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_whole_file_passes_without_torch(whole, tmp_path):
    code = (
        "import sys; from pathlib import Path; from ssgr.models import files; path = Path(sys.argv[1]);"
        "files.check_folder(path); files.weights_hash(path, Path(sys.argv[2]));"
        "assert files.context_length(path) == 128 and files.has_chat_template(path);"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, whole, tmp_path], check=True)


def test_the_header_says_what_the_writer_was_told(whole):
    header = gguf.read_header(whole)
    assert header.architecture == "qwen2" and header.of_model("block_count") == 3
    assert header.of_tokenizer("tokens")[2] == "<|im_end|>" and len(header.of_tokenizer("tokens")) == 320
    assert header.of_model("attention.layer_norm_rms_epsilon") == pytest.approx(1e-6)
    assert header.tensors["blk.1.ffn_down.weight"].shape == (32, 64)
    from gguf import GGUFReader

    theirs = {tensor.name: (int(tensor.data_offset), int(tensor.n_elements)) for tensor in GGUFReader(whole).tensors}
    assert {name: (tensor.offset, tensor.numbers) for name, tensor in header.tensors.items()} == theirs


def test_ends_that_are_known_by_their_text_alone(tmp_path):
    header = gguf.read_header(write(tmp_path / "ends.gguf"))
    assert header.of_tokenizer("eos_token_id") == 2 and header.end_ids == [0, 2]  # <|endoftext|> ends too
    header = gguf.read_header(write(tmp_path / "eot.gguf", **{"tokenizer.ggml.eot_token_id": 7}))
    assert header.end_ids == [0, 2, 7]


def test_a_folder_with_one_file_stands_for_it(whole, tmp_path, config_for):
    folder = tmp_path / "folder"
    folder.mkdir()
    shutil.copy(whole, folder / "one.gguf")
    assert files.resolve_model_dir(config_for(folder)) == folder / "one.gguf"
    (folder / "model.safetensors").touch()
    assert files.resolve_model_dir(config_for(folder)) == folder
    (folder / "model.safetensors").unlink()
    shutil.copy(whole, folder / "two.gguf")
    assert "2 GGUF files: name one of them, one.gguf" in refusal(folder, config_for)


def test_a_relative_path_is_no_hub_id(whole, monkeypatch, config_for):
    monkeypatch.chdir(whole.parent.parent)
    name = f"{whole.parent.name}/{whole.name}"
    assert files.HUB_ID.fullmatch(name)
    files.check_model_folder(config_for(name))
    assert "no such file" in refusal("models/nowhere.gguf", config_for)


def test_the_hash_is_of_the_bytes(whole, tmp_path):
    moved = shutil.copy(whole, tmp_path / "other name.gguf")
    first = files.weights_hash(whole, tmp_path / "cache")
    assert files.weights_hash(moved, tmp_path / "cache") == first
    content = bytearray(moved.read_bytes())
    content[-1] ^= 1
    moved.write_bytes(content)
    assert files.weights_hash(moved, tmp_path / "cache") != first


TOKENIZER = "tokenizer.ggml"
REFUSED = {
    "gemma7": ({"general.architecture": "gemma7"}, "architecture 'gemma7' cannot be unpacked: choices: llama"),
    "experts": ({"qwen2.expert_count": 8}, "mixture-of-experts models cannot be pruned yet (expert_count=8)"),
    "context": ({"qwen2.context_length": None}, "no context_length"),
    "tokens": ({f"{TOKENIZER}.tokens": None}, "holds no tokenizer"),
    "template": ({"tokenizer.chat_template": None}, "no chat template"),
    "split": ({f"{TOKENIZER}.pre": "of its own"}, "its tokenizer (gpt2, of its own) cannot be read"),
    "no_split": ({f"{TOKENIZER}.pre": None}, "its tokenizer (gpt2, None) cannot be read"),
    "kind": ({f"{TOKENIZER}.model": "rwkv"}, "its tokenizer (rwkv, qwen2) cannot be read"),
    "scores": ({f"{TOKENIZER}.model": "llama"}, "its tokenizer (llama, qwen2) cannot be read"),
    "end": ({f"{TOKENIZER}.eos_token_id": None}, "no end-of-sequence token"),
    "rope": ({"qwen2.rope.scaling.type": "longrope"}, "its rope scaling (longrope)"),
    "shard": ({"split.count": 3}, "one part of several"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_each_reason_to_refuse_is_one_line(tmp_path, config_for, name):
    changes, reason = REFUSED[name]
    said = refusal(write(tmp_path / f"{name}.gguf", **changes), config_for)
    assert reason in said and f"{name}.gguf" in said


def test_a_part_is_known_by_its_name(whole, tmp_path, config_for):
    part = shutil.copy(whole, tmp_path / "model-00001-of-00003.gguf")
    assert "one part of several" in refusal(part, config_for)


def test_a_file_cut_anywhere_is_one_line(whole, tmp_path, config_for):
    content = whole.read_bytes()
    start = min(tensor.offset for tensor in gguf.read_header(whole).tensors.values())
    for length in [0, 3, 10, 23, 24, 30, *range(100, start, start // 60), start, start + 1, len(content) - 40]:
        cut = tmp_path / "cut.gguf"
        cut.write_bytes(content[:length])
        said = refusal(cut, config_for)
        assert "is no GGUF file" in said if length < 24 else "is broken or cut short" in said


def test_what_only_looks_like_a_gguf_file(tmp_path, config_for):
    other = tmp_path / "other.gguf"
    other.write_bytes(b"PK\3\4" + bytes(100))
    assert "is no GGUF file" in refusal(other, config_for)
    other.write_bytes(b"GGUF\1\0\0\0" + bytes(100))
    assert "version 1" in refusal(other, config_for)


def test_the_extra_is_named_where_the_package_is_missing(whole, monkeypatch, config_for):
    monkeypatch.setitem(sys.modules, "gguf", None)
    assert "pip install 'ssgr[gguf]'" in refusal(whole, config_for)
