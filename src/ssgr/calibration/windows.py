"""Text as windows of max_seq_len tokens: of one long text, or of many documents joined."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from ssgr.cache import cached_array, content_hash
from ssgr.calibration import CalibrationRequest, CalibrationSet
from ssgr.calibration.budget import Budget, packed_set
from ssgr.progress import say
from ssgr.traces.store import row_seed

MORE_FILES = "more files in calibration.data_files"
LONG_TEXT = 4_000_000  # characters that take some seconds to tokenise


def text_windows(
    request: CalibrationRequest, text: Callable[[], str], contents: list[Any], what: str, more: str
) -> CalibrationSet:
    """Windows of one text, one after another from a seeded start and round the end, none twice.

    `contents` name the text in the cache, where its tokens are kept. `what` and `more` are packed_set's.
    """
    config = request.config
    tokens = cached_array(
        request.cache / "text" / content_hash([request.weights_hash, *contents]),
        lambda: tokenised(request, text()),
    )
    start = row_seed(request.seed, config.name) % max(len(tokens), 1)
    return windows_set(request, [np.roll(tokens, -start)], what, more)


def document_windows(request: CalibrationRequest, documents: Iterable[str], what: str, more: str) -> CalibrationSet:
    """Windows of all documents joined in their order, each ended as the tokenizer says, if it does."""
    end = request.template.tokenizer.eos_token_id
    ends = [] if end is None else [end]
    ids = (np.asarray([*text_ids(request, document), *ends], np.int32) for document in documents)
    return windows_set(request, ids, what, more)


def windows_set(request: CalibrationRequest, texts: Iterable[np.ndarray], what: str, more: str) -> CalibrationSet:
    size = request.config.max_seq_len
    pieces = ((window, 0) for window in joined_windows(texts, size))
    return packed_set(request.config, pieces, what, more, Budget.of(request.config).in_windows())


def joined_windows(texts: Iterable[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """All windows of `size` of the joined texts; the last one is what is left."""
    kept = np.empty(0, np.int32)
    for ids in texts:
        kept = np.concatenate([kept, ids])
        whole = len(kept) // size * size
        yield from (kept[i : i + size] for i in range(0, whole, size))
        kept = kept[whole:]
    if len(kept):
        yield kept


def tokenised(request: CalibrationRequest, text: str) -> np.ndarray:
    """int32 token ids of one long text, which must be tokenised in one piece."""
    if len(text) > LONG_TEXT:
        say(f"calibration={request.config.name}: tokenising {len(text):,} characters, once for this model")
    return np.asarray(text_ids(request, text), dtype=np.int32)


def text_ids(request: CalibrationRequest, text: str) -> list[int]:
    """Token ids of a text, without a BOS."""
    return request.template.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
