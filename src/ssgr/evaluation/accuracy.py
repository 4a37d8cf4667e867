"""Accuracy of generated answers: avg@k with its standard error, and what must stand beside it."""

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import stats

from ssgr.config import EvaluationConfig
from ssgr.engines.base import Engine, Sampling
from ssgr.traces.prompts import PromptTemplate
from ssgr.traces.store import StoreView, TraceStore

if TYPE_CHECKING:
    from ssgr.models.load import LoadedModel


@dataclass
class Accuracy:
    """`samples` is samples.parquet: task, problem_id, repeat, correct, tokens, finish_reason, answer, output_ids.

    `metrics` maps "<task>/accuracy" and its companions to numbers; `view` is the samples as they lie in the store.
    """

    samples: pd.DataFrame
    metrics: dict[str, float]
    view: StoreView


def sampling_of(config: EvaluationConfig) -> Sampling:
    return Sampling(config.temperature, config.top_p, config.max_new_tokens)


def evaluate(
    engine: Engine,
    loaded: "LoadedModel",
    template: PromptTemplate,
    config: EvaluationConfig,
    *,
    repeats: int,
    limit: int | None,
    store: TraceStore,
) -> Accuracy:
    """Evaluates what the store lacks and returns all of it; `config` has its nulls filled.

    The first `limit` problems (None: all) with `repeats` completions each. Raises UserError for a task file that
    cannot be read, CellError when the model cannot generate.
    """
    from ssgr.evaluation.lm import EngineLM, run_lm_eval, timing

    lm = EngineLM(engine, template, store, config.name, config.seed)
    theirs = run_lm_eval(lm, config, sampling_of(config), repeats, limit)
    view = store.view(lm.problems, repeats)
    samples = samples_table(view, config.name)
    metrics = summarise(samples, config.name) | _speed(samples, config.name, timing(store))
    ours = metrics[f"{config.name}/accuracy"]
    if abs(ours - theirs) > 1e-9:
        raise AssertionError(f"lm-eval's mean {theirs} is not ours, {ours}")
    return Accuracy(samples, metrics, view)


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


def summarise(samples: pd.DataFrame, task: str) -> dict[str, float]:
    """The metrics of a samples table. The standard error is clustered: problems are drawn, not completions."""
    problems = samples.groupby("problem_id", sort=False)
    means = problems["correct"].mean()
    values = {
        "accuracy": float(means.mean()),
        "accuracy_se": standard_error(means.to_numpy()),
        "mean_tokens": float(samples["tokens"].mean()),
        "truncated": float((samples["finish_reason"] != "stop").mean()),
        "problems": len(means),
        "repeats": int(problems.size().max()),
        "pass_at_k": float(problems["correct"].any().mean()),
        "maj_at_k": float(np.mean([_majority_is_correct(group) for _, group in problems])),
    }
    return {f"{task}/{name}": value for name, value in values.items()}


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


def _majority_is_correct(samples: pd.DataFrame) -> bool:
    """Whether the most frequent answer is right; among equally frequent ones the first counts."""
    answers = [answer for answer in samples["answer"] if isinstance(answer, str)]
    if not answers:
        return False
    winner = Counter(answers).most_common(1)[0][0]
    return bool(samples["correct"][samples["answer"] == winner].any())


def _speed(samples: pd.DataFrame, task: str, timed: dict[str, float]) -> dict[str, float]:
    """What these samples took to generate, whenever that was; nothing for a store that says no times."""
    if not timed["seconds"]:
        return {}
    rate = timed["tokens"] / timed["seconds"]
    return {f"{task}/seconds": float(samples["tokens"].sum() / rate), f"{task}/tokens_per_second": rate}
