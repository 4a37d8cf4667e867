"""Which stores there are, how a user names one, and the tokenizer of its traces."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssgr.errors import UserError, first_line
from ssgr.models.files import BUNDLED_MODEL, TOKENIZER_FILES, is_gguf, local_model, weights_hash
from ssgr.traces.rollouts import BUNDLED, BUNDLED_NAME
from ssgr.traces.store import StoreView, TraceStore

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def stores_of(cache: Path) -> list[Path]:
    """The folders of every store in the cache, by their keys."""
    return sorted(path.parent for path in (cache / "traces").glob("*/manifest.json"))


def find_store(name: str, cache: Path) -> Path:
    """The folder of the store that is meant: `bundled`, a folder, or the beginning of a key of the cache.

    Raises UserError where there is none, or more than one.
    """
    if name == BUNDLED_NAME:
        return BUNDLED
    folder = Path(name).expanduser()
    if (folder / "manifest.json").is_file():
        return folder
    found = [store for store in stores_of(cache) if store.name.startswith(name)]
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(f"STORE {name}: begins {len(found)} keys: {', '.join(store.name for store in found)}")
    raise UserError(f"STORE {name}: no folder of a store, and no key in {cache / 'traces'} begins so (see list)")


def lock_of(folder: Path) -> Path:
    """The file that whoever writes to this store locks."""
    folder = folder.absolute()
    return folder.with_name(f"{folder.name}.lock")


def whole_view(store: TraceStore, split: bool = False) -> StoreView:
    """All problems of the store with every rollout that any of them has."""
    k = int(store.index["rollout"].max()) + 1 if len(store.index) else 1
    return store.view(store.problems, k, split)


def find_tokenizer(manifest: dict[str, Any], asked: Path | None, cache: Path) -> "PreTrainedTokenizerBase":
    """The tokenizer that was asked for, else that of the model which the store's manifest names.

    Raises UserError, which names --tokenizer, where there is none.
    """
    if asked is not None:
        return _read_tokenizer(local_model(str(asked)) or Path(asked))
    path = manifest.get("path")
    weights = manifest.get("weights")
    if path == BUNDLED_NAME or (path is None and weights and weights == weights_hash(BUNDLED_MODEL, cache)):
        return _read_tokenizer(BUNDLED_MODEL)
    if path is None:
        raise UserError("this store does not say where its model lies: name its tokenizer's folder by --tokenizer")
    if folder := local_model(path):
        return _read_tokenizer(folder)
    return _fetch_tokenizer(path, manifest.get("revision"))


def _read_tokenizer(folder: Path) -> "PreTrainedTokenizerBase":
    if not is_gguf(folder) and not any((folder / name).is_file() for name in TOKENIZER_FILES):
        what = "holds no tokenizer" if folder.is_dir() else "no such folder"
        raise UserError(f"--tokenizer {folder}: {what}; it must be a folder with tokenizer.json or a GGUF file")
    from ssgr.models.load import read_tokenizer

    try:
        return read_tokenizer(folder)
    except UserError as error:
        raise UserError(f"--tokenizer {folder}: {str(error).partition(': ')[2]}") from error


def _fetch_tokenizer(hub_id: str, revision: str | None) -> "PreTrainedTokenizerBase":
    from huggingface_hub import snapshot_download

    names = ["tokenizer*", "*.jinja", "chat_template*", "special_tokens_map.json", "added_tokens.json", "config.json"]
    names += ["vocab.json", "merges.txt", "tekken.json"]
    try:
        folder = snapshot_download(hub_id, revision=revision, allow_patterns=names)
    except Exception as error:  # the hub raises its own, requests' and httpx' errors
        reason = f"could not be had from the hub ({type(error).__name__}: {first_line(error)[:80]})"
        raise UserError(f"the tokenizer of {hub_id} {reason}: name its folder by --tokenizer") from error
    return _read_tokenizer(Path(folder))
