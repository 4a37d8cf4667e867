"""A fixed English text that the package ships: calibration that knows nothing of the task."""

from pathlib import Path

import numpy as np

from ssgr.cache import cached_array, content_hash, file_hash
from ssgr.calibration import CalibrationRequest, CalibrationSet, source
from ssgr.calibration.budget import fill, token_weights
from ssgr.errors import UserError
from ssgr.traces.store import row_seed

TEXT = Path(__file__).parents[1] / "bundled" / "general_text.txt"


@source("general_text", contents=lambda config: file_hash(TEXT))
def general_text(request: CalibrationRequest) -> CalibrationSet:
    """Windows of max_seq_len tokens, one after another from a seeded start and round the end, none twice."""
    config = request.config
    tokens = cached_array(
        request.cache / "text" / content_hash([request.weights_hash, file_hash(TEXT)]),
        lambda: _tokenised(request.template.tokenizer, TEXT),
    )
    if len(tokens) < config.tokens:
        raise UserError(
            f"calibration=general_text: the shipped text holds {len(tokens):,} of this model's tokens and "
            f"calibration.tokens needs {config.tokens:,}; a smaller calibration.tokens would help"
        )
    start = row_seed(request.seed, "general_text") % len(tokens)
    text = np.roll(tokens, -start)
    windows = (text[i : i + config.max_seq_len] for i in range(0, len(text), config.max_seq_len))
    sequences, _ = fill(windows, config.tokens, config.max_seq_len)
    lengths = [len(sequence) for sequence in sequences]
    weights = token_weights(config.token_weights, lengths, [0] * len(lengths))
    return CalibrationSet(config.name, sequences, weights, [None] * len(sequences))


def _tokenised(tokenizer, path: Path) -> np.ndarray:
    text = path.read_text(encoding="utf-8")
    return np.asarray(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"], dtype=np.int32)
