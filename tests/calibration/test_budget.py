import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ssgr.calibration.budget import fill, token_weights


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 9), max_size=8)), st.integers(1, 40), st.integers(1, 6))
def test_fill_is_the_joined_cut_sequences_up_to_the_budget(rows, tokens, max_seq_len):
    packed, held = fill(map(np.array, rows), tokens, max_seq_len)
    joined = [token for row in rows for token in row[:max_seq_len]]
    assert [token for row in packed for token in row.tolist()] == joined[:tokens]
    assert held == min(tokens, len(joined)) and all(row.dtype == np.int32 for row in packed)


def test_fill_reads_no_further_than_it_needs():
    seen = []
    rows = (seen.append(i) or np.arange(4) for i in range(100))
    fill(rows, 8, 10)
    assert len(seen) <= 3


def test_token_weights():
    everything = token_weights("all", [3, 2], [1, 1])
    assert [weight.tolist() for weight in everything] == [[1, 1, 1], [1, 1]]
    decode = token_weights("decode", [3, 2], [1, 5])
    assert [weight.tolist() for weight in decode] == [[0, 1, 1], [0, 0]]
    per_trace = token_weights("per_trace", [6, 2], [1, 1])
    assert [round(float(weight.sum()), 5) for weight in per_trace] == [4, 4]
    assert all(weight.dtype == np.float32 for weight in (*everything, *decode, *per_trace))
