"""The sampler's draws against probabilities computed in plain numpy."""

import numpy as np
import pytest
import torch

from ssgr.engines.decoding.sampling import draw, nucleus, row_uniforms

ROWS = 40_000


def exact_probabilities(logits: np.ndarray, temperature: float, top_p: float) -> np.ndarray:
    scaled = logits / temperature
    probabilities = np.exp(scaled - scaled.max())
    probabilities /= probabilities.sum()
    order = np.argsort(-probabilities, kind="stable")
    count = int(np.searchsorted(np.cumsum(probabilities[order]), top_p)) + 1 if top_p < 1 else len(order)
    kept = np.zeros_like(probabilities)
    kept[order[:count]] = probabilities[order[:count]]
    return kept / kept.sum()


@pytest.mark.parametrize("temperature", [0.6, 1.3])
@pytest.mark.parametrize("top_p", [1.0, 0.9, 0.5])
@pytest.mark.parametrize("size", [12, 200])
def test_draws_follow_the_exact_distribution(temperature, top_p, size):
    logits = np.random.default_rng(size).normal(size=size)
    expected = exact_probabilities(logits, temperature, top_p)
    uniforms = row_uniforms([size], ROWS, torch.device("cpu"))[0]
    tokens = draw(torch.tensor(logits, dtype=torch.float32).expand(ROWS, -1), uniforms, temperature, top_p)
    counts = np.bincount(tokens.numpy(), minlength=size)
    assert counts[expected == 0].sum() == 0
    kept = expected > 0
    chi_square = ((counts[kept] - ROWS * expected[kept]) ** 2 / (ROWS * expected[kept])).sum()
    assert chi_square < kept.sum() + 5 * np.sqrt(2 * kept.sum())


def test_the_inverse_cdf_is_exact_at_its_edges():
    logits = torch.tensor([0.0, 0.5, 0.25, 0.0, 0.25]).log().expand(5, -1)
    uniforms = torch.tensor([0.0, 0.4999, 0.5, 0.75, 1 - 2**-24])
    assert draw(logits, uniforms, 1.0, 1.0).tolist() == [1, 1, 2, 4, 4]


def test_a_wide_row_takes_the_same_nucleus_beside_peaked_rows():
    generator = torch.Generator().manual_seed(0)
    wide, peaked = torch.randn(300, generator=generator) * 0.1, torch.randn(300, generator=generator) * 9
    rows = torch.stack([wide, peaked, wide]).softmax(-1)
    kept = nucleus(rows, 0.95)
    assert torch.equal(kept[0], kept[2]) and torch.equal(kept[0], nucleus(rows[:1], 0.95)[0])
    assert int((kept[0] > 0).sum()) > 64 > int((kept[1] > 0).sum())
    for row in (0, 1):
        mass = float(kept[row].sum())
        assert 0.95 <= mass < 0.95 + float(kept[row][kept[row] > 0].min()) + 1e-6


def test_equal_probabilities_stay_together():
    probabilities = torch.tensor([[0.2, 0.2, 0.2, 0.2, 0.1, 0.1]])
    assert (nucleus(probabilities, 0.5)[0] > 0).tolist() == [True] * 4 + [False] * 2


def test_uniforms_depend_on_the_rows_seed_alone():
    device = torch.device("cpu")
    alone, together = row_uniforms([2**62 + 5], 8, device), row_uniforms([3, 2**62 + 5], 50, device)
    assert torch.equal(together[1, :8], alone[0])
    assert not torch.equal(together[0], together[1])


def test_temperature_zero_is_the_argmax():
    logits = torch.randn(7, 50, generator=torch.Generator().manual_seed(1))
    assert torch.equal(draw(logits, torch.full((7,), 0.9), 0.0, 0.5), logits.argmax(-1))
