"""The tokenizer that a GGUF file's metadata describes, which need not be unpacked for it."""

from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ssgr.errors import first_line
from ssgr.models.gguf import (
    CONTROL,
    LLAMA3_SPLITS,
    USER_DEFINED,
    Header,
    check_tokenizer,
    read_header,
    refusal,
)

# Contractions, words, numbers, signs, line ends, spaces; Llama 3 takes up to three digits as one number, Qwen2 one.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{number}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPECIAL = {"bos_token": "bos", "eos_token": "eos", "pad_token": "padding", "unk_token": "unknown"}


def gguf_tokenizer(path: Path) -> PreTrainedTokenizerBase:
    """The tokenizer and chat template in the file. Raises UserError where it cannot be made."""
    header = read_header(path)
    check_tokenizer(header)
    try:
        return _make(header)
    except Exception as error:  # tokenizers raises bare Exception
        raise refusal(path, f"the tokenizer cannot be loaded ({first_line(error)})") from error


def _make(header: Header) -> PreTrainedTokenizerBase:
    begins = header.of_tokenizer("add_bos_token")
    if begins is None:  # what llama.cpp takes for granted
        begins = header.of_tokenizer("pre") in LLAMA3_SPLITS
    options: dict[str, Any] = {"add_bos_token": begins, "chat_template": header.metadata["tokenizer.chat_template"]}
    for name, key in SPECIAL.items():
        index = header.of_tokenizer(f"{key}_token_id")
        options[name] = None if index is None else header.of_tokenizer("tokens")[index]
    return PreTrainedTokenizerFast(tokenizer_object=byte_level(header), **options)


def byte_level(header: Header) -> Tokenizer:
    """Byte-level BPE with the file's own ids.

    Made here because transformers spells every token in the byte alphabet, loses those that are not written in it,
    DeepSeek's <｜begin▁of▁sentence｜> among them, and appends them anew behind the embedding's last row.
    """
    tokens, split = header.of_tokenizer("tokens"), header.of_tokenizer("pre")
    vocabulary = {token: index for index, token in enumerate(tokens)}
    merges = [tuple(merge.split(" ", 1)) for merge in header.of_tokenizer("merges")]
    made = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=split in LLAMA3_SPLITS))
    cut = SPLIT.format(number=r"\p{N}{1,3}" if split in LLAMA3_SPLITS else r"\p{N}")
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(cut), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    made.decoder = decoders.ByteLevel()
    if split == "qwen2":
        made.normalizer = normalizers.NFC()
    added = [
        AddedToken(token, normalized=False, special=kind == CONTROL)
        for token, kind in zip(tokens, header.of_tokenizer("token_type"), strict=True)
        if kind in (CONTROL, USER_DEFINED)
    ]
    made.add_tokens(added)
    return made
