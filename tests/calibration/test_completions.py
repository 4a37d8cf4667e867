"""Reasoning and text that others wrote, put through this model's own template."""

import json

import pytest
from calibration_requests import (
    CHATS,
    DOCUMENTS,
    EXCHANGES,
    PLAIN,
    PROBLEMS,
    TEMPLATE,
    TOKENIZER,
    UNOPENED,
    build,
    config_of,
    document_rows,
    texts,
    write_rows,
)
from synthetic_traces import byte_tokenizer, make_problems

from ssgr.calibration.completions import completion_text
from ssgr.calibration.off_policy import split_reasoning
from ssgr.errors import UserError
from ssgr.traces.problems import Problem
from ssgr.traces.prompts import PromptTemplate


def test_reference_solutions_stand_where_the_model_would_reason(tmp_path):
    written = texts(build(config_of("reference_solutions", max_seq_len=1_000), tmp_path))
    wanted = {
        f"{TEMPLATE.prompt_text(p.question)}{p.solution}\n</think>\n\n\\boxed{{{p.answer}}}<|eos|>" for p in PROBLEMS
    }
    assert len(written) > 2 and set(written[:-1]) <= wanted


def test_a_tokenizer_without_an_end_of_sequence(tmp_path):
    tokenizer = byte_tokenizer()
    tokenizer.eos_token = None
    template = PromptTemplate(tokenizer, "", "</think>")
    with pytest.raises(UserError, match="its tokenizer names no end-of-sequence token"):
        build(config_of("reference_solutions", 20), tmp_path, template=template)
    rows = write_rows(tmp_path / "d.jsonl", document_rows())  # ends only part documents from each other
    (built,) = texts(build(config_of("c4", 400, max_seq_len=400, data_files=str(rows)), tmp_path, template=template))
    assert len(built) == 400 and any(document in built for document in DOCUMENTS) and "<|eos|>" not in built


def test_reference_solutions_of_models_that_reason_in_plain_text(tmp_path):
    problem = Problem("a", "1+1?", "2", solution="It is \\boxed{2}.")
    built = build(config_of("reference_solutions", 20), tmp_path, problems=[problem], template=PLAIN)
    assert texts(built) == ["1+1?:It is \\boxed{2}."[:20]]


def test_an_opening_tag_is_written_where_the_prompt_has_none(tmp_path):
    built = build(config_of("reference_solutions", 20), tmp_path, problems=PROBLEMS[:1], template=UNOPENED)
    assert texts(built)[0].startswith("What is 0 + 1?:<think>\nIt")


def test_problems_without_solutions_are_no_reference(tmp_path):
    with pytest.raises(UserError, match="solution_field"):
        build(config_of("reference_solutions"), tmp_path, problems=make_problems(3))


def chat_texts(folder, sequences, problems=PROBLEMS, template=TEMPLATE, seed=0):
    path = write_rows(folder / "documents.jsonl", document_rows())
    config = config_of("c4_chat", sequences=sequences, max_seq_len=10_000, data_files=str(path))
    built = build(config, folder, problems=problems, template=template, seed=seed)
    assert built.problems == min(sequences, len(problems))
    return texts(built)


def test_c4_chat_is_documents_behind_prompts_inside_the_models_tags(tmp_path):
    written = chat_texts(tmp_path, 12)
    prompts = {TEMPLATE.prompt_text(problem.question) for problem in PROBLEMS}
    seen = set()
    for text in written:
        prompt = next(prompt for prompt in prompts if text.startswith(prompt))
        document, tag, rest = text.removeprefix(prompt).partition("\n</think>")
        assert document in DOCUMENTS and tag and rest == "<|eos|>"
        seen.add((prompt, document))
    assert len({prompt for prompt, _ in seen}) == len({document for _, document in seen}) == 12


def test_c4_chat_starts_its_prompts_again_in_the_same_order(tmp_path):
    problems = PROBLEMS[:4]
    prompts = [TEMPLATE.prompt_text(problem.question) for problem in problems]
    written = chat_texts(tmp_path, 10, problems)
    order = [next(i for i, prompt in enumerate(prompts) if text.startswith(prompt)) for text in written]
    assert sorted(order[:4]) == [0, 1, 2, 3] and order == (order[:4] * 3)[:10]
    assert len(set(written)) == 10


def test_c4_chat_without_tags_and_with_a_tag_to_open(tmp_path):
    (plain,) = chat_texts(tmp_path, 1, PROBLEMS[:1], PLAIN)
    (opened,) = chat_texts(tmp_path, 1, PROBLEMS[:1], UNOPENED)
    document = plain.removeprefix("What is 0 + 1?:").removesuffix("<|eos|>")
    assert document in DOCUMENTS
    assert opened == f"What is 0 + 1?:<think>\n{document}\n</think><|eos|>"


def off_policy(folder, rows, template=TEMPLATE, suffix=".jsonl", sequences=None, **fields):
    path = write_rows(folder / f"rows{suffix}", rows)
    config = config_of("off_policy", sequences=sequences or len(rows), max_seq_len=9_999, data_files=str(path))
    for name, value in fields.items():
        setattr(config, name, value)
    return build(config, folder, template=template)


@pytest.mark.parametrize("suffix", [".jsonl", ".json.gz", ".parquet"])
@pytest.mark.parametrize("rows", [CHATS, EXCHANGES])
def test_off_policy_is_anothers_reasoning_in_this_models_form(rows, suffix, tmp_path):
    built = off_policy(tmp_path, rows, suffix=suffix)
    wanted = set()
    for row in EXCHANGES:
        box = f"\\boxed{{{row['answer']}}}"
        answer = f"It is {box}." if rows is CHATS else box
        reasoning = row["reasoning"].strip()
        wanted.add(f"{TEMPLATE.prompt_text(row['question'])}{reasoning}\n</think>\n\n{answer}<|eos|>")
    assert set(texts(built)) == wanted and built.problems == len(rows)


def test_off_policy_without_tags_is_written_plainly(tmp_path):
    (text,) = texts(off_policy(tmp_path, CHATS[1:2], PLAIN))
    assert text == f"How much is 1?:{EXCHANGES[1]['reasoning'].strip()}\n\nIt is \\boxed{{1}}.<|eos|>"
    (text,) = texts(off_policy(tmp_path, EXCHANGES[1:2], UNOPENED))
    reasoning = EXCHANGES[1]["reasoning"].strip()
    assert text == f"How much is 1?:<think>\n{reasoning}\n</think>\n\n\\boxed{{1}}<|eos|>"


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@pytest.mark.parametrize("answer", [{}, {"answer": None}])
def test_off_policy_needs_no_answer(answer, suffix, tmp_path):
    (text,) = texts(off_policy(tmp_path, [{"question": "q", "reasoning": "so \\boxed{4}", **answer}], suffix=suffix))
    assert text.endswith("so \\boxed{4}\n</think><|eos|>")


def test_off_policy_reads_fields_by_their_names(tmp_path):
    rows = [{"talk": json.dumps(CHATS[2]["messages"])}, {"q": "1?", "r": "one", "a": 1}]
    names = {"messages_field": "talk", "question_field": "q", "reasoning_field": "r", "answer_field": "a"}
    written = "".join(texts(off_policy(tmp_path, rows, **names)))
    assert "How much is 2?" in written and "one\n</think>\n\n\\boxed{1}<|eos|>" in written


def test_off_policy_leaves_out_rows_without_reasoning_and_says_so(tmp_path):
    rows = [EXCHANGES[0], {"question": "q", "reasoning": None}, {"question": " ", "reasoning": "r"}]
    path = write_rows(tmp_path / "rows.jsonl", rows)
    with pytest.raises(UserError, match=r"hold 1 sequences and calibration\.sequences needs 2"):
        build(config_of("off_policy", sequences=2, data_files=str(path)), tmp_path)
    first = dict.fromkeys(range(20))
    for seed in first:
        built = build(config_of("off_policy", sequences=1, data_files=str(path)), tmp_path, seed=seed)
        first[seed] = " ".join(built.notes)
        assert len(built.sequences) == 1
    assert any("2 rows without question or reasoning were left out" in note for note in first.values())


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("<think>\na b\n</think>\n\nc", ("a b", "c")),
        ("a b\n</think>\n\nc", ("a b", "c")),
        ("<thinking>a</thinking><answer>c</answer>", ("a", "c")),
        ("<|begin_of_thought|>a<|end_of_thought|><|begin_of_solution|>c<|end_of_solution|>", ("a", "c")),
        ("<think>cut off", ("cut off", None)),
        ("no tags", ("no tags", None)),
        ("<think></think>c", ("", "c")),
    ],
)
def test_reasoning_is_cut_out_of_foreign_tags(content, parts):
    assert split_reasoning(content) == parts


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"text": "t"}, "neither chat messages"),
        ({"question": "q"}, "no field 'reasoning' (calibration.reasoning_field)"),
        ({"reasoning": "r"}, "no field 'question' (calibration.question_field)"),
        ({"question": 3, "reasoning": "r"}, "must be text, not int"),
        ({"question": "q", "reasoning": "r", "answer": ["1"]}, "must be text or a number, not list"),
        (
            {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "reasoning_content": ["r"]}]},
            "not list",
        ),
        ({"messages": "[]x"}, "must be a list of messages"),
        ({"messages": [1]}, "must be a list of messages"),
        ({"messages": [{"role": "user", "content": "q"}]}, "no message of the assistant"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "no message of the user"),
        ({"messages": [{"role": "user", "content": ["q"]}]}, "must be text, not list"),
        ('{"question": ', "malformed JSON"),
    ],
)
def test_rows_that_are_no_exchange_are_named(row, words, tmp_path):
    with pytest.raises(UserError) as caught:
        off_policy(tmp_path, [row])
    assert words in str(caught.value) and f"{tmp_path / 'rows.jsonl'}:1: " in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("start, end", [("<think>", "</think>"), ("[THINK]", "[/THINK]"), ("◁think▷", "◁/think▷")])
def test_the_opening_tag_is_written_in_the_form_of_the_closing_one(start, end):
    template = PromptTemplate(byte_tokenizer("{{ messages[0]['content'] }}:"), "", end)
    assert completion_text(template, "q", "r", "a") == f"{start}\nr\n{end}\n\na"


def test_off_policy_text_holds_no_tag_of_the_other_model(tmp_path):
    rows = [{"question": "q", "reasoning": "<thinking>deep</thinking>", "answer": "1"}]
    (sequence,) = off_policy(tmp_path, rows).sequences
    assert "thinking>" not in TOKENIZER.decode(sequence)
    assert sequence.tolist().count(TOKENIZER.convert_tokens_to_ids("</think>")) == 1
