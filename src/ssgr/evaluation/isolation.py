"""lm-eval without its log lines, its bar, and its hold on the global random generators."""

import logging
import random
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import lm_eval.api.task
import numpy as np
import torch

LOUD = ("lm_eval", "huggingface_hub", "datasets")  # the hub's retries are logged one by one


@contextmanager
def quiet() -> Iterator[None]:
    """Without the log lines of lm-eval and the hub, and lm-eval's bar over requests: ours is the only progress line."""
    loggers, bar = [logging.getLogger(name) for name in LOUD], lm_eval.api.task.tqdm
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    lm_eval.api.task.tqdm = partial(bar, disable=True)
    try:
        yield
    finally:
        lm_eval.api.task.tqdm = bar
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Whatever reseeds the global generators in here, they go on afterwards as if nothing had."""
    python, numpy_state, torch_state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() and torch.cuda.is_initialized() else None
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy_state)
        torch.set_rng_state(torch_state)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)
