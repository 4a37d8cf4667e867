"""Perplexity of a text, token by token, as papers on pruning report it for WikiText-2."""

import time
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from ssgr.config import HubDataset, PerplexityConfig
from ssgr.data_files import data_files, is_text, read_rows, read_text
from ssgr.errors import UserError
from ssgr.evaluation.scoring import score
from ssgr.hub_data import download_hub, hub_contents, placed

if TYPE_CHECKING:
    from ssgr.models.load import LoadedModel


def perplexity(loaded: "LoadedModel", config: PerplexityConfig, limit: int | None = None) -> dict[str, float]:
    """exp(mean negative log-likelihood) of the text's tokens under the model as it stands: "<name>/perplexity".

    The text is cut into windows of max_seq_len tokens that do not overlap; each window's first token is context only,
    and what is left over at the end is not counted, as published figures have it. The first `limit` windows count
    (None: all). Raises UserError where the text cannot be had or holds fewer than two tokens.
    """
    windows = text_windows(loaded, config)[:limit]
    started = time.monotonic()
    scores = score(loaded.model, [(ids[:1], ids[1:]) for ids in windows], "perplexity")
    tokens = sum(len(ids) - 1 for ids in windows)
    nll = -float(scores.log_likelihoods.sum()) / tokens
    values = {"perplexity": float(np.exp(nll)), "problems": len(windows), "seconds": time.monotonic() - started}
    return {f"{config.name}/{name}": value for name, value in values.items()}


def text_windows(loaded: "LoadedModel", config: PerplexityConfig) -> list[np.ndarray]:
    """int64 token ids, max_seq_len of them in each window; one shorter window where the text holds no more."""
    # in one piece, and with the BOS of tokenizers that put one before a text
    ids = np.asarray(loaded.tokenizer(whole_text(config), verbose=False)["input_ids"], np.int64)
    if len(ids) < 2:
        raise UserError(f"evaluation.path={config.path}: the text holds {len(ids)} tokens, perplexity needs at least 2")
    size = min(config.max_seq_len, len(ids))
    return [ids[start : start + size] for start in range(0, len(ids) - size + 1, size)]


def whole_text(config: PerplexityConfig) -> str:
    """The local files as they are, else the hub's rows with an empty line between them."""
    if config.path is None:
        return _hub_text(config.text_field, *hub_contents(config.dataset))
    parts = []
    for file in data_files(config.path, "evaluation.path"):
        if is_text(file):
            parts.append(read_text(file))
        else:
            parts += [_text_of(row, config.text_field, place) for place, row in read_rows(file)]
    return "\n\n".join(parts)


@lru_cache(maxsize=1)  # each cell of a study asks for it
def _hub_text(text_field: str, *contents: str | None) -> str:
    dataset = HubDataset(*contents)
    rows = download_hub(dataset, "evaluation.dataset", "evaluation.path=FILE.txt")
    return "\n\n".join(_text_of(row, text_field, place) for place, row in placed(dataset, rows))


def _text_of(row: dict, field: str, place: str) -> str:
    if not isinstance(row.get(field), str):
        raise UserError(f"{place}: no text in {field!r} (evaluation.text_field); it has {', '.join(sorted(row))}")
    return row[field]
