"""Chat templates of every kind: a calibration sequence is the prompt's ids, then the sampled ids."""

from pathlib import Path

import numpy as np
import pytest
from calibration_requests import build, config_of
from synthetic_traces import ScriptedEngine, byte_tokenizer, make_problems, rollouts, stub_model
from transformers import AutoTokenizer

from ssgr.calibration.completions import completion_text
from ssgr.engines.base import Generation
from ssgr.errors import UserError
from ssgr.traces.problems import Problem
from ssgr.traces.prompts import PromptTemplate
from ssgr.traces.rollouts import collect

SHARED = Path(__file__).parents[2].parent / "shared" / "models" / "r1_tokenizer"
TURNS = "{% for m in messages %}{% if m.role == 'user' %}<|user|>{{ m.content }}{% endif %}{% endfor %}"
TEMPLATES = {
    # name: (template, think_end, enable_thinking, what the prompt ends with)
    "drops reasoning": (
        "{{ bos_token }}" + TURNS + "{% for m in messages if m.role == 'assistant' %}<|assistant|>"
        "{{ m.content.split('</think>')[-1] }}{{ eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}",
        "</think>",
        None,
        "<|assistant|>",
    ),
    "opens reasoning": (
        "{{ bos_token }}" + TURNS + "{% if add_generation_prompt %}<|assistant|><think>\n{% endif %}",
        "</think>",
        None,
        "<|assistant|><think>\n",
    ),
    "no bos": (TURNS + "{% if add_generation_prompt %}<|assistant|>{% endif %}", "</think>", None, "<|assistant|>"),
    "bos twice": (
        "{{ bos_token }}{{ bos_token }}" + TURNS + "{% if add_generation_prompt %}<|assistant|>{% endif %}",
        None,
        None,
        "<|assistant|>",
    ),
    "plain text": (
        "{{ bos_token }}{% if messages[0].role != 'system' %}You are able to help.\n{% endif %}"
        + TURNS
        + "{% if add_generation_prompt %}<|assistant|>{% endif %}",
        None,
        None,
        "<|assistant|>",
    ),
    "thinking by default": (
        "{{ bos_token }}" + TURNS + "{% if add_generation_prompt %}<|assistant|>"
        "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}",
        "</think>",
        True,
        "<|assistant|>",
    ),
    "thinking switched off": (
        "{{ bos_token }}" + TURNS + "{% if add_generation_prompt %}<|assistant|>"
        "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}",
        "</think>",
        False,
        "</think>\n\n",
    ),
}


def template_of(kind):
    text, think_end, enable_thinking, _ = TEMPLATES[kind]
    return PromptTemplate(byte_tokenizer(text), "Box it.", think_end, enable_thinking)


class Thinker(ScriptedEngine):
    """Thinks in tags where its template leaves it to, opening them where the prompt has not; always right."""

    def __init__(self, template, problems):
        super().__init__(template.tokenizer, problems)
        self.think_end = template.think_end

    def _generate(self, prompt, seed):
        asked = self.tokenizer.decode(prompt)
        answer = next(answer for question, answer in self.answers.items() if question in asked)
        reasoning = f"so it is {answer}, I think {seed % 97}"
        text = f"{reasoning}\n\\boxed{{{answer}}}"
        if self.think_end:
            opened = asked.rstrip().endswith("<think>")
            text = f"{'' if opened else '<think>'}{reasoning}\n</think>\n\n\\boxed{{{answer}}}"
        return Generation(
            [*self.tokenizer(text, add_special_tokens=False)["input_ids"], self.tokenizer.eos_token_id], "stop"
        )


@pytest.mark.parametrize("kind", TEMPLATES)
def test_the_prompt_ends_where_the_model_goes_on_and_has_one_bos_at_most(kind):
    template = template_of(kind)
    ids, bos = template.prompt_ids("1+1?"), template.tokenizer.bos_token_id
    assert template.prompt_text("1+1?").endswith(TEMPLATES[kind][3])
    assert ids.count(bos) == (0 if kind == "no bos" else 1) and (kind == "no bos" or ids[0] == bos)
    assert "1+1?\nBox it." in template.tokenizer.decode(ids)


@pytest.mark.parametrize("kind", TEMPLATES)
def test_calibration_is_the_prompts_ids_and_the_sampled_ids_and_nothing_is_lost(kind, tmp_path):
    template, problems = template_of(kind), make_problems(6)
    engine = Thinker(template, problems)
    view = collect(engine, stub_model(template.tokenizer), template, problems, rollouts(6, 2), tmp_path)
    assert view.traces["correct"].all(), "the answer after the reasoning is found, or all of it where there is no tag"
    sampled = {tuple(prompt) + tuple(output) for prompt, output in view.sequences(view.traces)}
    built = build(config_of("self_generated", 200, max_seq_len=10_000), tmp_path, template=template, view=view)
    *whole, last = [tuple(sequence.tolist()) for sequence in built.sequences]
    assert set(whole) <= sampled and any(last == sequence[: len(last)] for sequence in sampled)
    answers = {tuple(template.prompt_ids(problem.question)): problem.answer for problem in problems}
    for sequence in whole:
        answer = next(answer for prompt, answer in answers.items() if sequence[: len(prompt)] == prompt)
        assert f"so it is {answer}, I think" in template.tokenizer.decode(sequence)
        assert sequence.count(template.tokenizer.bos_token_id) <= 1
        assert sequence[-1] == template.tokenizer.eos_token_id


@pytest.mark.parametrize("kind", TEMPLATES)
def test_a_written_completion_opens_and_closes_the_reasoning_once(kind):
    template = template_of(kind)
    problem = Problem("p", "1+1?", "2", solution="One and one.")
    text = template.prompt_text(problem.question) + completion_text(
        template, problem.question, problem.solution, "\\boxed{2}"
    )
    thinks = TEMPLATES[kind][1] is not None
    assert text.count("<think>") == text.count("</think>") == (1 if thinks else 0)
    assert text.rindex("One and one.") > text.find("<think>")
    if template.think_end:
        assert text.index("One and one.") < text.index("</think>") < text.index("\\boxed{2}")


def test_enable_thinking_enters_the_hash_only_where_it_is_set():
    tokenizer = byte_tokenizer(TEMPLATES["thinking by default"][0])
    hashes = [PromptTemplate(tokenizer, "", "</think>", option).hash for option in (None, True, False)]
    assert len(set(hashes)) == 3
    assert hashes[0] == PromptTemplate(tokenizer, "", "</think>").hash


def test_a_template_that_fails_is_one_line():
    broken = byte_tokenizer("{{ raise_exception('only tools, please') }}")
    with pytest.raises(UserError, match=r"chat template cannot write a prompt \(only tools, please"):
        PromptTemplate(broken, "", "</think>")


@pytest.fixture(scope="module")
def r1():
    if not SHARED.is_dir():
        pytest.skip("no real tokenizer here")
    return AutoTokenizer.from_pretrained(SHARED)


BOS, USER, ASSISTANT, THINK, END_THINK, EOS = 151646, 151644, 151645, 151648, 151649, 151643


@pytest.mark.parametrize("opens", [False, True], ids=["first template", "later template"])
def test_r1s_real_tokenizer_with_both_of_its_templates(r1, opens):
    tokenizer = r1
    if opens:  # the later official template also opens the reasoning
        tokenizer = AutoTokenizer.from_pretrained(SHARED)
        tokenizer.chat_template = tokenizer.chat_template.replace(
            "{{'<｜Assistant｜>'}}", "{{'<｜Assistant｜><think>\\n'}}"
        )
    template = PromptTemplate(tokenizer, "Please reason step by step.", "</think>")
    ids = template.prompt_ids("What is 1+1?")
    assert ids[:2] == [BOS, USER] and ids.count(BOS) == 1
    assert ids[-1] == ASSISTANT or (opens and THINK in ids[-3:])
    assert ids == tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is 1+1?\nPlease reason step by step."}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=False,
    )
    written = template.completion_ids(completion_text(template, "What is 1+1?", "Count on.", "\\boxed{2}"))
    assert (THINK in written) is not opens and written.count(END_THINK) == 1 and written[-1] == EOS
    # The template, asked to write this turn, drops the reasoning: the ids must not come from there.
    turn = [{"role": "user", "content": "q"}, {"role": "assistant", "content": template.completion_text(written)}]
    assert "Count on." not in tokenizer.apply_chat_template(turn, tokenize=False)
    sequence = np.array([*ids, *written])
    assert (sequence == BOS).sum() == 1 and (sequence == THINK).sum() == 1
    assert "Count on." in tokenizer.decode(sequence)
