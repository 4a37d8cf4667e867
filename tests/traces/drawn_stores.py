"""Views in memory for the tests of selection: from a few numbers, from hypothesis, and with confounded axes."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
from hypothesis import strategies as st

from ssgr.traces.problems import Problem
from ssgr.traces.store import StoreView

PROMPT = 4


def view_of(rows, k, split=False, problems=None, order=None):
    """A view of rows (problem_id, rollout, tokens, correct, finish_reason), stored in any `order` of their places."""
    index = pd.DataFrame(rows, columns=["problem_id", "rollout", "tokens", "correct", "finish_reason"])
    index = index.astype({"rollout": np.int32, "tokens": np.int32, "correct": bool})
    index = index.assign(answer="1", prompt_tokens=np.int32(PROMPT), content="", part="part", row=range(len(index)))
    if order is not None:
        index = index.iloc[order].reset_index(drop=True)
    problems = problems or [Problem(name, f"Q {name}", "1") for name in sorted(set(index["problem_id"]))]
    return StoreView(SimpleNamespace(index=index), problems, k, split)


@st.composite
def stores(draw, least_k=1, most_k=6, least_problems=1):
    """Rows as view_of takes them, and k: any problems, rights and wrongs, lengths, and cut traces."""
    k = draw(st.integers(least_k, most_k))
    trace = st.tuples(st.integers(1, 9), st.sampled_from(["right", "right", "right", "wrong", "wrong", "cut"]))
    found = draw(st.lists(st.lists(trace, min_size=k, max_size=k), min_size=least_problems, max_size=12))
    rows = [
        (f"p{problem}", rollout, tokens, kind == "right", "length" if kind == "cut" else "stop")
        for problem, row in enumerate(found)
        for rollout, (tokens, kind) in enumerate(row)
    ]
    return rows, k


def confounded(problems=600, k=8, seed=0):
    """A view whose hard problems have long traces, high levels and other subjects and families than its easy ones."""
    random = np.random.default_rng(seed)
    ease = random.beta(1.2, 0.8, problems)
    rows = [
        (f"p{i}", rollout, int(20 + 60 * (1.5 - ease[i]) * random.lognormal(0, 0.6)), random.random() < ease[i], "stop")
        for i in range(problems)
        for rollout in range(k)
    ]
    named = [
        Problem(
            f"p{i}",
            f"Q {i}",
            "1",
            level=int(np.clip(round(3 + 4 * (0.6 - ease[i]) + random.normal(0, 1.2)), 1, 5)),
            subject=f"subject {int(np.clip(round(2 * ease[i] + random.normal(0, 0.7)), 0, 2))}",
            family=f"family {random.integers(3)}",
        )
        for i in range(problems)
    ]
    return view_of(rows, k, problems=named)
