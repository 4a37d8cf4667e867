"""From scores to sparsities whose mean is right and none of which is out of bounds."""

from collections.abc import Callable

import numpy as np


def scaled(scores: list[float]) -> np.ndarray:
    """The scores mapped linearly to [0, 1], the lowest to 0 and the highest to 1; all 0.5 where all are equal."""
    values = np.array(scores, dtype=np.float64)
    width = np.ptp(values)
    return (values - values.min()) / width if width > 0 else np.full(len(values), 0.5)


def fitted(
    at: Callable[[float], np.ndarray], between: tuple[float, float], sizes: list[int], caps: list[float], value: float
) -> list[float]:
    """The sparsities `at(t)`, cut to [0, cap], for the t where their mean weighted by `sizes` is `value`.

    `at` rises in t, and `between` holds the t sought: what a bound cuts off goes to the blocks that are not at theirs,
    in the way that `at` moves them. The mean is right up to fp64's rounding.
    """
    low, high = between
    weights = np.array(sizes) / sum(sizes)
    while True:
        middle = (low + high) / 2
        found = np.clip(at(middle), 0.0, caps)
        if not low < middle < high:
            return found.tolist()
        if found @ weights < value:
            low = middle
        else:
            high = middle
