import numpy as np
import pytest
from calibration_requests import config_of
from hypothesis import given, settings
from hypothesis import strategies as st

from ssgr.calibration.budget import Budget, packed_set, token_weights
from ssgr.calibration.windows import joined_windows
from ssgr.errors import UserError

ROWS = st.lists(st.lists(st.integers(0, 9), max_size=8))


@settings(deadline=None)
@given(ROWS, st.integers(1, 40), st.integers(1, 6))
def test_tokens_are_the_joined_cut_sequences_up_to_the_budget(rows, tokens, max_seq_len):
    budget = Budget(tokens, None, max_seq_len)
    packed, prompts = budget.fill((row, 3) for row in rows)
    joined = [token for row in rows for token in row[:max_seq_len]]
    assert [token for row in packed for token in row.tolist()] == joined[:tokens]
    assert budget.held(packed) == min(tokens, len(joined)) and all(row.dtype == np.int32 for row in packed)
    assert prompts == [min(3, len(row)) for row in packed]


@settings(deadline=None)
@given(ROWS, st.integers(1, 9), st.integers(1, 6))
def test_sequences_are_counted_whole_and_cut_at_their_longest(rows, sequences, max_seq_len):
    budget = Budget(None, sequences, max_seq_len)
    packed, _ = budget.fill((row, 0) for row in rows)
    assert [row.tolist() for row in packed] == [row[:max_seq_len] for row in rows if row][:sequences]
    assert budget.held(packed) == len(packed)


@pytest.mark.parametrize("budget", [Budget(8, None, 10), Budget(None, 2, 10)])
def test_fill_reads_no_further_than_it_needs(budget):
    seen = []
    budget.fill(((seen.append(i) or np.arange(4)), 0) for i in range(100))
    assert seen == [0, 1]


@settings(deadline=None)
@given(ROWS, st.integers(1, 6))
def test_windows_are_the_joined_texts_cut(rows, size):
    windows = [window.tolist() for window in joined_windows((np.array(row, np.int32) for row in rows), size)]
    joined = [token for row in rows for token in row]
    assert windows == [joined[i : i + size] for i in range(0, len(joined), size)]


@pytest.mark.parametrize(
    ("budget", "in_windows", "words"),
    [
        ({"tokens": 5_000}, False, ["hold 12 tokens and calibration.tokens needs 5,000", "smaller calibration.tokens"]),
        ({"sequences": 5_000}, False, ["hold 3 sequences and calibration.sequences needs 5,000"]),
        ({"sequences": 50}, True, ["hold 12 tokens and calibration.sequences=50 of 90 tokens need 4,500"]),
    ],
)
def test_too_little_says_how_much_there_is_and_what_helps(budget, in_windows, words):
    config = config_of("c4", **budget)
    target = Budget.of(config).in_windows() if in_windows else None
    with pytest.raises(UserError) as caught:
        packed_set(config, [(range(4), 0)] * 3, "the files hold", "more files", target)
    line = str(caught.value)
    assert all(word in line for word in ["calibration=c4: the files", "more files or a", *words]) and "\n" not in line


def test_token_weights():
    everything = token_weights("all", [3, 2], [1, 1])
    assert [weight.tolist() for weight in everything] == [[1, 1, 1], [1, 1]]
    decode = token_weights("decode", [3, 2], [1, 5])
    assert [weight.tolist() for weight in decode] == [[0, 1, 1], [0, 0]]
    per_trace = token_weights("per_trace", [6, 2], [1, 1])
    assert [round(float(weight.sum()), 5) for weight in per_trace] == [4, 4]
    assert all(weight.dtype == np.float32 for weight in (*everything, *decode, *per_trace))
