import shutil

import numpy as np
import pytest
import tiny_models
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    Lfm2Config,
    Lfm2ForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
)

from ssgr.cache import content_hash
from ssgr.errors import UserError
from ssgr.models import blocks, load


def load_it(folder, config_for, tmp_path, **changes):
    return load.load_model(config_for(folder, **changes), torch.device("cpu"), tmp_path / "cache")


def refusal(*args, **changes) -> str:
    with pytest.raises(UserError) as caught:
        load_it(*args, **changes)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_loaded_model_is_ready(model_folder, config_for, tmp_path):
    loaded = load_it(model_folder, config_for, tmp_path, think_end="</think>")
    assert loaded.dtype == torch.bfloat16
    assert not loaded.model.training
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    assert (loaded.context, loaded.think_end, loaded.name) == (128, "</think>", "hub")
    assert len(loaded.tokenizer) == tiny_models.VOCABULARY  # transformers' Qwen2 class would add a token
    assert loaded.tokenizer.encode("w5 w9") == [5, 9]
    assert load_it(model_folder, config_for, tmp_path).weights_hash == loaded.weights_hash
    assert load_it(model_folder, config_for, tmp_path, dtype="float32").model.dtype == torch.float32


@pytest.mark.parametrize("asked", [None, "main"])
def test_a_model_of_the_hub_names_its_commit(model_folder, config_for, tmp_path, monkeypatch, asked):
    snapshot = shutil.copytree(model_folder, tmp_path / "hub" / "models--a--b" / "snapshots" / "3f2a")
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(snapshot))
    loaded = load_it("somebody/model", config_for, tmp_path, revision=asked)
    assert (loaded.path, loaded.revision) == ("somebody/model", "3f2a")
    assert load_it(snapshot, config_for, tmp_path).revision is None


def test_wrong_options_are_one_line(model_folder, config_for, tmp_path):
    assert "bfloat16" in refusal(model_folder, config_for, tmp_path, dtype="int3")
    assert "no such folder" in refusal(tmp_path / "nowhere" / "at" / "all", config_for, tmp_path)


def test_a_folder_without_tokenizer_is_one_line(model_folder, config_for, tmp_path):
    copy = shutil.copytree(model_folder, tmp_path / "copy")
    (copy / "tokenizer.json").unlink()
    assert "tokenizer" in refusal(copy, config_for, tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_broken_weights_name_their_linear(config_for, tmp_path, value):
    model = tiny_models.build("llama")
    model.model.layers[1].mlp.up_proj.weight.data[3, 4] = value
    tiny_models.save(model, tmp_path / "broken")
    assert "model.layers.1.mlp.up_proj holds NaN" in refusal(tmp_path / "broken", config_for, tmp_path)


def test_missing_tensors_are_not_made_up(config_for, tmp_path):
    tiny_models.save(tiny_models.build("llama", num_hidden_layers=2), tmp_path / "short")
    settings = tmp_path / "short" / "config.json"
    settings.write_text(settings.read_text().replace('"num_hidden_layers": 2', '"num_hidden_layers": 3'))
    assert "lack model.layers.2" in refusal(tmp_path / "short", config_for, tmp_path)


def test_experts_of_another_layout_are_refused_by_their_shape():
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
    model = MixtralForCausalLM(MixtralConfig(**shape, num_local_experts=4, intermediate_size=16, vocab_size=32))
    with pytest.raises(UserError, match=r"gate_up_proj \(MixtralExperts\).*mixture-of-experts"):
        load.check_weights(model)


@pytest.mark.parametrize(
    ("place", "own", "said"),
    [
        ("mlp", {"mixing": torch.nn.Parameter(torch.zeros(8, 4))}, r"mlp\.mixing \(Qwen2MLP\) .* weight \(8, 4\)"),
        ("", {"mixing": torch.nn.Parameter(torch.zeros(8, 4))}, r"mixing \(Qwen2DecoderLayer\)"),
        ("mlp", {"taps": torch.nn.Conv1d(4, 4, 3)}, r"mlp\.taps\.weight \(Conv1d\)"),
        ("self_attn", {"fold": torch.nn.Bilinear(4, 4, 2)}, r"self_attn\.fold\.weight \(Bilinear\)"),
    ],
    ids=["matrix", "block", "convolution", "bilinear"],
)
def test_weights_that_would_stay_dense_in_silence_are_named(place, own, said):
    model = tiny_models.build("qwen2")
    for name, what in own.items():
        setattr(model.model.layers[1].get_submodule(place), name, what)
    with pytest.raises(UserError, match=f"unsupported architecture: {said}"):
        load.check_weights(model)


def test_unsupported_architectures_name_the_module():
    model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=16, vocab_size=32))
    with pytest.raises(UserError, match="GPT2Model"):
        load.check_weights(model)


def test_routers_of_something_else_than_experts_are_named():
    block = torch.nn.ModuleDict(
        {"mixing": torch.nn.ModuleDict({"modality_router": torch.nn.Linear(4, 4)}), "up": torch.nn.Linear(4, 4)}
    )
    with pytest.raises(UserError, match=r"mixing\.modality_router of ModuleDict routes"):
        blocks.prunable_linears(block)


def test_models_that_take_the_first_of_what_a_block_returns_are_walked():
    class Older(type(tiny_models.build().model)):
        def forward(self, input_ids, **kwargs):
            hidden = self.embed_tokens(input_ids)
            for number, layer in enumerate(self.layers):
                hidden = layer(hidden, number=number)[0]

    model = tiny_models.build()
    model.model.__class__ = Older
    hidden, calls = blocks.capture(model, torch.tensor([[4, 5, 6]]))
    assert torch.equal(hidden, model.get_input_embeddings()(torch.tensor([[4, 5, 6]])))
    assert [call.kwargs for call in calls] == [{"number": 0}, {"number": 1}, {"number": 2}]


@pytest.mark.parametrize("act", [lambda out: out[:, :1], lambda out: out + 1])
def test_models_that_do_not_hand_on_what_a_block_returns_are_refused(act):
    class Other(type(tiny_models.build().model)):
        def forward(self, input_ids, **kwargs):
            hidden = self.embed_tokens(input_ids)
            for layer in self.layers:
                hidden = act(layer(hidden))

    model = tiny_models.build()
    model.model.__class__ = Other
    with pytest.raises(
        UserError, match="unsupported architecture: Qwen2ForCausalLM does not run its decoder blocks in turn"
    ):
        load.check_weights(model)


def test_a_model_that_cannot_be_walked_is_one_line():
    class Other(type(tiny_models.build().model)):
        def forward(self, input_ids, **kwargs):
            raise IndexError("too many indices\nand a second line")

    model = tiny_models.build()
    model.model.__class__ = Other
    with pytest.raises(UserError, match=r"Qwen2ForCausalLM cannot be walked block by block \(too many indices\)$"):
        load.check_weights(model)


def test_layers_without_keys_and_values_are_refused():
    mamba = MambaForCausalLM(MambaConfig(num_hidden_layers=1, hidden_size=16, vocab_size=32, state_size=4))
    shape = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1}
    kinds = ["conv", "full_attention"]
    hybrid = Lfm2ForCausalLM(Lfm2Config(vocab_size=32, num_hidden_layers=2, layer_types=kinds, **shape))
    for model in (mamba, hybrid):
        with pytest.raises(UserError, match=f"{type(model).__name__} has .* layers, not attention alone"):
            load.check_weights(model)


def test_prunable_linears_leave_out_head_and_embeddings():
    model = tiny_models.build("qwen2", num_hidden_layers=2, tie_word_embeddings=True)
    names = blocks.model_linears(model)
    assert len(names) == 2 * 7
    assert "model.layers.1.self_attn.k_proj" in names
    per_block = 32 * 32 * 2 + 32 * 16 * 2 + 3 * 32 * 72
    assert blocks.prunable_parameters(model) == 2 * per_block


def fingerprint_in_whole_numbers(matrices: list[torch.Tensor]) -> str:
    """Of 1,024 rows at a time the sum of their bits, and the sum weighted by line and column, in 64 bits."""
    sums = []
    for matrix in matrices:
        for rows in matrix.split(1024):
            bits = rows.contiguous().view(torch.int16 if rows.element_size() == 2 else torch.int32).numpy()
            lines, columns = np.arange(1, len(bits) + 1)[:, None], np.arange(1, bits.shape[1] + 1)
            exact = bits.astype(np.int64)
            sums += [int(exact.sum()), int((exact * lines * columns).sum())]
    return content_hash(sums)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_fingerprint_is_of_each_matrix_bits_and_where_they_stand(monkeypatch, dtype):
    torch.manual_seed(0)
    linears = {str(shape): torch.nn.Linear(*shape, dtype=dtype) for shape in ((7, 3), (33, 1024), (5, 2050), (1, 1))}
    monkeypatch.setattr(load, "model_linears", lambda _: linears)
    before = load.weights_fingerprint(None)
    assert before == fingerprint_in_whole_numbers([linear.weight.data for linear in linears.values()])
    weight = linears["(5, 2050)"].weight.data
    weight[[0, 1]] = weight[[1, 0]]  # the same bits in other places
    assert load.weights_fingerprint(None) != before


def test_cells_share_a_tokenizer_and_changed_files_bring_another(model_folder, config_for, tmp_path):
    folder = shutil.copytree(model_folder, tmp_path / "model")
    first, again = (load_it(folder, config_for, tmp_path).tokenizer for _ in range(2))
    assert again is first
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text() + "{# changed #}")
    assert load_it(folder, config_for, tmp_path).tokenizer.chat_template.endswith("{# changed #}")
