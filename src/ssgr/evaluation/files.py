"""What can be known of an evaluation before torch is loaded: its problems, and the hash of what it reads."""

from pathlib import Path

from ssgr.cache import content_hash, file_hash
from ssgr.config import EvaluationConfig
from ssgr.errors import UserError
from ssgr.traces.problems import Problem, jsonl_path, problem_id_of, read_jsonl, split_answer, text_field

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
        return _read_bundled(path)
    problems, lines = [], {}
    for number, row in read_jsonl(path, "evaluation.path"):
        place = f"{path}:{number}"
        question = text_field(row, config.question_field, "a question", place, "evaluation.question_field")
        answer = text_field(row, config.answer_field, "an answer", place, "evaluation.answer_field")
        answer, solution = split_answer(answer)
        if not answer:
            raise UserError(f"{place}: a problem without an answer (nothing follows ####)")
        problem = Problem(problem_id_of(row, question), question, answer, solution)
        first = lines.setdefault(problem.problem_id, number)
        if first != number:
            raise UserError(f"{place}: problem {problem.problem_id!r} stands on line {first} already")
        problems.append(problem)
    if not problems:
        raise UserError(f"evaluation.path={path}: no problems in the file")
    return problems


def _problem_file(config: EvaluationConfig) -> Path:
    if config.name not in task_names():
        raise UserError(f"no evaluation is named {config.name!r}; choices: {', '.join(task_names())}")
    if config.name == "jsonl":
        return jsonl_path(config.path, "evaluation.path")
    if not BUNDLED_PROBLEMS.is_file():
        raise UserError(f"evaluation={config.name}: this installation lacks the package's own {BUNDLED_PROBLEMS.name}")
    return BUNDLED_PROBLEMS


def _read_bundled(path: Path) -> list[Problem]:
    import pyarrow.parquet as pq

    names = Problem.__dataclass_fields__
    return [Problem(**{name: row[name] for name in names if name in row}) for row in pq.read_table(path).to_pylist()]
