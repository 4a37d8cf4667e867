"""Another model's reasoning behind this model's prompts and inside its own tags."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ssgr.calibration import CalibrationRequest, CalibrationSet, source
from ssgr.calibration.budget import Piece, packed_set
from ssgr.calibration.completions import completed
from ssgr.calibration.documents import data_contents, data_name, drawn_rows, text_of
from ssgr.calibration.windows import MORE_FILES
from ssgr.config import OffPolicyConfig
from ssgr.data_files import Row
from ssgr.errors import UserError
from ssgr.traces.answers import last_boxed
from ssgr.traces.prompts import PromptTemplate

TAGS = {  # what other models put around their reasoning
    "<think>": "</think>",
    "<thinking>": "</thinking>",
    "<thought>": "</thought>",
    "<reasoning>": "</reasoning>",
    "<|begin_of_thought|>": "<|end_of_thought|>",
    "<|START_THINKING|>": "<|END_THINKING|>",
    "◁think▷": "◁/think▷",
}
ANSWER_TAGS = re.compile(r"</?(?:answer|solution)>|<\|(?:begin|end)_of_solution\|>|<\|(?:START|END)_RESPONSE\|>")


@dataclass(frozen=True)
class Exchange:
    """A question, the reasoning on it without tags, and what was answered behind it; None where nothing was."""

    question: str
    reasoning: str
    answer: str | None


@source("off_policy", completions=True, contents=data_contents)
def off_policy(request: CalibrationRequest) -> CalibrationSet:
    """Each row once in seeded order: prompt, reasoning, answer, end of sequence; rows without reasoning are left out.

    Raises UserError, with the row's place, for rows that are no exchange, and where they hold too little.
    """
    config, template = request.config, request.template
    fields = [config.messages_field, config.question_field, config.reasoning_field, config.answer_field]
    questions: list[str] = []
    empty: list[str] = []

    def pieces(rows: Iterator[Row]) -> Iterator[Piece]:
        for place, row in rows:
            exchange = exchange_of(row, config, place)
            if exchange is None:
                empty.append(place)
                continue
            questions.append(exchange.question)
            yield completed(template, exchange.question, exchange.reasoning, written_answer(exchange, template))

    with drawn_rows(request, fields, template.hash, template.think_end) as rows:
        built = packed_set(config, pieces(rows), f"the rows of {data_name(config)} hold", MORE_FILES)
    built.problems = len(set(questions))
    if empty:
        built.notes.append(f"calibration=off_policy: {len(empty):,} rows without question or reasoning were left out")
    return built


def exchange_of(row: dict[str, Any], config: OffPolicyConfig, place: str) -> Exchange | None:
    """What a row says; None where question or reasoning is empty. UserError where it has neither form."""
    messages = row.get(config.messages_field)
    if messages is not None:
        question, content = from_messages(messages, config, place)
        reasoning, answer = split_reasoning(content)
    elif config.reasoning_field in row or config.question_field in row:
        question = text_of(row, config.question_field, place, "calibration.question_field")
        content = text_of(row, config.reasoning_field, place, "calibration.reasoning_field")
        reasoning, answer = split_reasoning(content)
        given = row.get(config.answer_field)
        if isinstance(given, bool | list | dict):
            option = f"{config.answer_field!r} (calibration.answer_field)"
            raise UserError(f"{place}: {option} must be text or a number, not {type(given).__name__}")
        answer = answer if given in (None, "") else str(given).strip()
    else:
        raise UserError(
            f"{place}: neither chat messages (calibration.messages_field={config.messages_field!r}) nor "
            f"{config.question_field!r} and {config.reasoning_field!r} (calibration.question_field, .reasoning_field); "
            f"it has {', '.join(sorted(row)) or 'none'}"
        )
    question = question.strip()
    return Exchange(question, reasoning, answer or None) if question and reasoning else None


def from_messages(messages: Any, config: OffPolicyConfig, place: str) -> tuple[str, str]:
    """The first question, and what was first said to it; reasoning_content goes back into tags."""
    option = f"{config.messages_field!r} (calibration.messages_field)"
    if isinstance(messages, str):  # some data sets write the list as text
        try:
            messages = json.loads(messages)
        except ValueError:
            raise UserError(f"{place}: {option} must be a list of messages with role and content") from None
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise UserError(f"{place}: {option} must be a list of messages with role and content")
    said: dict[str, str] = {}
    for message in messages:
        role, content = str(message.get("role", message.get("from"))), message.get("content", message.get("value"))
        role = {"human": "user", "gpt": "assistant"}.get(role, role)
        if role == "assistant" and "user" not in said:
            continue
        reasoning = message.get("reasoning_content")
        for said_in, text in (("content", content), ("reasoning_content", reasoning)):
            if text is not None and not isinstance(text, str):
                raise UserError(f"{place}: {option}: a message's {said_in} must be text, not {type(text).__name__}")
        if reasoning:
            content = f"<think>{reasoning}</think>{content or ''}"
        said.setdefault(role, content or "")
    for role in ("user", "assistant"):
        if role not in said:
            raise UserError(f"{place}: {option} has no message of the {role}")
    return said["user"], said["assistant"]


def split_reasoning(content: str) -> tuple[str, str | None]:
    """Reasoning and what stands behind it, both without the other model's tags; all is reasoning without tags."""
    for start, end in TAGS.items():
        if end in content:
            reasoning, _, answer = content.partition(end)
            reasoning = reasoning.partition(start)[2] if start in reasoning else reasoning
            return reasoning.strip(), ANSWER_TAGS.sub("", answer).strip() or None
        if start in content:  # cut off before the reasoning ended
            return content.partition(start)[2].strip(), None
    return content.strip(), None


def written_answer(exchange: Exchange, template: PromptTemplate) -> str | None:
    """The answer as a model would write it: a bare one goes into a box, unless the reasoning ends with it already."""
    answer = exchange.answer
    if answer is None or "\n" in answer or last_boxed(answer) is not None:
        return answer
    if template.think_end is None and last_boxed(exchange.reasoning) is not None:
        return None
    return f"\\boxed{{{answer}}}"
