"""Accuracy of generated answers: avg@k with its standard error, and what must stand beside it."""

from collections.abc import Iterable, Set
from dataclasses import dataclass
from math import comb
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import stats

from ssgr.config import TaskConfig
from ssgr.engines.base import Engine, Sampling
from ssgr.traces.grading import equivalent
from ssgr.traces.prompts import PromptTemplate
from ssgr.traces.store import StoreView, TraceStore

if TYPE_CHECKING:
    from ssgr.models.load import LoadedModel

Graded = tuple[bool, str | None, str]  # correct, answer, finish reason

SAMPLES = {  # the columns of samples.parquet and their types; the last one holds lists of token ids
    "task": "str",
    "problem_id": "str",
    "repeat": "int64",
    "correct": "bool",
    "tokens": "int64",
    "finish_reason": "str",
    "answer": "str",
    "output_ids": "object",
}


@dataclass
class Accuracy:
    """`samples` is samples.parquet: task, problem_id, repeat, correct, tokens, finish_reason, answer, output_ids.

    `metrics` maps "<task>/accuracy" and its companions to numbers; `view` is the samples as they lie in the store.
    `unanswered` are (problem id, repeat) whose completion was cut or whose reasoning never ended.
    """

    samples: pd.DataFrame
    metrics: dict[str, float]
    view: StoreView
    unanswered: Set[tuple[str, int]] = frozenset()

    @property
    def truncated(self) -> pd.Series:
        """bool per sample: those that metrics count as truncated."""
        return cut(self.samples, self.unanswered)


def sampling_of(config: TaskConfig) -> Sampling:
    return Sampling(config.temperature, config.top_p, config.max_new_tokens)


def evaluate(
    engine: Engine,
    loaded: "LoadedModel",
    template: PromptTemplate,
    config: TaskConfig,
    *,
    repeats: int,
    limit: int | None,
    store: TraceStore,
) -> Accuracy:
    """Evaluates what the store lacks and returns all of it; `config` has its nulls filled.

    The first `limit` problems (None: all) with `repeats` completions each. Raises UserError for a task file that
    cannot be read, CellError when the model cannot generate.
    """
    from ssgr.evaluation.lm import ProblemLM, run_lm_eval, timing

    lm = ProblemLM(engine, loaded, template, store, config.name, config.max_new_tokens, config.seed)
    theirs = run_lm_eval(lm, config, sampling_of(config), repeats, limit)
    view = store.view(lm.problems, repeats)
    samples = samples_table(view, config.name)
    metrics = summarise(samples, config.name, lm.unanswered) | _speed(samples, config.name, timing(store))
    ours = metrics[f"{config.name}/accuracy"]
    if abs(ours - theirs) > 1e-9:
        raise AssertionError(f"lm-eval's mean {theirs} is not ours, {ours}")
    return Accuracy(samples, metrics, view, lm.unanswered)


def samples_table(view: StoreView, task: str) -> pd.DataFrame:
    """The rows of samples.parquet of a view: one per problem and repeat."""
    rows = view.traces
    return pd.DataFrame(
        {
            "task": task,
            "problem_id": rows["problem_id"],
            "repeat": rows["rollout"].astype(int),
            "correct": rows["correct"],
            "tokens": rows["tokens"].astype(int),
            "finish_reason": rows["finish_reason"],
            "answer": rows["answer"],
            "output_ids": [output.tolist() for _, output in view.sequences(rows)],
        }
    )


def no_samples() -> pd.DataFrame:
    """The rows of samples.parquet where no problem was answered."""
    return pd.DataFrame({name: pd.Series(dtype="object" if kind == "str" else kind) for name, kind in SAMPLES.items()})


def summarise(samples: pd.DataFrame, task: str, unanswered: Set[tuple[str, int]] = frozenset()) -> dict[str, float]:
    """The metrics of a samples table. The standard error is clustered: problems are drawn, not completions."""
    means = samples.groupby("problem_id", sort=False)["correct"].mean()
    # Lists from here on: pandas would take a millisecond for each of thousands of problems.
    columns = (samples[name].tolist() for name in ("problem_id", "correct", "answer", "finish_reason"))
    completions: dict[str, list[Graded]] = {}
    for problem_id, *completion in zip(*columns, strict=True):
        completions.setdefault(problem_id, []).append(tuple(completion))
    problems = list(completions.values())
    repeats = max(map(len, problems))
    right = [sum(correct for correct, _, _ in made) for made in problems]
    values = {
        "accuracy": float(means.mean()),
        "accuracy_se": standard_error(means.to_numpy()),
        "mean_tokens": float(samples["tokens"].mean()),
        "truncated": float(cut(samples, unanswered).mean()),
        "problems": len(problems),
        "repeats": repeats,
        "pass_at_k": float(np.mean([pass_at(repeats, *n) for n in zip(map(len, problems), right, strict=True)])),
        "maj_at_k": float(np.mean(list(map(majority_is_correct, problems)))),
    }
    return {f"{task}/{name}": value for name, value in values.items()}


def cut(samples: pd.DataFrame, unanswered: Set[tuple[str, int]]) -> pd.Series:
    """bool per sample: not ended, or among (problem id, repeat) whose reasoning never did though the completion did."""
    rows = zip(samples["problem_id"], samples["repeat"], strict=True)
    return (samples["finish_reason"] != "stop") | np.array([row in unanswered for row in rows], bool)


def pass_at(k: int, n: int, correct: int) -> float:
    """The share of draws of k of n completions, `correct` of them right, that hold a right one.

    Unbiased for the probability that one of k completions is right (Chen et al. 2021, equation 1); of fewer than k
    completions all are drawn.
    """
    k = min(k, n)
    return 1.0 - comb(n - correct, k) / comb(n, k)


def standard_error(values: np.ndarray) -> float:
    """Of a mean over independent values; NaN for fewer than two."""
    return float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")


def paired_difference(
    dense: pd.DataFrame, pruned: pd.DataFrame, confidence: float = 0.95
) -> tuple[float, float, float, float]:
    """Accuracy of `pruned` minus `dense`, paired by problem: difference, standard error and the t interval's ends.

    Takes two samples tables; only problems in both count, each with the mean over its repeats (their number may
    differ). With fewer than two problems in common the error and the interval are NaN.
    """
    means = [table.groupby("problem_id")["correct"].mean() for table in (dense, pruned)]
    differences = (means[1] - means[0]).dropna().to_numpy()
    if not len(differences):
        raise ValueError("the two tables have no problem in common")
    mean, error = float(differences.mean()), standard_error(differences)
    reach = float(stats.t.ppf((1 + confidence) / 2, len(differences) - 1)) * error if len(differences) > 1 else error
    return mean, error, mean - reach, mean + reach


def majority_is_correct(completions: Iterable[Graded]) -> bool:
    """Whether the answer that most completions gave is right; among equally frequent ones the first counts.

    Answers that mean the same are one. Those that are right all mean the gold answer; a completion that was cut, or
    gave no answer, has no vote.
    """
    votes = [
        (correct, answer) for correct, answer, reason in completions if isinstance(answer, str) and reason == "stop"
    ]
    right = sum(correct for correct, _ in votes)
    if right == 0 or 2 * right > len(votes):
        return right > 0
    groups: list[tuple[str | None, int]] = []  # an answer (None: the right one) and its votes, in order of appearance
    for correct, answer in votes:
        for place, (other, count) in enumerate(groups):
            if (other is None) if correct else (other is not None and (other == answer or equivalent(answer, other))):
                groups[place] = (other, count + 1)
                break
        else:
            groups.append((None if correct else answer, 1))
    return max(groups, key=lambda group: group[1])[0] is None


def _speed(samples: pd.DataFrame, task: str, timed: dict[str, float]) -> dict[str, float]:
    """What these samples took to generate, whenever that was; nothing for a store that says no times."""
    if not timed["seconds"]:
        return {}
    rate = timed["tokens"] / timed["seconds"]
    return {f"{task}/seconds": float(samples["tokens"].sum() / rate), f"{task}/tokens_per_second": rate}
