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


def lowest_per_row_of_inputs(scores: np.ndarray, size: np.ndarray, reached: np.ndarray, count: int) -> np.ndarray:
    """Each row's count cut over reached and unreached columns by their number; the unreached go by size."""
    rows, columns = scores.shape
    mask = np.zeros(scores.shape, dtype=bool)
    for row in range(rows):
        quota = count // rows + (row < count % rows)
        live = rounded(Fraction(quota * int(reached.sum()), columns))
        mask[row, reached] = lowest(scores[row, reached], live)
        mask[row, ~reached] = lowest(size[row, ~reached], quota - live)
    return mask


def unreached_by_size(scores: np.ndarray, size: np.ndarray, reached: np.ndarray) -> np.ndarray:
    """Scores in which unreached columns lie below all others, in the order of their size."""
    return np.where(reached, scores, size - size.max() - 1)


def gram(inputs: np.ndarray, weights: np.ndarray) -> np.ndarray:
    inputs = inputs.astype(np.float64)
    return sum(w * np.outer(x, x) for x, w in zip(inputs, weights, strict=True)) / weights.sum(dtype=np.float64)


def magnitude(weight, moments, count, n=None, m=None):
    scores = np.abs(weight)
    mask = lowest_in_groups(scores, n, m) if n else lowest(scores, count)
    return np.where(mask, 0, weight), mask


def lowest_of_inputs(weight, scores, reached, count, n, m):
    size = np.abs(weight)
    if n:
        mask = lowest_in_groups(unreached_by_size(scores, size, reached), n, m)
    else:
        mask = lowest_per_row_of_inputs(scores, size, reached, count)
    return np.where(mask, 0, weight), mask


def wanda(weight, moments, count, n=None, m=None):
    scores = np.abs(weight) * np.sqrt(np.diag(moments))
    return lowest_of_inputs(weight, scores, np.diag(moments) > 0, count, n, m)


def ria(weight, moments, count, n=None, m=None, *, power=0.5):
    size = np.abs(weight).astype(np.float64)
    scores = np.empty_like(size)
    for i, j in np.ndindex(size.shape):
        relative = size[i, j] / size[:, j].sum() + size[i, j] / size[i].sum()
        scores[i, j] = relative * np.sqrt(moments[j, j]) ** power
    return lowest_of_inputs(weight, scores, (np.diag(moments) > 0) | (power == 0), count, n, m)


def sparsegpt(weight, moments, count, n=None, m=None, *, damping=None, block_size=128):
    """Optimal brain surgeon, left to right: at every column the Hessian of the columns not yet fixed is inverted.

    `damping` is one number or one per column.
    """
    weight = weight.astype(np.float64).copy()
    columns = weight.shape[1]
    if damping is None:
        damping = 0.01 * np.diag(moments).mean()
    hessian = moments + np.diag(np.broadcast_to(damping, columns))
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


def ridge_objective(weight, answer, moments, ridge):
    """tr((Ŵ − W)(G + λI)(Ŵ − W)ᵀ)."""
    change = answer.astype(np.float64) - weight
    return np.sum((change @ (moments + ridge * np.eye(len(moments)))) * change)


def best_on_support(weight, mask, moments, ridge):
    """The weights of least ridge objective that are 0 under the mask: a dense system per row."""
    hessian = moments + ridge * np.eye(len(moments))
    answer = np.zeros(weight.shape)
    for row, lost in enumerate(mask):
        kept = np.flatnonzero(~lost)
        answer[row, kept] = np.linalg.solve(hessian[np.ix_(kept, kept)], hessian[kept] @ weight[row].astype(np.float64))
    return answer


def alps_support(weight, moments, count, ridge, n=None, m=None, *, rho=0.1, iterations=300):
    """ALPS' ADMM as its paper writes it, by inverses, for data on which every column is reached."""
    hessian = moments + ridge * np.eye(len(moments))
    scale = np.sqrt(np.diag(hessian))
    hessian, dense = hessian / np.outer(scale, scale), weight.astype(np.float64) * scale
    pick = lambda matrix: lowest_in_groups(abs(matrix), n, m) if n else lowest(abs(matrix), count)  # noqa: E731
    kept = weight.size - count
    first = before = pick(dense)
    sparse, dual, started = np.where(first, 0, dense), np.zeros_like(dense), False
    for step in range(1, iterations + 1):
        answer = (dense @ hessian - dual + rho * sparse) @ np.linalg.inv(hessian + rho * np.eye(len(hessian)))
        mask = pick(answer + dual / rho)
        sparse = np.where(mask, 0, answer + dual / rho)
        dual = dual + rho * (answer - sparse)
        if step % 3 == 0:
            changed = np.sum(mask ^ before) / kept
            if (started and changed == 0) or (step >= 30 and changed < 0.0003):
                break
            started = started or changed > 0.005
            if started:
                rho *= 1.3 if changed > 0.1 else 1.2 if changed > 0.005 else 1.1
                before = mask
            else:
                rho, before = rho / 5, first
                sparse, dual = np.where(first, 0, dense), np.zeros_like(dense)
    return pick(answer)


ORACLES = {"magnitude": magnitude, "wanda": wanda, "ria": ria, "sparsegpt": sparsegpt}
