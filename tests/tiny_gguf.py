"""GGUF files of tiny models, written as llama.cpp's converter lays them out."""

import json
from pathlib import Path

import numpy as np
import torch
from gguf import MODEL_ARCH_NAMES, GGMLQuantizationType, GGUFWriter, get_tensor_name_map, quants
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

TEXT = [f"Ann has {n} apples and buys {n + 1} more. How many are left? She has {2 * n + 1}." for n in range(60)]
QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHAT = "{% for message in messages %}<|im_start|>user\n{{ message.content }}<|im_end|>\n{% endfor %}<|im_start|>it\n"
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5


def tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE, cut as Qwen2 cuts text, with two special tokens, another end and tags that are plain text."""
    trained = Tokenizer(models.BPE())
    cut = pre_tokenizers.Split(Regex(QWEN2_SPLIT), behavior="isolated")
    trained.pre_tokenizer = pre_tokenizers.Sequence([cut, pre_tokenizers.ByteLevel(False, use_regex=False)])
    trained.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=350, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    trained.train_from_iterator(TEXT, trainer)
    trained.add_tokens(["<think>", "</think>"])
    made = PreTrainedTokenizerFast(tokenizer_object=trained, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    made.chat_template = CHAT
    return made


def write(path: Path, model, tokens=None, packed: str = "F32", leave_out=(), **changes) -> Path:
    """The model and tokenizer as one GGUF file; `changes` are further metadata, a None takes a key away."""
    config, architecture = model.config, model.config.model_type
    writer = GGUFWriter(path, architecture)
    values = {
        "context_length": config.max_position_embeddings,
        "block_count": config.num_hidden_layers,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "rope.freq_base": config.rope_parameters["rope_theta"],
    }
    head_size = getattr(config, "head_dim", None)
    if head_size:
        values |= {
            "attention.key_length": head_size,
            "rope.dimension_count": head_size,
            "vocab_size": config.vocab_size,
        }
    values = {f"{architecture}.{key}": value for key, value in values.items()}
    values |= tokenizer_values(tokens or tokenizer(), config.vocab_size)
    for key, value in {**values, **changes}.items():
        if value is not None:
            add(writer, key, value)
    for name, tensor in tensors(model, architecture):
        if name in leave_out:
            continue
        kind = GGMLQuantizationType[packed if tensor.ndim > 1 else "F32"]
        writer.add_tensor(name, quants.quantize(tensor, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add(writer: GGUFWriter, key: str, value) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)


def tokenizer_values(tokens: PreTrainedTokenizerFast, rows: int) -> dict:
    """Metadata of a byte-level tokenizer, filled up to the embedding's rows as the converter does."""
    model = json.loads(tokens.backend_tokenizer.to_str())["model"]
    texts = [f"[PAD{index}]" for index in range(rows)]
    types = [UNUSED] * rows
    for text, index in tokens.get_vocab().items():
        texts[index], types[index] = text, NORMAL
    for index, token in tokens.added_tokens_decoder.items():
        types[index] = CONTROL if token.special else USER_DEFINED
    found = {
        "model": "gpt2",
        "pre": "qwen2",
        "tokens": texts,
        "token_type": types,
        "merges": [" ".join(pair) for pair in model["merges"]],
        "eos_token_id": tokens.eos_token_id,
        "padding_token_id": tokens.pad_token_id,
        "bos_token_id": tokens.bos_token_id,
        "add_bos_token": False,
    }
    return {f"tokenizer.ggml.{key}": value for key, value in found.items()} | {
        "tokenizer.chat_template": tokens.chat_template
    }


def tensors(model, architecture: str):
    """Name and fp32 values of every tensor; Llama's queries and keys with the halves of each head interleaved."""
    (kind,) = (kind for kind, name in MODEL_ARCH_NAMES.items() if name == architecture)
    names, config = get_tensor_name_map(kind, model.config.num_hidden_layers), model.config
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        stem, _, suffix = name.rpartition(".")
        values = weight.float().numpy()
        count = heads.get(stem.rpartition(".")[2])
        if architecture == "llama" and count:
            values = values.reshape(count, 2, -1, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)
        yield f"{names.get_name(stem)}.{suffix}", np.ascontiguousarray(values)
    if config.rope_parameters["rope_type"] == "llama3":
        yield "rope_freqs.weight", llama3_divisors(config)


def llama3_divisors(config) -> np.ndarray:
    """By which Llama 3.1 divides each rotary frequency, from its published description."""
    rope = config.rope_parameters
    half = torch.arange(0, config.head_dim, 2).float() / config.head_dim
    length = 2 * np.pi * rope["rope_theta"] ** half
    original = rope["original_max_position_embeddings"]
    share = (original / length - rope["low_freq_factor"]) / (rope["high_freq_factor"] - rope["low_freq_factor"])
    share = share.clamp(0, 1)
    return (1 / ((1 - share) / rope["factor"] + share)).numpy().astype(np.float32)
