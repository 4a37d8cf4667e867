import numpy as np
import pruning_oracles
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssgr.config import SparsityConfig
from ssgr.errors import UserError
from ssgr.pruning import sparsity

levels = st.integers(0, 3)  # few values, so that most entries are tied


@given(st.lists(levels, min_size=1, max_size=60), st.data())
@settings(max_examples=60, deadline=None)
def test_lowest_is_exact_and_ties_go_by_index(values, data):
    count = data.draw(st.integers(0, len(values)))
    mask = sparsity.lowest(torch.tensor(values, dtype=torch.float32), count)
    assert np.array_equal(mask.numpy(), pruning_oracles.lowest(np.array(values), count))


@given(st.integers(1, 6), st.integers(1, 9), st.data())
@settings(max_examples=60, deadline=None)
def test_rows_lose_floor_or_ceil_and_the_matrix_exactly(rows, columns, data):
    values = data.draw(st.lists(levels, min_size=rows * columns, max_size=rows * columns))
    count = data.draw(st.integers(0, rows * columns))
    scores = np.array(values, dtype=np.float32).reshape(rows, columns)
    mask = sparsity.lowest_per_row(torch.from_numpy(scores), count).numpy()
    assert mask.sum() == count
    assert np.ptp(mask.sum(1)) <= 1
    assert np.array_equal(mask, pruning_oracles.lowest_per_row(scores, count))


@pytest.mark.parametrize(("n", "m"), [(2, 4), (4, 8), (1, 3)])
def test_every_group_keeps_n(n, m):
    scores = torch.randint(0, 3, (5, m * 6), generator=torch.Generator().manual_seed(0)).float()
    mask = sparsity.lowest_in_groups(scores, n, m)
    assert (~mask).view(5, -1, m).sum(2).eq(n).all()
    assert np.array_equal(mask.numpy(), pruning_oracles.lowest_in_groups(scores.numpy(), n, m))


@given(st.integers(1, 5), st.integers(1, 9), st.data())
@settings(max_examples=80, deadline=None)
def test_unreached_inputs_lose_their_share_of_each_row_by_magnitude(rows, columns, data):
    draw = lambda kind, size: np.array(data.draw(st.lists(kind, min_size=size, max_size=size)))  # noqa: E731
    weight = draw(levels, rows * columns).reshape(rows, columns).astype(np.float32)
    norms = draw(levels, columns).astype(np.float32)
    quota = sparsity.Quota(data.draw(st.integers(0, rows * columns)))
    scores, reached = weight * norms, norms > 0
    mask = sparsity.lowest_of_inputs(*map(torch.from_numpy, (scores, weight, reached)), quota).numpy()
    assert mask.sum() == quota.count and np.ptp(mask.sum(1)) <= 1
    assert (np.abs(mask[:, reached].sum(1) - mask.sum(1) * reached.sum() / columns) <= 0.5).all()
    assert np.array_equal(mask, pruning_oracles.lowest_of_inputs(weight, scores, reached, quota.count, None, None)[1])


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 3)])
def test_unreached_inputs_go_first_in_their_group_and_by_magnitude(n, m):
    weight = torch.randint(1, 4, (7, m * 6), generator=torch.Generator().manual_seed(0)).float()
    reached = torch.rand(m * 6, generator=torch.Generator().manual_seed(1)) > 0.5
    quota = sparsity.Quota(7 * 6 * (m - n), n, m)
    mask = sparsity.lowest_of_inputs(weight * reached, weight, reached, quota)
    groups, unreached = mask.view(7, -1, m), (~reached).view(-1, m).expand(7, -1, m)
    assert groups.sum(2).eq(m - n).all()
    assert (groups & unreached).sum(2).eq(unreached.sum(2).clamp(max=m - n)).all()
    expected = pruning_oracles.lowest_of_inputs(
        *(each.numpy() for each in (weight, weight * reached, reached)), 0, n, m
    )
    assert np.array_equal(mask.numpy(), expected[1])


@pytest.mark.parametrize("pattern", [(), (2, 4)], ids=str)
def test_where_all_inputs_are_reached_nothing_else_decides(pattern):
    scores = torch.randint(0, 3, (5, 24), generator=torch.Generator().manual_seed(0)).float()
    mask = sparsity.lowest_of_inputs(scores, 3 - scores, torch.ones(24, dtype=torch.bool), sparsity.Quota(60, *pattern))
    plain = sparsity.lowest_in_groups(scores, *pattern) if pattern else sparsity.lowest_per_row(scores, 60)
    assert torch.equal(mask, plain)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=8), st.data())
@settings(max_examples=60, deadline=None)
def test_spread_is_exact_and_even(sizes, data):
    count = data.draw(st.integers(0, sum(sizes)))
    parts = sparsity.spread(count, sizes)
    assert sum(parts) == count
    assert all(0 <= part <= size for part, size in zip(parts, sizes, strict=True))
    for part, size in zip(parts, sizes, strict=True):
        assert abs(part - count * size / max(sum(sizes), 1)) <= 1


@given(st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), min_size=1, max_size=9), st.floats(0, 0.99))
@settings(max_examples=60, deadline=None)
def test_quotas_are_exact_in_every_matrix_and_in_the_model(shapes, value):
    shapes = {str(index): shape for index, shape in enumerate(shapes)}
    quotas = sparsity.matrix_quotas(dict.fromkeys(shapes, value), shapes, sparsity.Sparsity(value))
    sizes = {name: out * columns for name, (out, columns) in shapes.items()}
    assert all(abs(quotas[name].count - value * sizes[name]) < 1 + 1e-6 for name in shapes)
    assert abs(sum(quota.count for quota in quotas.values()) - value * sum(sizes.values())) <= 0.5 + 1e-6


def test_a_single_matrix_loses_the_rounded_count():
    for value in (0.3, 0.55, 0.7):
        quotas = sparsity.matrix_quotas({"a": value}, {"a": (48, 33)}, sparsity.Sparsity(value))
        assert quotas["a"].count == round(value * 48 * 33)


def test_inputs_must_be_a_multiple_of_m():
    with pytest.raises(UserError, match="b has 10 inputs"):
        sparsity.matrix_quotas({"a": 0.5, "b": 0.5}, {"a": (3, 8), "b": (3, 10)}, sparsity.Sparsity(0.5, 2, 4))


@pytest.mark.parametrize(
    "values", [(1.0, None, None), (-0.1, None, None), (None, None, None), (0.5, 2, None), (None, 4, 4), (0.3, 2, 4)]
)
def test_nonsense_is_refused(values):
    with pytest.raises(UserError, match="sparsity"):
        sparsity.Sparsity.from_config(SparsityConfig("x", *values))


def test_patterns():
    assert sparsity.Sparsity.from_config(SparsityConfig("s50", 0.5, None, None)).pattern == "unstructured"
    grouped = sparsity.Sparsity.from_config(SparsityConfig("n2m4", None, 2, 4))
    assert (grouped.pattern, grouped.value) == ("2:4", 0.5)
