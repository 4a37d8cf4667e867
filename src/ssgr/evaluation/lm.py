"""Our own tasks through lm-eval: problems put to an engine, their completions kept in a store."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lm_eval.api.instance import Instance
from lm_eval.evaluator import evaluate as lm_evaluate
from lm_eval.tasks import TaskManager

from ssgr.cache import read_json, write_json
from ssgr.config import TaskConfig
from ssgr.engines.base import Engine, Sampling
from ssgr.evaluation.engine_lm import EngineLM
from ssgr.evaluation.files import TASKS
from ssgr.evaluation.isolation import quiet, random_state_kept
from ssgr.progress import track
from ssgr.traces import grading_worker
from ssgr.traces.problems import Problem
from ssgr.traces.prompts import PromptTemplate, answer_text
from ssgr.traces.rollouts import graded_traces, prompts_of
from ssgr.traces.store import TraceStore, row_seed

if TYPE_CHECKING:
    from ssgr.models.load import LoadedModel


class Completion(str):
    """What lm-eval sees of a completion: the text after the reasoning. Its grade rides along."""

    correct: bool


class ProblemLM(EngineLM):
    """Generates our tasks' requests with an engine; what lies in the store is not generated again.

    Rows are (problem, repeat), each with its own seed. They are generated in whole batches in a fixed order and
    stored batch by batch, so that a killed evaluation goes on. Afterwards `problems` holds what was asked, and
    `unanswered` the rows that were cut or whose reasoning never ended.
    """

    def __init__(
        self,
        engine: Engine,
        loaded: "LoadedModel",
        template: PromptTemplate,
        store: TraceStore,
        task: str,
        most: int,
        seed: int,
    ):
        super().__init__(engine, loaded, most, seed, template)
        self.store, self.task = store, task
        self.problems: list[Problem] = []
        self.unanswered: set[tuple[str, int]] = set()
        self._decoded: dict[tuple[str, int], str] = {}  # what was generated just now, read for its grade

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """One string per request, in order; a request that stands k times in a row gets its repeats 0..k-1."""
        repeats: dict[str, int] = {}
        rows, questions = [], {}
        for request in requests:
            problem = _problem(request)
            repeat = repeats.get(problem.problem_id, 0)
            repeats[problem.problem_id] = repeat + 1
            rows.append((problem.problem_id, repeat))
            questions[problem.problem_id] = problem
        self.problems = list(questions.values())
        self._fill(rows, questions, _sampling(requests))
        texts = self._texts(max(repeats.values(), default=0))
        return [texts[row] for row in rows]

    def _fill(self, rows: Sequence[tuple[str, int]], problems: dict[str, Problem], sampling: Sampling) -> None:
        """Generates and stores the rows that the store lacks."""
        repeats = max((repeat for _, repeat in rows), default=-1) + 1
        self.store.set_problems(self.problems)
        missing = self.store.missing(problems, repeats)
        if not missing:
            return  # an engine that is not started yet need not start
        prompts = prompts_of(self.template, problems, missing)
        with track(f"evaluation of {self.task}", len(missing)) as bar:
            stream = self.engine.stream(
                [prompts[problem_id] for problem_id, _ in missing],
                [row_seed(self.seed, self.task, *row) for row in missing],
                sampling,
                bar.token_rate(),
            )
            before = self.engine.seconds
            for numbers, generations in stream:
                batch = [missing[number] for number in numbers]
                texts = [self.template.completion_text(made.output_ids) for made in generations]
                think_end = self.template.think_end
                self.store.append(graded_traces(think_end, problems, prompts, batch, generations, texts))
                self._decoded.update(zip(batch, texts, strict=True))
                tokens = sum(len(output.output_ids) for output in generations)
                _add_seconds(self.store, self.engine.seconds - before, tokens)
                before = self.engine.seconds
        grading_worker.keep_one()

    def _texts(self, repeats: int) -> dict[tuple[str, int], Completion]:
        """What lm-eval gets: nothing where the completion was cut or its reasoning never ended."""
        view = self.store.view(self.problems, repeats)
        texts = {}
        for row, (_, output_ids) in zip(view.traces.itertuples(), view.sequences(view.traces), strict=True):
            key, text = (row.problem_id, row.rollout), None
            if row.finish_reason == "stop":
                text = self._decoded.get(key)
                text = self.template.completion_text(output_ids.tolist()) if text is None else text
                text = answer_text(text, self.template.think_end)
            if text is None:
                self.unanswered.add(key)
            completion = Completion(text or "")
            completion.correct = bool(row.correct)
            texts[key] = completion
        return texts


def run_lm_eval(lm: ProblemLM, config: TaskConfig, sampling: Sampling, repeats: int, limit: int | None) -> float:
    """lm-eval's own mean of the task's accuracy, after it has put every request to `lm`."""
    with quiet(), random_state_kept():
        manager = TaskManager(include_path=str(TASKS), include_defaults=False, metadata={"evaluation": config})
        loaded = manager.load([config.name])
        task = loaded["tasks"][config.name]
        task.set_config("repeats", repeats)
        options = {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_gen_toks": sampling.max_new_tokens,
        }
        options["do_sample"] = sampling.temperature > 0
        task.set_config("generation_kwargs", options, update=True)
        results = lm_evaluate(lm, loaded, limit=limit, bootstrap_iters=0, log_samples=False)
    return float(results["results"][config.name]["accuracy,all"])


def timing(store: TraceStore) -> dict[str, float]:
    """Seconds of generation and the tokens made in them, over all processes that added to the store."""
    return read_json(store.folder / "timing.json") or {"seconds": 0.0, "tokens": 0}


def _add_seconds(store: TraceStore, seconds: float, tokens: int) -> None:
    before = timing(store)
    write_json(
        store.folder / "timing.json", {"seconds": before["seconds"] + seconds, "tokens": before["tokens"] + tokens}
    )


def _problem(request: Instance) -> Problem:
    """The question as lm-eval put it; the id is the document's, else its number."""
    question, document = request.args[0], request.doc
    known = {name: document.get(name) for name in ("solution", "level", "family", "subject")}
    problem_id = str(document.get("problem_id", request.doc_id))
    return Problem(problem_id=problem_id, question=question, answer=str(document.get("answer", "")), **known)


def _sampling(requests: Sequence[Instance]) -> Sampling:
    options = requests[0].args[1] if requests else {}
    temperature = options.get("temperature", 0.0) if options.get("do_sample") else 0.0
    return Sampling(float(temperature), float(options.get("top_p", 1.0)), int(options.get("max_gen_toks", 0)))
