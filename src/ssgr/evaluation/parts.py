"""One evaluation of a cell at a time: of the dense model from the cache, of the pruned one as it stands."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ssgr.config import EvaluationConfig, LmEvalConfig, PerplexityConfig, TaskConfig
from ssgr.engines.base import Engine
from ssgr.evaluation.accuracy import evaluate
from ssgr.evaluation.dense import DenseEvaluation, dense, dense_metrics
from ssgr.evaluation.isolation import quiet, random_state_kept
from ssgr.models.load import LoadedModel
from ssgr.traces.prompts import PromptTemplate
from ssgr.traces.store import TraceStore


@dataclass
class Part:
    """What one evaluation measured. `samples` is None where it leaves none; `dense` is what may be cached beside it."""

    metrics: dict[str, float]
    samples: pd.DataFrame | None = None
    dense: DenseEvaluation | None = None


@dataclass
class Examiner:
    """A model, what talks to it, and how many problems (documents, windows) of each evaluation count (None: all)."""

    engine: Engine
    loaded: LoadedModel
    template: PromptTemplate
    limit: int | None

    def before(self, config: EvaluationConfig, cache: Path) -> Part:
        """Of the model before pruning: made once, then read from the cache."""
        task = config.problem_task
        if task is None:
            options = (self.engine, self.loaded, self.template, config, self.limit, cache)
            return Part(dense_metrics(*options, lambda: self._measured(config)))
        found = dense(self.engine, self.loaded, task_template(self.template, task), task, self.limit, cache)
        return Part(found.accuracy.metrics, found.accuracy.samples, found)

    def after(self, config: EvaluationConfig, folder: Path, manifest: dict[str, Any]) -> Part:
        """Of the model as it stands; samples are stored in `folder` batch by batch: a killed evaluation goes on."""
        if not isinstance(config, TaskConfig):
            return Part({} if config.problem_task is not None else self._measured(config))
        options = {"repeats": config.repeats, "limit": self.limit, "store": TraceStore.open(folder, manifest)}
        found = evaluate(self.engine, self.loaded, task_template(self.template, config), config, **options)
        return Part(found.metrics, found.samples)

    def _measured(self, config: EvaluationConfig) -> dict[str, float]:
        if isinstance(config, PerplexityConfig):
            from ssgr.evaluation.perplexity import perplexity

            return perplexity(self.loaded, config, self.limit)
        assert isinstance(config, LmEvalConfig)
        from ssgr.evaluation.harness import lm_eval_metrics

        return lm_eval_metrics(self.engine, self.loaded, self.template, config, self.limit)


def check_data(config: EvaluationConfig) -> None:
    """UserError, before anything is generated, where what is read beside problems is not there or cannot be had."""
    if isinstance(config, PerplexityConfig):
        from ssgr.evaluation.perplexity import whole_text

        whole_text(config)
    if isinstance(config, LmEvalConfig):
        from ssgr.evaluation.harness import load_tasks

        with quiet(), random_state_kept():
            load_tasks(config)


def task_template(template: PromptTemplate, config: TaskConfig) -> PromptTemplate:
    """The template with the task's own instruction, where it has one."""
    if config.instruction is None:
        return template
    thinking = template.options.get("enable_thinking")
    return PromptTemplate(template.tokenizer, config.instruction, template.think_end, thinking)
