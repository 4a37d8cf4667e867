"""The model's own traces: every missing rollout is generated in whole batches, graded and stored at once."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

from ssgr.cache import locked, read_json
from ssgr.config import RolloutsConfig
from ssgr.engines.base import Engine, Generation, Sampling
from ssgr.errors import UserError
from ssgr.progress import say, track
from ssgr.traces import grading_worker
from ssgr.traces.grading import grade_all
from ssgr.traces.problems import Problem
from ssgr.traces.prompts import PromptTemplate
from ssgr.traces.store import StoreView, Trace, TraceStore, row_seed, store_key

BUNDLED = Path(__file__).parents[1] / "bundled" / "rollouts"
BUNDLED_NAME = "bundled"  # as the path of the model that the package ships
MANIFEST_OPTIONS = ("temperature", "top_p", "max_new_tokens", "seed")


def collect(
    engine: Engine | None,
    loaded: Any,
    template: PromptTemplate,
    problems: Sequence[Problem],
    config: RolloutsConfig,
    cache_root: Path,
    problem_set: str = "",
) -> StoreView:
    """The view of the first config.problems problems with rollouts 0..k-1, after generating what the store lacks.

    `loaded` is a LoadedModel, `config` has its nulls filled, `problem_set` is the name of the problem set (part of
    the store's key). A killed run goes on at the first missing batch and leaves the same bytes as an undisturbed one.
    rollouts=bundled reads the shipped store, needs no engine, and raises UserError where that store was made by
    another model, template or sampling, or holds less than is asked for.
    """
    if config.name == "bundled":
        return _bundled(loaded, template, problems, config)
    if len(problems) < config.problems:
        say(f"rollouts.problems={config.problems}: the problem set holds {len(problems)}, all of them are used")
    problems = list(problems[: config.problems])
    manifest = make_manifest(engine, loaded, template, config, problem_set)
    folder = store_folder(cache_root, manifest)
    if read_json(folder / "manifest.json"):
        view = TraceStore.open(folder).view(problems, config.k, config.split)
        if len(view.all_traces) == len(problems) * config.k:
            return view  # without waiting for a process that adds other rows
    with locked(folder.with_suffix(".lock")):
        store = TraceStore.open(folder, manifest)
        store.set_problems(problems)
        missing = store.missing([problem.problem_id for problem in problems], config.k)
        if missing:
            _generate(engine, template, {problem.problem_id: problem for problem in problems}, missing, config, store)
    return store.view(problems, config.k, config.split)


def make_manifest(
    engine: Engine, loaded: Any, template: PromptTemplate, config: RolloutsConfig, problem_set: str = ""
) -> dict[str, Any]:
    """What a store's manifest.json says about where its tokens come from; nothing in it depends on the time."""
    return {
        "model": loaded.name,
        "path": _findable(getattr(loaded, "path", None)),
        "revision": loaded.revision,
        "weights": loaded.weights_hash,
        "dtype": str(getattr(loaded, "dtype", "")).removeprefix("torch."),
        "think_end": template.think_end,
        "template": template.hash,
        "instruction": template.instruction,
        "enable_thinking": template.options.get("enable_thinking"),
        "sampling": asdict(sampling_of(config)),
        "seed": config.seed,
        "problem_set": problem_set,
        "engine": dict(engine.identity),
        "batch_size": engine.batch_size,
    }


def _findable(path: str | None) -> str | None:
    """A hub id as it is; a folder absolutely, so that the store's tokenizer is found from anywhere."""
    if path is None or path == BUNDLED_NAME or not Path(path).expanduser().is_dir():
        return path
    return str(Path(path).expanduser().resolve())


def store_folder(cache_root: Path, manifest: dict[str, Any]) -> Path:
    """<cache>/traces/<key> of the store that this manifest describes."""
    key = store_key(
        weights_hash=manifest["weights"],
        dtype=manifest["dtype"],
        engine=manifest["engine"].get("engine", ""),
        template=manifest["template"],
        think_end=manifest["think_end"],
        sampling=Sampling(**manifest["sampling"]),
        seed=manifest["seed"],
        problem_set=manifest["problem_set"],
    )
    return Path(cache_root) / "traces" / key


def sampling_of(config: RolloutsConfig) -> Sampling:
    return Sampling(config.temperature, config.top_p, config.max_new_tokens)


def _generate(
    engine: Engine,
    template: PromptTemplate,
    problems: dict[str, Problem],
    missing: list[tuple[str, int]],
    config: RolloutsConfig,
    store: TraceStore,
) -> None:
    """What is missing, in a fixed order, stored group by group as it comes: a run that stops loses no group."""
    prompts = prompts_of(template, problems, missing)
    with track("rollouts", len(missing)) as bar:
        stream = engine.stream(
            [prompts[problem_id] for problem_id, _ in missing],
            [row_seed(config.seed, problem_id, rollout) for problem_id, rollout in missing],
            sampling_of(config),
            bar.token_rate(),
        )
        for numbers, generations in stream:
            rows = [missing[number] for number in numbers]
            texts = (template.completion_text(made.output_ids) for made in generations)
            store.append(graded_traces(template.think_end, problems, prompts, rows, generations, texts))
    grading_worker.keep_one()


def prompts_of(
    template: PromptTemplate, problems: Mapping[str, Problem], rows: Sequence[tuple[str, int]]
) -> dict[str, list[int]]:
    """The prompt of each problem that these (problem id, rollout) name, written once however many name it."""
    asked = list(dict.fromkeys(problem_id for problem_id, _ in rows))
    return dict(zip(asked, template.prompts([problems[i].question for i in asked]), strict=True))


def graded_traces(
    think_end: str | None,
    problems: Mapping[str, Problem],
    prompts: Mapping[str, Sequence[int]],
    rows: Sequence[tuple[str, int]],
    generations: Sequence[Generation],
    texts: Iterable[str],
) -> list[Trace]:
    """What was generated for these (problem id, rollout), graded on all processors; in the rows' order.

    `texts` are the generations' own, as PromptTemplate.completion_text reads them.
    After the last batch grading_worker.keep_one ends the child processes that no longer have anything to do.
    """
    golds = (problems[problem_id].answer for problem_id, _ in rows)
    reasons = (made.finish_reason for made in generations)
    grades = grade_all(zip(texts, golds, reasons, strict=True), think_end, more_follow=True)
    graded = zip(rows, generations, grades, strict=True)
    return [
        Trace(i, rollout, prompts[i], made.output_ids, made.finish_reason, found.correct, found.answer)
        for (i, rollout), made, found in graded
    ]


def _bundled(loaded: Any, template: PromptTemplate, problems: Sequence[Problem], config: RolloutsConfig) -> StoreView:
    check_bundled(loaded.name, loaded.weights_hash, problems, config)
    store = TraceStore.open(BUNDLED)
    if store.manifest["template"] != template.hash:
        raise UserError("rollouts=bundled was made with another chat template or instruction: use rollouts=fresh")
    view = store.view(problems[: config.problems], config.k, config.split)
    view.more += f" ({_bundled_holds(store)}; rollouts=fresh generates more)"
    return view


def check_bundled(model: str, weights: Any, problems: Sequence[Problem], config: RolloutsConfig) -> None:
    """UserError where the shipped store is not what this model would have generated, or holds less than is asked for.

    Its template is not compared, which takes a tokenizer.
    """
    manifest = read_json(BUNDLED / "manifest.json")
    if manifest["weights"] != weights:
        raise UserError(f"rollouts=bundled is {manifest['model']}'s, not {model}'s: use rollouts=fresh")
    made = {**manifest["sampling"], "seed": manifest["seed"]}
    for option in MANIFEST_OPTIONS:
        wanted = getattr(config, option)
        if wanted is not None and wanted != made[option]:
            raise UserError(
                f"rollouts=bundled was made with {option}={made[option]}, not {wanted}: use rollouts=fresh or leave "
                f"rollouts.{option} as it is"
            )
    wanted = tuple(problems[: config.problems])
    if len(wanted) < config.problems or _bundled_lacks(wanted, config.k):
        raise UserError(
            f"{_bundled_holds(TraceStore.open(BUNDLED))}; rollouts.problems={config.problems} with "
            f"rollouts.k={config.k} on this problem set asks for more: use rollouts=fresh"
        )


def _bundled_holds(store: TraceStore) -> str:
    problems = store.index["problem_id"].nunique()
    return f"rollouts=bundled holds {store.index['rollout'].max() + 1} rollouts of {problems:,} problems"


@lru_cache(maxsize=8)  # every cell of a study asks
def _bundled_lacks(problems: tuple[Problem, ...], k: int) -> bool:
    return len(TraceStore.open(BUNDLED).view(problems, k).all_traces) < len(problems) * k
