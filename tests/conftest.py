"""Being here puts tests/ on the import path, so that every room's tests can import tiny_models."""

import ssgr  # noqa: F401, I001  before torch: it decides how torch's threads wait for each other
import pytest
import torch

from ssgr import tracking

torch.set_num_threads(2)


@pytest.fixture(autouse=True)
def w_and_b_is_worth_a_try(monkeypatch):
    """What one test found out of reach is no concern of the next."""
    monkeypatch.setattr(tracking, "_unreachable", False)


@pytest.fixture
def passes(monkeypatch):
    """The kinds of statistics that each calibration pass collected."""
    from ssgr.pruning import loop  # and with it transformers, which kernel_cases.py must come before

    seen, real = [], loop.Calibration

    def counted(*arguments, needs, **options):
        seen.append(sorted(needs))
        return real(*arguments, needs=needs, **options)

    monkeypatch.setattr(loop, "Calibration", counted)
    return seen
