"""The dense model's evaluation: made once for a model and a task, then read from the cache by every cell."""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssgr.cache import content_hash, locked, read_json, write_json
from ssgr.config import EvaluationConfig, TaskConfig
from ssgr.engines.base import Engine
from ssgr.evaluation.accuracy import Accuracy, evaluate, samples_table, sampling_of
from ssgr.evaluation.files import evaluation_identity, load_evaluation_problems, task_hash
from ssgr.traces.problems import Problem
from ssgr.traces.prompts import PromptTemplate
from ssgr.traces.store import TraceStore

if TYPE_CHECKING:
    from ssgr.models.load import LoadedModel

BUNDLED_SAMPLES = Path(__file__).parents[1] / "bundled" / "dense_samples"
REMEMBERED = 8  # evaluations: a few models with a few tasks each
KEY = ("weights", "dtype", "task", "template", "think_end", "sampling", "seed")  # these and the engine decide a sample


@dataclass
class DenseEvaluation:
    """`folder` is where more of the dense model's evaluation may be kept, such as its hidden states."""

    accuracy: Accuracy
    store: TraceStore
    folder: Path


@dataclass(frozen=True)
class _Known:
    """What an evaluation found out about rows that are stored, without the rows: those are read again each time."""

    problems: tuple[Problem, ...]
    metrics: dict[str, float]
    unanswered: frozenset[tuple[str, int]]

    def read(self, store: TraceStore, config: TaskConfig) -> Accuracy:
        """As `evaluate` returns it, and the caller's own."""
        view = store.view(self.problems, config.dense_repeats)
        return Accuracy(samples_table(view, config.name), dict(self.metrics), view, self.unanswered)


_known: dict[tuple, _Known] = {}  # the last few of this process, by _key; the oldest first


def dense(
    engine: Engine,
    loaded: "LoadedModel",
    template: PromptTemplate,
    config: TaskConfig,
    limit: int | None,
    cache_root: Path,
) -> DenseEvaluation:
    """The evaluation of the model before pruning, with config.dense_repeats; only missing rows are generated.

    Kept in <cache>/dense/<key>/. The samples that the package ships are used where they are this model's. A process
    has lm-eval go through the same rows only once.
    """
    manifest = make_manifest(engine, loaded, template, config)
    folder = Path(cache_root) / "dense" / dense_key(manifest)
    with locked(folder.with_suffix(".lock")):
        store = _open_store(folder, manifest, config, limit)
        known = _known.get(_key(store, manifest, config, limit))
        if known is not None:
            return DenseEvaluation(known.read(store, config), store, folder)
        options = {"repeats": config.dense_repeats, "limit": limit, "store": store}
        accuracy = evaluate(engine, loaded, template, config, **options)
        _remember(_key(store, manifest, config, limit), accuracy)
        return DenseEvaluation(accuracy, store, folder)


def _key(store: TraceStore, manifest: dict[str, Any], config: TaskConfig, limit: int | None) -> tuple:
    """All that decides an evaluation: what is asked (the task's contents stand in dense_key) and what lies there.

    Parts are named by their contents, so that rows which another process has added or graded again make another key.
    """
    from ssgr.evaluation.lm import timing

    asked = (store.folder, dense_key(manifest), config.dense_repeats, limit)
    return (*asked, tuple(store.parts), tuple(timing(store).items()))


def _remember(key: tuple, accuracy: Accuracy) -> None:
    _known[key] = _Known(tuple(accuracy.view.problems), dict(accuracy.metrics), frozenset(accuracy.unanswered))
    while len(_known) > REMEMBERED:
        del _known[next(iter(_known))]


def dense_metrics(
    engine: Engine,
    loaded: "LoadedModel",
    template: PromptTemplate,
    config: EvaluationConfig,
    limit: int | None,
    cache_root: Path,
    measure: Callable[[], dict[str, float]],
) -> dict[str, float]:
    """What `measure` returns of the model before pruning; kept in <cache>/dense/<key>/metrics.json.

    For evaluations that leave no samples. `config` has its nulls filled.
    """
    dtype = str(loaded.dtype).removeprefix("torch.")
    about = {"weights": loaded.weights_hash, "dtype": dtype, "evaluation": evaluation_identity(config), "limit": limit}
    # lm-eval's tasks grade nothing else, and nothing where the tag is missing
    about |= {"graded_after": loaded.think_end}
    if getattr(config, "chat_template", False):
        about |= {"chat": template.options}
    about |= {"engine": engine.identity.get("engine", ""), "lm_eval": version("lm_eval")}
    folder = Path(cache_root) / "dense" / content_hash(about)
    with locked(folder.with_suffix(".lock")):
        kept = read_json(folder / "metrics.json")
        if kept is None:
            kept = {"model": loaded.name, **about, "metrics": measure()}
            write_json(folder / "metrics.json", kept)
    return kept["metrics"]


def make_manifest(
    engine: Engine, loaded: "LoadedModel", template: PromptTemplate, config: TaskConfig
) -> dict[str, Any]:
    """What the store's manifest.json says about where its samples come from."""
    return {
        "model": loaded.name,
        "weights": loaded.weights_hash,
        "dtype": str(loaded.dtype).removeprefix("torch."),
        "task": task_hash(config),
        "template": template.hash,
        "think_end": template.think_end,
        "sampling": asdict(sampling_of(config)),
        "seed": config.seed,
        "engine": dict(engine.identity),
        "batch_size": engine.batch_size,
    }


def dense_key(manifest: dict[str, Any]) -> str:
    """The name of the dense evaluation in the cache; repeats and limit do not enter, since rows are added."""
    return content_hash({**{name: manifest[name] for name in KEY}, "engine": manifest["engine"].get("engine", "")})


def _open_store(folder: Path, manifest: dict[str, Any], config: TaskConfig, limit: int | None) -> TraceStore:
    """The store in the cache; before there is one, the shipped samples or a copy of them to add to."""
    if not (folder / "manifest.json").is_file() and is_shipped(manifest):
        shipped = TraceStore.open(BUNDLED_SAMPLES)
        problems = load_evaluation_problems(config)
        wanted = problems[:limit]
        if shipped.problems == problems and not shipped.missing([p.problem_id for p in wanted], config.dense_repeats):
            return shipped
        shutil.copytree(BUNDLED_SAMPLES, folder, dirs_exist_ok=True)
    return TraceStore.open(folder, manifest)


def is_shipped(manifest: dict[str, Any]) -> bool:
    path = BUNDLED_SAMPLES / "manifest.json"
    if not path.is_file():
        return False
    shipped = json.loads(path.read_text(encoding="utf-8"))
    return all(shipped.get(name) == manifest[name] for name in KEY)
