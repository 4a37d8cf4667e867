"""What a selection looks like on every axis beside the store's correct traces, and how far its pass rates carry."""

from typing import Any

import numpy as np
import pandas as pd

from ssgr.traces.store import StoreView

LARGEST_GROUPS = 5  # subjects and families that are named
HALF_SPLITS = 32


def profile(view: StoreView, rows: pd.DataFrame, max_seq_len: int) -> dict[str, Any]:
    """The traces `rows` (of view.traces, with `kept`) as `taken`, all correct traces of the view as `held`.

    Of each: sequences, the mean pass_rate, generated tokens {mean, q25, median, q75}, prompt_share of the tokens that
    a sequence of max_seq_len keeps, the mean level, and the shares by subject and family, of those that are most
    frequent among the taken. Beside them pass_rate_length, the rank correlation over the store's correct traces.
    None stands for what is not known.
    """
    correct = view.traces[view.traces["correct"]]
    whole = np.minimum(correct["prompt_tokens"] + correct["tokens"], max_seq_len)
    taken, held = _joined(view, rows), _joined(view, correct.assign(kept=whole))
    groups = {name: _largest(taken[name]) for name in ("subject", "family")}
    return {
        "taken": _described(taken, groups),
        "held": _described(held, groups),
        "pass_rate_length": spearman(held["pass_rate"], held["tokens"]),
    }


def profile_lines(found: dict[str, Any], reliability: float | None, graded: int) -> list[str]:
    """The profile in a few lines for a person; `graded` rollouts tell the pass rate."""
    taken, held = found["taken"], found["held"]
    if not taken["sequences"] or not held["sequences"]:
        return []

    def both(form: str, *names: str) -> str:
        one, other = (_at(side, names) for side in (taken, held))
        return f"{'–' if one is None else format(one, form)} ({'–' if other is None else format(other, form)})"

    quartiles = " ".join(both(",.0f", "tokens", name) for name in ("q25", "median", "q75"))
    lines = [
        f"taken (all correct traces): {both(',', 'sequences')} traces, mean pass rate {both('.2f', 'pass_rate')}, "
        f"generated tokens {both(',.0f', 'tokens', 'mean')}, quartiles {quartiles}, prompts "
        f"{both('.0%', 'prompt_share')} of the tokens"
        + (f", mean level {both('.2f', 'level')}" if held["level"] is not None else "")
    ]
    for name in ("subject", "family"):
        if taken[name]:
            shares = ", ".join(f"{group} {both('.0%', name, group)}" for group in taken[name])
            lines.append(f"by {name}: {shares}")
    correlated = "cannot be told" if found["pass_rate_length"] is None else f"{found['pass_rate_length']:+.2f}"
    reliable = "cannot be told" if reliability is None else f"{reliability:.2f}"
    lines.append(
        f"rank correlation of pass rate and length over correct traces: {correlated}; reliability of a pass rate of "
        f"{graded} rollouts: {reliable}"
    )
    return lines


def overlap_note(overlap: float) -> str:
    """One line on the share of the traces that other seeds take too."""
    line = f"the next three seeds take {overlap:.0%} of these traces too"
    return line + (": the bin holds barely more than the budget, so that seeds hardly vary" if overlap > 0.5 else "")


def pass_rate_reliability(view: StoreView) -> float | None:
    """How well the rollouts that tell a pass rate would agree with as many others; None where it cannot be told.

    The correlation over problems of the pass rates of two halves of the k rollouts, as the mean over 32 halvings
    drawn with a fixed seed (rollouts are exchangeable), then Spearman's and Brown's correction from a half's number
    of rollouts to view.graded (C. Spearman, W. Brown, British Journal of Psychology 3, 1910), which a mean below 0
    does without. Problems that lack one of their k rollouts do not count.
    """
    half = view.k // 2
    if not half:
        return None
    problems = view.solved.index.get_indexer(view.all_traces["problem_id"])
    correct = np.full((len(view.problems), view.k), np.nan)
    correct[problems, view.all_traces["rollout"].to_numpy()] = view.all_traces["correct"].to_numpy(float)
    correct = correct[~np.isnan(correct).any(axis=1)]
    random = np.random.default_rng(0)
    found = []
    for _ in range(HALF_SPLITS):
        order = random.permutation(view.k)
        one, other = (correct[:, order[part]].sum(axis=1) for part in (slice(half), slice(half, 2 * half)))
        found.append(_correlation(one, other))
    known = [value for value in found if value is not None]
    if not known:
        return None
    mean, times = float(np.mean(known)), view.graded / half
    return times * mean / (1 + (times - 1) * mean) if mean > 0 else mean


def _joined(view: StoreView, rows: pd.DataFrame) -> pd.DataFrame:
    """Each trace with what its problem is like: pass_rate, level, subject, family."""
    places = view.solved.index.get_indexer(rows["problem_id"])
    fields = {name: [getattr(problem, name) for problem in view.problems] for name in ("level", "subject", "family")}
    problems = pd.DataFrame({"pass_rate": view.pass_rate.to_numpy(), **fields})
    columns = rows[["prompt_tokens", "tokens", "kept"]].reset_index(drop=True)
    return columns.join(problems.iloc[places].reset_index(drop=True))


def _described(traces: pd.DataFrame, groups: dict[str, list[str]]) -> dict[str, Any]:
    low, middle, high = traces["tokens"].quantile([0.25, 0.5, 0.75])
    prompts = np.minimum(traces["prompt_tokens"], traces["kept"]).sum()
    return {
        "sequences": len(traces),
        "pass_rate": _number(traces["pass_rate"].mean()),
        "tokens": {
            "mean": _number(traces["tokens"].mean()),
            **{"q25": _number(low), "median": _number(middle), "q75": _number(high)},
        },
        "prompt_share": _number(prompts / traces["kept"].sum()) if len(traces) else None,
        "level": _number(pd.to_numeric(traces["level"]).mean()),
        **{name: {group: _number((traces[name] == group).mean()) for group in groups[name]} for name in groups},
    }


def _largest(names: pd.Series) -> list[str]:
    """The most frequent of these names, ties in alphabetical order."""
    counts = names.value_counts().sort_index().sort_values(ascending=False, kind="stable")
    return counts.index[:LARGEST_GROUPS].tolist()


def spearman(one: pd.Series, other: pd.Series) -> float | None:
    """The rank correlation; None where either does not vary."""
    return _correlation(one.rank().to_numpy(), other.rank().to_numpy())


def _correlation(one: np.ndarray, other: np.ndarray) -> float | None:
    """Pearson's; None where either does not vary."""
    if len(one) < 2 or np.ptp(one) == 0 or np.ptp(other) == 0:
        return None
    return float(np.corrcoef(one, other)[0, 1])


def _number(value: float) -> float | None:
    return None if pd.isna(value) else float(value)


def _at(found: Any, names: tuple[str, ...]) -> Any:
    for name in names:
        found = found[name]
    return found
