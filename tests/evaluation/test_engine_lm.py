"""Any lm-eval task through our model gives what lm-eval's own model for transformers gives on the same weights."""

import numpy as np
import pytest
import tiny_models
from lm_eval.api.instance import Instance
from lm_eval.evaluator import evaluate as lm_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from lm_eval_tasks import TASKS, write_tasks

from ssgr.config import EngineConfig, LmEvalConfig
from ssgr.engines.base import Engine, Generation
from ssgr.engines.hf import HfEngine
from ssgr.errors import UserError
from ssgr.evaluation import harness
from ssgr.evaluation.engine_lm import EngineLM
from ssgr.evaluation.harness import lm_eval_metrics
from ssgr.traces.prompts import PromptTemplate

CONTEXT = 64


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tasks(tmp_path_factory.mktemp("tasks"))


@pytest.fixture(scope="module")
def loaded():
    return tiny_models.loaded(tiny_models.build(max_position_embeddings=CONTEXT))


@pytest.fixture
def without_defaults(monkeypatch):
    """lm-eval's own tasks take seconds to be found."""
    quick = {"include_defaults": False}
    monkeypatch.setattr(harness, "TaskManager", lambda **options: TaskManager(**options | quick))
    harness.task_manager.cache_clear()
    yield
    harness.task_manager.cache_clear()


def ours(loaded, most=64):
    return EngineLM(HfEngine(EngineConfig("hf", 4), loaded), loaded, most, 0)


def theirs(loaded):
    return HFLM(pretrained=loaded.model, tokenizer=loaded.tokenizer, batch_size=3, max_length=CONTEXT)


def words(start, count):
    return " ".join(f"w{number % 60 + 30}" for number in range(start, start + count))


def requests(kind, *arguments):
    return [Instance(kind, {}, pair, 0, ("t", number, 1)) for number, pair in enumerate(arguments)]


def test_log_likelihoods_and_greediness_are_lm_evals(loaded):
    pairs = [(words(n, 3 + 5 * n), " " + words(2 * n, 1 + n % 4)) for n in range(9)]
    pairs += [("", words(4, 3)), (words(1, 20) + " ", words(8, 2)), (words(0, 90), " " + words(3, 6))]
    made = ours(loaded).generate_until(requests("generate_until", (pairs[3][0], {"until": [], "max_gen_toks": 2})))
    pairs.append((pairs[3][0], " " + made[0]))  # what the model itself goes on with
    asked = requests("loglikelihood", *pairs)
    mine, reference = ours(loaded).loglikelihood(asked, disable_tqdm=True), theirs(loaded).loglikelihood(asked, True)
    assert [value for value, _ in mine] == pytest.approx([value for value, _ in reference], abs=1e-4)
    assert [greedy for _, greedy in mine] == [greedy for _, greedy in reference]
    assert mine[-1][1] and not all(greedy for _, greedy in mine)


def test_rolling_log_likelihoods_are_lm_evals(loaded):
    asked = requests("loglikelihood_rolling", *((words(n, length),) for n, length in enumerate((1, 20, 64, 65, 200))))
    mine, reference = ours(loaded).loglikelihood_rolling(asked), theirs(loaded).loglikelihood_rolling(asked, True)
    assert mine == pytest.approx(reference, abs=1e-4)


def test_greedy_completions_are_lm_evals_and_end_before_a_stop_string(loaded):
    options = {"until": ["w5"], "do_sample": False, "max_gen_toks": 16}
    # a prompt that does not fit beside its completion is cut from the left
    asked = requests("generate_until", *((words(n, length), options) for n, length in enumerate((5, 12, 30, 70))))
    mine, reference = ours(loaded).generate_until(asked), theirs(loaded).generate_until(asked, True)
    assert mine == reference and not any("w5" in text for text in mine)


def test_repeats_are_drawn_apart_and_the_cap_holds(loaded):
    options = {"until": [], "do_sample": True, "temperature": 1.0, "max_gen_toks": 500}
    request = requests("generate_until", (words(1, 5), options))[0]
    texts = ours(loaded, most=6).generate_until([request] * 4)
    assert len(set(texts)) > 1 and all(len(text.split()) <= 6 for text in texts)
    assert ours(loaded, most=6).generate_until([request] * 4) == texts


class Replay(Engine):
    """Gives out the completions that it was made with, one after another."""

    def __init__(self, *made):
        self.made = made

    def stream(self, prompts, seeds, sampling, on_tokens=None):
        self.prompts = prompts
        yield list(range(len(prompts))), self.made


@pytest.mark.parametrize("tag_is_special", [False, True])
def test_only_what_follows_the_reasoning_is_graded(tag_is_special):
    thinking = tiny_models.loaded(tiny_models.build(max_position_embeddings=CONTEXT))
    thinking.think_end = "w9"
    if tag_is_special:
        thinking.tokenizer.add_special_tokens({"additional_special_tokens": ["w9"]})
    made = {
        "w5 w6 w9 w7 w8 w5 w6 w2": "stop",  # the stop string stands in the reasoning too
        "w5 w6 w7 w2": "stop",
        "w6 w7 w8": "length",
        "w6 w9 w7 w8": "length",
        "w6 w9 w7 w5 w8": "length",
        "w6 w9 w7 w9 w8 w2": "stop",
    }
    outputs = [Generation([int(word[1:]) for word in text.split()], reason) for text, reason in made.items()]
    lm = EngineLM(Replay(*outputs), thinking, 64, 0)
    options = {"until": ["w5"], "do_sample": False, "max_gen_toks": 16}
    texts = lm.generate_until(requests("generate_until", *(("w1", options) for _ in made)))
    assert [text.strip() for text in texts] == ["w7 w8", "", "", "w7 w8", "w7", "w8"]
    assert lm.truncated == {"t": [False, True, True, True, False, False]}
    thinking.think_end = None
    lm = EngineLM(Replay(*outputs), thinking, 64, 0)
    texts = lm.generate_until(requests("generate_until", *(("w1", options) for _ in made)))
    assert texts[1] == "" and texts[2] == "w6 w7 w8"
    assert lm.truncated == {"t": [False, False, True, True, False, False]}


def test_a_task_of_each_kind_by_its_name(folder, loaded, without_defaults):
    config = LmEvalConfig("lm_eval", [], False, list(TASKS), str(folder), None, False, 64, 0)
    metrics = lm_eval_metrics(ours(loaded).engine, loaded, None, config, 4)
    expected = lm_evaluate(
        theirs(loaded),
        TaskManager(include_path=str(folder), include_defaults=False).load(list(TASKS)),
        limit=4,
        bootstrap_iters=100,
    )["results"]
    for name, metric in (("chosen", "acc"), ("chosen", "acc_norm"), ("written", "exact_match")):
        assert metrics[f"{name}/{metric}"] == pytest.approx(expected[name][f"{metric},none"])
        assert metrics[f"{name}/{metric}_se"] == pytest.approx(expected[name][f"{metric}_stderr,none"])
    for metric in ("word_perplexity", "bits_per_byte"):
        assert metrics[f"rolled/{metric}"] == pytest.approx(expected["rolled"][f"{metric},none"], rel=1e-4)
    assert metrics["chosen/problems"] == 4 and np.isfinite(list(metrics.values())).all()
    assert 0 <= metrics["written/truncated"] <= 1 and "chosen/truncated" not in metrics


def test_a_task_may_be_put_as_a_chat_with_its_examples_as_turns(folder, without_defaults):
    chatty = tiny_models.loaded(tiny_models.build(max_position_embeddings=CONTEXT))
    turn = "{% if message.role == 'user' %}w10 {% else %}w11 {% endif %}{{ message.content }} "
    end = "{% if add_generation_prompt %}w12{% if enable_thinking is defined %} w13{% endif %}{% endif %}"
    chatty.tokenizer.chat_template = f"{{% for message in messages %}}{turn}{{% endfor %}}{end}"
    engine = Replay(Generation([6, 2], "stop"))
    for chat, thinking, heads in (
        (False, None, []),
        (True, None, [10, 11, 10, 12]),
        (True, True, [10, 11, 10, 12, 13]),
    ):
        config = LmEvalConfig("lm_eval", [], False, ["written"], str(folder), 1, chat, 64, 0)
        lm_eval_metrics(engine, chatty, PromptTemplate(chatty.tokenizer, "", None, thinking), config, 1)
        asked = [token for token in engine.prompts[0] if 10 <= token < 14]
        assert asked == heads, (chat, thinking)


def test_few_shots_are_set(folder, loaded, without_defaults):
    counts = []
    for shots in (None, 2):
        config = LmEvalConfig("lm_eval", [], False, ["chosen"], str(folder), shots, False, 64, 0)
        tasks = harness.load_tasks(config)
        task = tasks["tasks"]["chosen"]
        task.build_all_requests(limit=1)
        counts.append(len(task.instances[0].args[0].split()))
    assert counts[1] > counts[0]


def test_every_model_sees_the_same_shots(folder, loaded, without_defaults):
    config = LmEvalConfig("lm_eval", [], False, ["chosen"], str(folder), 2, False, 64, 0)

    def prompts():
        task = harness.load_tasks(config)["tasks"]["chosen"]
        task.build_all_requests(limit=8)
        return [instance.args[0] for instance in task.instances]

    assert prompts() == prompts()


def test_what_lm_eval_does_not_have_is_one_line(tmp_path, without_defaults):
    write_tasks(tmp_path)
    (tmp_path / "gone.yaml").write_text(TASKS["chosen"].replace("chosen", "gone").replace("choices", "nothing"))

    def refused(tasks):
        with pytest.raises(UserError) as caught:
            harness.load_tasks(LmEvalConfig("lm_eval", [], False, tasks, str(tmp_path), None, False, 64, 0))
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "lm-eval has no task 'choosen'; did you mean chosen?" in refused(["choosen"])
    line = refused(["chosen", "gone"])
    assert "evaluation.tasks=[chosen, gone] cannot be loaded" in line and "include_path" in line
