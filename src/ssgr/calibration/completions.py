"""Reasoning that somebody else wrote, in the form in which this model would have written it."""

from ssgr.calibration.budget import Piece
from ssgr.errors import UserError
from ssgr.traces.prompts import PromptTemplate


def completed(template: PromptTemplate, question: str, reasoning: str, answer: str | None) -> Piece:
    """Prompt, completion and end of sequence as token ids, and the prompt's length; UserError without such an end."""
    if template.tokenizer.eos_token_id is None:
        what = "its tokenizer names no end-of-sequence token (eos_token in tokenizer_config.json)"
        raise UserError(f"model.path: {what}, so a completion cannot be written as the model would end it")
    prompt = template.prompt_ids(question)
    return [*prompt, *template.completion_ids(completion_text(template, question, reasoning, answer))], len(prompt)


def completion_text(template: PromptTemplate, question: str, reasoning: str, answer: str | None) -> str:
    """The reasoning inside this model's tags and what it answers behind them; without tags one after the other.

    The opening tag is written only where the prompt does not end with it.
    """
    end = template.think_end
    if end is None:
        return f"{reasoning}\n\n{answer}" if answer else reasoning
    text = f"{reasoning}\n{end}\n\n{answer}" if answer else f"{reasoning}\n{end}"
    start = end.replace("/", "", 1)  # <think>, [THINK]; a tag without a slash says nothing of the one that opens
    opened = start == end or template.prompt_text(question).rstrip().endswith(start)
    return text if opened else f"{start}\n{text}"
