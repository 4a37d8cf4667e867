"""Drawing tokens by inverse CDF: one uniform number a row and step, so that no row depends on its neighbours."""

from collections.abc import Sequence

import torch

NUCLEUS_CANDIDATES = (
    64  # the nucleus of a peaked distribution lies in the largest few; sorting everything costs 5 times more
)


def row_uniforms(seeds: Sequence[int], steps: int, device: torch.device) -> torch.Tensor:
    """The draws of each row, float32 [rows, steps] in [0, 1); a longer row begins with the draws of a shorter one."""
    uniforms = torch.empty(len(seeds), steps)
    generator = torch.Generator()
    for row, seed in enumerate(seeds):
        generator.manual_seed(seed)
        torch.rand(steps, generator=generator, out=uniforms[row])
    return uniforms.to(device)


def nucleus(probabilities: torch.Tensor, top_p: float) -> torch.Tensor:
    """Zeroes what lies outside the smallest set of most likely tokens whose mass reaches top_p; [rows, vocabulary].

    Tokens as likely as the last one kept stay too, so that the set depends on values alone, not on a sort's order
    (Holtzman et al. 2020, equation 3). The rows are not normalised again.
    """
    candidates = min(NUCLEUS_CANDIDATES, probabilities.shape[1])
    threshold, mass = _threshold(probabilities.topk(candidates).values, top_p)
    wide = mass < top_p
    if candidates < probabilities.shape[1] and bool(wide.any()):
        threshold[wide] = _threshold(probabilities[wide].sort(descending=True).values, top_p)[0]
    return torch.where(probabilities >= threshold[:, None], probabilities, 0.0)


def _threshold(descending: torch.Tensor, top_p: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The smallest probability of the nucleus and the mass of all candidates, both [rows]."""
    mass = descending.cumsum(-1, dtype=torch.float64)
    last = (mass < top_p).sum(-1, keepdim=True).clamp_(max=descending.shape[1] - 1)
    return descending.gather(1, last).squeeze(1), mass[:, -1]


def draw(logits: torch.Tensor, uniforms: torch.Tensor, temperature: float, top_p: float) -> torch.Tensor:
    """The next token of each row, int64 [rows], from logits [rows, vocabulary] and uniforms [rows].

    The token is the first whose cumulative probability, in vocabulary order, exceeds u times the kept mass. The sum
    runs in fp64: a parallel fp32 sum is not monotone to the last bit and could land on a token of probability zero.
    """
    if temperature == 0:
        return logits.argmax(-1)
    probabilities = torch.softmax(logits.float() / temperature, -1)
    if top_p < 1:
        probabilities = nucleus(probabilities, top_p)
    cumulative = probabilities.cumsum(-1, dtype=torch.float64)
    targets = uniforms.double() * cumulative[:, -1]
    tokens = torch.searchsorted(cumulative, targets[:, None], right=True).squeeze(1)
    return tokens.clamp_(max=logits.shape[1] - 1)  # reached only by NaN logits, which the loop reports
