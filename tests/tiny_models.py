"""Tiny randomly initialised models of real architectures, and a tokenizer to go with them."""

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    OPTConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from ssgr.models.load import LoadedModel

VOCABULARY = 96
ARCHITECTURES = {
    "qwen2": (Qwen2Config, {}),
    "llama": (LlamaConfig, {}),
    "qwen3": (Qwen3Config, {"head_dim": 16}),
    # a window shorter than the sequences, so that the model must build a mask
    "mistral": (MistralConfig, {"sliding_window": 5}),
    # its MLP sees rows and positions as one dimension
    "opt": (OPTConfig, {"ffn_dim": 72, "word_embed_proj_dim": 32, "init_std": 0.2}),
    "qwen2_window": (
        Qwen2Config,
        {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1},
    ),
}


def build(architecture: str = "qwen2", seed: int = 0, dtype: torch.dtype = torch.float32, **changes):
    config_class, extra = ARCHITECTURES[architecture]
    settings = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 72,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "initializer_range": 0.2,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    torch.manual_seed(seed)
    config = config_class(**(settings | extra | changes))
    # built in its dtype, because casting afterwards would round the rotary frequencies too
    return AutoModelForCausalLM.from_config(config, dtype=dtype).eval().requires_grad_(False)


def tokenizer() -> PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel({f"w{index}": index for index in range(VOCABULARY)}, unk_token="w3"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    made = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="w2", pad_token="w0")
    made.chat_template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    return made


def save(model, folder) -> None:
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)


def loaded(model) -> LoadedModel:
    device = next(model.parameters()).device
    return LoadedModel(model, tokenizer(), "tiny", "", "0", None, model.config.max_position_embeddings, device)


def sequences(count: int, longest: int = 24, seed: int = 0) -> list[np.ndarray]:
    """Random token ids of different lengths, between a third of `longest` and all of it."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(longest // 3, longest + 1, count)
    return [generator.integers(3, VOCABULARY, length).astype(np.int32) for length in lengths]
