"""A GGUF file as a plain bfloat16 model folder, made once and kept in the cache."""

import io
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from ssgr import cache
from ssgr.errors import UserError, first_line
from ssgr.models.files import check_folder
from ssgr.models.gguf import ROPE_FACTORS, Header, read_header, refusal
from ssgr.models.gguf_tokenizer import gguf_tokenizer
from ssgr.models.save import write_model
from ssgr.progress import console, say

LLAMA3_SCALING = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
READING = (OSError, ValueError, RuntimeError, KeyError, ImportError, NotImplementedError)


def unpacked(path: Path, folder: Path) -> Path:
    """`folder`, which holds the model of the GGUF file as transformers and vLLM read it.

    It is written whole or not at all, by one process where several ask. Raises UserError where the file does not
    hold what its architecture needs.
    """
    with cache.locked(folder.with_suffix(".lock")):
        for leftover in folder.parent.glob(f".{folder.name}.*.partial"):  # of processes that were killed
            shutil.rmtree(leftover, ignore_errors=True)
        with suppress(UserError):
            check_folder(folder)
            return folder
        header = read_header(path)
        numbers = sum(tensor.numbers for tensor in header.tensors.values())
        say(f"unpacking {path.name} to bfloat16, once: {2 * numbers / 1e9:.1f} GB in {folder}")
        write_model(gguf_model(header), gguf_tokenizer(path), folder)
    return folder


def gguf_model(header: Header) -> PreTrainedModel:
    """The model of the file, dequantised to bfloat16. Raises UserError where it is not read as a whole."""
    source = {"pretrained_model_name_or_path": header.path.parent, "gguf_file": header.path.name}
    try:
        with quiet():
            config = gguf_config(header, AutoConfig.from_pretrained(**source))
            model, loading = AutoModelForCausalLM.from_pretrained(
                **source,
                config=config,
                dtype=torch.bfloat16,
                output_loading_info=True,
                **dequantised(),
            )
    except READING as error:
        raise refusal(header.path, f"cannot be unpacked ({first_line(error)})") from error
    missing = sorted(loading["missing_keys"])
    if missing:  # transformers would only warn and go on with random numbers
        raise refusal(header.path, f"the weights lack {missing[0]} ({len(missing)} tensors are missing)")
    # What it has no place for transformers drops without a word.
    held = sum(tensor.numbers for name, tensor in header.tensors.items() if name != ROPE_FACTORS)
    read = sum(parameter.numel() for parameter in model.parameters())
    if held != read:
        raise refusal(header.path, f"holds {held:,} weights, but {type(model).__name__} of its metadata has {read:,}")
    special = {f"{name}_token_id": getattr(config, f"{name}_token_id") for name in ("bos", "pad")}
    model.generation_config = GenerationConfig(eos_token_id=header.end_ids, **special)
    return model


def dequantised() -> dict[str, Any]:
    """What keeps transformers from leaving the weights packed, which cannot be pruned; before 5.17 it never did."""
    try:
        from transformers import GgufConfig
    except ImportError:
        return {}
    return {"quantization_config": GgufConfig(dequantize=True)}


def gguf_config(header: Header, config: PreTrainedConfig) -> PreTrainedConfig:
    """What transformers read from the file's metadata, with what it leaves out: head size, rope scaling, no ids."""
    head_size = header.of_model("attention.key_length")
    if head_size and hasattr(config, "head_dim"):
        config.head_dim = head_size
    for name, key in (("bos", "bos"), ("eos", "eos"), ("pad", "padding")):
        setattr(config, f"{name}_token_id", header.of_tokenizer(f"{key}_token_id"))  # a class has defaults of its own
    config.rope_parameters = {**config.rope_parameters, **rope_scaling(header, config)}
    return config


def rope_scaling(header: Header, config: PreTrainedConfig) -> dict[str, Any]:
    """The entries of config.rope_parameters that say how the file scales its rotary frequencies."""
    if ROPE_FACTORS in header.tensors:
        return llama3_scaling(header, config)
    kind = header.of_model("rope.scaling.type")
    if kind in (None, "none"):
        return {}
    scaling = {"rope_type": kind, "factor": header.of_model("rope.scaling.factor")}
    if kind == "yarn":
        scaling["original_max_position_embeddings"] = header.of_model("rope.scaling.original_context_length")
    if None in scaling.values():
        raise refusal(header.path, f"its rope scaling ({kind}) lacks a number")
    return scaling


def llama3_scaling(header: Header, config: PreTrainedConfig) -> dict[str, Any]:
    """The one of Llama 3.1 to 3.3 that gives the file's divisors; UserError where none does."""
    tensor = header.tensors[ROPE_FACTORS]
    divisors = torch.from_numpy(np.fromfile(header.path, np.float32, tensor.numbers, offset=tensor.offset))
    scaling = {"rope_type": "llama3", "factor": float(divisors.max()), **LLAMA3_SCALING}
    plain, scaled = (
        ROPE_INIT_FUNCTIONS["llama3"](with_rope(config, scaling | {"factor": factor}), "cpu")[0]
        for factor in (1.0, scaling["factor"])
    )
    if not torch.allclose(plain / scaled, divisors, rtol=1e-4):
        raise refusal(header.path, f"its rope scaling ({ROPE_FACTORS}) is none that Llama 3 models have")
    return scaling


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' own bars where nobody watches them."""
    with nullcontext() if console.is_terminal else redirect_stderr(io.StringIO()):
        yield


def with_rope(config: PreTrainedConfig, scaling: dict[str, Any]) -> PreTrainedConfig:
    return type(config)(**config.to_dict() | {"rope_parameters": {**config.rope_parameters, **scaling}})
