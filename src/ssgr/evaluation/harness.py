"""Any task of lm-eval by its name, put to a model as it stands."""

import time
from collections.abc import Sequence
from difflib import get_close_matches
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import lm_eval.api.metrics
import lm_eval.api.task
import numpy as np
from lm_eval.defaults import DEFAULT_OTHER_SEED
from lm_eval.evaluator import evaluate as lm_evaluate
from lm_eval.tasks import TaskManager

from ssgr.config import LmEvalConfig
from ssgr.engines.base import Engine
from ssgr.errors import UserError, first_line
from ssgr.evaluation.accuracy import standard_error
from ssgr.evaluation.engine_lm import EngineLM
from ssgr.evaluation.isolation import quiet, random_state_kept
from ssgr.progress import say
from ssgr.traces.prompts import PromptTemplate

if TYPE_CHECKING:
    from ssgr.models.load import LoadedModel

OVERRIDE = "evaluation.include_path=FOLDER can name tasks with local data"


def lm_eval_metrics(
    engine: Engine, loaded: "LoadedModel", template: PromptTemplate, config: LmEvalConfig, limit: int | None
) -> dict[str, float]:
    """What lm-eval measures on its tasks: "<task>/<metric>", with "_se" where it is a mean, "/problems" and "/seconds".

    A metric of a filter that has a name is "<task>/<metric>,<filter>", as lm-eval writes it. "<task>/truncated" is the
    share of completions that were cut before a stop string or whose reasoning never ended. The first `limit` documents
    of each task count (None: all). Raises UserError, one line, for tasks that are not there, that cannot be used, or
    whose data cannot be had.
    """
    with quiet(), random_state_kept():
        loaded_tasks = load_tasks(config)
        chat = config.chat_template
        lm = EngineLM(engine, loaded, config.max_new_tokens, config.seed, template if chat else None)
        started = time.monotonic()
        how = {"limit": limit, "bootstrap_iters": 0, "apply_chat_template": chat, "fewshot_as_multiturn": chat}
        results = lm_evaluate(lm, loaded_tasks, **how)
    seconds = time.monotonic() - started
    metrics: dict[str, float] = {}
    for name, values in results["results"].items():
        metrics |= _metrics_of(name, values, loaded_tasks["tasks"].get(name), results["samples"].get(name, []))
        if name in lm.truncated:
            metrics[f"{name}/truncated"] = float(np.mean(lm.truncated[name]))
        metrics[f"{name}/seconds"] = seconds / len(results["results"])
    return metrics


@lru_cache(maxsize=1)  # it looks through thousands of files, and the dense and the pruned model of every cell ask
def task_manager(include_path: str | None) -> TaskManager:
    say("reading lm-eval's tasks")
    return TaskManager(include_path=include_path, include_defaults=True)


def load_tasks(config: LmEvalConfig) -> dict[str, Any]:
    """The tasks as lm-eval's evaluator takes them; they read their data now. Raises UserError."""
    manager = task_manager(config.include_path)
    for name in config.tasks:
        if name not in manager.all_tasks:
            close = get_close_matches(name, manager.all_tasks, n=3)
            hint = f"did you mean {' or '.join(close)}?" if close else OVERRIDE
            raise UserError(f"evaluation.tasks: lm-eval has no task {name!r}; {hint}")
    try:
        found = manager.load(list(config.tasks))
    except Exception as error:  # whatever data sets, their hub and the tasks' own code raise
        names = ", ".join(config.tasks)
        reason = first_line(error)[:300]
        raise UserError(f"evaluation.tasks=[{names}] cannot be loaded ({reason}); {OVERRIDE}") from error
    for name, task in found["tasks"].items():
        if getattr(task, "UNSAFE_CODE", False) or getattr(task, "MULTIMODAL", False):
            raise UserError(
                f"evaluation.tasks: {name} runs a model's code, or asks about pictures: neither is supported"
            )
        if config.num_fewshot is not None:
            task.set_config("num_fewshot", config.num_fewshot)
        # lm-eval's own default; without one, every model would see other examples
        task.set_fewshot_seed(DEFAULT_OTHER_SEED)
    return found


def _metrics_of(name: str, values: dict[str, Any], task: Any, samples: Sequence[dict[str, Any]]) -> dict[str, float]:
    found: dict[str, float] = {}
    for key, value in values.items():
        metric, _, chosen = key.partition(",")
        if isinstance(value, bool | str) or not isinstance(value, int | float | np.number) or not chosen:
            continue
        label = f"{name}/{metric}" if chosen == "none" else f"{name}/{metric},{chosen}"
        found[label] = float(value)
        if task is not None and task.aggregation().get(metric) is lm_eval.api.metrics.mean:
            each = [float(sample[metric]) for sample in samples if sample["filter"] == chosen and metric in sample]
            found[f"{label}_se"] = standard_error(np.asarray(each))
    if samples:
        found[f"{name}/problems"] = len({sample["doc_id"] for sample in samples})
    return found
