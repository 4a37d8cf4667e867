from pathlib import Path

import numpy as np
import pytest
from synthetic_traces import byte_tokenizer
from transformers import AutoTokenizer

from ssgr.errors import UserError
from ssgr.traces.prompts import PromptTemplate, answer_text

R1 = Path(__file__).parents[2].parent / "shared" / "models" / "r1_tokenizer"


def test_the_prompt_is_the_templates_own_text():
    tokenizer = byte_tokenizer()
    template = PromptTemplate(tokenizer, "Box it.", "</think>")
    assert template.prompt_text("1+1?") == "<|bos|><|user|>1+1?\nBox it.<|assistant|><think>\n"
    ids = template.prompt_ids("1+1?")
    assert all(type(token) is int for token in ids)
    assert ids.count(tokenizer.bos_token_id) == 1
    assert tokenizer.decode(ids) == template.prompt_text("1+1?")


def test_an_empty_instruction_adds_nothing():
    assert "1+1?<|assistant|>" in PromptTemplate(byte_tokenizer(), "", None).prompt_text("1+1?")


def test_a_template_that_writes_bos_twice_yields_one():
    tokenizer = byte_tokenizer("{{ bos_token }}{{ bos_token }}{{ messages[0]['content'] }}")
    ids = PromptTemplate(tokenizer, "", None).prompt_ids("q")
    assert ids == [tokenizer.bos_token_id, *tokenizer("q", add_special_tokens=False)["input_ids"]]


def test_many_prompts_are_those_of_one_question_each():
    tokenizer = byte_tokenizer("{{ bos_token }}{{ bos_token }}{{ messages[0]['content'] }}")
    template, questions = PromptTemplate(tokenizer, "Box it.", None), ["q", "", "a longer one, é", "q"]
    assert template.prompts(questions) == [template.prompt_ids(question) for question in questions]
    assert template.prompts(questions)[2].count(tokenizer.bos_token_id) == 1


def test_no_chat_template_is_a_user_error():
    with pytest.raises(UserError, match="chat template"):
        PromptTemplate(byte_tokenizer(chat_template=None), "", None)


def test_the_hash_follows_template_instruction_and_special_tokens():
    base = PromptTemplate(byte_tokenizer(), "Box it.", "</think>").hash
    assert PromptTemplate(byte_tokenizer(), "Box it.", "</think>").hash == base
    assert PromptTemplate(byte_tokenizer(), "Box it!", "</think>").hash != base
    assert PromptTemplate(byte_tokenizer("{{ messages[0]['content'] }}"), "Box it.", "</think>").hash != base
    other = byte_tokenizer()
    other.eos_token = "<|user|>"
    assert PromptTemplate(other, "Box it.", "</think>").hash != base


def test_completions_end_with_eos_and_read_back_without_it():
    tokenizer = byte_tokenizer()
    template = PromptTemplate(tokenizer, "", "</think>")
    ids = template.completion_ids("one\n</think>\n\n\\boxed{é2}")
    assert ids[-1] == tokenizer.eos_token_id and ids.count(tokenizer.bos_token_id) == 0
    assert template.completion_text(ids) == "one\n</think>\n\n\\boxed{é2}"


def test_ids_of_any_kind_read_alike():
    template = PromptTemplate(byte_tokenizer(), "", None)
    ids = template.completion_ids("one , two .  é")
    for kind in (ids, tuple(ids), np.array(ids, np.int32), list(np.array(ids, np.int32))):
        assert template.completion_text(kind) == "one , two .  é"
    assert template.completion_text([]) == template.completion_text(ids[-1:]) == ""


def test_a_think_tag_that_is_special_stays_in_the_text():
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["</think>"]})
    template = PromptTemplate(tokenizer, "", "</think>")
    assert template.completion_text(template.completion_ids("a</think>b")) == "a</think>b"


def test_only_what_follows_the_reasoning_answers():
    assert answer_text("a</think>b", "</think>") == "b"
    assert answer_text("a", "</think>") is None
    assert answer_text("a", None) == "a"


@pytest.mark.skipif(not R1.is_dir(), reason="no real tokenizer here")
def test_r1s_own_tokenizer():
    template = PromptTemplate(AutoTokenizer.from_pretrained(R1), "Think.", "</think>")
    ids = template.prompt_ids("What is 1+1?")
    assert (ids[0], ids[1], ids[-1]) == (151646, 151644, 151645)
    assert ids.count(151646) == 1
    completion = template.completion_ids("two</think>\n\n\\boxed{2}")
    assert completion[-1] == 151643 and completion.count(151649) == 1
    assert template.completion_text(completion) == "two</think>\n\n\\boxed{2}"
