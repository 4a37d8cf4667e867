"""A GGUF file before torch is loaded: its header, what can be checked of it, and what it says of its model.

The header is read here because the gguf package's own reader takes 13 s for a vocabulary of 152k tokens, and every
cell is checked. The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import mmap
import re
import struct
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import Any

from ssgr.errors import UserError

# Decoders whose every setting in the file is known to reach the unpacked model (tests/models/test_unpack.py).
ARCHITECTURES = ("llama", "qwen2", "qwen3")
# how text is cut before byte-level merges; under another name the ids would silently be others
LLAMA3_SPLITS = ("llama-bpe", "llama3", "llama-v3", "smaug-bpe")
SPLITS = ("qwen2", "deepseek-r1-qwen", *LLAMA3_SPLITS)
ROPE_SCALINGS = (None, "none", "linear", "yarn")
ROPE_FACTORS = "rope_freqs.weight"  # what Llama 3.1's scaling becomes: one divisor per rotary frequency
# A file names one end of a completion; chat models have others, which every runtime of GGUF knows by their text.
END_MARKS = {"<|im_end|>", "<|endoftext|>", "<|end_of_text|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "</s>"}
END_MARKS |= {"<｜end▁of▁sentence｜>"}
CONTROL, USER_DEFINED = 3, 4  # types of tokens that stand whole in a text: those that mean no text, and others
# The kind of tokenizer. The other common one, "llama", is ambiguous: no file says whether a space follows a special
# token, and versions of transformers differ in it.
BYTE_LEVEL = "gpt2"

SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
SHARD = re.compile(r"-\d{5}-of-\d{5}\.gguf", re.IGNORECASE)
BROKEN = (struct.error, ValueError, OverflowError, MemoryError, IndexError)


@dataclass(frozen=True)
class Tensor:
    """Where one tensor lies in the file: `offset` from the file's beginning, in bytes."""

    shape: tuple[int, ...]
    type: int
    offset: int

    @property
    def numbers(self) -> int:
        return prod(self.shape)


@dataclass(frozen=True)
class Header:
    """What stands in a GGUF file before its weights."""

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, Tensor]

    @property
    def architecture(self) -> str:
        return self.metadata.get("general.architecture", "")

    def of_model(self, key: str) -> Any:
        """What the file says of its own architecture under this key; None where it says nothing."""
        return self.metadata.get(f"{self.architecture}.{key}")

    def of_tokenizer(self, key: str) -> Any:
        return self.metadata.get(f"tokenizer.ggml.{key}")

    @property
    def end_ids(self) -> list[int]:
        """Every token that ends a completion."""
        declared = [self.of_tokenizer(f"{kind}_token_id") for kind in ("eos", "eot", "eom")]
        types = self.of_tokenizer("token_type") or []
        marks = [
            index
            for index, (token, type_) in enumerate(zip(self.of_tokenizer("tokens"), types, strict=False))
            if type_ == CONTROL and token in END_MARKS
        ]
        return sorted({token for token in declared if token is not None} | set(marks))


def is_gguf(path: Path) -> bool:
    """Whether the path is meant as a GGUF file, which need not exist."""
    return path.suffix.lower() == ".gguf" and not path.is_dir()


def only_gguf(folder: Path) -> Path | None:
    """The GGUF file of a folder that holds one, and no other weights."""
    found = [path for path in sorted(folder.glob("*.gguf")) if path.is_file()]
    return found[0] if len(found) == 1 and not any(folder.glob("*.safetensors")) else None


def check_gguf(path: Path) -> None:
    """Raises UserError (one line) where the file cannot be unpacked to a usable model."""
    header = read_header(path)
    if SHARD.search(path.name) or (header.metadata.get("split.count") or 0) > 1:
        raise refusal(path, "is one part of several: put them together first (llama-gguf-split --merge)")
    if (header.of_model("expert_count") or 0) > 1:
        raise refusal(
            path, f"mixture-of-experts models cannot be pruned yet (expert_count={header.of_model('expert_count')})"
        )
    if header.architecture not in ARCHITECTURES:
        raise refusal(
            path, f"architecture {header.architecture!r} cannot be unpacked: choices: {', '.join(ARCHITECTURES)}"
        )
    context_length(path)
    check_rope(header)
    check_tokenizer(header)
    check_whole(header)


def check_rope(header: Header) -> None:
    scaling = header.of_model("rope.scaling.type")
    long = [name for name in header.tensors if name.startswith("rope_") and name != ROPE_FACTORS]
    if scaling not in ROPE_SCALINGS or long:
        raise refusal(header.path, f"its rope scaling ({scaling or long[0]}) cannot be unpacked")


def check_tokenizer(header: Header) -> None:
    kind, split = header.of_tokenizer("model"), header.of_tokenizer("pre")
    if not header.of_tokenizer("tokens"):
        raise refusal(header.path, "holds no tokenizer (tokenizer.ggml.tokens)")
    if kind != BYTE_LEVEL or split not in SPLITS:
        choices = f"{BYTE_LEVEL} with {', '.join(SPLITS)}"
        raise refusal(header.path, f"its tokenizer ({kind}, {split}) cannot be read: choices: {choices}")
    if header.of_tokenizer("eos_token_id") is None:
        raise refusal(header.path, "names no end-of-sequence token (tokenizer.ggml.eos_token_id)")
    if not has_chat_template(header.path):
        raise refusal(header.path, "its tokenizer has no chat template (tokenizer.chat_template)")


def check_whole(header: Header) -> None:
    """UserError where a tensor's bytes lie beyond the end of the file, or nothing knows how they are packed."""
    try:
        from gguf import GGML_QUANT_SIZES
    except ImportError as error:
        raise refusal(header.path, "needs the package gguf (pip install 'ssgr[gguf]')") from error
    sizes = {int(type_): size for type_, size in GGML_QUANT_SIZES.items()}
    end = header.path.stat().st_size
    for name, tensor in header.tensors.items():
        if tensor.type not in sizes:
            raise refusal(header.path, f"{name} is packed in a way that the gguf package does not know ({tensor.type})")
        block, size = sizes[tensor.type]
        if tensor.offset + tensor.numbers // block * size > end:
            raise refusal(header.path, f"is broken or cut short (it ends before {name})")


def has_chat_template(path: Path) -> bool:
    return bool(read_header(path).metadata.get("tokenizer.chat_template"))


def context_length(path: Path) -> int:
    """The largest number of positions of the model in this file, in tokens."""
    length = read_header(path).of_model("context_length")
    if not length:
        raise refusal(path, "its metadata says no context_length")
    return int(length)


def refusal(path: Path, reason: str) -> UserError:
    return UserError(f"model.path={path}: {reason}")


def read_header(path: Path) -> Header:
    """The file's header; raises UserError where there is no such file or it is no GGUF file that can be read."""
    try:
        stat = path.stat()
    except OSError as error:
        raise refusal(path, "no such file") from error
    return _read_header(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=4)  # a study's cells are all checked
def _read_header(path: Path, size: int, changed: int) -> Header:
    if size < 24:
        raise refusal(path, "is no GGUF file")
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if content[:4] != b"GGUF":
            raise refusal(path, "is no GGUF file")
        version = int.from_bytes(content[4:8], "little")
        if version not in (2, 3):
            raise refusal(path, f"is GGUF of version {version}: versions 2 and 3 can be read")
        try:
            return _parse(path, content)
        except BROKEN as error:
            raise refusal(path, "is broken or cut short (its header cannot be read)") from error


def _parse(path: Path, content: mmap.mmap) -> Header:
    reading = _Reading(content, 8)
    tensor_count, value_count = reading.numbers("QQ")
    metadata = {}
    for _ in range(value_count):
        key = reading.string()
        metadata[key] = reading.value(*reading.numbers("I"))
    entries = {}
    for _ in range(tensor_count):
        name = reading.string()
        (dimensions,) = reading.numbers("I")
        shape = reading.numbers(f"{dimensions}Q")
        entries[name] = (tuple(reversed(shape)), *reading.numbers("IQ"))
    alignment = metadata.get("general.alignment", 32)
    start = -(-reading.position // alignment) * alignment
    tensors = {name: Tensor(shape, type_, start + offset) for name, (shape, type_, offset) in entries.items()}
    return Header(path, metadata, tensors)


class _Reading:
    """A position in the file that moves on with all that is read; struct.error beyond the end."""

    def __init__(self, content: mmap.mmap, position: int):
        self.content, self.position = content, position

    def numbers(self, kinds: str) -> tuple[Any, ...]:
        found = struct.unpack_from(f"<{kinds}", self.content, self.position)
        self.position += struct.calcsize(f"<{kinds}")
        return found

    def string(self) -> str:
        (length,) = self.numbers("Q")
        end = self.position + length
        if end > len(self.content):
            raise ValueError("a string that reaches beyond the end")
        found = self.content[self.position : end].decode("utf-8", errors="replace")
        self.position = end
        return found

    def value(self, kind: int) -> Any:
        if kind == STRING:
            return self.string()
        if kind == ARRAY:
            element, count = self.numbers("IQ")
            if element in SCALARS:
                return list(self.numbers(f"{count}{SCALARS[element]}"))
            return [self.value(element) for _ in range(count)]
        if kind not in SCALARS:
            raise ValueError(f"a value of type {kind}")
        return self.numbers(SCALARS[kind])[0]
