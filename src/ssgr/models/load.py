"""Loading a model for pruning and evaluation."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging as transformers_logging

from ssgr import cache
from ssgr.config import ModelConfig
from ssgr.errors import UserError, first_line
from ssgr.models.blocks import capture, model_linears
from ssgr.models.files import check_folder, context_length, fetch_model_dir, is_gguf, resolve_model_dir, weights_hash
from ssgr.models.fingerprint import fingerprint
from ssgr.models.gguf_tokenizer import gguf_tokenizer
from ssgr.models.offload import offload_blocks
from ssgr.models.precision import cast_parameters, is_slow
from ssgr.models.unpack import unpacked

# A bar for something that takes less than a second, and a warning about tokenizers that we check ourselves.
transformers_logging.disable_progress_bar()
transformers_logging.set_verbosity_error()

ATTENTION = {"full_attention", "sliding_attention", "chunked_attention"}  # layers that keep keys and values
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


@dataclass
class LoadedModel:
    """A causal language model in eval mode, without gradients, and what belongs to it.

    `model` computes in its own dtype, which on a processor that is slow in `dtype` is float32; every weight is a number
    of `dtype` all the same, before pruning and after it.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str
    path: str
    weights_hash: str
    think_end: str | None  # the tag that ends the reasoning; None for models that reason in plain text
    context: int  # largest number of positions, in tokens
    device: torch.device
    folder: Path | None = None  # where its files lie; of a GGUF file, what it was unpacked to
    revision: str | None = None  # of a hub id: the commit that was loaded
    trust_remote_code: bool = False
    rounded_to: torch.dtype | None = None  # where the model computes in another dtype than its weights have

    @property
    def dtype(self) -> torch.dtype:
        """What the weights are rounded to, saved in and known by."""
        return self.rounded_to or self.model.dtype


def load_model(config: ModelConfig, device: torch.device, cache_folder: Path | None = None) -> LoadedModel:
    """The model that the option names on `device`; only safetensors and GGUF weights are read.

    `cache_folder` is where the hash of the weights is remembered and a GGUF file is unpacked to (default: the
    program's cache). Raises UserError for files, weights and architectures that cannot be used.
    """
    if config.dtype not in DTYPES:
        raise UserError(f"model.dtype={config.dtype}: choices: {', '.join(DTYPES)}")
    device, cache_folder = torch.device(device), cache_folder or cache.cache_root(None)
    named = fetch_model_dir(config)
    check_folder(named)
    identity = weights_hash(named, cache_folder)
    folder = unpacked(named, cache_folder / "models" / identity) if is_gguf(named) else named
    tokenizer = known_tokenizer(str(folder), identity, config.trust_remote_code)
    model = read_model(folder, config).eval().requires_grad_(False)
    if config.offload and device.type != "cpu":  # on a CPU all of it is in host memory anyway
        offload_blocks(model, device)
    else:
        model.to(device)
    check_weights(model)
    if slow := device.type == "cpu" and is_slow(model.dtype):
        cast_parameters(model, torch.float32)
    return LoadedModel(
        model=model,
        tokenizer=tokenizer,
        name=config.name,
        path=config.path or "bundled",
        weights_hash=identity,
        think_end=config.think_end,
        context=context_length(folder),
        device=device,
        folder=folder,
        revision=loaded_revision(config, named),
        trust_remote_code=config.trust_remote_code,
        rounded_to=DTYPES[config.dtype] if slow else None,
    )


def loaded_revision(config: ModelConfig, folder: Path) -> str | None:
    """The commit of a model from the hub, whose cache keeps each in a folder of its name; else what the option says."""
    return folder.name if resolve_model_dir(config) is None and folder.parent.name == "snapshots" else config.revision


@lru_cache(maxsize=2)
def known_tokenizer(folder: str, weights_hash: str, trust_remote_code: bool) -> PreTrainedTokenizerBase:
    """The tokenizer that every cell of a process with this model shares: reading 150,000 tokens takes seconds.

    `weights_hash` is of all the folder's files, so that a folder with other contents is read anew.
    """
    return read_tokenizer(Path(folder), trust_remote_code)


def read_tokenizer(folder: Path, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder or a GGUF file, which need not be unpacked for it."""
    if is_gguf(folder):
        return gguf_tokenizer(folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
        if not follows_file(tokenizer, folder / "tokenizer.json"):
            tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    except Exception as error:  # tokenizers raises bare Exception
        raise UserError(f"model.path={folder}: the tokenizer cannot be loaded ({first_line(error)})") from error
    if not tokenizer.chat_template:
        raise UserError(f"model.path={folder}: its tokenizer has no chat template (chat_template.jinja)")
    return tokenizer


def follows_file(tokenizer: PreTrainedTokenizerBase, path: Path) -> bool:
    """Whether the tokenizer does what its tokenizer.json says.

    transformers picks the class by the model's architecture, and such a class may add tokens of its own (beyond the
    embedding's rows) or put another normaliser or pre-tokeniser in the place of the file's.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or not path.is_file():
        return True
    file = Tokenizer.from_file(str(path))
    same = all(str(getattr(backend, part)) == str(getattr(file, part)) for part in ("normalizer", "pre_tokenizer"))
    return same and len(tokenizer) == file.get_vocab_size()


def read_model(folder: Path, config: ModelConfig) -> PreTrainedModel:
    try:
        model, loading = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=DTYPES[config.dtype],
            use_safetensors=True,
            trust_remote_code=config.trust_remote_code,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, KeyError, ImportError) as error:
        raise UserError(f"model.path={folder}: the model cannot be loaded ({first_line(error)})") from error
    missing = sorted(loading["missing_keys"])
    if missing:  # transformers would only warn and go on with random numbers
        raise UserError(f"model.path={folder}: the weights lack {missing[0]} ({len(missing)} tensors are missing)")
    return model


def check_weights(model: PreTrainedModel) -> None:
    """Raises UserError for architectures that cannot be pruned and for NaN or infinite weights, naming the linear."""
    refuse_states(model)
    model_linears(model)
    check_walk(model)
    for name, parameter in model.named_parameters():
        low, high = torch.aminmax(parameter)
        if not (torch.isfinite(low) and torch.isfinite(high)):
            raise UserError(f"{name.removesuffix('.weight')} holds NaN or infinite weights: the model is broken")


def refuse_states(model: PreTrainedModel) -> None:
    """UserError for recurrent and convolutional layers: only keys and values are carried from token to token."""
    other = sorted(set(getattr(model.config.get_text_config(), "layer_types", None) or ()) - ATTENTION)
    if other or getattr(model, "_is_stateful", False):
        what = other[0] if other else "recurrent"
        raise UserError(f"unsupported architecture: {type(model).__name__} has {what} layers, not attention alone")


def check_walk(model: PreTrainedModel) -> None:
    """UserError for a model whose blocks cannot be run one by one: tried on two tokens, before hours of rollouts."""
    try:
        capture(model, torch.zeros((1, 2), dtype=torch.long, device=model.get_input_embeddings().weight.device))
    except UserError:
        raise
    except Exception as error:  # of code that is not ours
        raise UserError(
            f"unsupported architecture: {type(model).__name__} cannot be walked block by block ({first_line(error)})"
        ) from error


def weights_fingerprint(model: PreTrainedModel) -> str:
    """A hash of the prunable weights as they stand."""
    return fingerprint(linear.weight.data for linear in model_linears(model).values())
