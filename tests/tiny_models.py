"""Tiny randomly initialised models of real architectures, and a tokenizer to go with them."""

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    LlamaConfig,
    MistralConfig,
    OPTConfig,
    Phi3Config,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2MoeConfig,
    Qwen3Config,
    Qwen3MoeConfig,
)

from ssgr.models.load import LoadedModel

VOCABULARY = 96
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
GEMMA = {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 5}
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
    "phi3": (Phi3Config, {}),  # q, k and v are one linear, gate and up another
    "gemma": (GemmaConfig, {"head_dim": 16}),
    "gemma2": (Gemma2Config, GEMMA | {"final_logit_softcapping": None}),  # the head's logits are the model's
    "gemma3": (Gemma3TextConfig, GEMMA | {"sliding_window_pattern": 2}),
    "qwen3_moe": (Qwen3MoeConfig, EXPERTS | {"head_dim": 16, "mlp_only_layers": [1]}),
    "qwen2_moe": (Qwen2MoeConfig, EXPERTS | {"shared_expert_intermediate_size": 40}),
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
    model = AutoModelForCausalLM.from_config(config, dtype=dtype).eval().requires_grad_(False)
    if architecture.endswith("_moe") and dtype == torch.float64:
        model.set_experts_implementation("eager")  # the usual one has no fp64
    return model


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
