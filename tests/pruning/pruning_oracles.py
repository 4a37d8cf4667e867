"""Pruning by the book, in float64 and numpy, slowly: what the pruners are compared with."""

from fractions import Fraction

import numpy as np


def rounded(value: Fraction) -> int:
    return int(value + Fraction(1, 2))


def lowest(scores: np.ndarray, count: int) -> np.ndarray:
    order = sorted(range(scores.size), key=lambda index: (scores.flat[index], index))
    mask = np.zeros(scores.size, dtype=bool)
    mask[order[:count]] = True
    return mask.reshape(scores.shape)


def lowest_in_groups(scores: np.ndarray, n: int, m: int) -> np.ndarray:
    mask = np.zeros(scores.shape, dtype=bool)
    for row in range(scores.shape[0]):
        for start in range(0, scores.shape[1], m):
            mask[row, start : start + m] = lowest(scores[row, start : start + m], m - n)
    return mask


def lowest_per_row(scores: np.ndarray, count: int) -> np.ndarray:
    rows = scores.shape[0]
    extra = count % rows
    return np.stack([lowest(scores[row], count // rows + (row < extra)) for row in range(rows)])


def gram(inputs: np.ndarray, weights: np.ndarray) -> np.ndarray:
    inputs = inputs.astype(np.float64)
    return sum(w * np.outer(x, x) for x, w in zip(inputs, weights, strict=True)) / weights.sum(dtype=np.float64)


def magnitude(weight, moments, count, n=None, m=None):
    scores = np.abs(weight)
    mask = lowest_in_groups(scores, n, m) if n else lowest(scores, count)
    return np.where(mask, 0, weight), mask


def wanda(weight, moments, count, n=None, m=None):
    scores = np.abs(weight) * np.sqrt(np.diag(moments))
    mask = lowest_in_groups(scores, n, m) if n else lowest_per_row(scores, count)
    return np.where(mask, 0, weight), mask


def ria(weight, moments, count, n=None, m=None, *, power=0.5):
    size = np.abs(weight).astype(np.float64)
    scores = np.empty_like(size)
    for i, j in np.ndindex(size.shape):
        relative = size[i, j] / size[:, j].sum() + size[i, j] / size[i].sum()
        scores[i, j] = relative * np.sqrt(moments[j, j]) ** power
    mask = lowest_in_groups(scores, n, m) if n else lowest_per_row(scores, count)
    return np.where(mask, 0, weight), mask


def sparsegpt(weight, moments, count, n=None, m=None, *, damping=None, block_size=128):
    """Optimal brain surgeon, left to right: at every column the Hessian of the columns not yet fixed is inverted."""
    weight = weight.astype(np.float64).copy()
    columns = weight.shape[1]
    if damping is None:
        damping = 0.01 * np.diag(moments).mean()
    hessian = moments + damping * np.eye(columns)
    reached = np.diag(moments) > 0
    remaining = [np.linalg.inv(hessian[column:, column:]) for column in range(columns)]
    scores_of = lambda column: weight[:, column] ** 2 / remaining[column][0, 0]  # noqa: E731
    mask = np.zeros(weight.shape, dtype=bool)
    if not n:
        live_count = rounded(Fraction(count) * int(reached.sum()) / columns)
        mask[:, ~reached] = lowest(np.abs(weight[:, ~reached]), count - live_count)
    seen = taken = 0
    for column in range(columns):
        if n and column % m == 0:
            group = np.stack([scores_of(column + offset) for offset in range(m)], axis=1)
            mask[:, column : column + m] = lowest_in_groups(group, n, m)
        elif not n and column % block_size == 0:
            inside = [c for c in range(column, min(column + block_size, columns)) if reached[c]]
            seen += len(inside)
            quota = rounded(Fraction(live_count) * seen / int(reached.sum())) - taken if inside else 0
            taken += quota
            if inside:
                mask[:, inside] = lowest(np.stack([scores_of(c) for c in inside], axis=1), quota)
        inverse = remaining[column]
        error = np.where(mask[:, column], weight[:, column], 0) / inverse[0, 0]
        weight[:, column:] -= np.outer(error, inverse[0])
        weight[mask[:, column], column] = 0
    return weight, mask


ORACLES = {"magnitude": magnitude, "wanda": wanda, "ria": ria, "sparsegpt": sparsegpt}
