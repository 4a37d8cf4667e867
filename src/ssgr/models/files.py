"""A model as files, a folder or one GGUF file: what can be checked, hashed and read before torch is loaded."""

import hashlib
import json
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from ssgr.cache import content_hash, write_json
from ssgr.cache import read_json as cache_json
from ssgr.config import ModelConfig
from ssgr.errors import UserError
from ssgr.models import gguf
from ssgr.models.gguf import is_gguf

BUNDLED_MODEL = Path(__file__).parent.parent / "bundled" / "model"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tekken.json", "vocab.json")
# everything that changes which tokens come out, besides the weights
IDENTITY_PATTERNS = (
    "*.safetensors",
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tekken.json",
    "*.jinja",
    "chat_template*",
    "*.py",
)
HUB_PATTERNS = (*IDENTITY_PATTERNS, "model.safetensors.index.json")
GGUF_IDENTITY = "model.gguf, unpacked 1"  # another number where the same file is unpacked to another model
EXPERT_MODELS = {  # mixtures of experts that can be pruned: model_type, and the class that holds a layer's experts
    "qwen2_moe": "Qwen2MoeExperts",
    "qwen3_moe": "Qwen3MoeExperts",
}
EXPERT_COUNTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")


def resolve_model_dir(config: ModelConfig) -> Path | None:
    """The local folder or GGUF file that the option names, or None where model.path is a hub id.

    It need not exist. A folder that holds one GGUF file and no other weights stands for that file.
    """
    if config.path is None:
        if config.name == "tiny_reasoner":
            return BUNDLED_MODEL
        raise UserError(f"model.path is missing: model={config.name} needs a local folder, a GGUF file or a hub id")
    return local_model(config.path)


def local_model(name: str) -> Path | None:
    """The same for a path as a user writes it."""
    path = Path(name).expanduser()
    if path.is_dir():
        return gguf.only_gguf(path) or path
    return path if is_gguf(path) or not HUB_ID.fullmatch(name) else None


def fetch_model_dir(config: ModelConfig) -> Path:
    """The local folder or GGUF file of the model; a hub id is downloaded (or found in the hub's cache) first.

    Raises UserError where the hub cannot be reached or knows no such model.
    """
    folder = resolve_model_dir(config)
    if folder is not None:
        return folder
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(config.path, revision=config.revision, allow_patterns=list(HUB_PATTERNS)))
    except Exception as error:  # the hub raises its own, requests' and httpx' errors
        raise UserError(
            f"model.path={config.path} is no local folder and could not be had from the hub ({type(error).__name__})"
        ) from error


def check_model_folder(config: ModelConfig) -> None:
    """Raises UserError (one line) where the files cannot be a usable model; a hub id passes unread."""
    folder = resolve_model_dir(config)
    if folder is not None:
        check_folder(folder)


def check_folder(folder: Path) -> None:
    """The checks of `check_model_folder` for a folder or GGUF file at hand."""
    if is_gguf(folder):
        gguf.check_gguf(folder)
        return
    if not folder.is_dir():
        raise UserError(f"model.path={folder}: no such folder, and not a hub id")
    packed = sorted(folder.glob("*.gguf"))
    if len(packed) > 1 and not any(folder.glob("*.safetensors")):
        raise UserError(f"model.path={folder}: holds {len(packed)} GGUF files: name one of them, {packed[0].name} …")
    if not (folder / "config.json").is_file():
        raise UserError(f"model.path={folder}: holds no config.json")
    architecture = read_json(folder / "config.json")
    refuse_experts(architecture, folder)
    refuse_packed(architecture, folder)
    context_length(folder)
    check_weight_files(folder)
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise UserError(f"model.path={folder}: holds no tokenizer (tokenizer.json or tokenizer.model)")
    if not has_chat_template(folder):
        raise UserError(f"model.path={folder}: its tokenizer has no chat template (chat_template.jinja)")


def refuse_experts(architecture: dict[str, Any], folder: Path) -> None:
    for section in (architecture, architecture.get("text_config") or {}):
        kind = section.get("model_type")
        for key in EXPERT_COUNTS:
            if (section.get(key) or 0) > 1 and kind not in EXPERT_MODELS:
                raise UserError(
                    f"model.path={folder}: mixture-of-experts models of type {kind} cannot be pruned ({key}="
                    f"{section[key]}): choices: {', '.join(EXPERT_MODELS)}"
                )


def refuse_packed(architecture: dict[str, Any], folder: Path) -> None:
    packed = architecture.get("quantization_config")
    if packed:
        kind = packed.get("quant_method", "quantised")
        raise UserError(f"model.path={folder}: its weights are packed ({kind}); save the model in bfloat16 first")


def check_weight_files(folder: Path) -> None:
    shards = sorted(folder.glob("*.safetensors"))
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards = [folder / name for name in sorted(set(read_json(index)["weight_map"].values()))]
    if not shards:
        raise UserError(f"model.path={folder}: holds no safetensors weights (pickled weights are not read)")
    for shard in shards:
        if not shard.is_file():
            raise UserError(f"model.path={folder}: {shard.name} is named in the index but missing")
        if not is_whole(shard):
            raise UserError(f"model.path={folder}: {shard.name} is broken or cut short")


def is_whole(shard: Path) -> bool:
    """Whether the header of a safetensors file can be read and its tensors fill the file."""
    size = shard.stat().st_size
    with open(shard, "rb") as file:
        header_size = int.from_bytes(file.read(8), "little")
        if not 0 < header_size <= size - 8:
            return False
        try:
            header = json.loads(file.read(header_size))
        except ValueError:
            return False
    header.pop("__metadata__", None)
    return bool(header) and 8 + header_size + max(entry["data_offsets"][1] for entry in header.values()) == size


def has_chat_template(folder: Path) -> bool:
    if is_gguf(folder):
        return gguf.has_chat_template(folder)
    if any(folder.glob("chat_template*")) or any(folder.glob("additional_chat_templates/*")):
        return True
    settings = folder / "tokenizer_config.json"
    return settings.is_file() and bool(read_json(settings).get("chat_template"))


def context_length(folder: Path) -> int:
    """The largest number of positions of the model in this folder or GGUF file, in tokens."""
    if is_gguf(folder):
        return gguf.context_length(folder)
    architecture = read_json(folder / "config.json")
    for section in (architecture, architecture.get("text_config") or {}):
        if section.get("max_position_embeddings"):
            return int(section["max_position_embeddings"])
    raise UserError(f"model.path={folder}: config.json says no max_position_embeddings")


def weights_hash(folder: Path, cache: Path) -> str:
    """A hash of the contents of the weights, configuration, tokenizer and chat template in `folder`, or of a GGUF file.

    Remembered below `cache` for as long as no file's name, size or time of change differs.
    """
    files = {path.name: path for pattern in IDENTITY_PATTERNS for path in folder.glob(pattern) if path.is_file()}
    if is_gguf(folder):
        files = {GGUF_IDENTITY: folder}  # under whichever name it lies
    stats = {name: [path.stat().st_size, path.stat().st_mtime_ns] for name, path in sorted(files.items())}
    memo = cache / "weights" / f"{content_hash(str(folder.resolve()))}.json"
    remembered = cache_json(memo) or {}
    if remembered.get("files") == stats and remembered.get("check") == content_hash([stats, remembered.get("hash")]):
        return remembered["hash"]
    digest = hashlib.sha256()
    for name in sorted(files):
        with open(files[name], "rb") as file:
            digest.update(f"{name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    value = digest.hexdigest()[:16]
    with suppress(OSError):  # a cache that cannot be written costs time, not the run
        check = content_hash([stats, value])
        write_json(memo, {"folder": str(folder.resolve()), "files": stats, "hash": value, "check": check})
    return value


def read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error})") from error
