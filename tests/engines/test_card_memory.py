"""What can be known of shared card memory without a card: that other bytes are noticed."""

import pytest
import torch

from ssgr.engines.card_memory import opened
from ssgr.models.fingerprint import fingerprint


def test_fingerprints_follow_bytes_and_their_places():
    weight = torch.randn(6, 10, generator=torch.Generator().manual_seed(0)).bfloat16()
    other = weight.clone()
    assert fingerprint([weight]) == fingerprint([other])
    other[3, 4] *= -1
    for changed in (other, weight.flip(0), weight.flip(1), weight[[1, 0, 2, 3, 4, 5]], torch.zeros_like(weight)):
        assert fingerprint([changed]) != fingerprint([weight])
    assert fingerprint([]) != fingerprint([weight])


def test_other_bytes_than_were_given_are_refused(monkeypatch):
    there = torch.ones(2, 3)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 5)
    monkeypatch.setattr("torch.multiprocessing.reductions.rebuild_cuda_tensor", lambda *parts: there * parts[0])
    parts = (1.0, *"abcde", 0, *"ghijklmn")
    wanted = fingerprint([there])
    ((name, tensor),) = opened([("w", parts)], wanted)
    assert name == "w" and torch.equal(tensor, there)
    with pytest.raises(RuntimeError, match="not what lies there"):
        opened([("w", (2.0, *parts[1:]))], wanted)
