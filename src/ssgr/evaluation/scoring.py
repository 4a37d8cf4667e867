"""How likely a model finds given tokens: log-likelihoods of continuations, in batches of similar length."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from ssgr.evaluation.teacher_forcing import chunks, final_states, length_sorted_batches, output_logits
from ssgr.progress import track

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Sequences = Sequence[tuple[np.ndarray, np.ndarray]]


@dataclass
class Scores:
    """Of each continuation: its log-likelihood in nats (float64), and whether every token was the likeliest (bool)."""

    log_likelihoods: np.ndarray
    greedy: np.ndarray


@torch.inference_mode()
def score(model: "PreTrainedModel", sequences: Sequences, description: str) -> Scores:
    """Scores continuations after their contexts: sequences are (context ids, continuation ids), neither empty.

    Softmax in fp32 over chunks of the logits, so that memory does not grow with the vocabulary times the tokens.
    """
    found = Scores(np.zeros(len(sequences)), np.zeros(len(sequences), bool))
    batches = length_sorted_batches(sequences)
    with track(description, len(sequences)) as bar:
        for rows in batches:
            batch = [sequences[row] for row in rows]
            states = final_states(model, batch, feed_last=False)
            targets = torch.cat([torch.as_tensor(output, dtype=torch.int64) for _, output in batch]).to(states.device)
            counts = torch.tensor([len(output) for _, output in batch])
            owner = torch.repeat_interleave(torch.arange(len(rows)), counts).to(states.device)
            totals = torch.zeros(len(rows), 2, dtype=torch.float64, device=states.device)
            for part in chunks(len(targets), model):
                totals.index_add_(0, owner[part], _token_scores(model, states[part], targets[part]))
            values = totals.cpu().numpy()
            found.log_likelihoods[rows], found.greedy[rows] = values[:, 0], values[:, 1] == 0
            bar.advance(len(rows))
    return found


def _token_scores(model: "PreTrainedModel", states: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """float64 [tokens, 2]: the log-probability of each token, and 1 where another one was likelier."""
    logits = output_logits(model, states).float()
    log_probabilities = torch.log_softmax(logits, -1).gather(1, targets[:, None])[:, 0]
    return torch.stack([log_probabilities.double(), (logits.argmax(-1) != targets).double()], 1)
