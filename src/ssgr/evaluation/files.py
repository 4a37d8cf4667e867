"""What can be known of an evaluation before torch is loaded: its problems, and the hash of what it reads."""

from pathlib import Path

from ssgr.cache import content_hash, file_hash
from ssgr.config import EvaluationConfig
from ssgr.errors import UserError
from ssgr.traces.problems import Fields, Problem, jsonl_path, read_bundled, read_problems

TASKS = Path(__file__).parent / "tasks"
BUNDLED_PROBLEMS = Path(__file__).parents[1] / "bundled" / "evaluation.parquet"


def task_names() -> list[str]:
    """The tasks that have a YAML file."""
    return sorted(path.stem for path in TASKS.glob("*.yaml"))


def task_hash(config: EvaluationConfig) -> str:
    """A hash of the problems' contents and of the fields that are read; UserError where the file is not there.

    Neither the file's path nor how its problems are sampled enters.
    """
    fields = [config.question_field, config.answer_field] if config.name == "jsonl" else []
    return content_hash([config.name, file_hash(_problem_file(config)), fields])


def load_evaluation_problems(config: EvaluationConfig) -> list[Problem]:
    """Every problem of the task, in the file's order.

    Raises UserError, with file and line, for an unknown task, a missing file, malformed JSON, a problem without a
    question or an answer, and ids that occur twice.
    """
    path = _problem_file(config)
    if config.name == "tiny_math":
        return read_bundled(path)
    return read_problems(path, "evaluation", Fields(config.question_field, config.answer_field))


def _problem_file(config: EvaluationConfig) -> Path:
    if config.name not in task_names():
        raise UserError(f"no evaluation is named {config.name!r}; choices: {', '.join(task_names())}")
    if config.name == "jsonl":
        return jsonl_path(config.path, "evaluation.path")
    if not BUNDLED_PROBLEMS.is_file():
        raise UserError(f"evaluation={config.name}: this installation lacks the package's own {BUNDLED_PROBLEMS.name}")
    return BUNDLED_PROBLEMS
