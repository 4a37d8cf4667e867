"""What can be known of an evaluation before torch is loaded: its problems, and the hash of what it reads."""

from functools import lru_cache
from pathlib import Path
from typing import Any

from ssgr.cache import content_hash, file_hash
from ssgr.config import EvaluationConfig, LmEvalConfig, PerplexityConfig, TaskConfig
from ssgr.data_files import contents_hash, data_files, file_state, is_text
from ssgr.errors import UserError
from ssgr.evaluation.named_tasks import from_files, from_hub
from ssgr.hub_data import hub_contents
from ssgr.traces.problems import Fields, Problem, jsonl_path, read_bundled, read_problems

TASKS = Path(__file__).parent / "tasks"
BUNDLED_PROBLEMS = Path(__file__).parents[1] / "bundled" / "evaluation.parquet"
OTHERS = ("divergence", "lm_eval", "perplexity")  # what an evaluation may be besides a task of ours


def task_names() -> list[str]:
    """The tasks that have a YAML file."""
    return sorted(path.stem for path in TASKS.glob("*.yaml"))


def evaluation_names() -> list[str]:
    """Everything that evaluation=… may say."""
    return sorted([*task_names(), *OTHERS])


def task_hash(config: TaskConfig) -> str:
    """A hash of the problems' contents and of the fields that are read; UserError where the file is not there.

    Neither the file's path nor how its problems are sampled enters. A hub's data set stands for its contents.
    """
    if config.name == "tiny_math":
        return content_hash([config.name, file_hash(_bundled_file(config)), []])
    fields = [config.question_field, config.answer_field]
    if config.name == "jsonl":
        if config.solution_field is not None:
            fields.append(config.solution_field)  # whose last box may be the answer
        return content_hash([config.name, file_hash(_jsonl_file(config)), fields])
    files = _local_files(config)
    contents = [contents_hash(file) for file in files] if files is not None else _hub_contents(config)
    return content_hash([config.name, contents, [*fields, config.solution_field]])


def load_evaluation_problems(config: EvaluationConfig) -> list[Problem]:
    """Every problem that the evaluation asks, in its order; none where it asks no problems.

    evaluation.path reads local files, else evaluation.dataset is downloaded. Raises UserError, with file and line,
    for an unknown task, a missing file, malformed JSON, a problem without a question or an answer, and ids that occur
    twice; of the well-known sets, problems without an answer and repeated ones are left out instead, and said. Raises
    UserError too where the hub cannot be reached.
    """
    task = config.problem_task
    if task is None:
        return []
    if task.name == "tiny_math":
        return read_bundled(_bundled_file(task))
    if task.name == "jsonl":
        return read_problems(_jsonl_file(task), "evaluation", _fields(task))
    files = _local_files(task)
    if files is not None:
        return list(_from_files(task.name, _fields(task), *(file_state(file) for file in files)))
    return list(_from_hub(task.name, _fields(task), *_hub_contents(task)))


def check_evaluation(config: EvaluationConfig) -> None:
    """UserError for values that make no sense and for files that are not there or cannot be used.

    What lm-eval's own tasks need is known only once lm-eval is loaded.
    """
    load_evaluation_problems(config)
    evaluation_identity(config)  # which reads every file


def evaluation_identity(config: EvaluationConfig) -> dict[str, Any]:
    """Every value of an evaluation that can change what it measures, with files by their contents."""
    if isinstance(config, PerplexityConfig):
        return {"name": config.name, "max_seq_len": config.max_seq_len, "contents": text_contents(config)}
    if isinstance(config, LmEvalConfig):
        names = ("name", "tasks", "num_fewshot", "chat_template", "max_new_tokens", "seed")
        return {name: getattr(config, name) for name in names} | {"contents": include_contents(config)}
    task = config.problem_task
    names = [
        "name",
        "question_field",
        "answer_field",
        "dense_repeats",
        "temperature",
        "top_p",
        "max_new_tokens",
        "seed",
    ]
    found = {name: getattr(task, name) for name in names} | {"task": task_hash(task)}
    if task.instruction is not None:
        found["instruction"] = task.instruction
    # the divergence alone is of one sample a problem, and has no repeats of the pruned model
    return found | ({"repeats": task.repeats} if config is task else {"measures": config.name})


def text_contents(config: PerplexityConfig) -> list[str | None]:
    """What names the text in hashes: each file's hash, or the hub's id, config, split and revision; the rows' field."""
    if config.path is None:
        return [*hub_contents(config.dataset), config.text_field]
    files = data_files(config.path, "evaluation.path")
    rows = not all(map(is_text, files))
    return [*map(contents_hash, files), *([config.text_field] if rows else [])]


def include_contents(config: LmEvalConfig) -> list[list[str]]:
    """Name and hash of each file below evaluation.include_path; UserError where that is no folder."""
    if config.include_path is None:
        return []
    folder = Path(config.include_path).expanduser()
    if not folder.is_dir():
        raise UserError(f"evaluation.include_path={config.include_path}: no such folder")
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc")
    return [[str(path.relative_to(folder)), contents_hash(path)] for path in files]


def _fields(config: TaskConfig) -> Fields:
    return Fields(config.question_field, config.answer_field, config.solution_field)


def _hub_contents(config: TaskConfig) -> list[str | None]:
    return [*hub_contents(config.dataset), *(hub_contents(config.first) if config.first else [])]


def _bundled_file(config: TaskConfig) -> Path:
    if not BUNDLED_PROBLEMS.is_file():
        raise UserError(f"evaluation={config.name}: this installation lacks the package's own {BUNDLED_PROBLEMS.name}")
    return BUNDLED_PROBLEMS


def _jsonl_file(config: TaskConfig) -> Path:
    return jsonl_path(config.path, "evaluation.path")


def _local_files(config: TaskConfig) -> list[Path] | None:
    """The files that take the hub's place; None where the hub is asked."""
    if config.name not in task_names():
        raise UserError(f"no evaluation is named {config.name!r}; choices: {', '.join(evaluation_names())}")
    if config.path is None and config.dataset is not None:
        return None
    return data_files(config.path, "evaluation.path")


@lru_cache(maxsize=8)  # a study asks for the same set once a cell, and each cell asks several times
def _from_files(name: str, fields: Fields, *files: tuple[Path, int, int]) -> tuple[Problem, ...]:
    return tuple(from_files(name, fields, [path for path, _, _ in files]))


@lru_cache(maxsize=8)
def _from_hub(name: str, fields: Fields, *datasets: str | None) -> tuple[Problem, ...]:
    return tuple(from_hub(name, fields, datasets))
