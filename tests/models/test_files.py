import json
import os
import shutil
import subprocess
import sys

import pytest

from ssgr.errors import UserError
from ssgr.models import files


@pytest.fixture
def copy(model_folder, tmp_path):
    return shutil.copytree(model_folder, tmp_path / "copy")


def refusal(config) -> str:
    with pytest.raises(UserError) as caught:
        files.check_model_folder(config)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_whole_folder_passes(copy, config_for):
    files.check_model_folder(config_for(copy))
    assert files.context_length(copy) == 128


def test_each_missing_file_is_named(copy, config_for):
    os.rename(copy / "chat_template.jinja", copy / "elsewhere")
    assert "chat template" in refusal(config_for(copy))
    os.remove(copy / "tokenizer.json")
    assert "no tokenizer" in refusal(config_for(copy))
    os.remove(copy / "model.safetensors")
    (copy / "pytorch_model.bin").write_bytes(b"pickle")
    assert "no safetensors" in refusal(config_for(copy))
    os.remove(copy / "config.json")
    assert "no config.json" in refusal(config_for(copy))
    shutil.rmtree(copy)
    assert "no such folder" in refusal(config_for(copy))


def test_a_template_inside_the_tokenizer_settings_counts(copy, config_for):
    template = (copy / "chat_template.jinja").read_text()
    os.remove(copy / "chat_template.jinja")
    settings = json.loads((copy / "tokenizer_config.json").read_text())
    (copy / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": template}))
    files.check_model_folder(config_for(copy))


def test_weights_cut_short_are_refused(copy, config_for):
    path = copy / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    assert "cut short" in refusal(config_for(copy))
    path.write_bytes(b"")
    assert "cut short" in refusal(config_for(copy))


def test_a_missing_shard_is_refused(copy, config_for):
    (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "model-2.safetensors"}}))
    assert "model-2.safetensors" in refusal(config_for(copy))


def test_mixtures_of_experts_are_refused_by_their_configuration(copy, config_for):
    settings = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(settings | {"num_local_experts": 8}))
    assert "mixture-of-experts" in refusal(config_for(copy))
    (copy / "config.json").write_text(json.dumps(settings | {"model_type": "mixtral", "num_local_experts": 8}))
    assert "type mixtral cannot be pruned (num_local_experts=8): choices: qwen2_moe, qwen3_moe" in refusal(
        config_for(copy)
    )
    (copy / "config.json").write_text(json.dumps({"text_config": settings | {"model_type": "x", "num_experts": 2}}))
    assert "type x " in refusal(config_for(copy))
    for supported in files.EXPERT_MODELS:
        (copy / "config.json").write_text(json.dumps(settings | {"model_type": supported, "num_experts": 8}))
        files.check_model_folder(config_for(copy))


def test_packed_weights_are_refused(copy, config_for):
    settings = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(settings | {"quantization_config": {"quant_method": "awq"}}))
    assert "packed (awq)" in refusal(config_for(copy))


def test_what_is_a_folder_and_what_a_hub_id(copy, config_for):
    assert files.resolve_model_dir(config_for(copy)) == copy
    assert files.resolve_model_dir(config_for("Qwen/Qwen3-8B")) is None
    assert files.resolve_model_dir(config_for("./nowhere")) is not None
    assert files.resolve_model_dir(config_for(None, name="tiny_reasoner")) == files.BUNDLED_MODEL
    with pytest.raises(UserError, match=r"model\.path"):
        files.resolve_model_dir(config_for(None))


def test_an_unreachable_hub_is_one_line(config_for, monkeypatch):
    import huggingface_hub

    def unreachable(*args, **kwargs):
        raise OSError("no route\nto the hub")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(UserError, match="could not be had from the hub") as caught:
        files.fetch_model_dir(config_for("someone/something"))
    assert "\n" not in str(caught.value)


def test_the_hash_is_of_contents_and_is_remembered(copy, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    first = files.weights_hash(copy, cache)
    moved = shutil.copytree(copy, tmp_path / "moved")
    assert files.weights_hash(moved, cache) == first

    reads = []
    monkeypatch.setattr(files.hashlib, "file_digest", lambda *args: reads.append(args))
    assert files.weights_hash(copy, cache) == first
    assert not reads
    monkeypatch.undo()

    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    changed = files.weights_hash(copy, cache)
    assert changed != first
    (copy / "chat_template.jinja").write_text("another")
    assert files.weights_hash(copy, cache) not in (first, changed)


def test_files_are_checked_without_torch():
    code = "import sys, ssgr.models.files; assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
